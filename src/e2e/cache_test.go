package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mediumTree has 60 files of 300 KB and 4 of 5 MB, 38 MB in all.
func mediumTree(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	tree := map[string]node{}
	for i := range 60 {
		tree[fmt.Sprintf("d%d/small%02d", i%6, i)] = node{mode: 0o644, data: noise(300_000, byte(i))}
	}
	for i := range 4 {
		tree[fmt.Sprintf("large%d", i)] = node{mode: 0o644, data: noise(5<<20, byte(100+i))}
	}
	write(t, dir, tree)
	return dir
}

// mediumStore serves a mediumTree as e2e|app(1).
func mediumStore(t *testing.T) *webStore {
	t.Helper()
	return newStore(t, "e2e|app(1)", mediumTree(t))
}

// diskUse is what the files below dir take, in bytes.
func diskUse(t *testing.T, dir string) (n int64) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return nil // went away just now
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			n += st.Blocks * 512
		}
		return nil
	})
	return n
}

// TestDamagedCache overwrites parts of all that the cache has on disk.
func TestDamagedCache(t *testing.T) {
	store := mediumStore(t)
	damages := map[string]func(file string, size int64) error{
		"bytes here and there": func(file string, size int64) error {
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			r := rand.New(rand.NewPCG(1, 2))
			for range 50 {
				if _, err := f.WriteAt([]byte{byte(r.Int())}, r.Int64N(size)); err != nil {
					return err
				}
			}
			return nil
		},
		"the first pages": func(file string, size int64) error {
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt(noise(int(min(size, 16384)), 9), 0)
			return err
		},
		"cut short": func(file string, size int64) error { return os.Truncate(file, size/3) },
		"emptied":   func(file string, size int64) error { return os.Truncate(file, 0) },
		"removed":   func(file string, size int64) error { return os.Remove(file) },
		"zeroes": func(file string, size int64) error {
			if err := os.Truncate(file, 0); err != nil {
				return err
			}
			return os.Truncate(file, size)
		},
	}
	for _, end := range []string{"stopped", "killed"} {
		full, mount := startClient(t, store.url())
		sameTree(t, store.tree, mount)
		full.settled()
		if end == "killed" {
			full.kill()
		} else {
			full.stop()
		}
		for name, damage := range damages {
			t.Run(name+", "+end, func(t *testing.T) {
				t.Parallel()
				c, mount := appClient(t, store.url())
				run(t, 30*time.Second, "cp", "-a", full.cacheDir(), c.cacheDir())
				damaged := 0
				err := filepath.WalkDir(c.cacheDir(), func(path string, e fs.DirEntry, err error) error {
					if err != nil || !e.Type().IsRegular() {
						return err
					}
					st, err := e.Info()
					if err != nil || st.Size() == 0 {
						return err
					}
					damaged++
					return damage(path, st.Size())
				})
				if err != nil || damaged == 0 {
					t.Fatalf("%d files damaged: %v", damaged, err)
				}
				c.start()
				sameTree(t, store.tree, mount)
				c.stop()
			})
		}
	}
}

// TestCacheFileCutUnderUs: a program that is reading must get right bytes or an
// error, and aysfs must live, whatever is done to its files.
func TestCacheFileCutUnderUs(t *testing.T) {
	t.Parallel()
	store := mediumStore(t)
	c, mount := startClient(t, store.url())
	sameTree(t, store.tree, mount)
	c.settled()
	segments, err := filepath.Glob(filepath.Join(c.cacheDir(), "*"))
	if err != nil {
		t.Fatal(err)
	}
	cut := 0
	for _, s := range segments {
		if st, err := os.Stat(s); err == nil && st.Mode().IsRegular() && st.Size() > 1<<20 {
			cut++
			if err := os.Truncate(s, st.Size()/2); err != nil {
				t.Fatal(err)
			}
		}
	}
	if cut == 0 {
		t.Fatalf("no file of the cache is large: %q", segments)
	}
	files, err := filepath.Glob(filepath.Join(mount, "d*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	// What was cut away may fail once, but is neither wrong nor lost.
	for _, file := range files {
		want := mustRead(t, strings.Replace(file, mount, store.tree, 1))
		eventually(t, 5*time.Second, "read "+file, func() bool {
			got, err := readDirect(file)
			if err == nil && !bytes.Equal(got, want) {
				t.Fatalf("%s: wrong bytes", file)
			}
			return err == nil
		})
	}
	c.stop()
}

// TestCacheThatCannotBeWritten: reads go on without it, and one warning says so.
func TestCacheThatCannotBeWritten(t *testing.T) {
	store := mediumStore(t)
	for name, prepare := range map[string]func(dir string) error{
		"read-only file system": func(dir string) error {
			return unix.Mount("none", dir, "tmpfs", unix.MS_RDONLY, "")
		},
		"a file in its place": func(dir string) error {
			if err := os.Remove(dir); err != nil {
				return err
			}
			return os.WriteFile(dir, []byte("mine"), 0o644)
		},
		"somebody else's directory": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "mine"), []byte("mine"), 0o644)
		},
		"full file system": func(dir string) error {
			if err := unix.Mount("none", filepath.Dir(dir), "tmpfs", 0, "size=48m"); err != nil {
				return err
			}
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "..", "filler"), make([]byte, 64<<20), 0o644); !errors.Is(err, unix.ENOSPC) {
				return fmt.Errorf("it does not become full: %w", err)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, store.url())
			dir := filepath.Join(c.dir, "other", "disk", "cache")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := prepare(dir); err != nil {
				t.Fatal(err)
			}
			gone := func() {
				for _, m := range mountsUnder(filepath.Join(c.dir, "other")) {
					unix.Unmount(m, unix.MNT_DETACH)
				}
			}
			t.Cleanup(gone)
			if err := os.Symlink(dir, c.cacheDir()); err != nil {
				t.Fatal(err)
			}
			mount := c.mount("e2e|app(1)")
			c.start()
			sameTree(t, store.tree, mount)
			if w := c.warnings(); len(w) != 1 || !strings.Contains(w[0], "cache") {
				t.Errorf("warnings: %q, want one about the cache", w)
			}
			if s := c.status().Cache; s.Bypassed == "" {
				t.Error("status does not say that nothing is kept")
			}
			gone()
			c.stop()
			for _, file := range []string{dir, filepath.Join(dir, "mine")} {
				if b, err := os.ReadFile(file); err == nil && string(b) != "mine" {
					t.Errorf("somebody else's file was changed: %s", file)
				}
			}
		})
	}
}

// TestCacheOnAFullDisk: others fill the file system that the cache is on, while
// it is in use.
func TestCacheOnAFullDisk(t *testing.T) {
	t.Parallel()
	store := mediumStore(t)
	c := newClient(t, store.url())
	disk := filepath.Join(c.dir, "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", disk, "tmpfs", 0, "size=48m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(disk, unix.MNT_DETACH) })
	if err := os.Mkdir(filepath.Join(disk, "cache"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(disk, "cache"), c.cacheDir()); err != nil {
		t.Fatal(err)
	}
	c.disk = `min_free = "0"`
	mount := c.mount("e2e|app(1)")
	c.start()
	sameTree(t, filepath.Join(store.tree, "d0"), filepath.Join(mount, "d0"))
	c.settled()
	if err := os.WriteFile(filepath.Join(disk, "filler"), make([]byte, 64<<20), 0o644); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk does not become full: %v", err)
	}
	sameTree(t, store.tree, mount)
	if w := c.warnings(); len(w) > 1 {
		t.Errorf("warnings: %q, want one at most", w)
	}
	// Once there is room again, it is used again.
	if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
		t.Fatal(err)
	}
	before := c.status().Cache.Blobs
	eventually(t, 30*time.Second, "the cache keeps blobs again", func() bool {
		sameTree(t, filepath.Join(store.tree, "d1"), filepath.Join(mount, "d1"))
		readPast(t, filepath.Join(mount, "d2"))
		return c.status().Cache.Blobs > before+5
	})
	unix.Unmount(disk, unix.MNT_DETACH)
	c.stop()
}

// readPast reads the files in dir past what the kernel has of them.
func readPast(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if _, err := readDirect(file); err != nil {
			t.Error(err)
		}
	}
}

// readDirect reads the first 512 KiB of a file past what the kernel has of it.
func readDirect(file string) ([]byte, error) {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf, err := unix.Mmap(-1, 0, 512<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	defer unix.Munmap(buf)
	n, err := unix.Pread(fd, buf, 0)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: file, Err: err}
	}
	return bytes.Clone(buf[:n]), nil
}

// TestCacheStaysSmall: max_size is never passed, whatever is read.
func TestCacheStaysSmall(t *testing.T) {
	t.Parallel()
	const most = 16 << 20
	store := mediumStore(t)
	c, mount := appClient(t, store.url())
	c.disk = `max_size = "16MiB"`
	c.start()
	done := make(chan struct{})
	peak := make(chan int64)
	go func() {
		var n int64
		for {
			n = max(n, diskUse(t, c.cacheDir()))
			select {
			case <-done:
				peak <- n
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	for range 3 {
		sameTree(t, store.tree, mount)
	}
	c.settled()
	close(done)
	if n := <-peak; n > most || n < most/4 {
		t.Errorf("the cache took up to %d bytes on disk, max_size is %d", n, most)
	}
	s := c.status().Cache
	if s.Disk > most || s.Evicted == 0 || s.MaxSize != most {
		t.Errorf("status: %d of %d bytes on disk, %d evicted", s.Disk, s.MaxSize, s.Evicted)
	}
	c.stop()
	// What a start without network needs was not evicted for what was read.
	store.down()
	c.start()
	run(t, 10*time.Second, "ls", "-lR", mount)
	c.stop()
}

// TestMemoryIsBounded: what aysfs takes depends on its config, not on the tree.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	store := mediumStore(t)
	c, mount := appClient(t, store.url())
	c.main = `memory = "16MiB"`
	c.disk = `max_size = "32MiB"`
	c.start()
	files, err := filepath.Glob(filepath.Join(mount, "large*"))
	if err != nil {
		t.Fatal(err)
	}
	var peak int64
	for range 3 {
		var readers []*process
		for range 8 {
			readers = append(readers, startProcess(t, exec.Command("md5sum", files...)))
			readers = append(readers, startProcess(t, exec.Command("grep", "-rc", "x", mount)))
		}
		for _, r := range readers {
			for !r.endsWithin(5 * time.Millisecond) {
				peak = max(peak, anonymous(t, c.proc.Process.Pid))
			}
		}
	}
	// The runtime, its stacks and what waits to be collected come on top.
	if most := int64(16<<20 + 24<<20); peak > most {
		t.Errorf("took up to %d bytes, of which [main] memory allows for 16 MiB", peak)
	}
	t.Logf("at most %.1f MiB", float64(peak)/(1<<20))
	c.stop()
}

// anonymous is a process's memory that is not a mapped file, by proc(5).
func anonymous(t *testing.T, pid int) int64 {
	t.Helper()
	b := mustRead(t, fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			var kb int64
			fmt.Sscan(v, &kb)
			return kb << 10
		}
	}
	t.Fatal("no RssAnon")
	return 0
}
