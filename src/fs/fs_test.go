package fs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
)

func noise(n int) string {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(n), 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

var sample = dir{
	"empty": "", "hello": "hello, world\n", "large": noise(3_456_789), "mid": noise(300_000),
	"link": link("sub/deep"), "dangling": link("nowhere"),
	"sub": dir{"deep": "deep", "none": dir{}, "x\nnewline\xff": "odd"},
}

func TestReadsLikeALocalDisk(t *testing.T) {
	m := newMemory()
	f, mnt := m.mount(t, sample, nil)
	compare(t, mnt, sample)

	st, err := os.Stat(filepath.Join(mnt, "hello"))
	if err != nil {
		t.Fatal(err)
	}
	if st.ModTime().UnixNano() != 1234567890123456789 || st.Mode() != 0o644 || st.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("stat: %v %v", st.ModTime(), st.Mode())
	}
	if st, _ := os.Stat(mnt); st.ModTime().UnixNano() != 987654321 {
		t.Errorf("root: %v", st.ModTime())
	}
	if _, err := os.Stat(filepath.Join(mnt, "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(mnt, "link")); err != nil || string(got) != "deep" {
		t.Errorf("through the link: %q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(mnt, "new"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("write: %v", err)
	}
	var sfs unix.Statfs_t
	if err := unix.Statfs(mnt, &sfs); err != nil || sfs.Blocks != 256 {
		t.Errorf("statfs: %d blocks, %v", sfs.Blocks, err)
	}
	if n := f.Inodes(); n < 9 {
		t.Errorf("%d inodes held", n)
	}
}

// The kernel has as many requests under way as it is asked to, also where nobody has
// mounted the settings of its connections.
func TestKernelSettings(t *testing.T) {
	_, mnt := newMemory().mount(t, sample, nil)
	var st unix.Stat_t
	if err := unix.Stat(mnt, &st); err != nil {
		t.Fatal(err)
	}
	connections, err := openConnections()
	switch {
	case errors.Is(err, unix.ENOSYS): // as in an emulator
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	defer unix.Close(connections)
	for file, want := range map[string]string{"max_background": "128", "congestion_threshold": "96"} {
		fd, err := unix.Openat(connections, fmt.Sprintf("%d/%s", unix.Minor(uint64(st.Dev)), file), unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), file)
		got, err := io.ReadAll(f)
		f.Close()
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %q, %v", file, got, err)
		}
	}
}

func compare(t *testing.T, at string, want dir) {
	t.Helper()
	got, err := os.ReadDir(at)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Errorf("%s has %d entries, want %d", at, len(got), len(want))
	}
	for name, v := range want {
		p := filepath.Join(at, name)
		switch v := v.(type) {
		case dir:
			compare(t, p, v)
		case string:
			if b, err := os.ReadFile(p); err != nil || string(b) != v {
				t.Errorf("%q: %d bytes, want %d, %v", p, len(b), len(v), err)
			}
		case link:
			if s, err := os.Readlink(p); err != nil || s != string(v) {
				t.Errorf("%q: %q, want %q, %v", p, s, v, err)
			}
		}
	}
}

func TestReadsAtAnyOffset(t *testing.T) {
	m := newMemory()
	_, mnt := m.mount(t, sample, nil)
	want := sample["large"].(string)
	for _, flags := range []int{os.O_RDONLY, os.O_RDONLY | syscall.O_DIRECT} {
		file, err := os.OpenFile(filepath.Join(mnt, "large"), flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		buf, _ := unix.Mmap(-1, 0, 1<<21, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		defer unix.Munmap(buf)
		for range 200 {
			off, n := rand.IntN(len(want)), 1+rand.IntN(len(buf))
			if flags&syscall.O_DIRECT != 0 {
				off, n = off&^4095, (n+4095)&^4095
			}
			got, err := file.ReadAt(buf[:n], int64(off))
			if end := min(off+n, len(want)); got != end-off || !bytes.Equal(buf[:got], []byte(want[off:end])) {
				t.Fatalf("%d bytes at %d: got %d, %v", n, off, got, err)
			}
		}
	}
}

func TestInodeNumbersFollowFromTheTree(t *testing.T) {
	number := func() uint64 {
		m := newMemory()
		_, mnt := m.mount(t, sample, nil)
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(mnt, "sub/deep"), &st); err != nil {
			t.Fatal(err)
		}
		entries, _ := os.ReadDir(filepath.Join(mnt, "sub"))
		for _, e := range entries {
			if i, _ := e.Info(); e.Name() == "deep" && i.Sys().(*syscall.Stat_t).Ino != st.Ino {
				t.Error("readdir and stat differ")
			}
		}
		return st.Ino
	}
	if a, b := number(), number(); a != b {
		t.Errorf("the same file is inode %d and then %d", a, b)
	}
}

func TestMissingAndWrongContentIsEIO(t *testing.T) {
	m := newMemory()
	_, mnt := m.mount(t, dir{"gone": "gone", "short": "shorter than the tree says"}, nil)
	m.change(func() {
		delete(m.blobs, digest.Of([]byte("gone")))
		m.blobs[digest.Of([]byte("shorter than the tree says"))] = []byte("short")
	})
	for _, name := range []string{"gone", "short"} {
		if b, err := os.ReadFile(filepath.Join(mnt, name)); !errors.Is(err, syscall.EIO) || len(b) != 0 {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestStalledReadEndsInTime(t *testing.T) {
	m := newMemory()
	_, mnt := m.mount(t, sample, func(c *Config) { c.IOTimeout = time.Second })
	if _, err := os.ReadDir(mnt); err != nil {
		t.Fatal(err)
	}
	m.lose(make(chan struct{}), "hello, world\n")
	began := time.Now()
	_, err := os.ReadFile(filepath.Join(mnt, "hello"))
	if d := time.Since(began); !errors.Is(err, syscall.EIO) || d > 2*time.Second {
		t.Errorf("%v after %v", err, d)
	}
}

// Who waits for the page that another read is to bring, and then reads it, waits no
// longer than io_timeout in all, also where other things come meanwhile.
func TestStalledReadsOfOnePageEndInTime(t *testing.T) {
	const limit = 4 * time.Second
	m := newMemory()
	_, mnt := m.mount(t, sample, func(c *Config) { c.IOTimeout = limit })
	if _, err := os.ReadDir(mnt); err != nil {
		t.Fatal(err)
	}
	m.moves.Store(true)
	m.lose(make(chan struct{}), "hello, world\n")
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			began := time.Now()
			_, err := os.ReadFile(filepath.Join(mnt, "hello"))
			if d := time.Since(began); !errors.Is(err, syscall.EIO) || d > limit+limit/6 {
				t.Errorf("%v after %v", err, d)
			}
		})
	}
	readers.Wait()
}

// TestStalledDisk has the disk stand still while it reads: what is in memory must be
// answered all the same.
func TestStalledDisk(t *testing.T) {
	d := dir{"sub": dir{"deep": "deep"}}
	const files = 100
	for i := range files {
		d[fmt.Sprint("f", i)] = fmt.Sprint("content ", i)
	}
	m := newMemory()
	_, mnt := m.mount(t, d, func(c *Config) { c.IOTimeout = time.Minute })
	disk := make(chan struct{})
	m.change(func() { m.disk = disk })
	var reads sync.WaitGroup
	for i := range files {
		reads.Go(func() {
			want := fmt.Sprint("content ", i)
			if b, err := os.ReadFile(filepath.Join(mnt, fmt.Sprint("f", i))); err != nil || string(b) != want {
				t.Errorf("got %q, want %q, %v", b, want, err)
			}
		})
	}
	looked := make(chan error, 1)
	go func() {
		for range 20 {
			if _, err := os.ReadDir(filepath.Join(mnt, "sub")); err != nil {
				looked <- err
				return
			}
			if _, err := os.Stat(filepath.Join(mnt, "sub/absent", fmt.Sprint(time.Now().UnixNano()))); err == nil {
				looked <- errors.New("what is absent is there")
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		var st unix.Statfs_t
		looked <- unix.Statfs(mnt, &st)
	}()
	select {
	case err := <-looked:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("what is in memory waits for the disk")
	}
	close(disk)
	m.change(func() { m.disk = nil })
	reads.Wait()
}

// TestManyStalledReads has more reads waiting than there are servers: what is
// in memory must be answered all the same, and the rest when it can be.
func TestManyStalledReads(t *testing.T) {
	const files = maxServers + 100
	d := dir{"sub": dir{"deep": "deep"}}
	for i := range files {
		d[fmt.Sprint("f", i)] = fmt.Sprint("content ", i)
	}
	m := newMemory()
	_, mnt := m.mount(t, d, func(c *Config) { c.IOTimeout = time.Minute })
	if _, err := os.ReadFile(filepath.Join(mnt, "sub/deep")); err != nil {
		t.Fatal(err)
	}
	gate := make(chan struct{})
	m.lose(gate)
	var wg sync.WaitGroup
	for i := range files {
		wg.Go(func() {
			// O_DIRECT: each read is a request of its own, not one in the
			// kernel's bounded background.
			file, err := os.OpenFile(filepath.Join(mnt, fmt.Sprint("f", i)), os.O_RDONLY|syscall.O_DIRECT, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer file.Close()
			buf, _ := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			defer unix.Munmap(buf)
			n, err := file.Read(buf)
			if want := fmt.Sprint("content ", i); err != nil || string(buf[:n]) != want {
				t.Errorf("got %q, want %q, %v", buf[:n], want, err)
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	began := time.Now()
	if _, err := os.Stat(filepath.Join(mnt, "sub/absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if d := time.Since(began); d > 30*time.Second { // they stall for a minute
		t.Errorf("a lookup took %v beside stalled reads", d)
	}
	close(gate)
	wg.Wait()
}

func TestInterruptedReaderLeavesAtOnce(t *testing.T) {
	m := newMemory()
	_, mnt := m.mount(t, sample, func(c *Config) { c.IOTimeout = time.Minute })
	if _, err := os.ReadDir(mnt); err != nil {
		t.Fatal(err)
	}
	m.lose(make(chan struct{}), "hello, world\n")
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		cmd := exec.Command("dd", "iflag=direct", "bs=4096", "of=/dev/null", "if="+filepath.Join(mnt, "hello"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		began := time.Now()
		cmd.Process.Signal(sig)
		cmd.Wait()
		if d := time.Since(began); d > time.Second {
			t.Errorf("%v: the reader left after %v", sig, d)
		}
	}
}

func TestHarmlessSignalsDoNotBreakAReader(t *testing.T) {
	m := newMemory()
	_, mnt := m.mount(t, sample, nil)
	if _, err := os.ReadDir(mnt); err != nil {
		t.Fatal(err)
	}
	gate := make(chan struct{})
	m.lose(gate, "hello, world\n")
	cmd := exec.Command("dd", "iflag=direct", "bs=4096", "status=none", "if="+filepath.Join(mnt, "hello"))
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		time.Sleep(50 * time.Millisecond)
		cmd.Process.Signal(syscall.SIGURG)
		cmd.Process.Signal(syscall.SIGWINCH)
	}
	close(gate)
	if err := cmd.Wait(); err != nil || out.String() != "hello, world\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// An interrupt, which the library keeps to itself, is no request: what the disk has
// begun to read is answered all the same, though nobody asks for anything else.
func TestInterruptsWhileTheDiskReads(t *testing.T) {
	m := newMemory()
	tree := dir{}
	for i := range 20 {
		tree[fmt.Sprint(i)] = fmt.Sprint("content of ", i)
	}
	_, mnt := m.mount(t, tree, nil)
	late := make(chan struct{}) // coming until that is too late, and there then
	close(late)
	m.change(func() { m.disk = late })
	reader := make(chan int, 1)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		reader <- unix.Gettid()
		// Who reads by way of the page cache can't be interrupted.
		buf, _ := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		defer unix.Munmap(buf)
		for name, want := range tree {
			file, err := unix.Open(filepath.Join(mnt, name), unix.O_RDONLY|unix.O_DIRECT, 0)
			if err != nil {
				done <- err
				return
			}
			n, err := unix.Read(file, buf)
			unix.Close(file)
			if err != nil || string(buf[:n]) != want {
				done <- fmt.Errorf("%s: %q, %v", name, buf[:max(n, 0)], err)
				return
			}
		}
		done <- nil
	}()
	thread := <-reader
	for limit := time.After(30 * time.Second); ; {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return
		case <-limit:
			os.Stat(filepath.Join(mnt, "no")) // ends the wait
			t.Fatal("a read is not answered while nothing else is asked for")
		default:
			unix.Tgkill(os.Getpid(), thread, unix.SIGURG) // which the runtime takes
		}
	}
}

func TestWalksAreFetchedAhead(t *testing.T) {
	d := dir{}
	for i := range 40 {
		sub := dir{}
		for j := range 20 {
			sub[fmt.Sprintf("f%02d", j)] = fmt.Sprint("content ", i, j)
		}
		d[fmt.Sprintf("d%02d", i)] = sub
	}
	m := newMemory()
	_, mnt := m.mount(t, d, nil)
	m.lose(nil)
	for i := range 40 {
		for j := range 20 {
			if b, err := os.ReadFile(fmt.Sprintf("%s/d%02d/f%02d", mnt, i, j)); err != nil || string(b) != fmt.Sprint("content ", i, j) {
				t.Fatal(string(b), err)
			}
			time.Sleep(100 * time.Microsecond)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gets > 40 {
		t.Errorf("%d of 800 files read in order were waited for", m.gets)
	}
}

func TestRandomReadersAreLeftAlone(t *testing.T) {
	d := dir{}
	for i := range 400 {
		d[fmt.Sprintf("f%03d", i)] = fmt.Sprint("content ", i)
	}
	m := newMemory()
	_, mnt := m.mount(t, d, nil)
	if _, err := os.ReadDir(mnt); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		if _, err := os.ReadFile(fmt.Sprintf("%s/f%03d", mnt, (i*170)%400)); err != nil {
			t.Fatal(err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.ahead) > 0 {
		t.Errorf("%d files fetched ahead of a random reader", len(m.ahead))
	}
}

func TestLargeFilesAreFetchedAhead(t *testing.T) {
	m := newMemory()
	large := noise(20 << 20)
	_, mnt := m.mount(t, dir{"large": large}, nil)
	read := func(offsets ...int64) (ahead int) {
		m.lose(nil)
		m.change(func() { m.ahead = nil })
		f, err := os.OpenFile(filepath.Join(mnt, "large"), os.O_RDONLY|syscall.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		buf, _ := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		defer unix.Munmap(buf)
		for _, off := range offsets {
			if n, err := f.ReadAt(buf, off); n != 4096 || string(buf) != large[off:off+4096] {
				t.Fatal(n, err)
			}
		}
		m.change(func() { ahead = len(m.ahead) })
		return ahead
	}
	// Each random read brings the chunk that it is in, or the two.
	if n := read(9<<20, 3<<20, 15<<20, 7<<20, 12<<20, 1<<20, 17<<20, 5<<20); n > 16 {
		t.Errorf("8 random reads fetched %d chunks", n)
	}
	if n := read(10<<20, 10<<20+4096, 10<<20+8192); n < 15 {
		t.Errorf("3 reads in order fetched %d chunks", n)
	}
}

func TestStaleMountIsCleared(t *testing.T) {
	// A connection whose device is closed is what a killed process leaves.
	path := t.TempDir()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)
	if err := unix.Mount("dead", path, "fuse.aysfs", 0, opts); err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	if _, err := os.Stat(path); !errors.Is(err, syscall.ENOTCONN) {
		t.Fatalf("the mount is not stale: %v", err)
	}
	m := newMemory()
	_, mnt := m.mount(t, sample, func(c *Config) { c.Path = path })
	if _, err := os.ReadFile(filepath.Join(mnt, "hello")); err != nil {
		t.Error(err)
	}
	other := newMemory()
	f, err := New(Config{Path: path, Log: other.log(t)}, other.view(t, sample), other)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abandon()
	if err := f.Mount(); !errors.Is(err, ErrMountPoint) {
		t.Errorf("mounting over a live mount: %v", err)
	}
}

// What lies at a mount's path and is somebody else's, over it or below it, is not taken
// away with it.
func TestUnmountTakesNothingElse(t *testing.T) {
	base := t.TempDir()
	path, link := filepath.Join(base, "mnt"), filepath.Join(base, "link")
	if err := os.Symlink(base, link); err != nil {
		t.Fatal(err)
	}
	m := newMemory()
	mount := func(path string) *FS {
		t.Helper()
		f, err := New(Config{Path: path, IOTimeout: time.Second, Log: m.log(t)}, m.view(t, sample), m)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Mount(); err != nil {
			t.Fatal(err)
		}
		return f
	}
	t.Cleanup(func() {
		for unix.Unmount(path, unix.MNT_DETACH) == nil {
		}
	})
	theirs := func() error { return unix.Mount("theirs", path, "tmpfs", 0, "") }
	kind := func() int64 {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil {
			t.Error(err)
		}
		return int64(st.Type)
	}

	f := mount(path)
	if err := theirs(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Unmount(); err == nil || !strings.Contains(err.Error(), "tmpfs") {
		t.Errorf("unmounting below another mount: %v", err)
	}
	if kind() != unix.TMPFS_MAGIC {
		t.Fatal("what was mounted over it was taken away")
	}
	if err := unix.Unmount(path, 0); err != nil {
		t.Fatal(err)
	}
	if lazy, err := f.Unmount(); lazy || err != nil {
		t.Errorf("once that is gone: %v, %v", lazy, err)
	}
	<-f.Done()

	f = mount(path)
	if err := errors.Join(unix.Unmount(path, 0), theirs()); err != nil {
		t.Fatal(err)
	}
	if lazy, err := f.Unmount(); lazy || err != nil {
		t.Errorf("unmounting what is gone: %v, %v", lazy, err)
	}
	if kind() != unix.TMPFS_MAGIC {
		t.Fatal("what was mounted in its place was taken away")
	}
	<-f.Done()
	if err := unix.Unmount(path, 0); err != nil {
		t.Fatal(err)
	}

	f = mount(filepath.Join(link, "mnt"))
	if lazy, err := f.Unmount(); lazy || err != nil {
		t.Errorf("unmounting at a path through a symbolic link: %v, %v", lazy, err)
	}
	<-f.Done()
}

func TestUnusableMountPoints(t *testing.T) {
	base := t.TempDir()
	full, file, sym := filepath.Join(base, "full"), filepath.Join(base, "file"), filepath.Join(base, "sym")
	os.MkdirAll(filepath.Join(full, "x"), 0o755)
	os.WriteFile(file, nil, 0o644)
	os.Symlink(full, sym)
	for _, p := range []string{full, file, sym} {
		if err := makeMountPoint(p, false); !errors.Is(err, ErrMountPoint) {
			t.Errorf("%s: %v", p, err)
		}
	}
	absent := filepath.Join(base, "a/b/c")
	if err := makeMountPoint(absent, false); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(absent); err != nil || !st.IsDir() {
		t.Error("an absent mount point was not made")
	}
}

func TestXattrs(t *testing.T) {
	m := newMemory()
	_, mnt := m.mount(t, sample, nil)
	buf := make([]byte, 200)
	n, err := unix.Getxattr(filepath.Join(mnt, "hello"), xattrDigest, buf)
	if want := digest.Of([]byte("hello, world\n")).String(); err != nil || string(buf[:n]) != want {
		t.Errorf("%s, %v", buf[:max(n, 0)], err)
	}
	n, err = unix.Listxattr(filepath.Join(mnt, "hello"), buf)
	if err != nil || !bytes.Contains(buf[:n], []byte(xattrTier)) {
		t.Errorf("%q, %v", buf[:max(n, 0)], err)
	}
	m = newMemory()
	_, mnt = m.mount(t, sample, func(c *Config) { c.Xattr = false })
	if _, err := unix.Getxattr(filepath.Join(mnt, "hello"), xattrDigest, buf); !errors.Is(err, unix.ENOTSUP) {
		t.Errorf("without xattr: %v", err)
	}
}

func TestInodesReturnToNothing(t *testing.T) {
	d := dir{}
	for i := range 3000 {
		d[fmt.Sprintf("f%04d", i)] = ""
	}
	m := newMemory()
	f, mnt := m.mount(t, d, nil)
	if _, err := exec.Command("ls", "-l", mnt).Output(); err != nil {
		t.Fatal(err)
	}
	if n := f.Inodes(); n < 3000 {
		t.Fatalf("%d inodes after ls -l", n)
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); f.Inodes() > 50; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d inodes held after the kernel dropped its caches", f.Inodes())
		}
	}
}
