package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// crowdAMount has many threads at work in a mount until standard input ends: each
// in turn does whatever programs do there, past what the kernel has in memory as
// often as not, and holds every byte against the directory that was published.
// It takes the mount, that directory, how many threads there are to be, a seed, and
// the seconds that a call may take. It prints how many calls there were, how many
// ended by EIO, and how long the slowest took.
func crowdAMount(args []string) int {
	n, err1 := strconv.Atoi(args[2])
	seed, err2 := strconv.ParseUint(args[3], 10, 64)
	limit, err3 := strconv.ParseFloat(args[4], 64)
	c := &threads{mount: args[0], contents: make(map[string][]byte), kinds: make(map[string]fs.FileMode)}
	if err := errors.Join(err1, err2, err3, c.learn(args[1])); err != nil {
		fmt.Println(err)
		return 1
	}
	// A thread that waits for a page of a map keeps one of these.
	runtime.GOMAXPROCS(n + 8)
	var over atomic.Bool
	go func() {
		os.Stdin.Read(make([]byte, 1))
		over.Store(true)
	}()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			runtime.LockOSThread()
			debug.SetPanicOnFault(true)
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for !over.Load() && c.wrong.Load() == nil {
				c.turn(r)
			}
		})
	}
	all.Wait()
	if msg := c.wrong.Load(); msg != nil {
		fmt.Println("WRONG:", *msg)
		return 1
	}
	slowest := time.Duration(c.slowest.Load())
	fmt.Println(c.calls.Load(), c.failed.Load(), slowest.Seconds())
	if slowest.Seconds() > limit {
		fmt.Printf("WRONG: a call took %v\n", slowest)
		return 1
	}
	return 0
}

type threads struct {
	mount    string
	contents map[string][]byte
	kinds    map[string]fs.FileMode // of all names
	files    []string
	dirs     []string
	links    []string

	calls, failed, slowest atomic.Int64
	wrong                  atomic.Pointer[string]
}

// learn reads what the mount has to show.
func (c *threads) learn(tree string) error {
	return filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(tree, path)
		if strings.HasPrefix(name, changing+"/") {
			return nil
		}
		c.kinds[name] = e.Type()
		switch {
		case e.IsDir():
			c.dirs = append(c.dirs, name)
		case e.Type() == fs.ModeSymlink:
			c.links = append(c.links, name)
			target, err := os.Readlink(path)
			c.contents[name] = []byte(target)
			return err
		default:
			c.files = append(c.files, name)
			c.contents[name], err = os.ReadFile(path)
		}
		return err
	})
}

var errWrong = errors.New("not what was published")

// turn does one thing. Errors other than EIO, and wrong bytes, end it all.
func (c *threads) turn(r *rand.Rand) {
	jobs := []func(*rand.Rand, string) error{c.whole, c.piece, c.piece, c.direct, c.mapped, c.stat, c.list, c.link, c.absent, c.open}
	i := r.IntN(len(jobs))
	name := c.files[r.IntN(len(c.files))]
	began := time.Now()
	err := jobs[i](r, name)
	took := time.Since(began)
	c.calls.Add(1)
	for {
		most := c.slowest.Load()
		if int64(took) <= most || c.slowest.CompareAndSwap(most, int64(took)) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.EIO):
		c.failed.Add(1)
	case err != nil:
		msg := fmt.Sprintf("job %d, %s: %v", i, name, err)
		c.wrong.CompareAndSwap(nil, &msg)
	}
}

func (c *threads) same(got []byte, name string, off int) error {
	want := c.contents[name]
	if off > len(want) || !bytes.Equal(got, want[off:min(len(want), off+len(got))]) {
		return fmt.Errorf("%s, %d bytes at %d: %w", name, len(got), off, errWrong)
	}
	return nil
}

// whole reads a file whole, which the kernel then forgets.
func (c *threads) whole(_ *rand.Rand, name string) error {
	f, err := os.Open(filepath.Join(c.mount, name))
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := dropped(f)
	if err != nil {
		return err
	}
	if len(got) != len(c.contents[name]) {
		return fmt.Errorf("%s: %d bytes of %d: %w", name, len(got), len(c.contents[name]), errWrong)
	}
	return c.same(got, name, 0)
}

// piece reads a part of a file.
func (c *threads) piece(r *rand.Rand, name string) error {
	f, err := os.Open(filepath.Join(c.mount, name))
	if err != nil {
		return err
	}
	defer f.Close()
	size := len(c.contents[name])
	off := r.IntN(size + 1)
	buf := make([]byte, min(1+r.IntN(128<<10), size-off))
	if n, err := f.ReadAt(buf, int64(off)); n < len(buf) && err != nil {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: ends at %d of %d: %w", name, off+n, size, errWrong)
		}
		return err
	}
	if r.IntN(2) == 0 {
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	return c.same(buf, name, off)
}

// direct reads pages of a file past what the kernel has of it.
func (c *threads) direct(r *rand.Rand, name string) error {
	fd, err := unix.Open(filepath.Join(c.mount, name), unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const size, page = 64 << 10, 4096
	buf := make([]byte, size+page)
	buf = buf[page-int(uintptr(unsafe.Pointer(&buf[0]))%page):][:size]
	off := r.IntN(len(c.contents[name])/page+1) * page
	n, err := unix.Pread(fd, buf, int64(off))
	if err != nil {
		return err
	}
	if want := min(size, len(c.contents[name])-off); n != want {
		return fmt.Errorf("%s: %d bytes at %d, want %d: %w", name, n, off, want, errWrong)
	}
	return c.same(buf[:n], name, off)
}

// mapped looks at some pages of a map, anew.
func (c *threads) mapped(r *rand.Rand, name string) (err error) {
	size := len(c.contents[name])
	if size == 0 {
		return nil
	}
	f, err := os.Open(filepath.Join(c.mount, name))
	if err != nil {
		return err
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(m)
	defer func() {
		if recover() != nil {
			err = unix.EIO // as a program sees it: SIGBUS
		}
	}()
	off := r.IntN(size)
	piece := m[off:min(size, off+64<<10)]
	if err := c.same(piece, name, off); err != nil {
		return err
	}
	return unix.Madvise(m, unix.MADV_DONTNEED)
}

func (c *threads) stat(_ *rand.Rand, name string) error {
	st, err := os.Lstat(filepath.Join(c.mount, name))
	if err == nil && st.Size() != int64(len(c.contents[name])) {
		err = fmt.Errorf("%s has a size of %d: %w", name, st.Size(), errWrong)
	}
	return err
}

func (c *threads) list(r *rand.Rand, _ string) error {
	dir := c.dirs[r.IntN(len(c.dirs))]
	if dir == changing {
		return nil
	}
	entries, err := os.ReadDir(filepath.Join(c.mount, dir))
	if err != nil {
		return err
	}
	want := 0
	for name := range c.kinds {
		if name != "." && filepath.Dir(name) == dir {
			want++
		}
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		want--
		if kind, ok := c.kinds[name]; !ok || kind != e.Type() {
			return fmt.Errorf("%s is a %v: %w", name, e.Type(), errWrong)
		}
	}
	if want != 0 {
		return fmt.Errorf("%s lacks %d names: %w", dir, want, errWrong)
	}
	return nil
}

// changing is a directory in which names and files are others in each version of a tree.
const changing = "changing"

func (c *threads) link(r *rand.Rand, _ string) error {
	name := c.links[r.IntN(len(c.links))]
	got, err := os.Readlink(filepath.Join(c.mount, name))
	if err == nil && got != string(c.contents[name]) {
		err = fmt.Errorf("%s leads to %q: %w", name, got, errWrong)
	}
	return err
}

func (c *threads) absent(r *rand.Rand, name string) error {
	_, err := os.Lstat(filepath.Join(c.mount, filepath.Dir(name), fmt.Sprint("none", r.Uint64())))
	if err == nil {
		return fmt.Errorf("what is not there: %w", errWrong)
	}
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// open opens some files at once.
func (c *threads) open(r *rand.Rand, _ string) error {
	for range 8 {
		f, err := os.Open(filepath.Join(c.mount, c.files[r.IntN(len(c.files))]))
		if err != nil {
			return err
		}
		defer f.Close()
	}
	return nil
}
