package publish_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
)

// logged collects what a publish logs. when, if set, is called for each record
// before it is written: the one moment of a publish at which a test can step in.
type logged struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	when func(slog.Record)
}

func (l *logged) to(o *publish.Options) {
	o.Log = slog.New(hook{slog.NewTextHandler(l, nil), l})
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logged) has(s string) bool { return strings.Contains(l.all(), s) }

type hook struct {
	slog.Handler
	l *logged
}

func (h hook) Handle(ctx context.Context, r slog.Record) error {
	if h.l.when != nil {
		h.l.when(r)
	}
	return h.Handler.Handle(ctx, r)
}

func TestOddNames(t *testing.T) {
	long := strings.Repeat("n", 255)
	files := map[string]string{
		"new\nline":             "1",
		"not\xffutf8\xc3":       "2",
		long:                    "3",
		"-rf":                   "4",
		" lead and trail ":      "5",
		"back\\slash":           "6",
		"...":                   "7",
		"*?[":                   "8",
		"d\xfe/" + long + "/\n": "9",
		"tab\t\x01\x7f":         "10",
		"ünï/☃":                 "11",
	}
	root := makeTree(t, files)
	store := t.TempDir()
	run(t, store, root)
	p := readBack(t, store)
	if len(p.content) != len(files) {
		t.Errorf("%d files published, want %d", len(p.content), len(files))
	}
	for name, content := range files {
		if p.content[name] != content {
			t.Errorf("%q has %q, want %q", name, p.content[name], content)
		}
	}
	mustBeClean(t, store)
}

// Deeper than directories are kept open while what is in them is read.
func TestDeepTree(t *testing.T) {
	files := map[string]string{}
	dir := ""
	for i := range 150 {
		files[dir+"a"] = fmt.Sprint("before ", i)
		files[dir+"z"] = fmt.Sprint("after ", i)
		dir += "d/"
	}
	root, store := makeTree(t, files), t.TempDir()
	before, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	run(t, store, root)
	after, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	if len(after) > len(before) {
		t.Errorf("%d descriptors are open, before there were %d", len(after), len(before))
	}
	p := readBack(t, store)
	for name, content := range files {
		if p.content[name] != content {
			t.Errorf("%q has %q, want %q", name, p.content[name], content)
		}
	}
	mustBeClean(t, store)
}

func TestSymlinks(t *testing.T) {
	links := map[string]string{
		"dangling": "nowhere/at/all",
		"loop-a":   "loop-b",
		"loop-b":   "loop-a",
		"self":     ".",
		"up":       "../../..",
		"absolute": "/etc/passwd",
		"odd":      "\xff\n ",
		"longest":  strings.Repeat("x/", 2047) + "y",
	}
	files := map[string]string{"file": "0"}
	for name, target := range links {
		files[name] = "-> " + target
	}
	store := t.TempDir()
	run(t, store, makeTree(t, files))
	p := readBack(t, store)
	for name, target := range links {
		if e := p.entries[name]; e.Kind != object.Symlink || string(e.Target) != target || e.Size != int64(len(target)) {
			t.Errorf("%s: %+v", name, e)
		}
	}
	if p.head.Counts.Symlinks != int64(len(links)) {
		t.Errorf("counts %+v", p.head.Counts)
	}
	mustBeClean(t, store)
}

// A directory to publish may itself be reached by a symlink.
func TestRootByLink(t *testing.T) {
	root := makeTree(t, map[string]string{"a": "0"})
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(root, link))
	store := t.TempDir()
	run(t, store, root)
	if res := run(t, store, link); !res.Unchanged {
		t.Errorf("got %+v", res)
	}
}

func TestEmpty(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"nothing":   {},
		"directory": {"d/": ""},
		"file":      {"f": ""},
	} {
		t.Run(name, func(t *testing.T) {
			store := t.TempDir()
			run(t, store, makeTree(t, files))
			if p := readBack(t, store); len(p.entries) != len(files) {
				t.Errorf("published %v", p.entries)
			}
			if name == "file" {
				if _, err := os.Stat(filepath.Join(store, "default", digest.Of(nil).String())); err != nil {
					t.Errorf("no blob for the empty file: %v", err)
				}
			}
			mustBeClean(t, store)
		})
	}
}

func TestManyEntries(t *testing.T) {
	root := makeTree(t, nil)
	const n = 20_000
	must(t, os.Mkdir(root+"/d", 0o755))
	for i := range n {
		must(t, os.Symlink("x", fmt.Sprintf("%s/d/name-%05d", root, i)))
	}
	store := t.TempDir()
	run(t, store, root)
	p := readBack(t, store)
	if len(p.entries) != n+1 {
		t.Errorf("%d entries", len(p.entries))
	}
	if p.head.MaxSize < 30*n {
		t.Errorf("the largest catalog has %d bytes", p.head.MaxSize)
	}
	mustBeClean(t, store)
}

// Listings of more than a catalog's usual size get a catalog of their own, and
// small ones share: no directory is lost at a cut.
func TestManyCatalogs(t *testing.T) {
	root := makeTree(t, nil)
	target := strings.Repeat("t", 4000)
	for i := range 40 {
		dir := fmt.Sprintf("%s/d%02d/sub", root, i)
		must(t, os.MkdirAll(dir, 0o755))
		for j := range 20 {
			must(t, os.Symlink(target, fmt.Sprintf("%s/%d", dir, j)))
		}
	}
	big := root + "/d20/sub-big" // sorts behind d20/sub, and before d21
	must(t, os.Mkdir(big, 0o755))
	for j := range 400 {
		must(t, os.Symlink(target, fmt.Sprintf("%s/%d", big, j)))
	}
	store := t.TempDir()
	run(t, store, root)
	p := readBack(t, store)
	if want := 40*(2+20) + 1 + 400; len(p.entries) != want {
		t.Errorf("%d entries, want %d", len(p.entries), want)
	}
	if p.head.Catalogs < 5 || p.head.MaxSize < 400*4000 {
		t.Errorf("%d catalogs, the largest of %d bytes", p.head.Catalogs, p.head.MaxSize)
	}
	mustBeClean(t, store)
}

func TestModes(t *testing.T) {
	modes := map[string]fs.FileMode{
		"plain":  0o640,
		"least":  0o400,
		"all":    0o777,
		"suid":   0o755 | fs.ModeSetuid,
		"sgid":   0o751 | fs.ModeSetgid,
		"sticky": 0o700 | fs.ModeSticky,
	}
	files := map[string]string{"dir/": ""}
	for name := range modes {
		files[name] = name
	}
	root := makeTree(t, files)
	for name, mode := range modes {
		must(t, os.Chmod(root+"/"+name, mode))
	}
	must(t, os.Chmod(root+"/dir", 0o770|fs.ModeSetgid|fs.ModeSticky))

	store := t.TempDir()
	var warnings logged
	run(t, store, root, warnings.to)
	p := readBack(t, store)
	for name, want := range map[string]uint16{"plain": 0o640, "least": 0o400, "all": 0o777, "suid": 0o755, "sgid": 0o751, "sticky": 0o1700, "dir": 0o1770} {
		if got := p.entries[name].Mode; got != want {
			t.Errorf("%s has mode %o, want %o", name, got, want)
		}
	}
	for _, name := range []string{"suid", "sgid", "dir"} {
		if !warnings.has("path=" + name) {
			t.Errorf("no warning about %s in %q", name, warnings.all())
		}
	}
	run(t, store, root, func(o *publish.Options) { o.KeepSetuid = true })
	p = readBack(t, store)
	for name, want := range map[string]uint16{"suid": 0o4755, "sgid": 0o2751, "dir": 0o3770} {
		if got := p.entries[name].Mode; got != want {
			t.Errorf("with KeepSetuid %s has mode %o, want %o", name, got, want)
		}
	}
}

func TestTimes(t *testing.T) {
	far := time.Date(2200, 1, 1, 0, 0, 0, 5, time.UTC)
	if unsafe.Sizeof(unix.Timespec{}.Sec) == 4 {
		far = time.Date(2038, 1, 1, 0, 0, 0, 5, time.UTC) // such machines know of no later ones
	}
	root := makeTree(t, map[string]string{"new": "", "old": "", "epoch": ""})
	for name, ts := range map[string]unix.Timespec{
		"new":   unix.NsecToTimespec(far.UnixNano()),
		"old":   {Sec: -10, Nsec: 300_000_000}, // 1969-12-31 23:59:50.3
		"epoch": {},
	} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, root+"/"+name, []unix.Timespec{ts, ts}, 0))
	}
	store := t.TempDir()
	run(t, store, root)
	p := readBack(t, store)
	for name, want := range map[string]int64{
		"new":   far.UnixNano(),
		"old":   -10 * int64(time.Second),
		"epoch": 0,
	} {
		if got := p.entries[name].Mtime; got != want {
			t.Errorf("%s has mtime %d, want %d", name, got, want)
		}
	}
}

func TestSpecialFilesAreSkipped(t *testing.T) {
	root := makeTree(t, map[string]string{"file": "0"})
	must(t, unix.Mkfifo(root+"/pipe", 0o644))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(fd)
	// By a short path: the test's directory is longer than an address may be.
	t.Chdir(root)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: "socket"}))
	store := t.TempDir()
	var warnings logged
	res := run(t, store, root, warnings.to)
	if res.Skipped != 2 || res.Counts.Files != 1 {
		t.Errorf("got %+v", res)
	}
	for _, want := range []string{"path=pipe kind=pipe", "path=socket kind=socket"} {
		if !warnings.has(want) {
			t.Errorf("no %q in %q", want, warnings.all())
		}
	}
	if p := readBack(t, store); len(p.entries) != 1 {
		t.Errorf("published %v", p.entries)
	}
}

// What happens to a tree while it is read: nothing is published, and the
// message names the file.
func TestTreeThatChanges(t *testing.T) {
	for name, c := range map[string]struct {
		trigger string // the file whose warning is the moment
		file    string
		do      func(path string) error
		want    string
	}{
		"vanishes before it is looked at": {"a-pipe", "b", os.Remove, "vanished"},
		"vanishes before it is opened":    {"d", "e", os.Remove, "vanished"},
		"directory vanishes":              {"d", "z", os.RemoveAll, "vanished"},
		"becomes a symlink": {"d", "e", func(p string) error {
			return errors.Join(os.Remove(p), os.Symlink("b", p))
		}, "changed"},
		"becomes a pipe": {"d", "e", func(p string) error {
			return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o644))
		}, "changed"},
		"grows":             {"setuid", "setuid", func(p string) error { return resize(p, +1) }, "changed"},
		"shrinks":           {"setuid", "setuid", func(p string) error { return resize(p, -1) }, "changed"},
		"large one grows":   {"setuid-large", "setuid-large", func(p string) error { return resize(p, +1) }, "changed"},
		"large one shrinks": {"setuid-large", "setuid-large", func(p string) error { return resize(p, -1) }, "changed"},
		"is written to": {"setuid", "setuid", func(p string) error {
			return os.Chtimes(p, day, day.Add(time.Hour))
		}, "changed"},
	} {
		t.Run(name, func(t *testing.T) {
			root := makeTree(t, map[string]string{
				"b": "0", "d/": "", "e": "1", "setuid": "2", "setuid-large": noise(1, 9<<17), "z/y": "3",
			})
			must(t, unix.Mkfifo(root+"/a-pipe", 0o644))
			must(t, os.Chmod(root+"/d", 0o755|fs.ModeSetgid))
			must(t, os.Chmod(root+"/setuid", 0o755|fs.ModeSetuid))
			must(t, os.Chmod(root+"/setuid-large", 0o755|fs.ModeSetuid))
			store := t.TempDir()
			l := logged{when: func(r slog.Record) {
				r.Attrs(func(a slog.Attr) bool {
					if a.Key == "path" && a.Value.String() == c.trigger {
						must(t, c.do(root+"/"+c.file))
					}
					return true
				})
			}}
			_, err := tryRun(store, root, l.to)
			te, ok := errors.AsType[*publish.TreeError](err)
			if !ok || len(te.Problems) != 1 {
				t.Fatalf("error %v, want a TreeError with one problem", err)
			}
			if msg := te.Problems[0].Error(); !strings.HasPrefix(msg, fmt.Sprintf("%q: ", c.file)) || !strings.Contains(msg, c.want) {
				t.Errorf("message %q, want %q and %q", msg, c.file, c.want)
			}
			if _, err := os.Stat(filepath.Join(store, "md", testID, "any/head")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("there is a head (%v)", err)
			}
			mustHaveNoTemp(t, store)
		})
	}
}

func resize(path string, by int64) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, info.Size()+by)
}

// All unreadable files are named, up to a bound.
func TestManyProblems(t *testing.T) {
	files := map[string]string{}
	for i := range 50 {
		files[fmt.Sprintf("d/f%02d", i)] = "0"
	}
	root := makeTree(t, files)
	must(t, unix.Mkfifo(root+"/d/a-pipe", 0o644))
	l := logged{when: func(slog.Record) {
		for i := range 50 {
			must(t, os.Remove(fmt.Sprintf("%s/d/f%02d", root, i)))
		}
	}}
	_, err := tryRun(t.TempDir(), root, l.to)
	te, ok := errors.AsType[*publish.TreeError](err)
	if !ok || len(te.Problems) != 20 || !te.Stopped {
		t.Errorf("error %v", err)
	}
}

func TestUnreadable(t *testing.T) {
	root, to := makeTree(t, map[string]string{"a": "0", "d/b": "0"}), t.TempDir()
	must(t, os.Chmod(root+"/a", 0))
	must(t, os.Chmod(root+"/d", 0))
	t.Cleanup(func() { os.Chmod(root+"/d", 0o755) })
	if os.Getuid() == 0 { // who reads everything: be somebody else meanwhile
		const nobody = 65534
		must(t, os.Chown(to, nobody, nobody))
		must(t, os.Chmod(filepath.Dir(to), 0o755))
		must(t, os.Chmod(filepath.Dir(root), 0o755))
		must(t, syscall.Setresuid(-1, nobody, -1))
		t.Cleanup(func() { must(t, syscall.Setresuid(-1, 0, -1)) })
	}
	_, err := tryRun(to, root)
	te, ok := errors.AsType[*publish.TreeError](err)
	if !ok || len(te.Problems) != 2 || !errors.Is(err, syscall.EACCES) {
		t.Errorf("error %v", err)
	}
}

func TestProgress(t *testing.T) {
	root := craftedTree(t)
	var reports []publish.Progress
	res := run(t, t.TempDir(), root, func(o *publish.Options) {
		o.Progress = func(p publish.Progress) { reports = append(reports, p) }
	})
	last := reports[len(reports)-1]
	if last.Files != res.Counts.Files || last.Bytes != res.Counts.Bytes {
		t.Errorf("last report %+v, counts %+v", last, res.Counts)
	}
	if !slices.IsSortedFunc(reports, func(a, b publish.Progress) int { return int(a.Bytes - b.Bytes) }) {
		t.Errorf("progress goes back: %+v", reports)
	}
}

func mustHaveNoTemp(t testing.TB, store string) {
	t.Helper()
	left, err := filepath.Glob(store + "/*/.tmp/publish-*")
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

func parseDigest(t testing.TB, s string) digest.Digest {
	t.Helper()
	d, err := digest.Parse(s)
	must(t, err)
	return d
}
