package overlay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/debug"
	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/faults"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/redistest"
)

// memTree is a tree in memory: content by path; a directory's ends in a slash, a
// link's target begins with an arrow.
type memTree map[string]string

func (m memTree) Entry(_ context.Context, path string) (object.Entry, bool, error) {
	if c, ok := m[path]; ok {
		e := object.Entry{Name: []byte(Base(path)), Kind: object.File, Mode: 0o644, Size: int64(len(c)), Digest: digest.Of([]byte(c))}
		if target, ok := strings.CutPrefix(c, "->"); ok {
			e = object.Entry{Name: []byte(Base(path)), Kind: object.Symlink, Mode: 0o777, Target: []byte(target)}
		}
		if strings.HasSuffix(path, ".sh") {
			e.Mode = 0o755
		}
		return e, true, nil
	}
	for p := range m {
		if path == "" || strings.HasPrefix(p, path+"/") {
			return object.Entry{Name: []byte(Base(path)), Kind: object.Dir, Mode: 0o755}, true, nil
		}
	}
	return object.Entry{}, false, nil
}

func (m memTree) Listing(ctx context.Context, path string) (*object.Listing, error) {
	if e, ok, _ := m.Entry(ctx, path); !ok || e.Kind != object.Dir {
		return nil, nil
	}
	seen := make(map[string]bool)
	var entries []object.Entry
	for p := range m {
		rest, ok := strings.CutPrefix(p, path+"/")
		if path == "" {
			rest, ok = p, true
		}
		name, _, _ := strings.Cut(rest, "/")
		if !ok || seen[name] {
			continue
		}
		seen[name] = true
		e, _, _ := m.Entry(ctx, object.Join(path, name))
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b object.Entry) int { return bytes.Compare(a.Name, b.Name) })
	raw, err := object.EncodeListing(entries)
	if err != nil {
		return nil, err
	}
	return object.ParseListing(raw)
}

func (m memTree) Read(_ context.Context, e object.Entry, w io.Writer) error {
	for _, c := range m {
		if digest.Of([]byte(c)) == e.Digest {
			_, err := io.WriteString(w, c)
			return err
		}
	}
	return errors.New("no such blob")
}

var sample = memTree{
	"etc/a.conf": "one\n", "etc/other": "two\n", "bin/run.sh": "#!/bin/sh\n", "lib/deep/c.conf": "three\n", "etc/link.conf": "->a.conf",
}

// machine is a layer on a machine of its own.
type machine struct {
	*Layer
	t     *testing.T
	store *debug.Store
	spool string

	mu   sync.Mutex
	told []string
	log  bytes.Buffer
}

func (m *machine) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.log.Write(p)
}

var confAndShell = []*regexp.Regexp{regexp.MustCompile(`\A(?:.*\.conf)\z`), regexp.MustCompile(`\A(?:.*\.sh)\z`)}

func newMachine(t *testing.T, r *redistest.Server, tree Lower, name string) *machine {
	t.Helper()
	return newMachineIn(t, r, tree, name, filepath.Join(t.TempDir(), "spool"))
}

func newMachineIn(t *testing.T, r *redistest.Server, tree Lower, name, spool string) *machine {
	t.Helper()
	m := &machine{t: t, spool: spool}
	m.store = debug.New(debug.Options{Addr: r.Addr, Passwd: r.Passwd, Mount: "m", Client: name, Timeout: 5 * time.Second})
	var err error
	m.Layer, err = New(Options{
		Remote: m.store, Lower: tree, Filter: confAndShell, Spool: spool, MaxSize: 1 << 20,
		Every: 50 * time.Millisecond, Timeout: 10 * time.Second, Log: slog.New(slog.NewTextHandler(m, nil)),
		Changed: func(paths []string) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.told = append(m.told, paths...)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	m.Poll(t.Context())
	return m
}

// read is the content of a path, or what is wrong with it.
func (m *machine) read(path string) string {
	m.t.Helper()
	n, v, err := m.Look(m.t.Context(), path)
	switch {
	case err != nil:
		return err.Error()
	case v == Nothing:
		return "(nothing)"
	case v == Tree:
		return "(tree)"
	}
	defer m.Forget(n.ID, 1)
	return m.content(n)
}

// unreadable makes sure that a path is there, and that its content is not.
func (m *machine) unreadable(path string) {
	m.t.Helper()
	n, v, err := m.Look(m.t.Context(), path)
	if err != nil || v != Here {
		m.t.Fatalf("%s: %v, %v", path, v, err)
	}
	defer m.Forget(n.ID, 1)
	if _, err := n.ReadAt(m.t.Context(), make([]byte, 1), 0); err == nil || errors.Is(err, ErrStale) {
		m.t.Errorf("%s can be read: %v", path, err)
	}
}

func (m *machine) content(n *Node) string {
	m.t.Helper()
	switch n.Kind {
	case object.Dir:
		return "(dir)"
	case object.Symlink:
		target, err := n.Readlink(m.t.Context())
		m.must(err)
		return "->" + target
	}
	if e, ok := n.InTree(); ok {
		var b strings.Builder
		if err := m.opt.Lower.Read(m.t.Context(), e, &b); err != nil {
			return err.Error()
		}
		return b.String()
	}
	b := make([]byte, min(n.Attr().Size, 1<<20))
	k, err := n.ReadAt(m.t.Context(), b, 0)
	if err != nil {
		return err.Error()
	}
	return string(b[:k])
}

func (m *machine) want(path, content string) {
	m.t.Helper()
	if got := m.read(path); got != content {
		m.t.Errorf("%s: got %q, want %q", path, got, content)
	}
}

// soon waits until path has a content, as others write it.
func (m *machine) soon(path, content string) {
	m.t.Helper()
	for end := time.Now().Add(30 * time.Second); m.read(path) != content; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("%s: got %q, want %q", path, m.read(path), content)
		}
		m.Poll(m.t.Context())
	}
}

// open opens a path to write, and makes it where it is not there.
func (m *machine) open(path string) *Node {
	m.t.Helper()
	n, v, err := m.Look(m.t.Context(), path)
	if err == nil && v != Here {
		n, err = m.Create(m.t.Context(), path, 0o644)
	}
	if err == nil {
		err = n.Open()
	}
	if err != nil {
		m.t.Fatalf("open %s: %v", path, err)
	}
	return n
}

// save writes a file as an editor does that writes in place.
func (m *machine) save(path, content string) error {
	m.t.Helper()
	n := m.open(path)
	defer m.Forget(n.ID, 1)
	defer n.Close()
	if err := n.Truncate(m.t.Context(), 0); err != nil {
		return err
	}
	if err := n.WriteAt(m.t.Context(), []byte(content), 0); err != nil {
		return err
	}
	return n.Commit(m.t.Context())
}

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) names(dir string) string {
	var all []string
	for _, n := range m.Names(dir, 0, math.MaxInt) {
		all = append(all, n.Name)
	}
	return strings.Join(all, " ")
}

// recorded is what redis has of a path.
func (m *machine) recorded(path string) string {
	m.t.Helper()
	c, ok, err := m.store.Lookup(m.t.Context(), path)
	switch {
	case err != nil:
		m.t.Fatal(err)
	case !ok:
		return "(never)"
	case c.Removed():
		return "(removed)"
	case c.Kind() == debug.ModeDir:
		return "(dir)"
	}
	b, err := m.store.Content(m.t.Context(), c.MD5, c.Size)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

func (m *machine) wantRecorded(path, content string) {
	m.t.Helper()
	if got := m.recorded(path); got != content {
		m.t.Errorf("redis has %q of %s, want %q", got, path, content)
	}
}

func TestWriteIsSentWhenCommitted(t *testing.T) {
	m := newMachine(t, redistest.Start(t, "secret"), sample, "a")
	m.want("etc/a.conf", "one\n")
	n := m.open("etc/a.conf")
	m.must(n.WriteAt(t.Context(), []byte("more"), 4))
	m.want("etc/a.conf", "one\nmore")
	m.wantRecorded("etc/a.conf", "(never)")
	m.must(n.Commit(t.Context()))
	m.wantRecorded("etc/a.conf", "one\nmore")
	n.Close()
	m.Forget(n.ID, 1)
	m.want("etc/a.conf", "one\nmore")
	m.want("etc/other", "(tree)")
	if held := m.Held(); held != 0 {
		t.Errorf("%d nodes are still held", held)
	}
}

func TestAnotherMachineSees(t *testing.T) {
	r := redistest.Start(t, "")
	a, b := newMachine(t, r, sample, "a"), newMachine(t, r, sample, "b")
	held := b.open("etc/a.conf")
	b.must(a.save("etc/a.conf", "from a"))
	b.soon("etc/a.conf", "from a")
	if got := b.content(held); got != "one\n" {
		t.Errorf("the open file became %q", got)
	}
	held.Close()
	b.Forget(held.ID, 1)
	if !slices.Contains(b.told, "etc/a.conf") {
		t.Errorf("told of %q only", b.told)
	}
	a.must(a.save("etc/new/x.conf", "new"))
	b.soon("etc/new/x.conf", "new")
	b.want("etc/new", "(dir)")
	if got := b.names("etc"); got != "a.conf new" {
		t.Errorf("etc shows %q", got)
	}
	a.must(a.Unlink(t.Context(), "etc/a.conf"))
	b.soon("etc/a.conf", "(nothing)")
	if v := b.Concerns("etc/a.conf"); v != Nothing {
		t.Errorf("a removed file: %v", v)
	}
}

func TestLastCloseWins(t *testing.T) {
	r := redistest.Start(t, "")
	a, b := newMachine(t, r, sample, "a"), newMachine(t, r, sample, "b")
	na := a.open("etc/a.conf")
	a.must(na.WriteAt(t.Context(), []byte("A"), 0))
	b.must(b.save("etc/a.conf", "B"))
	a.Poll(t.Context())
	a.must(na.Commit(t.Context()))
	na.Close()
	a.Forget(na.ID, 1)
	a.want("etc/a.conf", "Ane\n")
	b.soon("etc/a.conf", "Ane\n")
	var who []string
	a.must(a.store.Log(t.Context(), func(e debug.Entry) error {
		who = append(who, e.Who)
		return nil
	}))
	if !slices.Equal(who, []string{"b", "a"}) {
		t.Errorf("the log has %q", who)
	}
}

func TestCleared(t *testing.T) {
	r := redistest.Start(t, "")
	m := newMachine(t, r, sample, "a")
	m.must(m.save("etc/a.conf", "changed"))
	m.must(m.save("etc/b.conf", "changed"))
	m.must(m.store.Clear(t.Context()))
	m.soon("etc/a.conf", "one\n")
	m.soon("etc/b.conf", "(tree)")
}

func TestScratchStays(t *testing.T) {
	m := newMachine(t, redistest.Start(t, ""), sample, "a")
	m.must(m.save("etc/.a.conf.swp", "swap"))
	if _, err := m.Mkdir(t.Context(), "bin/__pycache__", 0o755); err != nil {
		t.Fatal(err)
	}
	m.must(m.save("bin/__pycache__/x.pyc", "code"))
	m.must(m.Rename(t.Context(), "bin/__pycache__", "bin/cache"))
	m.want("bin/cache/x.pyc", "code")
	m.want("bin/__pycache__", "(tree)")
	if _, err := m.Create(t.Context(), "etc/other", 0o644); err != syscall.EEXIST {
		t.Errorf("over a file of the tree: %v", err)
	}
	for what, err := range map[string]error{
		"unlink": m.Unlink(t.Context(), "etc/other"), "rename": m.Rename(t.Context(), "etc/other", "etc/x"),
		"rename over": m.Rename(t.Context(), "etc/.a.conf.swp", "etc/other"),
	} {
		if err != syscall.EROFS {
			t.Errorf("%s of what is not shared: %v", what, err)
		}
	}
	if err := m.Rename(t.Context(), "etc", "usr"); err != syscall.EXDEV {
		t.Errorf("rename of a directory of the tree: %v", err)
	}
	if err := m.Rmdir(t.Context(), "bin/cache"); err != syscall.ENOTEMPTY {
		t.Errorf("rmdir of a full directory: %v", err)
	}
	m.must(m.Unlink(t.Context(), "bin/cache/x.pyc"))
	m.must(m.Rmdir(t.Context(), "bin/cache"))
	m.want("bin/cache", "(tree)")
	if all, err := m.store.All(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("redis has %v, %v", all, err)
	}
}

func TestRenames(t *testing.T) {
	m := newMachine(t, redistest.Start(t, ""), sample, "a")
	m.must(m.save("etc/tmp", "new content"))
	m.must(m.Rename(t.Context(), "etc/tmp", "etc/a.conf"))
	m.wantRecorded("etc/a.conf", "new content")
	m.want("etc/a.conf", "new content")
	m.want("etc/tmp", "(tree)")

	m.must(m.Rename(t.Context(), "etc/a.conf", "etc/a.conf~"))
	m.wantRecorded("etc/a.conf", "(removed)")
	m.want("etc/a.conf~", "new content")
	m.want("etc/a.conf", "(nothing)")
	m.must(m.Rename(t.Context(), "etc/a.conf~", "etc/b.conf"))
	m.must(m.Rename(t.Context(), "etc/b.conf", "etc/c.conf"))
	m.wantRecorded("etc/b.conf", "(removed)")
	m.wantRecorded("etc/c.conf", "new content")

	// Out of the tree, never written.
	m.must(m.Rename(t.Context(), "lib/deep/c.conf", "lib/deep/d.conf"))
	m.wantRecorded("lib/deep/c.conf", "(removed)")
	m.want("lib/deep/d.conf", "three\n")
	m.must(m.Rename(t.Context(), "bin/run.sh", "bin/go.sh"))
	c, _, err := m.store.Lookup(t.Context(), "bin/go.sh")
	if err != nil || c.Mode != 0o100755 {
		t.Errorf("the mode moved along as %o, %v", c.Mode, err)
	}
}

func TestModes(t *testing.T) {
	r := redistest.Start(t, "")
	a, b := newMachine(t, r, sample, "a"), newMachine(t, r, sample, "b")
	a.must(a.save("bin/run.sh", "#!/bin/sh\necho\n"))
	if c, _, err := a.store.Lookup(t.Context(), "bin/run.sh"); err != nil || c.Mode != 0 {
		t.Errorf("a mode as in the tree is told as %o, %v", c.Mode, err)
	}
	n := a.open("etc/a.conf")
	n.Close()
	a.must(n.Chmod(t.Context(), 0o755))
	a.Forget(n.ID, 1)
	a.wantRecorded("etc/a.conf", "one\n")
	b.soon("bin/run.sh", "#!/bin/sh\necho\n")
	for path, mode := range map[string]uint32{"bin/run.sh": 0o755, "etc/a.conf": 0o755} {
		n, _, err := b.Look(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if got := n.Attr().Mode; got != mode {
			t.Errorf("%s has mode %o elsewhere, want %o", path, got, mode)
		}
		b.Forget(n.ID, 1)
	}
}

func TestDirectoriesAndLinks(t *testing.T) {
	r := redistest.Start(t, "")
	a, b := newMachine(t, r, sample, "a"), newMachine(t, r, sample, "b")
	if _, err := a.Mkdir(t.Context(), "etc/d.conf", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Symlink(t.Context(), "etc/l.conf", "a.conf"); err != nil {
		t.Fatal(err)
	}
	b.soon("etc/d.conf", "(dir)")
	b.soon("etc/l.conf", "->a.conf")
	b.must(b.Rmdir(t.Context(), "etc/d.conf"))
	b.must(b.Unlink(t.Context(), "etc/l.conf"))
	a.soon("etc/d.conf", "(nothing)")
	a.soon("etc/l.conf", "(nothing)")
	a.must(a.Unlink(t.Context(), "etc/link.conf"))
	b.soon("etc/link.conf", "(nothing)")

	// An implied directory is there until it is removed, on the machine that
	// emptied it.
	a.must(a.save("new/sub/x.conf", "x"))
	b.soon("new/sub/x.conf", "x")
	n, _, err := b.Look(t.Context(), "new/sub")
	b.must(err)
	b.must(b.Unlink(t.Context(), "new/sub/x.conf"))
	b.must(b.Rmdir(t.Context(), "new/sub"))
	b.Forget(n.ID, 1)
	b.want("new/sub", "(tree)")
}

func TestTooLarge(t *testing.T) {
	m := newMachine(t, redistest.Start(t, ""), sample, "a")
	n := m.open("etc/a.conf")
	defer n.Close()
	if err := n.WriteAt(t.Context(), []byte("x"), 1<<20); err != syscall.EFBIG {
		t.Errorf("a write past the limit: %v", err)
	}
	if err := n.Truncate(t.Context(), 1<<20+1); err != syscall.EFBIG {
		t.Errorf("a file made longer than the limit: %v", err)
	}
	m.must(m.save("etc/big", strings.Repeat("x", 1<<20+1)))
	if err := m.Rename(t.Context(), "etc/big", "etc/big.conf"); err != syscall.EFBIG {
		t.Errorf("a scratch file past the limit, renamed: %v", err)
	}
	m.want("etc/a.conf", "one\n")
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	m := newMachineIn(t, redistest.Start(t, ""), sample, "a", filepath.Join(dir, "spool"))
	m.must(m.save("lib/deep/c.conf", strings.Repeat("x", 100<<10)))
	m.must(m.save("lib/deep/c.conf", "shorter"))
	n := m.open("etc/a.conf")
	m.must(n.WriteAt(t.Context(), []byte("x"), 0))
	if err := n.WriteAt(t.Context(), make([]byte, 512<<10), 0); err != syscall.ENOSPC {
		t.Errorf("a write to a full disk: %v", err)
	}
	if err := n.Commit(t.Context()); err != syscall.ENOSPC {
		t.Errorf("a close after that: %v", err)
	}
	n.Close()
	if err := n.Open(); !errors.Is(err, ErrStale) {
		t.Errorf("it was opened again: %v", err)
	}
	m.Forget(n.ID, 1)
	m.want("etc/a.conf", "one\n")
	m.want("lib/deep/c.conf", "shorter")
	m.must(m.save("etc/a.conf", strings.Repeat("y", 200<<10)))
	m.must(m.save("etc/a.conf", "fits"))
	m.wantRecorded("etc/a.conf", "fits")
}

func TestRedisAway(t *testing.T) {
	r := redistest.Start(t, "hush", redistest.AppendOnly...)
	a, b := newMachine(t, r, sample, "a"), newMachine(t, r, sample, "b")
	a.must(a.save("etc/a.conf", "kept"))
	a.must(a.save("lib/deep/c.conf", "unread"))
	b.soon("etc/a.conf", "kept")
	r.Kill()
	for range 3 {
		a.Poll(t.Context())
		b.Poll(t.Context())
	}
	b.want("etc/a.conf", "kept")
	b.want("etc/link.conf", "(tree)") // of which redis knew nothing
	// What redis has another version of, which was never read here, is not the
	// tree's: whoever edited that would undo what the other machine did.
	b.unreadable("lib/deep/c.conf")
	if err := a.save("etc/a.conf", "lost"); err == nil {
		t.Error("a write was acknowledged without redis")
	}
	a.want("etc/a.conf", "kept")
	if err := a.save("etc/new.conf", "lost"); err == nil {
		t.Error("a new file was acknowledged without redis")
	}
	a.want("etc/new.conf", "(tree)")
	if err := a.Unlink(t.Context(), "etc/a.conf"); err == nil {
		t.Error("a removal was acknowledged without redis")
	}
	// What stays on this machine does not need it.
	a.must(a.save("etc/tmp", "here"))
	if err := a.Rename(t.Context(), "etc/tmp", "etc/a.conf"); err == nil {
		t.Error("a rename was acknowledged without redis")
	}
	a.want("etc/tmp", "here")

	r.Restart()
	b.soon("lib/deep/c.conf", "unread")
	a.soon("etc/a.conf", "kept")
	a.must(a.save("etc/a.conf", "again"))
	b.soon("etc/a.conf", "again")
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := strings.Count(a.log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, a.log.String())
	}
	if strings.Contains(a.log.String(), "hush") {
		t.Error("the password is in the log")
	}
}

func TestWrittenAfterClose(t *testing.T) {
	r := redistest.Start(t, "", redistest.AppendOnly...)
	m := newMachine(t, r, sample, "a")
	n := m.open("etc/a.conf")
	m.must(n.WriteAt(t.Context(), []byte("two"), 0))
	r.Kill()
	n.Close() // as a map does that is written after its file was closed
	m.Forget(n.ID, 1)
	m.Poll(t.Context())
	m.want("etc/a.conf", "two\n")
	r.Restart()
	for end := time.Now().Add(30 * time.Second); m.recorded("etc/a.conf") != "two\n"; m.Poll(t.Context()) {
		if time.Now().After(end) {
			t.Fatalf("redis has %q", m.recorded("etc/a.conf"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestFilterChanges(t *testing.T) {
	m := newMachine(t, redistest.Start(t, ""), sample, "a")
	m.must(m.save("etc/a.conf", "changed"))
	m.must(m.save("etc/other2", "scratch"))
	if _, err := m.SetFilter(t.Context(), []*regexp.Regexp{regexp.MustCompile(`\Aetc/other.*\z`)}); err != nil {
		t.Fatal(err)
	}
	m.want("etc/a.conf", "(tree)")
	m.want("etc/other2", "scratch")
	m.must(m.save("etc/other", "shared now"))
	m.wantRecorded("etc/other", "shared now")
	if _, err := m.SetFilter(t.Context(), confAndShell); err != nil {
		t.Fatal(err)
	}
	m.want("etc/a.conf", "changed")
	m.want("etc/other", "(tree)")
}

func TestFrozenRedis(t *testing.T) {
	r := redistest.Start(t, "")
	m := newMachine(t, r, sample, "a")
	m.must(m.save("etc/a.conf", "before"))
	n := m.open("etc/a.conf")
	m.must(n.WriteAt(t.Context(), []byte("after"), 0))
	r.Freeze()
	defer r.Thaw()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- n.Commit(ctx) }()
	for end := time.Now().Add(30 * time.Second); len(m.change) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the close never began")
		}
	}
	// Who reads meanwhile does not wait for redis.
	if got := m.content(n); got != "aftere" {
		t.Errorf("read %q", got)
	}
	select {
	case err := <-result:
		t.Errorf("a reader waited until the close had ended with %v", err)
	default:
	}
	cancel()
	select {
	case err := <-result:
		if err == nil {
			t.Error("a frozen redis acknowledged")
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the close hangs")
	}
	n.Close()
	m.Forget(n.ID, 1)
	m.want("etc/a.conf", "before") // without redis
}

// TestSlowRedis reads what redis has and does not give in time: that is an error, and
// never the version before.
func TestSlowRedis(t *testing.T) {
	r := redistest.Start(t, "")
	a, b := newMachine(t, r, sample, "a"), newMachine(t, r, sample, "b")
	a.must(a.save("etc/a.conf", "by a"))
	for end := time.Now().Add(30 * time.Second); b.names("etc") != "a.conf"; b.Poll(t.Context()) {
		if time.Now().After(end) {
			t.Fatal("the change is not seen")
		}
	}
	r.Freeze()
	defer r.Thaw()
	var all sync.WaitGroup
	for range 20 { // more than may ask redis at a time
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			n, v, err := b.Look(ctx, "etc/a.conf")
			if err != nil || v != Here {
				t.Errorf("%v, %v", v, err)
				return
			}
			defer b.Forget(n.ID, 1)
			if _, tree := n.InTree(); tree {
				t.Error("it is the tree's")
			}
			if _, err := n.ReadAt(ctx, make([]byte, 1), 0); err == nil || errors.Is(err, ErrStale) {
				t.Errorf("it can be read: %v", err)
			}
		})
	}
	all.Wait()
	r.Thaw()
	b.want("etc/a.conf", "by a")
}

// TestRenamedFilesAreClosed renames more files than may be open, as rsync does,
// while the kernel holds them all.
func TestRenamedFilesAreClosed(t *testing.T) {
	m := newMachine(t, redistest.Start(t, ""), sample, "a")
	open := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		m.must(err)
		return len(fds)
	}
	before := open()
	for i := range 100 {
		tmp := fmt.Sprintf("etc/.tmp%d", i)
		m.must(m.save(tmp, "content"))
		if _, _, err := m.Look(t.Context(), tmp); err != nil {
			t.Fatal(err)
		}
		m.must(m.Rename(t.Context(), tmp, fmt.Sprintf("etc/%d.conf", i)))
	}
	if after := open(); after > before+20 {
		t.Errorf("%d descriptors, before %d", after, before)
	}
}

// TestReadersKeepNothingOpen reads more files than may be open, while the kernel
// holds them all, and what was replaced while it was being read.
func TestReadersKeepNothingOpen(t *testing.T) {
	r := redistest.Start(t, "")
	a, b := newMachine(t, r, sample, "a"), newMachine(t, r, sample, "b")
	open := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		a.must(err)
		return len(fds)
	}
	before := open()
	for i := range 2 * maxLent {
		a.must(a.save(fmt.Sprintf("etc/%d.conf", i), "content"))
	}
	b.soon("etc/0.conf", "content")
	var held *Node
	for i := range 2 * maxLent {
		n, _, err := b.Look(t.Context(), fmt.Sprintf("etc/%d.conf", i))
		b.must(err)
		if got := b.content(n); got != "content" {
			t.Fatalf("read %q", got)
		}
		held = n
	}
	if now := open(); now > before+maxLent+20 {
		t.Errorf("%d descriptors, before %d", now, before)
	}
	b.Poll(t.Context())
	b.Poll(t.Context())
	if now := open(); now > before+20 {
		t.Errorf("%d descriptors once nobody reads, before %d", now, before)
	}
	path, _ := held.Path()
	a.must(a.save(path, "other"))
	b.soon(path, "other")
	a.must(a.Unlink(t.Context(), path))
	if got := b.content(held); got != "content" {
		t.Errorf("who has the old version open reads %q", got)
	}
}

// TestNamesInPieces reads a large directory a few names at a time while others come
// and go. Each that stays is told once, and a few cost no more where there are many.
func TestNamesInPieces(t *testing.T) {
	m := newMachine(t, redistest.Start(t, ""), sample, "a")
	const files = 2000
	create := func(i int) {
		n, err := m.Create(t.Context(), fmt.Sprint("new/", i), 0o644)
		m.must(err)
		m.Forget(n.ID, 1)
	}
	n, err := m.Mkdir(t.Context(), "new", 0o755)
	m.must(err)
	m.Forget(n.ID, 1)
	for i := range files {
		create(i)
	}
	if n := testing.AllocsPerRun(10, func() { m.Names("new", files/2, 5) }); n > 50 {
		t.Errorf("5 names of %d: %.0f allocations", files, n)
	}
	told := make(map[string]int)
	for from, i := uint64(0), 0; ; i++ {
		some := m.Names("new", from, 5)
		if len(some) == 0 {
			break
		}
		for _, n := range some {
			told[n.Name]++
			from = n.Cookie + 1
			if i%2 == 0 {
				m.must(m.Unlink(t.Context(), "new/"+n.Name))
			}
		}
		if i%2 == 0 && i < files/10 {
			m.must(m.Unlink(t.Context(), fmt.Sprint("new/", files-1-i)))
			create(files + i)
		}
	}
	for i := range files {
		if n := told[fmt.Sprint(i)]; n > 1 || n == 0 && i < files-files/10-1 {
			t.Errorf("%d was told %d times", i, n)
		}
	}
	for name := range told {
		if told[name] > 1 {
			t.Errorf("%s was told %d times", name, told[name])
		}
	}
	for _, n := range m.Names("new", 0, math.MaxInt) {
		m.must(m.Unlink(t.Context(), "new/"+n.Name))
	}
	m.must(m.Rmdir(t.Context(), "new"))
}

// TestFarRedis has redis far away while another machine changes much at once: that is
// seen nevertheless, in a few round trips.
func TestFarRedis(t *testing.T) {
	r := redistest.Start(t, "")
	a := newMachine(t, r, sample, "a")
	relay, err := faults.NewRelay(r.Addr, 1)
	a.must(err)
	defer relay.Close()
	far := *r
	far.Addr = relay.Addr()
	b := newMachine(t, &far, sample, "b")
	for i := range 50 {
		a.must(a.save(fmt.Sprintf("etc/%d.conf", i), "by a"))
	}
	a.must(a.save("etc/a.conf", "by a"))
	relay.Set(1, faults.Late) // longer for all of them than a poll may take
	for end := time.Now().Add(time.Minute); b.Status().Changed < 51; b.Poll(t.Context()) {
		if time.Now().After(end) {
			t.Fatal("the changes are not seen")
		}
	}
	relay.Set(0, faults.Late)
	b.want("etc/a.conf", "by a")
}

// TestFilterLeavesUnsent takes a path from the filter whose change was not sent yet.
// Others can be changed all the same.
func TestFilterLeavesUnsent(t *testing.T) {
	r := redistest.Start(t, "")
	m := newMachine(t, r, sample, "a")
	n := m.open("etc/a.conf")
	m.must(n.Truncate(t.Context(), 0))
	_, err := m.SetFilter(t.Context(), confAndShell[1:])
	m.must(err)
	n.Close()
	m.Forget(n.ID, 1)
	m.Poll(t.Context())
	if s := m.Status(); s.Err != nil || s.Unsent != 0 {
		t.Errorf("%+v", s)
	}
	m.want("etc/a.conf", "(tree)")
	m.must(m.save("bin/run.sh", "new"))
	m.wantRecorded("etc/a.conf", "(never)")
	m.wantRecorded("bin/run.sh", "new")
	m.mu.Lock()
	defer m.mu.Unlock()
	if !strings.Contains(m.log.String(), "etc/a.conf") {
		t.Errorf("nobody is told: %s", m.log.String())
	}
}

// TestTimesStay sets times, and has the kernel forget the files.
func TestTimesStay(t *testing.T) {
	m := newMachine(t, redistest.Start(t, ""), sample, "a")
	m.must(m.save("etc/a.conf", "new"))
	n, err := m.Mkdir(t.Context(), "dir.conf", 0o755)
	m.must(err)
	m.Forget(n.ID, 1)
	m.must(m.save("dir.conf/x.conf", "new"))
	old := time.Unix(1_000_000_000, 0)
	for _, path := range []string{"etc/a.conf", "dir.conf"} {
		for i := range 2 {
			n, v, err := m.Look(t.Context(), path)
			if err != nil || v != Here {
				t.Fatalf("%s: %v, %v", path, v, err)
			}
			if i == 0 {
				n.SetTime(old)
			}
			if got := n.Attr().Mtime; !got.Equal(old) {
				t.Errorf("%s: %v, want %v", path, got, old)
			}
			m.Forget(n.ID, 1)
		}
	}
	m.must(m.save("dir.conf/y.conf", "new"))
	n, _, err = m.Look(t.Context(), "dir.conf")
	m.must(err)
	defer m.Forget(n.ID, 1)
	if got := n.Attr().Mtime; !got.After(old) {
		t.Errorf("a directory that was changed after that: %v", got)
	}
}

// TestRenamedWhileIdle renames files to be shared, while what nobody has open is
// closed.
func TestRenamedWhileIdle(t *testing.T) {
	m := newMachine(t, redistest.Start(t, ""), sample, "a")
	n := m.open("etc/scratch")
	m.must(n.WriteAt(t.Context(), []byte("text"), 0))
	n.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var closing sync.WaitGroup
	defer closing.Wait()
	defer cancel()
	for range 4 {
		closing.Go(func() {
			for ctx.Err() == nil {
				n.idle()
			}
		})
	}
	for range 300 {
		m.must(m.Rename(t.Context(), "etc/scratch", "etc/a.conf"))
		m.must(m.Rename(t.Context(), "etc/a.conf", "etc/scratch"))
	}
	m.Forget(n.ID, 1)
}
