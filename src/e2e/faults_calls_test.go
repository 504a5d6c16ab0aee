//go:build faults

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// calls makes calls on mounts. Each must end in time, with success or EIO.
type calls struct {
	t       *testing.T
	limit   time.Duration // io_timeout and a second
	right   atomic.Int64
	failed  atomic.Int64 // by EIO, or cut off
	slowest atomic.Int64 // in nanoseconds
	late    atomic.Int64 // by how much this machine was late in all, in nanoseconds
	leaving atomic.Bool  // the mount is about to go, and may cut calls off
}

// newCalls is for mounts with this io_timeout.
func newCalls(t *testing.T, timeout time.Duration) *calls {
	c := &calls{t: t, limit: timeout + time.Second}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go c.watch(ctx)
	return c
}

// watch adds up by how much this machine is late: others may work on it, and then
// nothing on it ends in time.
func (c *calls) watch(ctx context.Context) {
	const tick = 20 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		time.Sleep(tick)
		if late := time.Since(began) - tick; late > tick {
			c.late.Add(int64(late))
		}
	}
}

// do makes one call.
func (c *calls) do(what, path string, call func() error) error {
	late, began := c.late.Load(), time.Now()
	err := call()
	took := time.Since(began)
	for old := c.slowest.Load(); int64(took) > old && !c.slowest.CompareAndSwap(old, int64(took)); old = c.slowest.Load() {
	}
	switch {
	case err == nil:
		c.right.Add(1)
	case errors.Is(err, syscall.EIO),
		c.leaving.Load() && (errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ENOENT)):
		c.failed.Add(1)
	default:
		c.t.Errorf("%s %s: %v", what, path, err)
	}
	if most := c.limit + time.Duration(c.late.Load()-late); took > most {
		c.t.Errorf("%s %s: took %v, at most %v (%v)", what, path, took, most, err)
	}
	return err
}

func (c *calls) String() string {
	return fmt.Sprintf("%d calls right, %d EIO, slowest %.1f s of %.1f s allowed", c.right.Load(), c.failed.Load(),
		time.Duration(c.slowest.Load()).Seconds(), c.limit.Seconds())
}

// versions are the contents that a tree's files have had, by their paths.
type versions map[string][][]byte

func (v versions) names() []string {
	var names []string
	for name := range v {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// read reads a file, past the page cache or by it, and tells whether that could be
// done. It must be what some version has.
func (c *calls) read(mount, name string, versions [][]byte, direct bool) bool {
	path, fd := filepath.Join(mount, name), -1
	flags := unix.O_RDONLY | unix.O_CLOEXEC
	if direct {
		flags |= unix.O_DIRECT
	}
	err := c.do("open", path, func() (err error) { fd, err = unix.Open(path, flags, 0); return err })
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	const size = 128 << 10
	buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		c.t.Error(err)
		return false
	}
	defer unix.Munmap(buf)
	var got []byte
	for n := size; n > 0; {
		err := c.do("read", path, func() (err error) { n, err = unix.Pread(fd, buf, int64(len(got))); return err })
		if err != nil {
			break
		}
		got = append(got, buf[:n]...)
		if n < size {
			n = 0
		}
		err = nil
	}
	if !direct {
		_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
	}
	whole := false
	ok := slices.ContainsFunc(versions, func(v []byte) bool {
		whole = whole || len(got) == len(v)
		return bytes.HasPrefix(v, got)
	})
	if !ok {
		c.t.Errorf("%s: %d bytes that no version has", path, len(got))
	}
	return ok && whole
}

// list reads a directory and the attributes of what is in it, which must be the
// names that it has.
func (c *calls) list(mount, dir string, want []string) bool {
	path := filepath.Join(mount, dir)
	var entries []os.DirEntry
	if c.do("list", path, func() (err error) { entries, err = os.ReadDir(path); return err }) != nil {
		return false
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		c.t.Errorf("%s has %d names, of %d", path, len(got), len(want))
	}
	name := filepath.Join(path, got[rand.IntN(len(got))])
	return c.do("stat", name, func() error { return unix.Lstat(name, &unix.Stat_t{}) }) == nil
}

// walker reads whole trees, by some threads in each mount.
type walker struct {
	*calls
	versions versions
	dirs     map[string][]string // names by directory
	cancel   context.CancelFunc
	readers  sync.WaitGroup
}

func newWalker(t *testing.T, timeout time.Duration, v versions) *walker {
	w := &walker{calls: newCalls(t, timeout), versions: v, dirs: map[string][]string{}}
	for name := range v {
		for ; name != "."; name = filepath.Dir(name) {
			dir := filepath.Dir(name)
			if !slices.Contains(w.dirs[dir], filepath.Base(name)) {
				w.dirs[dir] = append(w.dirs[dir], filepath.Base(name))
			}
		}
	}
	for _, names := range w.dirs {
		slices.Sort(names)
	}
	return w
}

// begin reads in each mount by some threads, until halt.
func (w *walker) begin(seed uint64, mounts ...string) {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	for i, mount := range mounts {
		for j := range 4 {
			w.readers.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(i<<8|j)))
				for ctx.Err() == nil && !w.t.Failed() {
					w.walk(ctx, r, mount)
				}
			})
		}
	}
}

// walk reads a whole tree, in an order of its own. It returns how much failed.
func (w *walker) walk(ctx context.Context, r *rand.Rand, mount string) (failed int) {
	names := w.versions.names()
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		if ctx.Err() != nil {
			break
		}
		if dir := filepath.Dir(name); r.IntN(8) == 0 && !w.list(mount, dir, w.dirs[dir]) {
			failed++
		}
		if !w.read(mount, name, w.versions[name], r.IntN(2) == 0) {
			failed++
		}
	}
	return failed
}

// halt ends the readers.
func (w *walker) halt() {
	w.t.Helper()
	w.cancel()
	within(w.t, 6*w.limit+time.Minute, "the readers end", w.readers.Wait)
}

// healed reads all mounts whole until nothing fails, which must be so within d. It
// returns when it was.
func (w *walker) healed(d time.Duration, mounts ...string) time.Duration {
	w.t.Helper()
	began := time.Now()
	r := rand.New(rand.NewPCG(0, 0))
	for _, mount := range mounts {
		eventually(w.t, d, "all of "+mount+" is read again", func() bool {
			return w.walk(context.Background(), r, mount) == 0 || w.t.Failed()
		})
	}
	return time.Since(began)
}
