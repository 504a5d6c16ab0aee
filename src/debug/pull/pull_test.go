package pull

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/debug"
	"github.com/aysfs/aysfs/src/redistest"
	"github.com/aysfs/aysfs/src/tier"
)

const patience = 30 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sum(s string) string {
	b := md5.Sum([]byte(s))
	return hex.EncodeToString(b[:])
}

// bed is a redis with one mount's changes, and a directory at home.
type bed struct {
	t     *testing.T
	redis *redistest.Server
	store *debug.Store
	dir   string

	mu       sync.Mutex
	done     []string // GUARDED_BY(mu)
	problems []string // GUARDED_BY(mu)
}

func newBed(t *testing.T, args ...string) *bed {
	t.Parallel()
	b := &bed{t: t, redis: redistest.Start(t, "secret", args...), dir: t.TempDir()}
	b.store = debug.New(debug.Options{Addr: b.redis.Addr, Passwd: "secret", Mount: "m", Client: "web17", Timeout: 2 * time.Second})
	t.Cleanup(func() { must(t, b.store.Close()) })
	return b
}

func (b *bed) options() Options {
	return Options{Store: b.store, Mount: "m", Dir: b.dir, Report: func(e Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if e.Problem != "" {
			b.problems = append(b.problems, e.Path+": "+e.Problem)
		} else {
			b.done = append(b.done, e.Done+" "+e.Path)
		}
	}}
}

// put records path -> content with a mode, or a removal for the mode 1.
func (b *bed) put(path, content string, mode uint32) {
	b.t.Helper()
	f := debug.File{Change: debug.Change{Path: path, MD5: sum(content), Size: int64(len(content)), Mode: mode}, Data: strings.NewReader(content)}
	if mode == gone {
		f = debug.File{Change: debug.Change{Path: path}}
	}
	must(b.t, b.store.Record(b.t.Context(), []debug.File{f}))
}

const gone = 1

// pull pulls, and checks what was done and which problems were told, each by
// how it begins.
func (b *bed) pull(o Options, done []string, problems ...string) {
	b.t.Helper()
	b.done, b.problems = nil, nil
	res, err := Pull(b.t.Context(), o)
	must(b.t, err)
	slices.Sort(b.done)
	slices.Sort(done)
	if !slices.Equal(b.done, done) {
		b.t.Errorf("did   %q\nwant %q", b.done, done)
	}
	b.told(problems...)
	if res.Problems != len(problems) || res.Written+res.Removed != len(done) {
		b.t.Errorf("got %+v", res)
	}
}

func (b *bed) told(problems ...string) {
	b.t.Helper()
	left := slices.Clone(b.problems)
	for _, want := range problems {
		path, words, _ := strings.Cut(want, " ... ")
		i := slices.IndexFunc(left, func(got string) bool { return strings.HasPrefix(got, path+": ") && strings.Contains(got, words) })
		if i < 0 {
			b.t.Errorf("told %q\nnot  %q", b.problems, want)
			return
		}
		left = slices.Delete(left, i, i+1)
	}
	if len(left) > 0 {
		b.t.Errorf("told %q\ntoo  %q", b.problems, left)
	}
}

// has checks all that is in the directory: path -> mode and content.
func (b *bed) has(want map[string]string) {
	b.t.Helper()
	got := make(map[string]string)
	must(b.t, filepath.WalkDir(b.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == b.dir {
			return err
		}
		rel, _ := filepath.Rel(b.dir, p)
		if rel == ownDir || rel == ".git" {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			content, _ = os.Readlink(p)
		case info.Mode().IsRegular():
			raw, _ := os.ReadFile(p)
			content = string(raw)
		}
		got[rel] = info.Mode().String() + " " + content
		return nil
	}))
	if !reflect.DeepEqual(got, want) {
		b.t.Errorf("has  %q\nwant %q", got, want)
	}
}

func (b *bed) write(path, content string) {
	b.t.Helper()
	full := filepath.Join(b.dir, path)
	must(b.t, os.MkdirAll(filepath.Dir(full), 0o755))
	must(b.t, os.WriteFile(full, []byte(content), 0o644))
}

func (b *bed) git(args ...string) string {
	b.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", b.dir, "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Fatalf("git %q: %v: %s", args, err, out)
	}
	return string(out)
}

func TestPull(t *testing.T) {
	b := newBed(t)
	b.put("bin/run", "#!/bin/sh\n", 0o100755)
	b.put("plain", "one\n", 0)
	b.put("private", "x", 0o100600)
	b.put("empty", "", 0)
	b.put("dir", "", 0o040755)
	b.put("dir/link", "../plain", 0o120777)
	b.put("setuid", "x", 0o104755)
	b.put("dir/\xff\n", "odd", 0)
	b.put("never", "", gone)
	dry := b.options()
	dry.DryRun = true
	added := []string{"added bin/run", "added plain", "added private", "added empty", "added dir", "added dir/link", "added setuid", "added dir/\xff\n"}
	b.pull(dry, slices.Clone(added))
	if left, err := os.ReadDir(b.dir); len(left) > 0 || err != nil {
		t.Errorf("a dry run leaves %v, %v", left, err)
	}
	b.pull(b.options(), slices.Clone(added))
	want := map[string]string{
		"bin": "drwxr-xr-x ", "bin/run": "-rwxr-xr-x #!/bin/sh\n", "plain": "-rw-r--r-- one\n", "private": "-rw------- x", "empty": "-rw-r--r-- ",
		"dir": "drwxr-xr-x ", "dir/link": "Lrwxrwxrwx ../plain", "setuid": "-rwxr-xr-x x", "dir/\xff\n": "-rw-r--r-- odd",
	}
	b.has(want)
	b.pull(b.options(), nil)

	b.put("plain", "two\n", 0)
	b.put("private", "x", 0o100755)
	b.put("empty", "", gone)
	b.put("dir/link", "../empty", 0o120777)
	b.put("bin/run", "", gone)
	b.put("bin", "", gone)
	b.put("bin", "now a file", 0)
	b.put("setuid", "", gone)
	b.put("setuid", "", 0o040755)
	b.put("setuid/x", "y", 0)
	done := []string{"changed plain", "mode private", "removed empty", "changed dir/link", "removed bin/run", "changed bin", "changed setuid", "added setuid/x"}
	b.pull(b.options(), done)
	want = map[string]string{
		"bin": "-rw-r--r-- now a file", "plain": "-rw-r--r-- two\n", "private": "-rwxr-xr-x x",
		"dir": "drwxr-xr-x ", "dir/link": "Lrwxrwxrwx ../empty", "setuid": "drwxr-xr-x ", "setuid/x": "-rw-r--r-- y", "dir/\xff\n": "-rw-r--r-- odd",
	}
	b.has(want)
	for _, path := range []string{"dir/\xff\n", "dir/link", "dir"} {
		b.put(path, "", gone)
	}
	b.pull(dry, []string{"removed dir/\xff\n", "removed dir/link", "removed dir"})
	b.has(want)
	b.pull(b.options(), []string{"removed dir/\xff\n", "removed dir/link", "removed dir"})
	b.pull(b.options(), nil)
	delete(want, "dir")
	delete(want, "dir/link")
	delete(want, "dir/\xff\n")
	b.has(want)
}

// TestChangedHere has files that somebody edited at home.
func TestChangedHere(t *testing.T) {
	b := newBed(t)
	for _, path := range []string{"both", "here", "there", "removed there", "removed here", "mode", "removed both"} {
		b.put(path, "one", 0)
	}
	b.pull(b.options(), []string{"added both", "added here", "added there", "added removed there", "added removed here", "added mode", "added removed both"})
	b.write("both", "ours")
	b.write("here", "ours")
	b.write("removed there", "ours")
	must(t, os.Remove(b.dir+"/removed here"))
	must(t, os.Remove(b.dir+"/removed both"))
	must(t, os.Chmod(b.dir+"/mode", 0o755))
	b.pull(b.options(), nil) // nothing new there

	b.put("both", "theirs", 0o100755)
	b.put("there", "theirs", 0)
	b.put("removed there", "", gone)
	b.put("removed both", "", gone)
	beside := "both.aysfs-" + sum("theirs")[:8]
	problems := []string{"both ... theirs is beside it as " + beside, "removed there ... left"}
	dry := b.options()
	dry.DryRun = true
	b.pull(dry, []string{"changed there"}, problems...)
	b.pull(b.options(), []string{"changed there"}, problems...)
	want := map[string]string{
		"both": "-rw-r--r-- ours", beside: "-rwxr-xr-x theirs", "here": "-rw-r--r-- ours", "there": "-rw-r--r-- theirs",
		"removed there": "-rw-r--r-- ours", "mode": "-rwxr-xr-x one",
	}
	b.has(want)
	b.pull(b.options(), nil) // it is told once
	b.has(want)

	// The next change there is another matter; and what was merged is ours.
	b.write("both", "ours and theirs")
	b.put("both", "theirs again", 0)
	again := "both.aysfs-" + sum("theirs again")[:8]
	b.pull(b.options(), nil, "both ... "+again)
	want["both"], want[again] = "-rw-r--r-- ours and theirs", "-rw-r--r-- theirs again"
	b.has(want)

	// What lies beside is not overwritten either.
	b.put("here", "theirs", 0)
	name := "here.aysfs-" + sum("theirs")[:8]
	b.write(name, "notes")
	b.pull(b.options(), nil, "here ... "+"here.aysfs-"+sum("theirs"))
	want[name], want["here.aysfs-"+sum("theirs")] = "-rw-r--r-- notes", "-rw-r--r-- theirs"
	b.has(want)

	long := strings.Repeat("l", 250)
	b.write(long, "ours")
	b.put(long, "theirs", 0)
	short := long[:255-15] + ".aysfs-" + sum("theirs")[:8]
	b.pull(b.options(), nil, long+" ... "+short)
	want[long], want[short] = "-rw-r--r-- ours", "-rw-r--r-- theirs"
	b.has(want)

	// Unless it is to be so.
	force := b.options()
	force.Force = true
	b.pull(force, []string{"changed both", "changed here", "added removed here", "changed " + long, "removed removed there"})
	delete(want, "removed there")
	for path, content := range map[string]string{"both": "theirs again", "here": "theirs", "removed here": "one", long: "theirs"} {
		want[path] = "-rw-r--r-- " + content
	}
	b.has(want)
}

// TestGit pulls into a work tree: its files are git's to give back, unless they
// were edited.
func TestGit(t *testing.T) {
	for _, sub := range []string{"", "sub/dir"} {
		t.Run("in "+sub, func(t *testing.T) {
			b := newBed(t)
			top := b.dir
			b.git("init")
			for _, path := range []string{"edited", "clean", "removed", "run.sh", "untouched"} {
				b.write(sub+"/"+path, "one\n")
			}
			b.write("other", "one\n")
			b.git("add", ".")
			b.git("commit", "-m", "first")
			b.write(sub+"/edited", "ours\n")
			b.write(sub+"/untracked", "ours\n")
			b.dir = filepath.Join(top, sub)
			b.put("edited", "theirs\n", 0)
			b.put("untracked", "theirs\n", 0)
			b.put("clean", "theirs\n", 0)
			b.put("removed", "", gone)
			b.put("run.sh", "one\n", 0o100755)
			b.put("new", "theirs\n", 0)
			e := ".aysfs-" + sum("theirs\n")[:8]
			b.pull(b.options(), []string{"changed clean", "removed removed", "mode run.sh", "added new"}, "edited ... edited"+e, "untracked ... untracked"+e)
			want := []string{" M clean", " M edited", " D removed", " M run.sh", "?? edited" + e, "?? new", "?? untracked", "?? untracked" + e}
			var got []string
			for line := range strings.Lines(b.git("status", "--porcelain", "--untracked-files=all")) {
				line = strings.TrimRight(line, "\n")
				got = append(got, line[:3]+strings.TrimPrefix(line[3:], sub+"/"))
			}
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("git status: %q\nwant %q", got, want)
			}
		})
	}
}

// TestHostile has paths that would lead out of the directory, or to where git
// runs what it finds.
func TestHostile(t *testing.T) {
	b := newBed(t)
	outside := t.TempDir()
	must(t, os.WriteFile(outside+"/victim", []byte("mine"), 0o644))
	b.git("init")
	hooks, err := os.ReadDir(b.dir + "/.git/hooks")
	must(t, err)
	must(t, os.Symlink(outside, b.dir+"/out"))
	must(t, os.Symlink(".git", b.dir+"/inside"))
	must(t, os.Symlink(outside+"/victim", b.dir+"/victim"))
	b.write("file", "ours")
	evil := sum("evil")
	b.redis.CLI("HSET", "debug:files:m", evil, "evil")
	for _, path := range []string{
		"", "/etc/evil", "../evil", "a/../../evil", "..", ".", "a//evil", "./evil", "a/.", outside + "/evil", strings.Repeat("n", 256), strings.Repeat("d/", 3000) + "evil",
	} {
		b.redis.CLI("HSET", "debug:paths:m", path, evil+",4")
	}
	b.redis.CLI("EVAL", `return redis.call("HSET", "debug:paths:m", "nul\0evil", ARGV[1])`, "0", evil+",4")
	for _, path := range []string{
		".git/hooks/pre-commit", ".GIT/config", "sub/.git/config", ".git", ".git./x", "git~1/x", ".aysfs/pulled-m.json", ".AYSFS/x", ".aysfs",
		"out/evil", "out/victim", "inside/hooks/evil", "victim", "file/evil",
	} {
		b.put(path, "evil", 0)
	}
	b.put("link", "/etc", 0o120777)
	b.put("link/evil", "evil", 0)
	b.put("loop", "loop", 0o120777)
	b.put("loop/evil", "evil", 0)
	b.redis.CLI("HSET", "debug:paths:m", "device", evil+",4,20644")
	b.put("good", "good", 0)
	for _, o := range []Options{b.options(), {Force: true}} {
		if o.Force {
			o = b.options()
			o.Force = true
		}
		b.done, b.problems = nil, nil
		res, err := Pull(t.Context(), o)
		must(t, err)
		if want := 12 + 1 + 1 + 9 + 3 + 1 + 2; !o.Force && res.Problems != want+1 || o.Force && res.Problems != want {
			t.Errorf("force %v: %d problems: %q", o.Force, res.Problems, b.problems)
		}
	}
	b.has(map[string]string{
		"out": "Lrwxrwxrwx " + outside, "inside": "Lrwxrwxrwx .git", "victim": "-rw-r--r-- evil", "victim.aysfs-" + evil[:8]: "-rw-r--r-- evil", "file": "-rw-r--r-- ours",
		"link": "Lrwxrwxrwx /etc", "loop": "Lrwxrwxrwx loop", "good": "-rw-r--r-- good",
	})
	if left, err := os.ReadDir(outside); len(left) != 1 || err != nil {
		t.Errorf("outside there are %v, %v", left, err)
	}
	if raw, err := os.ReadFile(outside + "/victim"); string(raw) != "mine" || err != nil {
		t.Errorf("the victim has %q, %v", raw, err)
	}
	if now, err := os.ReadDir(b.dir + "/.git/hooks"); len(now) != len(hooks) || err != nil {
		t.Errorf("hooks are %v, %v", now, err)
	}
	if _, err := os.Lstat("/etc/evil"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// TestFileAndDirectory has redis say that a path is both.
func TestFileAndDirectory(t *testing.T) {
	b := newBed(t)
	b.put("a", "file", 0)
	b.put("a/b", "below it", 0)
	b.write("full/mine", "ours")
	b.put("full", "theirs", 0)
	b.write("dir", "ours")
	b.put("dir", "", 0o040755)
	b.put("dir/x", "x", 0)
	b.put("full2/x", "", gone)
	b.write("full2/mine", "ours")
	b.put("full2", "", gone)
	b.pull(b.options(), []string{"added a"}, "a/b ... a is no directory", "full ... full.aysfs-", "dir ... a directory there", "dir/x ... dir is no directory", "full2 ... removed there")
	b.has(map[string]string{
		"a": "-rw-r--r-- file", "full": "drwxr-xr-x ", "full/mine": "-rw-r--r-- ours", "full.aysfs-" + sum("theirs")[:8]: "-rw-r--r-- theirs",
		"dir": "-rw-r--r-- ours", "full2": "drwxr-xr-x ", "full2/mine": "-rw-r--r-- ours",
	})
}

// TestBadContents pulls the rest all the same.
func TestBadContents(t *testing.T) {
	b := newBed(t)
	b.put("good", "good", 0)
	b.put("absent", "absent", 0)
	b.put("lie", "a truth", 0)
	b.redis.CLI("HDEL", "debug:files:m", sum("absent"))
	b.redis.CLI("HSET", "debug:files:m", sum("a truth"), "a lie!!")
	b.redis.CLI("HSET", "debug:paths:m", "garbage", "garbage")
	b.pull(b.options(), []string{"added good"}, "absent ... no such object", "lie ... corrupt", "garbage ... not as the debug layout")
	b.has(map[string]string{"good": "-rw-r--r-- good"})
	b.put("absent", "absent", 0)
	b.put("lie", "a new truth", 0)
	b.pull(b.options(), []string{"added absent", "added lie"}, "garbage ... ")

	b.write(ownDir+"/pulled-m.json", "{torn")
	if _, err := Pull(t.Context(), b.options()); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("got %v", err)
	}
	must(t, os.Remove(b.dir+"/"+ownDir+"/pulled-m.json"))
	b.pull(b.options(), nil, "garbage ... ")

	b.redis.Kill()
	if _, err := Pull(t.Context(), b.options()); !errors.Is(err, tier.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	o := b.options()
	o.Dir += "/not/there"
	if _, err := Pull(t.Context(), o); err == nil {
		t.Error("no error")
	}
}

func TestManyPaths(t *testing.T) {
	b := newBed(t)
	var files []debug.File
	want := map[string]string{}
	for i := range 1500 {
		dir, content := fmt.Sprint("dir", i%9), fmt.Sprint(i)
		want[dir], want[dir+"/"+content] = "drwxr-xr-x ", "-rw-r--r-- "+content
		files = append(files, debug.File{Change: debug.Change{Path: dir + "/" + content, MD5: sum(content), Size: int64(len(content))}, Data: strings.NewReader(content)})
	}
	must(t, b.store.Record(t.Context(), files))
	res, err := Pull(t.Context(), b.options())
	must(t, err)
	if res != (Result{Written: 1500}) {
		t.Errorf("got %+v", res)
	}
	b.has(want)
	b.pull(b.options(), nil)
}

// TestEditedMeanwhile edits a file at home while its content is on the way.
func TestEditedMeanwhile(t *testing.T) {
	b := newBed(t)
	b.put("a", "one", 0)
	b.pull(b.options(), []string{"added a"})
	w, err := openWorktree(t.Context(), b.dir, "m", false)
	must(t, err)
	defer w.close()
	have, err := w.look("a")
	must(t, err)
	b.put("a", "two", 0)
	c, _, err := b.store.Lookup(t.Context(), "a")
	must(t, err)
	b.write("a", "ours")
	if err := w.put(t.Context(), b.store, c, "a", have, 0o644); !errors.Is(err, errMoved) {
		t.Errorf("got %v", err)
	}
	b.has(map[string]string{"a": "-rw-r--r-- ours"})

	// While one is at work, another waits.
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := openWorktree(ctx, b.dir, "m", false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestEditedInGitMeanwhile edits files that git knows after a first pull has begun.
func TestEditedInGitMeanwhile(t *testing.T) {
	b := newBed(t)
	b.git("init")
	for _, path := range []string{"a", "b", "c*", "hidden"} {
		b.write(path, "one\n")
		b.put(path, "theirs\n", 0)
	}
	b.git("add", ".")
	b.git("commit", "-m", "first")
	b.git("update-index", "--assume-unchanged", "hidden")
	b.write("hidden", "ours\n")
	o := b.options()
	report := o.Report
	o.Report = func(e Event) {
		if e.Path == "a" {
			b.write("b", "ours\n")
			b.write("c*", "ours\n")
		}
		report(e)
	}
	b.pull(o, []string{"changed a"}, "b ... theirs is beside", "c* ... theirs is beside", "hidden ... theirs is beside")
	mark := ".aysfs-" + sum("theirs\n")[:8]
	b.has(map[string]string{
		"a": "-rw-r--r-- theirs\n", "b": "-rw-r--r-- ours\n", "b" + mark: "-rw-r--r-- theirs\n",
		"c*": "-rw-r--r-- ours\n", "c*" + mark: "-rw-r--r-- theirs\n", "hidden": "-rw-r--r-- ours\n", "hidden" + mark: "-rw-r--r-- theirs\n",
	})
}

func TestWatch(t *testing.T) {
	b := newBed(t, redistest.AppendOnly...)
	b.put("before", "one", 0)
	ctx, cancel := context.WithCancel(t.Context())
	type ended struct {
		res Result
		err error
	}
	end := make(chan ended, 1)
	go func() {
		res, err := Watch(ctx, b.options(), 50*time.Millisecond)
		end <- ended{res, err}
	}()
	defer cancel()
	eventually := func(path, content string) {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			raw, err := os.ReadFile(b.dir + "/" + path)
			if err == nil && string(raw) == content || content == "" && errors.Is(err, fs.ErrNotExist) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: got %q, %v, want %q", path, raw, err, content)
			}
		}
	}
	eventually("before", "one")
	b.put("before", "two", 0)
	eventually("before", "two")
	b.put("new/file", "x", 0o100755)
	eventually("new/file", "x")
	b.put("before", "", gone)
	eventually("before", "")
	b.write("new/file", "ours")
	b.put("new/file", "theirs", 0o100755)
	eventually("new/file.aysfs-"+sum("theirs")[:8], "theirs")
	eventually("new/file", "ours")

	b.redis.Kill()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		b.mu.Lock()
		n := len(b.problems)
		b.mu.Unlock()
		if n == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it did not tell that redis is gone")
		}
	}
	b.redis.Restart()
	b.put("back", "again", 0)
	eventually("back", "again")
	must(t, b.store.Clear(t.Context()))
	b.put("cleared", "then this", 0)
	eventually("cleared", "then this")
	eventually("back", "again") // what came before stays
	cancel()
	e := <-end
	if e.err != nil || e.res.Problems != 1 {
		t.Errorf("got %+v", e)
	}
	b.told("new/file ... theirs is beside", " ... waiting for it")
}
