package fs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/debug"
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
	t.Cleanup(func() { // runs before the unmount
		if n := f.debug.layer.Held(); n > 0 {
			if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the kernel forgets what it held", func() bool { return f.debug.layer.Held() == 0 })
		}
	})
	return f, mnt
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

func TestDebugReadersAreNotFlushed(t *testing.T) {
	m := newMemory()
	d := dir{}
	for i := range 100 {
		d[fmt.Sprintf("f%d", i)] = "content"
	}
	f, mnt := m.mountDebug(t, d, "conf")
	compare(t, mnt, d)
	if n := f.debug.flushes.Load(); n != 0 {
		t.Errorf("%d flushes of files that were only read", n)
	}
}

// TestDebugLargeScratchDirectory removes a directory while it is read, as rm does.
func TestDebugLargeScratchDirectory(t *testing.T) {
	const files = 3000
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
