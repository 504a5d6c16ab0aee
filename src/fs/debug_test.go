package fs

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/debug"
	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/overlay"
	"github.com/aysfs/aysfs/src/redistest"
)

func filter(exprs ...string) (all []*regexp.Regexp) {
	for _, e := range exprs {
		all = append(all, regexp.MustCompile(`\A(?:`+e+`)\z`))
	}
	return all
}

// mountDebug serves d, of which what matches can be changed.
func (m *memory) mountDebug(t *testing.T, d dir, exprs ...string) (*FS, string) {
	t.Helper()
	r := redistest.Start(t, "")
	spool := filepath.Join(t.TempDir(), "spool")
	f, mnt := m.mount(t, d, func(c *Config) {
		c.Debug = &overlay.Options{
			Remote: debug.New(debug.Options{Addr: r.Addr, Mount: "test", Client: "test"}), Filter: filter(exprs...),
			Spool: spool, MaxSize: 1 << 20, Every: 100 * time.Millisecond, Timeout: 5 * time.Second, Log: m.log(t),
		}
	})
	noPoll(t, mnt)
	t.Cleanup(func() { // runs before the unmount
		entries, err := os.ReadDir(mnt)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := f.notifier.InvalidateEntry(rootID, e.Name()); err != nil && !errors.Is(err, syscall.ENOENT) {
				t.Error(err)
			}
		}
		eventually(t, "the kernel forgets what it held", func() bool { return f.debug.layer.Held() == 0 })
	})
	return f, mnt
}

// noPoll has the kernel ask once whether files can be polled. Go asks that of every
// file that it opens, by epoll, under a lock that its own network needs: in a
// process that is the daemon, too, and talks to redis, that may wait for itself.
func noPoll(t *testing.T, mnt string) {
	t.Helper()
	file := filepath.Join(mnt, ".poll")
	fd, err := unix.Open(file, unix.O_CREAT|unix.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); err != nil {
		t.Error(err)
	}
	if err := errors.Join(unix.Close(fd), unix.Unlink(file)); err != nil {
		t.Fatal(err)
	}
}

func save(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, file, content string) {
	t.Helper()
	if b, err := os.ReadFile(file); err != nil || string(b) != content {
		t.Errorf("%s: %q, want %q, %v", file, b, content, err)
	}
}

func TestDebugFilterChanges(t *testing.T) {
	m := newMemory()
	f, mnt := m.mountDebug(t, dir{"a": "a", "b": "b", "sub": dir{"c": "c"}}, "a", "sub/x")
	a, b, c := filepath.Join(mnt, "a"), filepath.Join(mnt, "b"), filepath.Join(mnt, "sub/c")
	touch(t, mnt)
	save(t, a, "changed")
	open, err := os.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	for _, file := range []string{b, c} {
		if err := os.WriteFile(file, nil, 0o644); !errors.Is(err, syscall.EROFS) {
			t.Errorf("write of %s: %v, want EROFS", file, err)
		}
	}
	if err := f.SetDebugFilter(t.Context(), filter("b", "sub/.*")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what matches no more shows as in the tree", func() bool {
		got, err := os.ReadFile(a)
		return err == nil && string(got) == "a"
	})
	if err := os.WriteFile(a, nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("write of what matches no more: %v, want EROFS", err)
	}
	eventually(t, "what matches now can be written", func() bool { return os.WriteFile(b, []byte("b2"), 0o644) == nil })
	save(t, c, "c2")
	has(t, c, "c2")
	if got, err := io.ReadAll(open); err != nil || string(got) != "b" {
		t.Errorf("the open file has %q, %v", got, err)
	}
	if err := f.SetDebugFilter(t.Context(), filter("a", "b", "sub/.*")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was changed once shows again", func() bool {
		got, err := os.ReadFile(a)
		return err == nil && string(got) == "changed"
	})
}

// TestDebugFilterAgain changes the filter while a directory can't be listed: the
// change fails, and is brought about wholly once it is asked for again.
func TestDebugFilterAgain(t *testing.T) {
	m := newMemory()
	f, mnt := m.mountDebug(t, dir{"a": "a", "b": "b"}, "a")
	b := filepath.Join(mnt, "b")
	if err := os.WriteFile(b, nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Fatalf("write of %s: %v, want EROFS", b, err)
	}
	gate := make(chan struct{})
	m.lose(gate)
	m.cache.SetLimit(1)
	var other []object.DirListing // the cache has no room for both
	m.listing(t, dir{"other": "other"}, "", &other)
	catalog := object.EncodeCatalog(other)
	if err := m.cache.AddCatalog(digest.Of(catalog), catalog); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := f.SetDebugFilter(ctx, filter("b")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("changed without a listing: %v", err)
	}
	close(gate)
	if err := f.SetDebugFilter(t.Context(), filter("b")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what matches now can be written", func() bool { return os.WriteFile(b, []byte("b2"), 0o644) == nil })
}

func TestDebugMountMoves(t *testing.T) {
	m := newMemory()
	f, mnt := m.mountDebug(t, dir{"a": "a", "b": "b", "plain": "1", "sub": dir{"c": "c"}}, "[ab]", "sub/.*")
	path := func(name string) string { return filepath.Join(mnt, name) }
	touch(t, mnt)
	save(t, path("a"), "changed")
	save(t, path("scratch"), "here")
	if err := os.Remove(path("sub/c")); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(path("b"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	m.show(t, f, dir{"a": "a2", "b": "b2", "plain": "2", "sub": dir{"c": "c2", "d": "d2"}, "new": "n"})
	for name, content := range map[string]string{"a": "changed", "b": "b2", "plain": "2", "scratch": "here", "sub/d": "d2", "new": "n"} {
		has(t, path(name), content)
	}
	if _, err := os.Stat(path("sub/c")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a removed file came back: %v", err)
	}
	if got, err := io.ReadAll(open); err != nil || string(got) != "b" {
		t.Errorf("the open file has %q, %v", got, err)
	}
	out, err := exec.Command("sh", "-c", "cd "+mnt+" && find . -type f | sort | tr '\\n' ' '").CombinedOutput()
	if err != nil || string(out) != "./a ./b ./new ./plain ./scratch ./sub/d " {
		t.Errorf("find says %q, %v", out, err)
	}
}

// TestDebugReadersPayNothing reads files: after the first one the kernel asks about
// neither opens nor closes.
func TestDebugReadersPayNothing(t *testing.T) {
	m := newMemory()
	d := dir{}
	for i := range 100 {
		d[fmt.Sprintf("f%d", i)] = "content"
	}
	f, mnt := m.mountDebug(t, d, "conf")
	compare(t, mnt, d)
	compare(t, mnt, d)
	if n := f.debug.asked.Load(); n > 4 {
		t.Errorf("the kernel asked about opens and closes %d times", n)
	}
}

// TestDebugRefusal tries all ways to change what can't be.
func TestDebugRefusal(t *testing.T) {
	m := newMemory()
	f, mnt := m.mountDebug(t, dir{"plain": strings.Repeat("p", 5000)}, "conf")
	file := filepath.Join(mnt, "plain")
	for _, flags := range []int{unix.O_WRONLY, unix.O_RDWR, unix.O_WRONLY | unix.O_APPEND, unix.O_RDWR | unix.O_SYNC, unix.O_WRONLY | unix.O_DIRECT} {
		fd, err := unix.Open(file, flags, 0)
		if err != nil {
			if err != unix.EROFS {
				t.Errorf("open with %#x: %v", flags, err)
			}
			continue
		}
		if _, err := unix.Write(fd, make([]byte, 4096)); err != unix.EROFS {
			t.Errorf("write with %#x: %v", flags, err)
		}
		if err := unix.Ftruncate(fd, 0); err != unix.EROFS {
			t.Errorf("ftruncate with %#x: %v", flags, err)
		}
		if err := unix.Close(fd); err != nil {
			t.Errorf("close with %#x: %v", flags, err)
		}
	}
	for what, err := range map[string]error{
		"open and cut": func() error { _, err := unix.Open(file, unix.O_WRONLY|unix.O_TRUNC, 0); return err }(),
		"truncate":     unix.Truncate(file, 1),
		"chmod":        unix.Chmod(file, 0o600),
		"unlink":       unix.Unlink(file),
		"rename":       unix.Rename(file, file+"2"),
	} {
		if err != unix.EROFS {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A map alone can be written until the kernel tells; nobody sees it for long.
	fd, err := unix.Open(file, unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := unix.Mmap(fd, 0, 5000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	b[0] = 'X'
	if err := errors.Join(unix.Msync(b, unix.MS_SYNC), unix.Close(fd)); err == nil {
		t.Error("a map of what can't be changed was written back")
	}
	if err := unix.Munmap(b); err != nil {
		t.Error(err)
	}
	eventually(t, "the tree's bytes are back", func() bool {
		got, err := os.ReadFile(file)
		return err == nil && string(got) == strings.Repeat("p", 5000)
	})
	if s := f.debug.layer.Status(); s.Unsent != 0 || s.Changed != 0 {
		t.Errorf("left: %+v", s)
	}
}

// TestDebugCloseSends writes files again and again within a tick of the kernel's
// clock. What close has said yes to, redis has.
func TestDebugCloseSends(t *testing.T) {
	m := newMemory()
	f, mnt := m.mountDebug(t, dir{"a": "tree"}, "a|b")
	for i := range 200 {
		for _, name := range []string{"a", "b"} {
			content := fmt.Sprint(name, i)
			flags := os.O_WRONLY | os.O_CREATE
			if i%2 == 0 {
				flags |= os.O_TRUNC
			}
			file, err := os.OpenFile(filepath.Join(mnt, name), flags, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteString(content); err != nil {
				t.Fatal(err)
			}
			if err := file.Close(); err != nil {
				t.Fatal(err)
			}
			if s := f.debug.layer.Status(); s.Unsent != 0 {
				t.Fatalf("%s was closed and is not sent", content)
			}
		}
	}
	// What is only cut or made is sent afterwards.
	save(t, filepath.Join(mnt, "a"), "")
	if err := os.Remove(filepath.Join(mnt, "b")); err != nil {
		t.Fatal(err)
	}
	save(t, filepath.Join(mnt, "b"), "")
	eventually(t, "empty files are sent", func() bool { return f.debug.layer.Status().Unsent == 0 })
}

// TestDebugCloseDoubted has the kernel tell of a close while another writer has the
// file open, whose close it does not tell of, as it does not where it tells of the
// last close before it counts a writer less.
func TestDebugCloseDoubted(t *testing.T) {
	m := newMemory()
	f, mnt := m.mountDebug(t, dir{}, "conf")
	watch, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC, unix.O_RDWR|unix.O_LARGEFILE)
	if errors.Is(err, unix.ENOSYS) {
		t.Skip("the kernel, or an emulator of it, does not tell of files being closed")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if err := unix.FanotifyMark(watch, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN, unix.AT_FDCWD, mnt); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(filepath.Join(mnt, "conf"), unix.O_CREAT|unix.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	var event unix.FanotifyEventMetadata
	if _, err := unix.Read(watch, unsafe.Slice((*byte)(unsafe.Pointer(&event)), unsafe.Sizeof(event))); err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(fd); err != nil {
		t.Error(err)
	}
	eventually(t, "the kernel tells", func() bool {
		f.debug.writingMu.Lock()
		defer f.debug.writingMu.Unlock()
		return len(f.debug.doubted) > 0
	})
	if err := unix.Close(int(event.Fd)); err != nil {
		t.Error(err)
	}
	eventually(t, "the file is sent", func() bool { return f.debug.layer.Status().Unsent == 0 })
}

// TestDebugCutToItsSize cuts a file to the size that it has, which the kernel tells of
// without a time.
func TestDebugCutToItsSize(t *testing.T) {
	m := newMemory()
	_, mnt := m.mountDebug(t, dir{"conf": "tree"}, "conf")
	file := filepath.Join(mnt, "conf")
	for _, size := range []int64{4, 2, 2, 0, 0} {
		if err := unix.Truncate(file, size); err != nil {
			t.Fatalf("to %d: %v", size, err)
		}
		has(t, file, "tree"[:size])
	}
}

// TestDebugLargeScratchDirectory removes a directory while it is read, as rm does.
func TestDebugLargeScratchDirectory(t *testing.T) {
	const files = 1500
	m := newMemory()
	_, mnt := m.mountDebug(t, dir{"sub": dir{"a": "a", "b": "b"}}, "conf")
	at := filepath.Join(mnt, "sub/new")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		save(t, filepath.Join(at, fmt.Sprintf("a-name-of-some-length-%05d", i)), "x")
	}
	if got, err := os.ReadDir(at); err != nil || len(got) != files {
		t.Errorf("%d names, want %d, %v", len(got), files, err)
	}
	if out, err := exec.Command("rm", "-r", at).CombinedOutput(); err != nil {
		t.Errorf("rm: %v: %s", err, out)
	}
	compare(t, mnt, dir{"sub": dir{"a": "a", "b": "b"}})
}

// TestDebugConcurrent has many programs change a few files at a time. In the end
// the mount shows what redis has.
func TestDebugConcurrent(t *testing.T) {
	m := newMemory()
	f, mnt := m.mountDebug(t, dir{"etc": dir{"0.conf": "zero", "1.conf": "one", "plain": "p"}}, `etc/.*\.conf`)
	var names []string
	for i := range 4 {
		names = append(names, fmt.Sprintf("%d.conf", i), fmt.Sprintf(".tmp%d", i))
	}
	etc := filepath.Join(mnt, "etc")
	// What may come of it when another one is at the same file.
	usual := []error{syscall.ENOENT, syscall.ESTALE}
	var all sync.WaitGroup
	for worker := range 8 {
		rnd := rand.New(rand.NewPCG(uint64(worker), 1))
		all.Go(func() {
			for range 150 {
				a, b := filepath.Join(etc, names[rnd.IntN(len(names))]), filepath.Join(etc, names[rnd.IntN(len(names))])
				var err error
				switch rnd.IntN(7) {
				case 0, 1:
					err = os.WriteFile(a, []byte(strings.Repeat(fmt.Sprint(worker), rnd.IntN(9000))), 0o644)
				case 2:
					_, err = os.ReadFile(a)
				case 3:
					err = os.Rename(a, b)
				case 4:
					err = os.Remove(a)
				case 5:
					err = os.Chmod(a, 0o600|fs.FileMode(rnd.IntN(2)<<6))
				case 6:
					_, err = os.ReadDir(etc)
				}
				if err != nil && !slices.ContainsFunc(usual, func(e error) bool { return errors.Is(err, e) }) {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	remote := f.cfg.Debug.Remote
	for _, name := range names {
		if !strings.HasSuffix(name, ".conf") {
			continue
		}
		eventually(t, "the mount shows what redis has of "+name, func() bool {
			got, err := os.ReadFile(filepath.Join(etc, name))
			now, lookErr := remote.LookupAll(t.Context(), []string{"etc/" + name})
			if lookErr != nil {
				t.Fatal(lookErr)
			}
			c, ok := now["etc/"+name]
			if !ok || c.Removed() {
				return errors.Is(err, fs.ErrNotExist) || !ok && err == nil
			}
			return err == nil && fmt.Sprintf("%x", md5.Sum(got)) == c.MD5
		})
	}
	has(t, filepath.Join(etc, "plain"), "p")
	// Where nobody tells of closes, what was only made or emptied is sent later.
	eventually(t, "all is sent", func() bool { return f.Layer().Status().Unsent == 0 })
}
