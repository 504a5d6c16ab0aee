package e2e

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/debug"
	"github.com/aysfs/aysfs/src/redistest"
)

// debugPasswd is redis's, which no log may have.
const debugPasswd = "hush-hush"

// debugMount adds a mount whose files can be changed. Its name is m0 on every
// machine that has no other.
func (c *client) debugMount(r *redistest.Server, id string, filter ...string) string {
	host, port, _ := net.SplitHostPort(r.Addr)
	path := c.mount(id, `debug = "d"`, "debug_filter = ['"+strings.Join(filter, "', '")+"']")
	fmt.Fprintf(&c.mounts, "[[debug]]\nname = \"d\"\nredis.addr = %q\nredis.port = %s\nredis.passwd = %q\n", host, port, r.Passwd)
	return path
}

// changes is what redis has of the mount m0.
func changes(t *testing.T, r *redistest.Server) *debug.Store {
	t.Helper()
	s := debug.New(debug.Options{Addr: r.Addr, Passwd: r.Passwd, Mount: "m0", Client: "test"})
	t.Cleanup(func() { s.Close() })
	return s
}

// sent is what redis has of one path of m0.
func sent(t *testing.T, r *redistest.Server, path string) string {
	t.Helper()
	s := changes(t, r)
	c, ok, err := s.Lookup(t.Context(), path)
	switch {
	case err != nil:
		t.Fatal(err)
	case !ok:
		return "(never)"
	case c.Removed():
		return "(removed)"
	}
	b, err := s.Content(t.Context(), c.MD5, c.Size)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// pull brings what was changed into a work tree.
func pull(t *testing.T, r *redistest.Server, dir string) {
	t.Helper()
	file := filepath.Join(shortDir(t), "passwd")
	mustWrite(t, file, []byte(r.Passwd), 0o600)
	run(t, time.Minute, ays, "debug", "pull", "-redis", r.Addr, "-passwd-file", file, "-mount", "m0", dir)
}

var appTree = map[string]node{
	"etc/app.conf":   {mode: 0o644, data: []byte("port = 1\nname = app\n")},
	"etc/other.conf": {mode: 0o644, data: []byte("a\nb\nc\n")},
	"etc/motd":       {mode: 0o644, data: []byte("welcome\n")},
	"lib/app.py":     {mode: 0o644, data: []byte("import util\nprint(util.answer())\n")},
	"lib/util.py":    {mode: 0o644, data: []byte("def answer():\n    return 41\n")},
	"lib/old.py":     {mode: 0o644, data: []byte("raise SystemExit\n")},
	"bin/data":       file(300_000),
}

// appStore serves a tree that people debug.
func appStore(t *testing.T) *webStore {
	t.Helper()
	src := filepath.Join(shortDir(t), "src")
	write(t, src, appTree)
	return newStore(t, "e2e|app(1)", src)
}

// debugClient is a machine on which people debug what appStore serves, where that
// is, and the redis that their changes are sent to.
func debugClient(t *testing.T, s *webStore, redis ...string) (c *client, mount string, r *redistest.Server) {
	t.Helper()
	r = redistest.Start(t, debugPasswd, redis...)
	c = newClient(t, s.url())
	return c, c.debugMount(r, "e2e|app(1)", confOrPython), r
}

const confOrPython = `(etc/.*\.conf|lib/.*\.py)`

// TestDebugSession has the programs that people edit files with change them on
// a running machine, and brings the result home.
func TestDebugSession(t *testing.T) {
	s := appStore(t)
	c, mnt, r := debugClient(t, s)
	c.start()
	home := filepath.Join(shortDir(t), "home")
	run(t, time.Minute, "cp", "-a", s.tree, home)
	git := func(dir string, args ...string) string {
		t.Helper()
		return run(t, time.Minute, "git", append([]string{"-C", dir, "-c", "user.name=e2e", "-c", "user.email=e2e", "-c", "init.defaultBranch=m", "-c", "gc.auto=0", "-c", "maintenance.auto=false"}, args...)...)
	}
	git(home, "init", "-q")
	git(home, "add", ".")
	git(home, "commit", "-qm", "as published")

	sh := func(script string) string {
		t.Helper()
		cmd := exec.Command("sh", "-ec", script)
		cmd.Dir = mnt
		cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=", "HOME="+home)
		out, err := try(t, time.Minute, cmd)
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return out
	}
	vim := func(settings, command, file string) {
		t.Helper()
		sh(fmt.Sprintf("vim -es -N -u NONE -i NONE -c 'set %s' -c '%s' -c wq %s", settings, command, file))
	}

	// In place, and by a rename with a backup; with a swap file in both cases.
	vim("backupcopy=yes swapfile", "%s/port = 1/port = 2/", "etc/app.conf")
	vim("backupcopy=no writebackup swapfile", "normal Goby vim", "etc/app.conf")
	nano(t, filepath.Join(mnt, "etc/app.conf"), "# by nano")
	sh("sed -i s/41/42/ lib/util.py")
	if got := sh("python3 lib/app.py"); got != "42\n" {
		t.Errorf("python ran %q", got)
	}
	if files, _ := filepath.Glob(filepath.Join(mnt, "lib/__pycache__/util.*.pyc")); len(files) != 1 {
		t.Errorf("python compiled %q", files)
	}
	sh("chmod +x lib/app.py; printf 'new = 1\\n' > etc/new.conf; echo more >> etc/new.conf; rm lib/old.py; mkdir lib/sub; cp lib/util.py lib/sub/copy.py; mv lib/sub/copy.py lib/sub/moved.py")
	sh("printf -- '--- a/etc/other.conf\\n+++ b/etc/other.conf\\n@@ -1,3 +1,3 @@\\n a\\n-b\\n+patched\\n c\\n' | patch -p1")

	// rsync, from a work tree with one file more and one changed.
	work := filepath.Join(shortDir(t), "lib")
	write(t, work, map[string]node{"rsynced.py": {mode: 0o644, data: []byte("pass\n")}, "app.py": {mode: 0o644, data: []byte("import util\nprint(util.answer() + 1)\n")}})
	run(t, time.Minute, "chmod", "+x", filepath.Join(work, "app.py"))
	run(t, time.Minute, "rsync", "-a", work+"/", filepath.Join(mnt, "lib")+"/")

	// git, in a repository that is on this machine only.
	git(filepath.Join(mnt, "lib"), "init", "-q")
	git(filepath.Join(mnt, "lib"), "add", "util.py")
	git(filepath.Join(mnt, "lib"), "commit", "-qm", "here")
	sh("echo broken > lib/util.py")
	git(filepath.Join(mnt, "lib"), "checkout", "-q", "util.py")
	if got := git(filepath.Join(mnt, "lib"), "status", "--short", "util.py"); got != "" {
		t.Errorf("git says %q after a checkout", got)
	}

	// What does not match stays as it is.
	for _, script := range []string{"echo x > etc/motd", "echo x >> etc/motd", "rm etc/motd", "mv etc/motd etc/x.conf", "chmod +x etc/motd", "ln etc/app.conf etc/hard.conf", "rmdir bin", "mv etc/app.conf etc/motd"} {
		cmd := exec.Command("sh", "-c", script)
		cmd.Dir = mnt
		if out, err := try(t, time.Minute, cmd); err == nil {
			t.Errorf("%s worked: %s", script, out)
		}
	}
	if fd, err := unix.Open(filepath.Join(mnt, "etc/motd"), unix.O_RDWR, 0); err == nil {
		if _, err := unix.Write(fd, []byte("x")); err != unix.EROFS {
			t.Errorf("write to a file that does not match: %v, want EROFS", err)
		}
		unix.Close(fd)
	} else if err != unix.EROFS {
		t.Errorf("open of a file that does not match, to write: %v", err)
	}
	if fd, err := unix.Open(filepath.Join(mnt, "etc"), unix.O_RDWR|unix.O_TMPFILE, 0o600); err != unix.EOPNOTSUPP {
		unix.Close(fd)
		t.Errorf("a nameless file: %v, want EOPNOTSUPP", err)
	}
	wantContent(t, 30*time.Second, filepath.Join(mnt, "bin/data"), appTree["bin/data"].data)
	wantContent(t, 30*time.Second, filepath.Join(mnt, "etc/motd"), appTree["etc/motd"].data)

	if d := c.status().Mounts[0].Debug; d == nil || d.Error != "" || d.Changed == 0 || d.Scratch == 0 || d.Unsent != 0 {
		t.Errorf("status says %+v", d)
	}
	pull(t, r, home)
	const want = `M etc/app.conf port = 2|name = app|by vim|# by nano
A etc/new.conf new = 1|more
M etc/other.conf a|patched|c
M lib/app.py import util|print(util.answer() + 1)
D lib/old.py
A lib/rsynced.py pass
A lib/sub/moved.py def answer():|    return 42
M lib/util.py def answer():|    return 42
`
	git(home, "add", ".")
	var got strings.Builder
	for line := range strings.Lines(git(home, "diff", "--cached", "--name-status")) {
		status, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		fmt.Fprint(&got, status, " ", name)
		if b, err := os.ReadFile(filepath.Join(home, name)); err == nil {
			fmt.Fprint(&got, " ", strings.ReplaceAll(strings.TrimSuffix(string(b), "\n"), "\n", "|"))
		}
		got.WriteString("\n")
	}
	if got.String() != want {
		t.Errorf("git has\n%swant\n%s", got.String(), want)
	}
	if mode := git(home, "diff", "--cached", "--summary"); !strings.Contains(mode, "mode change 100644 => 100755 lib/app.py") {
		t.Errorf("the mode did not come along:\n%s", mode)
	}

	// The machine shows what it sent, again after a restart; scratch is gone.
	c.stop()
	c.start()
	comesToHave(t, 30*time.Second, "the changes are back", filepath.Join(mnt, "lib/sub/moved.py"), []byte("def answer():\n    return 42\n"))
	if out := run(t, time.Minute, "diff", "-r", "--exclude=.git", "--exclude=.aysfs", home, mnt); out != "" {
		t.Errorf("the mount differs from home:\n%s", out)
	}
	c.stop()
	if left, err := filepath.Glob(filepath.Join(c.cacheDir(), "debug", "*", "*")); err != nil || len(left) != 0 {
		t.Errorf("left in the spool: %q, %v", left, err)
	}
	if strings.Contains(c.log(), debugPasswd) {
		t.Error("the password is in the log")
	}
}

// nano has nano add a line at the end of a file, as a person does.
func nano(t *testing.T, file, line string) {
	t.Helper()
	cmd := exec.Command("script", "-qec", "nano -I +9999 "+file, "/dev/null")
	cmd.Env = append(os.Environ(), "TERM=xterm", "LC_ALL=C", "SHELL=/bin/sh")
	keys, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var screen lockedBuffer
	cmd.Stdout, cmd.Stderr = &screen, &screen
	p := startProcess(t, cmd)
	for _, step := range []struct{ seen, keys string }{
		{"Exit", line + "\n\x0f"}, {"File Name to Write", "\r"}, {"Wrote", "\x18"},
	} {
		eventually(t, 30*time.Second, "nano shows "+step.seen, func() bool { return strings.Contains(screen.String(), step.seen) })
		if _, err := io.WriteString(keys, step.keys); err != nil {
			t.Fatal(err)
		}
	}
	if !p.endsWithin(30*time.Second) || p.err != nil {
		t.Fatalf("nano does not end well: %v\n%s", p.err, screen.String())
	}
}

// lockedBuffer may be read while a program writes to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestDebugExerciser does at random to a file what programs do, and the same to
// a local one.
func TestDebugExerciser(t *testing.T) {
	const steps, most = 100_000, 256 << 10
	c, mnt, r := debugClient(t, appStore(t))
	c.start()
	name := filepath.Join(mnt, "etc/app.conf")
	local, err := os.Create(filepath.Join(shortDir(t), "local"))
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	if _, err := local.Write(appTree["etc/app.conf"].data); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { f.Close() }()

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	size := int64(len(appTree["etc/app.conf"].data))
	data, want := make([]byte, 64<<10), make([]byte, 64<<10)
	must := func(step int, what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("step %d, %s: %v", step, what, err)
		}
	}
	length := func(limit int64) int64 { return min(rnd.Int64N(1<<rnd.IntN(17)+1), limit) }
	for step := range steps {
		switch k := rnd.IntN(1000); {
		case k < 400: // read
			off := rnd.Int64N(size + 1)
			n := length(size - off)
			if n == 0 {
				continue
			}
			_, err := f.ReadAt(data[:n], off)
			must(step, "read", err)
			_, err = local.ReadAt(want[:n], off)
			must(step, "read locally", err)
			if !bytes.Equal(data[:n], want[:n]) {
				t.Fatalf("step %d: %d bytes at %d differ from the local file's", step, n, off)
			}
		case k < 750: // write, at times past the end
			off := rnd.Int64N(min(size+4096, most-1))
			n := max(length(most-off), 1)
			fill(rnd, data[:n])
			_, err := f.WriteAt(data[:n], off)
			must(step, "write", err)
			_, err = local.WriteAt(data[:n], off)
			must(step, "write locally", err)
			size = max(size, off+n)
		case k < 800:
			size = rnd.Int64N(most)
			must(step, "truncate", f.Truncate(size))
			must(step, "truncate locally", local.Truncate(size))
		case k < 900: // a map, read
			if size == 0 {
				continue
			}
			m, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
			must(step, "map", err)
			off := rnd.Int64N(size)
			n := length(size - off)
			_, err = local.ReadAt(want[:n], off)
			must(step, "read locally", err)
			same := bytes.Equal(m[off:off+n], want[:n])
			must(step, "unmap", unix.Munmap(m))
			if !same {
				t.Fatalf("step %d: %d mapped bytes at %d differ from the local file's", step, n, off)
			}
		case k < 980: // a map, written
			if size == 0 {
				continue
			}
			m, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			must(step, "map", err)
			off := rnd.Int64N(size)
			n := length(size - off)
			fill(rnd, data[:n])
			copy(m[off:], data[:n])
			_, err = local.WriteAt(data[:n], off)
			must(step, "write locally", err)
			if rnd.IntN(4) == 0 {
				must(step, "sync the map", unix.Msync(m, unix.MS_SYNC))
			}
			must(step, "unmap", unix.Munmap(m))
		case k < 998:
			fi, err := f.Stat()
			must(step, "stat", err)
			if fi.Size() != size {
				t.Fatalf("step %d: the size is %d, the local file's %d", step, fi.Size(), size)
			}
		case k < 999:
			must(step, "sync", f.Sync())
		default:
			must(step, "close", f.Close())
			f, err = os.OpenFile(name, os.O_RDWR, 0)
			must(step, "open", err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	all := mustRead(t, local.Name())
	wantContent(t, 30*time.Second, name, all)
	if got := sent(t, r, "etc/app.conf"); got != string(all) {
		t.Error("redis has something else than the local file")
	}
	if f, err = os.Open(name); err != nil {
		t.Fatal(err)
	}
}

// fill takes what is written from anywhere in some noise.
func fill(rnd *rand.Rand, b []byte) { copy(b, exerciserNoise[rnd.IntN(len(exerciserNoise)/2):]) }

var exerciserNoise = noise(128<<10, 7)

// TestDebugTwoMachines edits one file on two machines.
func TestDebugTwoMachines(t *testing.T) {
	s := appStore(t)
	r := redistest.Start(t, debugPasswd)
	a, b := newClient(t, s.url()), newClient(t, s.url())
	mntA, mntB := a.debugMount(r, "e2e|app(1)", confOrPython), b.debugMount(r, "e2e|app(1)", confOrPython)
	a.start()
	b.start()
	fileA, fileB := filepath.Join(mntA, "etc/app.conf"), filepath.Join(mntB, "etc/app.conf")
	published := appTree["etc/app.conf"].data
	wantContent(t, 30*time.Second, fileB, published)
	open := openFile(t, fileB)
	mapped, err := unix.Mmap(int(open.Fd()), 0, len(published), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)

	seen := func(file, content string) {
		t.Helper()
		began := time.Now()
		comesToHave(t, 30*time.Second, file+" has "+content, file, []byte(content))
		t.Logf("seen after %v", time.Since(began))
	}
	for i := range 5 {
		content := fmt.Sprintf("version %d\n", i)
		mustWrite(t, fileA, []byte(content), 0o644)
		seen(fileB, content)
		mustWrite(t, fileB, []byte("reply to "+content), 0o644)
		seen(fileA, "reply to "+content)
	}
	got := make([]byte, len(published))
	if _, err := open.ReadAt(got, 0); err != nil || !bytes.Equal(got, published) || !bytes.Equal(mapped, published) {
		t.Errorf("the open file has %q, its map %q, %v", got, mapped, err)
	}
	// Names come and go as well, in a directory that was listed before.
	if _, err := os.ReadDir(filepath.Join(mntB, "lib")); err != nil {
		t.Fatal(err)
	}
	run(t, time.Minute, "sh", "-ec", "cd "+mntA+"/lib && rm old.py && mkdir deep && echo x > deep/new.py")
	eventually(t, 30*time.Second, "the other machine lists what came and went", func() bool {
		out, err := exec.Command("sh", "-c", "cd "+mntB+"/lib && ls && ls deep").CombinedOutput()
		return err == nil && string(out) == "app.py\ndeep\nutil.py\nnew.py\n"
	})
	var who []string
	if err := changes(t, r).Log(t.Context(), func(e debug.Entry) error {
		who = append(who, e.Path)
		return nil
	}); err != nil || len(who) != 12 {
		t.Errorf("the log has %d entries, %v: %q", len(who), err, who)
	}
	open.Close()
	unix.Munmap(mapped)
	a.stop()
	b.stop()
}

// TestDebugKills ends the client, and redis, at any moment of a close: what redis
// has is one version or the other, never a part.
func TestDebugKills(t *testing.T) {
	const size = 300_000
	c, mnt, r := debugClient(t, appStore(t), redistest.AppendOnly...)
	name := filepath.Join(mnt, "etc/app.conf")
	version := func(v int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%09d\n", v), size/10) }
	c.start()
	acknowledged, v := 0, 0
	for round := range 16 {
		killsRedis := round%2 == 1
		stop := make(chan struct{})
		done := make(chan int)
		go func() {
			last := acknowledged
			defer func() { done <- last }()
			for {
				select {
				case <-stop:
					return
				default:
				}
				v++
				if os.WriteFile(name, version(v), 0o644) != nil {
					return
				}
				last = v
			}
		}()
		time.Sleep(time.Duration(20+rand.IntN(60)) * time.Millisecond)
		if killsRedis {
			r.Kill()
		} else {
			c.kill()
		}
		close(stop)
		select {
		case acknowledged = <-done:
		case <-time.After(time.Minute):
			t.Fatal("a writer hangs")
		}
		if killsRedis {
			r.Restart()
		} else {
			c.start()
		}
		if acknowledged == 0 {
			continue
		}
		got := sent(t, r, "etc/app.conf")
		if got != string(version(acknowledged)) && got != string(version(v)) {
			t.Fatalf("round %d: redis has %d bytes that begin with %.10q; version %d was acknowledged, %d tried", round, len(got), got, acknowledged, v)
		}
		comesToHave(t, 30*time.Second, "the mount shows what redis has", name, []byte(got))
		if _, err := fmt.Sscanf(got, "%d\n", &acknowledged); err != nil {
			t.Fatal(err)
		}
	}
	if acknowledged == 0 {
		t.Error("nothing was ever acknowledged")
	}
	c.stop()
}

// TestDebugWithoutRedis reads and writes while redis is away, and while it is
// frozen.
func TestDebugWithoutRedis(t *testing.T) {
	c, mnt, r := debugClient(t, appStore(t), redistest.AppendOnly...)
	c.main = `io_timeout = "3s"`
	name := filepath.Join(mnt, "etc/app.conf")
	r.Kill()
	c.start() // it need not be there
	wantContent(t, 30*time.Second, name, appTree["etc/app.conf"].data)
	lost := filepath.Join(shortDir(t), "lost")
	mustWrite(t, lost, []byte("lost"), 0o644)
	fails := func(what string) {
		t.Helper()
		if out, err := try(t, time.Minute, exec.Command("cp", lost, name)); err == nil || !strings.Contains(out, "Input/output error") {
			t.Errorf("%s: cp: %v, %q", what, err, out)
		}
	}
	fails("redis away")
	if d := c.status().Mounts[0].Debug; d == nil || d.Error == "" || d.Changed != 0 {
		t.Errorf("status says %+v while redis is away", d)
	}
	r.Restart()
	eventually(t, 30*time.Second, "writing works again", func() bool { return os.WriteFile(name, []byte("kept"), 0o644) == nil })

	// What another machine wrote and was never read here can't be had without redis.
	// It is not the tree's: an edit of that would undo the other machine's.
	const foreign = "answer = 7\n"
	util := filepath.Join(mnt, "lib/util.py")
	f := debug.File{Change: debug.Change{Path: "lib/util.py", MD5: fmt.Sprintf("%x", md5.Sum([]byte(foreign))), Size: int64(len(foreign))}, Data: strings.NewReader(foreign)}
	if err := changes(t, r).Record(t.Context(), []debug.File{f}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the change of another machine is known", func() bool {
		fi, err := os.Stat(util)
		return err == nil && fi.Size() == int64(len(foreign))
	})
	r.Kill()
	if b, err := os.ReadFile(util); !errors.Is(err, syscall.EIO) {
		t.Errorf("a file that only redis has reads as %q, %v, while redis is away", b, err)
	}
	wantContent(t, 30*time.Second, filepath.Join(mnt, "lib/app.py"), appTree["lib/app.py"].data)
	wantContent(t, 30*time.Second, name, []byte("kept"))
	r.Restart()
	comesToHave(t, 30*time.Second, "the change of another machine can be read", util, []byte(foreign))
	eventually(t, 30*time.Second, "writing works once more", func() bool { return os.WriteFile(name, []byte("kept"), 0o644) == nil })
	cmd := exec.Command("vim", "-es", "-N", "-u", "NONE", "-i", "NONE", "-c", "%s/kept/lost/", "-c", "wq", name)
	r.Freeze()
	if out, err := try(t, time.Minute, cmd); err == nil {
		t.Errorf("vim saved to a frozen redis: %s", out)
	}
	fails("redis frozen")
	// Who only reads does not wait longer than io_timeout, and a little for
	// a machine that is busy.
	wantContent(t, 30*time.Second, filepath.Join(mnt, "etc/motd"), appTree["etc/motd"].data)
	wantContent(t, 30*time.Second, name, []byte("kept"))
	r.Thaw()
	eventually(t, 30*time.Second, "writing works after the freeze", func() bool { return os.WriteFile(name, []byte("thawed"), 0o644) == nil })
	if got := sent(t, r, "etc/app.conf"); got != "thawed" {
		t.Errorf("redis has %q", got)
	}
	c.stop()
	if strings.Contains(c.log(), debugPasswd) {
		t.Error("the password is in the log")
	}
}

// TestDebugMapped writes to a map of a file that is closed already.
func TestDebugMapped(t *testing.T) {
	c, mnt, r := debugClient(t, appStore(t))
	c.start()
	f, err := os.OpenFile(filepath.Join(mnt, "etc/app.conf"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	copy(m, "PORT")
	if err := unix.Munmap(m); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "what was written to the map is sent", func() bool {
		return strings.HasPrefix(sent(t, r, "etc/app.conf"), "PORT = 1")
	})
	c.stop()
}

// TestDebugFullDisk writes more than the machine's disk takes.
func TestDebugFullDisk(t *testing.T) {
	c, mnt, r := debugClient(t, appStore(t))
	if err := os.Mkdir(c.cacheDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", c.cacheDir(), "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	c.start()
	name := filepath.Join(mnt, "etc/app.conf")
	if err := os.WriteFile(name, make([]byte, 16<<20), 0o644); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("16 MiB on 8 MiB: %v, want ENOSPC", err)
	}
	// The kernel may have more to say of the first write at the next close.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := os.WriteFile(name, []byte("fits"), 0o644)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ENOSPC) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if got := sent(t, r, "etc/app.conf"); got != "fits" {
		t.Errorf("redis has %q", got)
	}
	if err := unix.Unmount(c.cacheDir(), unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
	c.stop()
}

// TestDebugMD5 asks a plain client of redis for the layout that others rely on.
func TestDebugMD5(t *testing.T) {
	c, mnt, r := debugClient(t, appStore(t))
	c.start()
	mustWrite(t, filepath.Join(mnt, "etc/app.conf"), []byte("x = 1"), 0o644)
	sum := fmt.Sprintf("%x", md5.Sum([]byte("x = 1")))
	if got := r.CLI("HGET", "debug:paths:m0", "etc/app.conf"); got != sum+",5" {
		t.Errorf("debug:paths has %q, want %s,5", got, sum)
	}
	if got := r.CLI("HGET", "debug:files:m0", sum); got != "x = 1" {
		t.Errorf("debug:files has %q", got)
	}
	if got := r.CLI("LRANGE", "debug:log:m0", "0", "-1"); !strings.Contains(got, `,"etc/app.conf","`+sum+`","e2e"]`) || strings.Count(got, "\n") != 0 {
		t.Errorf("debug:log has %q", got)
	}
	if err := os.Remove(filepath.Join(mnt, "etc/app.conf")); err != nil {
		t.Fatal(err)
	}
	if got := r.CLI("HGET", "debug:paths:m0", "etc/app.conf"); got != ",0" {
		t.Errorf("debug:paths has %q of a removed path", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := changes(t, r).Clear(ctx); err != nil {
		t.Fatal(err)
	}
	comesToHave(t, 30*time.Second, "the tree shows again", filepath.Join(mnt, "etc/app.conf"), appTree["etc/app.conf"].data)
	c.stop()
}

// TestDebugReload changes the filter of a mount, and turns debug off and on, while
// files are open in it.
func TestDebugReload(t *testing.T) {
	c, mnt, r := debugClient(t, appStore(t))
	c.start()
	conf, python := filepath.Join(mnt, "etc/app.conf"), filepath.Join(mnt, "lib/app.py")
	mustWrite(t, conf, []byte("changed"), 0o644)
	open := openFile(t, conf)
	var before, after unix.Stat_t
	if err := unix.Stat(mnt, &before); err != nil {
		t.Fatal(err)
	}
	reload := func(text, what string, done func() bool) {
		t.Helper()
		c.rewrite(text)
		c.hup()
		eventually(t, 30*time.Second, what, done)
	}

	text := c.config()
	reload(strings.Replace(text, confOrPython, `lib/.*\.py`, 1), "what matches no more is the tree's", func() bool {
		return hasContent(conf, appTree["etc/app.conf"].data)
	})
	if err := os.WriteFile(conf, nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("write of what matches no more: %v, want EROFS", err)
	}
	if err := os.WriteFile(python, []byte("pass\n"), 0o644); err != nil {
		t.Error(err)
	}
	if err := unix.Stat(mnt, &after); err != nil || before.Dev != after.Dev {
		t.Errorf("another filter made another mount: %v", err)
	}

	off := strings.Replace(text, `debug = "d"`, "", 1)
	reload(off, "the mount without debug shows the tree", func() bool { return hasContent(python, appTree["lib/app.py"].data) })
	if err := os.WriteFile(filepath.Join(mnt, "scratch"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("a new file without debug: %v, want EROFS", err)
	}
	if b, err := io.ReadAll(open); err != nil || string(b) != "changed" {
		t.Errorf("the open file has %q, %v", b, err)
	}
	open.Close()

	reload(text, "what was changed shows again", func() bool { return hasContent(conf, []byte("changed")) && hasContent(python, []byte("pass\n")) })
	if err := os.WriteFile(conf, []byte("once more"), 0o644); err != nil {
		t.Error(err)
	}
	if got := sent(t, r, "etc/app.conf"); got != "once more" {
		t.Errorf("redis has %q", got)
	}
	c.stop()
}
