package fs

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tree"
)

// shelf is a keeper in memory.
type shelf struct {
	mu   sync.Mutex
	held map[string]Kept
}

func (s *shelf) Keep(path string, dev, table int, state []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dev, err1 := duplicate(dev)
	table, err2 := duplicate(table)
	s.held[path] = Kept{path, dev, table, state}
	return errors.Join(err1, err2)
}

func (s *shelf) Change(path string, state []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.held[path]
	k.State = state
	s.held[path] = k
	return nil
}

func (s *shelf) Drop(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.held[path]; ok {
		k.Close()
		delete(s.held, path)
	}
	return nil
}

// take is what a successor gets.
func (s *shelf) take(t *testing.T, path string) Kept {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.held[path]
	if !ok {
		t.Fatalf("nothing is kept of %s", path)
	}
	var err error
	if k.Dev, err = duplicate(k.Dev); err != nil {
		t.Fatal(err)
	}
	if k.Table, err = duplicate(k.Table); err != nil {
		t.Fatal(err)
	}
	return k
}

// open makes views again.
func (m *memory) open(ctx context.Context, s *Seen) (*tree.View, error) {
	head, err := object.OpenHead([]byte(s.Head), nil)
	if err != nil {
		return nil, err
	}
	return tree.NewView(ctx, tree.New(head, m, tree.NewCache(1<<20)), s.Remote, s.Grafts)
}

// kept mounts d for a shelf. The mount is taken away at the end, whoever serves it.
func (m *memory) kept(t *testing.T, d dir) (*FS, Config, *shelf) {
	t.Helper()
	s := &shelf{held: make(map[string]Kept)}
	cfg := Config{
		Path: t.TempDir(), Name: "test", IOTimeout: 5 * time.Second, Window: 4 << 20, Log: m.log(t), Keeper: s, Note: []byte(`"note"`),
	}
	f, err := New(cfg, m.view(t, d), m)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Mount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Clear(cfg.Path) })
	return f, cfg, s
}

// replace ends f as a process ends that leaves its mounts, in the middle of a
// request, and resumes.
func (m *memory) replace(t *testing.T, f *FS, cfg Config, s *shelf) *FS {
	t.Helper()
	if err := f.Release(); err != nil {
		t.Fatal(err)
	}
	// A process ends while it reads; here the reading only ends with a request,
	// which is one that is never answered then.
	asked := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		asked <- unix.Statfs(cfg.Path, &st)
	}()
	select {
	case <-f.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("what was released goes on")
	}
	k := s.take(t, cfg.Path)
	if string(NoteOf(k)) != `"note"` {
		t.Errorf("the note is %q", NoteOf(k))
	}
	next, err := Resume(t.Context(), cfg, k, m.open, m)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-asked:
		if err != nil {
			t.Errorf("the request that was open: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a request that was open is not answered")
	}
	return next
}

// done takes a mount away, which must leave nothing.
func (m *memory) done(t *testing.T, f *FS, s *shelf) {
	t.Helper()
	if lazy, err := f.Unmount(); lazy || err != nil {
		t.Fatal(lazy, err)
	}
	select {
	case <-f.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the connection did not end")
	}
	if len(s.held) != 0 {
		t.Error("the keeper still has the mount")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held != 0 {
		t.Errorf("%d blobs were not given back", m.held)
	}
}

// What has ended has no descriptors, and 0 is somebody else's.
func TestNothingIsKeptOfWhatHasEnded(t *testing.T) {
	m := newMemory()
	f, cfg, s := m.kept(t, sample)
	device := f.device
	if err := unix.Unmount(cfg.Path, 0); err != nil {
		t.Fatal(err)
	}
	select {
	case <-f.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the connection did not end")
	}
	f.kept.give(f, device) // as if it had ended between the mount and this
	if len(s.held) != 0 {
		t.Errorf("the keeper has %v", s.held)
	}
	f.kept.given = true // as if it ended just now
	f.kept.detach(f)
	if len(s.held) != 0 {
		t.Errorf("the keeper has %v", s.held)
	}
}

func TestResume(t *testing.T) {
	m := newMemory()
	f, cfg, s := m.kept(t, sample)
	compare(t, cfg.Path, sample)
	large, err := os.Open(filepath.Join(cfg.Path, "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer large.Close()
	deep := inodeOf(t, filepath.Join(cfg.Path, "sub/deep"))
	for range 3 {
		inodes, lookups := f.Inodes(), f.table.lookups()
		f = m.replace(t, f, cfg, s)
		if f.Inodes() != inodes || f.table.lookups() != lookups {
			t.Errorf("%d inodes with %d lookups, and %d with %d after", inodes, lookups, f.Inodes(), f.table.lookups())
		}
		forget(t, large)
		compare(t, cfg.Path, sample)
		if now := inodeOf(t, filepath.Join(cfg.Path, "sub/deep")); now != deep {
			t.Errorf("inode %d is %d now", deep, now)
		}
		if _, err := large.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(large); err != nil || string(b) != sample["large"] {
			t.Errorf("what is held open: %d bytes, %v", len(b), err)
		}
	}
	// It moves as any other.
	m.show(t, f, dir{"hello": "another", "new": "new"})
	if b, err := os.ReadFile(filepath.Join(cfg.Path, "hello")); err != nil || string(b) != "another" {
		t.Errorf("after a move: %q, %v", b, err)
	}
	// What is held open from before a move can be read by a successor, too.
	f = m.replace(t, f, cfg, s)
	forget(t, large)
	if b, err := io.ReadAll(io.NewSectionReader(large, 0, 1<<30)); err != nil || string(b) != sample["large"] {
		t.Errorf("what is held open of a tree before: %d bytes, %v", len(b), err)
	}
	large.Close()
	m.done(t, f, s)
}

// forget has the kernel ask for a file's bytes again.
func forget(t *testing.T, file *os.File) {
	t.Helper()
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

// TestResumeInAMove takes up a mount whose process was killed when the table had
// turned to other trees, twice, and the kernel did not know of it.
func TestResumeInAMove(t *testing.T) {
	one := dir{"same": "same", "file": "one", "left": "left", "a": dir{"b": dir{"deep": "one", "gone": "gone"}}}
	two := dir{"same": "same", "file": "two", "come": "come", "a": dir{"b": dir{"deep": "two"}}}
	three := dir{"same": "same", "file": "two", "come": "come", "a": dir{"b": dir{"deep": "three", "more": "more"}, "c": dir{"x": "x"}}}
	m := newMemory()
	f, cfg, s := m.kept(t, one)
	compare(t, cfg.Path, one)
	touch(t, cfg.Path, "come", "a/c", "a/b/more")
	for _, d := range []dir{two, three} {
		was := f.now.Load()
		diff := &difference{fs: f, was: was, view: m.view(t, d)}
		diff.roots = []change{{parent: rootID, was: was.view.Root(), is: diff.view.Root()}}
		if err := diff.walk(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.kept.moves(was.number, diff.view)
		if !f.turnTo(diff, diff.view, m) {
			t.Fatal("the kernel came to hold more in between")
		}
	}
	// And one record was only half turned.
	_, r := f.table.find(inodeOf(t, filepath.Join(cfg.Path, "a/b")))
	r.digest[5] ^= 0xff
	f = m.replace(t, f, cfg, s)
	eventually(t, "all is as in the last tree", func() bool {
		_, err1 := os.Lstat(filepath.Join(cfg.Path, "left"))
		_, err2 := os.Lstat(filepath.Join(cfg.Path, "a/b/gone"))
		b, err := os.ReadFile(filepath.Join(cfg.Path, "a/b/deep"))
		return os.IsNotExist(err1) && os.IsNotExist(err2) && err == nil && string(b) == "three"
	})
	compare(t, cfg.Path, three)
	f = m.replace(t, f, cfg, s)
	compare(t, cfg.Path, three)
	m.done(t, f, s)
}

// TestResumeRefuses leaves alone what is dead, or of another version.
func TestResumeRefuses(t *testing.T) {
	m := newMemory()
	f, cfg, s := m.kept(t, sample)
	compare(t, cfg.Path, sample)
	k := s.take(t, cfg.Path)
	k.State = []byte(`{"layout": 5}`)
	if _, err := Resume(t.Context(), cfg, k, m.open, m); err == nil {
		t.Error("a table of another version is taken up")
	}
	compare(t, cfg.Path, sample)
	k = s.take(t, cfg.Path)
	m.done(t, f, s)
	if _, err := Resume(t.Context(), cfg, k, m.open, m); !errors.Is(err, ErrEnded) {
		t.Errorf("a mount that is gone: %v", err)
	}
}
