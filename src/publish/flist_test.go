package publish_test

import (
	"crypto/md5"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
)

// oldStore is a store of the old format.
type oldStore struct {
	testing.TB
	dir   string
	lines []string
}

func newOldStore(t testing.TB) *oldStore {
	s := &oldStore{TB: t, dir: t.TempDir()}
	must(t, os.Mkdir(s.dir+"/md", 0o755))
	must(t, os.Mkdir(s.dir+"/files", 0o755))
	return s
}

func (s *oldStore) list() string { return s.dir + "/md/mongodb.flist" }

// add puts a file into the store, in directories with names of so many digits,
// and into the list.
func (s *oldStore) add(path, content string, digits int) (stored string) {
	s.Helper()
	sum := fmt.Sprintf("%x", md5.Sum([]byte(content)))
	stored = filepath.Join(s.dir, "files", sum[:digits], sum[digits:2*digits], sum)
	must(s, os.MkdirAll(filepath.Dir(stored), 0o755))
	must(s, os.WriteFile(stored, []byte(content), 0o600))
	s.line("%s|%s|%d", path, sum, len(content))
	return stored
}

func (s *oldStore) line(format string, a ...any) {
	s.Helper()
	s.lines = append(s.lines, fmt.Sprintf(format, a...))
	must(s, os.WriteFile(s.list(), []byte(strings.Join(s.lines, "\n")+"\n"), 0o644))
}

func TestFlist(t *testing.T) {
	s := newOldStore(t)
	s.add("/bin/mongod", "\x7fELF and so on", 2)
	s.add("bin/run", "#!/bin/sh\n", 2)
	s.add("/lib/big", noise(6, 2<<20), 1)
	s.add("/share/with|bar", "bar", 2)
	s.add("/share/same", "bar", 2)
	s.line("/share/twice|%032x|7", 1) // which nobody has, and nobody needs
	s.add("/share/twice", "second", 2)
	s.line("")
	s.line("/share/empty|d41d8cd98f00b204e9800998ecf8427e|0")
	s.add("/share/dos", "dos\n", 2)
	s.lines[len(s.lines)-1] += "\r"
	s.line("")
	store := t.TempDir()
	res := run(t, store, s.list())
	mustBeClean(t, store)
	p := readBack(t, store)
	want := map[string]string{
		"bin/mongod": "\x7fELF and so on", "bin/run": "#!/bin/sh\n", "lib/big": noise(6, 2<<20), "share/with|bar": "bar",
		"share/same": "bar", "share/twice": "second", "share/empty": "", "share/dos": "dos\n",
	}
	if !maps.Equal(p.content, want) {
		t.Errorf("got %q, want %q", slices.Sorted(maps.Keys(p.content)), slices.Sorted(maps.Keys(want)))
	}
	for path, e := range p.entries {
		mode := uint16(0o644)
		if e.Kind == object.Dir || strings.HasPrefix(path, "bin/") {
			mode = 0o755
		}
		if e.Mode != mode || e.Mtime != 0 {
			t.Errorf("%s is %+v", path, e)
		}
	}
	// The same list elsewhere, in other words, is the same tree.
	must(t, os.Rename(s.dir+"/files", s.dir+"/elsewhere"))
	must(t, os.Rename(s.list(), s.dir+"/list"))
	again, err := tryRun(store, s.dir+"/list", func(o *publish.Options) { o.Format, o.Files = publish.TextList, s.dir+"/elsewhere" })
	if err != nil || !again.Unchanged || again.Root != res.Root {
		t.Errorf("got %+v, %v", again, err)
	}
}

// What a list does not have, or has otherwise, is named, and nothing published.
func TestFlistRefuses(t *testing.T) {
	store := t.TempDir()
	good := newOldStore(t)
	good.add("good", "good", 2)
	run(t, store, good.list())

	s := newOldStore(t)
	sum := strings.Repeat("ab", 16)
	s.add("/fine", "fine", 2)
	s.line("/missing|%s|5", sum)
	must(t, os.WriteFile(s.add("/short", "a short one", 2), []byte("short"), 0o644))
	must(t, os.WriteFile(s.add("/wrong", "right", 2), []byte("wrong"), 0o644))
	must(t, os.WriteFile(s.add("/wrong-big", noise(1, 2<<20), 2), []byte(noise(2, 2<<20)), 0o644))
	s.line("/../up|%s|1", sum)
	s.line("no bars")
	s.line("one|bar")
	s.line("|%s|1", sum)
	s.line("/bad-md5|%sx|1", sum[1:])
	s.line("/long-md5|%sab|1", sum)
	s.line("/bad-size|%s|-1", sum)
	s.line("/fine/below|%s|1", sum)
	var te *publish.TreeError
	_, err := tryRun(store, s.list())
	if !errors.As(err, &te) || te.Stopped || len(te.Problems) != 12 {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{
		`"missing": there is no file a/b/` + sum + ", nor ab/ab/" + sum, `"short": `, "has 5 bytes, the list says 11", `"wrong": `, "its content has the MD5", `"wrong-big": `,
		`"mongodb.flist, line 6": the name has ".."`, `line 7": "no bars": it has no |: want path|md5|size`, `line 8": "one|bar": it has one | only`, `line 9"`, "no path", `line 10"`, "no MD5 in hex", `line 11"`,
		`line 12"`, "no size", `line 13": "fine" before it is no directory`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %s in %v", want, err)
		}
	}
	for want, change := range map[string]func(*publish.Options){
		"no such file":           func(o *publish.Options) { o.Files = s.dir + "/none" },
		"is not a directory":     func(o *publish.Options) { o.Files = s.list() },
		"it is empty":            func(o *publish.Options) { must(t, os.WriteFile(s.list(), nil, 0o644)) },
		"token too long":         func(o *publish.Options) { must(t, os.WriteFile(s.list(), make([]byte, 1<<20), 0o644)) },
		"can't be read from sta": func(o *publish.Options) { o.Root, o.Format = "-", publish.TextList },
		`format "zip": want`:     func(o *publish.Options) { o.Format = "zip" },
	} {
		if _, err := tryRun(store, s.list(), change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s, got %v", want, err)
		}
	}
	if p := readBack(t, store); p.head.Serial != 1 || p.content["good"] != "good" {
		t.Errorf("the head is %+v", p.head)
	}
}

// A store in which too much is wrong is given up.
func TestFlistGivesUp(t *testing.T) {
	s := newOldStore(t)
	for i := range 100 {
		s.line("/%d|%032x|1", i, i)
	}
	var te *publish.TreeError
	if _, err := tryRun(t.TempDir(), s.list()); !errors.As(err, &te) || !te.Stopped {
		t.Errorf("got %v", err)
	}
}
