package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestStopWithFilesOpen(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := startClient(t, store.url())
	openFile(t, filepath.Join(mount, names[0]))
	idler := exec.Command("sleep", "60")
	idler.Dir = mount
	startProcess(t, idler)
	begin := time.Now()
	c.stop()
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("took %v to stop", d)
	}
	if !strings.Contains(c.log(), "unmounted lazily") {
		t.Error("does not tell that somebody still used the mount")
	}
	// The same place must be usable at once.
	c.start()
	wantContent(t, 5*time.Second, filepath.Join(mount, names[1]), content(100_001))
	c.stop()
}

func TestStopWithTheStoreStalled(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := startClient(t, store.url())
	store.setFault(stall)
	before := store.blobs.Load()
	reader := startProcess(t, exec.Command("cat", filepath.Join(mount, names[0])))
	eventually(t, 10*time.Second, "the store is asked", func() bool { return store.blobs.Load() > before })
	begin := time.Now()
	c.stop()
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("took %v to stop", d)
	}
	if !reader.endsWithin(5*time.Second) || reader.err == nil {
		t.Errorf("who was reading is left waiting, or with success: %v", reader.err)
	}
}

func TestStaleMountIsTakenAway(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := startClient(t, store.url())
	c.kill()
	if len(mountsUnder(c.dir)) != 1 {
		t.Fatal("a killed aysfs leaves no stale mount: this test is of no use")
	}
	c.start()
	wantContent(t, 5*time.Second, filepath.Join(mount, names[0]), content(100_000))
	c.stop()
}

func TestMountPoints(t *testing.T) {
	store, names := smallStore(t)
	for name, p := range map[string]struct {
		make func(path string) error
		want string // in the message; empty if it can be mounted
	}{
		"absent":        {func(string) error { return nil }, ""},
		"absent, deep":  {func(path string) error { return os.RemoveAll(filepath.Dir(path)) }, ""},
		"empty":         {func(path string) error { return os.Mkdir(path, 0o700) }, ""},
		"not empty":     {func(path string) error { return os.MkdirAll(path+"/x", 0o755) }, `not empty ("x" is in it)`},
		"a file":        {func(path string) error { return os.WriteFile(path, []byte("mine"), 0o644) }, "not a directory"},
		"a symlink":     {func(path string) error { return os.Symlink("/tmp", path) }, "symbolic link; name the directory itself in the config (/tmp)"},
		"leads nowhere": {func(path string) error { return os.Symlink("nowhere", path) }, "symbolic link that can't be followed"},
		"with a blank":  {func(path string) error { return nil }, ""},
		"not reachable": {func(path string) error { return os.WriteFile(filepath.Dir(path), nil, 0o644) }, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, store.url())
			path := filepath.Join(c.dir, "sub", "at "+name)
			if name != "not reachable" {
				if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.make(path); err != nil {
				t.Fatal(err)
			}
			c.mountAt(path, "e2e|app(1)")
			if p.want == "" {
				c.start()
				wantContent(t, 5*time.Second, filepath.Join(path, names[0]), content(100_000))
				c.stop()
				return
			}
			before, _ := os.Lstat(path)
			c.refuses(15*time.Second, path, strings.ReplaceAll(p.want, `"`, `\"`))
			if after, _ := os.Lstat(path); before != nil && !os.SameFile(before, after) {
				t.Error("what was there is not there any more")
			}
		})
	}
}

// TestTwoAtOnePlace: the second must not hide the first, nor share its cache.
func TestTwoAtOnePlace(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := startClient(t, store.url())
	second := newClient(t, store.url())
	second.mountAt(mount, "e2e|app(1)")
	second.refuses(15*time.Second, "another aysfs is mounted there and alive")
	wantContent(t, 5*time.Second, filepath.Join(mount, names[0]), content(100_000))

	third, own := appClient(t, store.url())
	if err := os.Symlink(c.cacheDir(), third.cacheDir()); err != nil {
		t.Fatal(err)
	}
	third.start()
	wantContent(t, 5*time.Second, filepath.Join(own, names[1]), content(100_001))
	if third.status().Cache.Bypassed == "" || len(third.warnings()) != 1 {
		t.Errorf("a cache in use by another: bypassed %q, warnings %q, want one", third.status().Cache.Bypassed, third.warnings())
	}
	third.stop()
	c.stop()
}

// TestKilledWhileReading kills aysfs in the midst of reads, over and over.
func TestKilledWhileReading(t *testing.T) {
	const rounds, files = 20, 120
	dir := shortDir(t)
	tree := map[string]node{}
	var names []string
	for i := range files {
		name := fmt.Sprintf("d%d/f%d", i%7, i)
		tree[name] = file(1000 + i*i*150) // 1 KB to 2.2 MB
		names = append(names, name)
	}
	write(t, dir, tree)
	store := newStore(t, "e2e|app(1)", dir)
	c, mount := appClient(t, store.url())

	c.start()
	sameTree(t, dir, mount)
	c.settled()
	cold := store.blobs.Load()

	r := rand.New(rand.NewPCG(1, 2))
	for range rounds {
		c.kill()
		c.start()
		readers := make(chan error, 4)
		for i := range cap(readers) {
			at := r.IntN(files)
			go func() {
				for j := range files {
					name := names[(at+j*(2*i+1))%files]
					got, err := os.ReadFile(filepath.Join(mount, name))
					if err != nil {
						readers <- nil // killed
						return
					}
					if string(got) != string(tree[name].data) {
						readers <- fmt.Errorf("%s: wrong bytes", name)
						return
					}
				}
				readers <- nil
			}()
		}
		time.Sleep(time.Duration(r.IntN(150)) * time.Millisecond)
		c.proc.Process.Kill()
		for range cap(readers) {
			select {
			case err := <-readers:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("a reader hangs after aysfs was killed")
			}
		}
	}
	c.kill()
	store.blobs.Store(0)
	c.start()
	sameTree(t, dir, mount)
	if warm := store.blobs.Load(); warm > cold/4 {
		t.Errorf("after %d kills %d blobs were fetched again, of %d: most should still be in the cache", rounds, warm, cold)
	}
	c.stop()
}

// TestAppearsWhenTheStoreDoes: a machine may boot before its network is there. Its
// start is not held up for longer than it should, and the path answers quickly,
// with an error, until there is a tree: without a restart.
func TestAppearsWhenTheStoreDoes(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	store.down()
	c, mount := appClient(t, store.url(), `wait = "1s"`)
	c.main = "io_timeout = \"2s\"\nlog_level = \"debug\""
	c.start() // ready: what can be done is done
	eventually(t, 20*time.Second, "the path is there, without a tree", func() bool { return len(mountsUnder(c.dir)) == 1 })
	wantError(t, 2*time.Second, filepath.Join(mount, names[0]), syscall.EIO)
	if m := c.status().Mounts[0]; !m.Pending || m.Error == "" || m.Serial != 0 {
		t.Errorf("status: %+v", m)
	}
	c.wantStatus(1, "NO TREE YET")
	// It is tried again and again, and that is said once.
	const tried = "a mount could not be made"
	eventually(t, 60*time.Second, "it is tried five times", func() bool { return strings.Count(c.log(), tried) >= 5 })
	if n := strings.Count(strings.Join(c.warnings(), ""), tried); n < 1 || n > 3 {
		t.Errorf("%d of these tries are errors in the log", n)
	}
	store.up()
	comesToHave(t, 30*time.Second, "a tree is there once the store is", filepath.Join(mount, names[0]), content(100_000))
	if m := c.status().Mounts[0]; m.Pending || m.Error != "" || m.Serial != 1 {
		t.Errorf("status: %+v", m)
	}
	c.stop()
}

func TestNoSuchTree(t *testing.T) {
	t.Parallel()
	store, _ := smallStore(t)
	c := newClient(t, store.url())
	c.mount("e2e|app(2)")
	c.refuses(15*time.Second, "e2e|app(2)")
}

// TestOffline starts and serves with every network gone.
func TestOffline(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := appClient(t, store.url())
	c.main = `io_timeout = "2s"`
	c.start()
	wantContent(t, 5*time.Second, filepath.Join(mount, names[0]), content(100_000))
	eventually(t, 10*time.Second, "metadata and the file are in the cache", func() bool { return c.status().Cache.Blobs >= 3 })
	c.stop()

	store.down()
	begin := time.Now()
	c.start()
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("took %v to start without the store", d)
	}
	if s := c.status().Mounts[0]; s.Fresh || s.Serial != 1 {
		t.Errorf("status: fresh %v, serial %d, want the serial known from before", s.Fresh, s.Serial)
	}
	if out := run(t, 10*time.Second, "ls", "-lR", mount); strings.Count(out, "\n") < len(names) {
		t.Errorf("ls: %s", out)
	}
	wantContent(t, 5*time.Second, filepath.Join(mount, names[0]), content(100_000))
	wantError(t, 3*time.Second, filepath.Join(mount, names[1]), syscall.EIO)

	store.up()
	comesToHave(t, 10*time.Second, "what was missing is read once the store is back", filepath.Join(mount, names[1]), content(100_001))
	c.stop()
}

func TestNothingIsLeftOfAStoppedClient(t *testing.T) {
	t.Parallel()
	store, _ := smallStore(t)
	c, _ := startClient(t, store.url())
	c.stop()
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch e.Name() {
		case "aysfs.toml", "cache", "log", "mnt0", "notify":
		default:
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

// TestServerErrors: a store that answers with errors now and then is asked again.
func TestServerErrors(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := startClient(t, store.url())
	for name, fault := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"503": func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(503); return true },
		"429": func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(429)
			return true
		},
		"half a body": func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Length", "50000")
			w.Write(make([]byte, 20000))
			panic(http.ErrAbortHandler)
		},
		"no answer":      func(w http.ResponseWriter, r *http.Request) bool { panic(http.ErrAbortHandler) },
		"another object": func(w http.ResponseWriter, r *http.Request) bool { w.Write([]byte("hello")); return true },
	} {
		var failed atomic.Bool
		store.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			return !failed.Swap(true) && fault(w, r)
		})
		// From the last on: who reads on in order is read ahead for.
		file := names[len(names)-1]
		names = names[:len(names)-1]
		want := mustRead(t, filepath.Join(store.tree, file))
		wantContent(t, 10*time.Second, filepath.Join(mount, file), want)
		if !failed.Load() {
			t.Errorf("%s: the store was not asked", name)
		}
	}
	c.stop()
}

// unmounted by hand: aysfs must not take that badly.
func TestUnmountedBySomebodyElse(t *testing.T) {
	t.Parallel()
	store, _ := smallStore(t)
	c, mount := startClient(t, store.url())
	if err := unix.Unmount(mount, 0); err != nil {
		t.Fatal(err)
	}
	c.stop()
}

// TestUnmountedByHand: that mounts were taken away, or cut off, is told, and a reload
// mounts them anew.
func TestUnmountedByHand(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, outer := appClient(t, store.url())
	inner := filepath.Join(outer, "in/ner")
	c.mountAt(inner, "e2e|app(1)")
	other, dead := c.mount("e2e|app(1)"), c.mount("e2e|app(1)")
	c.start()
	for _, path := range []string{inner, outer} {
		if err := unix.Unmount(path, 0); err != nil {
			t.Fatal(err)
		}
	}
	openFile(t, filepath.Join(dead, names[0]))
	if err := unix.Unmount(dead, unix.MNT_FORCE); err != unix.EBUSY {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "it is told that three mounts are gone", func() bool {
		n := 0
		for _, m := range c.status().Mounts {
			if strings.Contains(m.Error, "unmounted") {
				n++
			}
		}
		return n == 3 && strings.Count(c.log(), "a mount has ended") == 3
	})
	device := func() uint64 {
		var st unix.Stat_t
		if err := unix.Stat(other, &st); err != nil {
			t.Fatal(err)
		}
		return st.Dev
	}
	was := device()
	c.hup()
	comesToHave(t, 20*time.Second, "the outer mount", filepath.Join(outer, names[0]), content(100_000))
	comesToHave(t, 20*time.Second, "the inner mount", filepath.Join(inner, names[1]), content(100_001))
	comesToHave(t, 20*time.Second, "the mount that was cut off", filepath.Join(dead, names[2]), content(100_002))
	eventually(t, 10*time.Second, "all is well", func() bool { return !hasError(c.status()) })
	if device() != was {
		t.Error("the other mount was made anew, too")
	}
	c.stop()
}

// TestStopIsForTheDead has the command stop nothing of an aysfs that it does not know
// of, and takes away what one leaves that was killed, also where a symlink leads there.
func TestStopIsForTheDead(t *testing.T) {
	t.Parallel()
	s, names := smallStore(t)
	c := newClient(t, s.url())
	if err := os.Mkdir(filepath.Join(c.dir, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(c.dir, "link")); err != nil {
		t.Fatal(err)
	}
	mount := filepath.Join(c.dir, "link", "mnt")
	c.mountAt(mount, "e2e|app(1)")
	c.start()
	config := filepath.Join(c.dir, "aysfs.toml")
	stop := func(code int, words string) {
		t.Helper()
		out, err := try(t, time.Minute, exec.Command(aysfs, "-config", config, "stop"))
		if exitCode(err) != code || !strings.Contains(out, words) {
			t.Errorf("stop: %v, %q; want exit code %d and %q", err, out, code, words)
		}
	}
	stop(1, "serves "+mount)
	wantContent(t, 5*time.Second, filepath.Join(mount, names[0]), content(100_000))
	if out, _ := try(t, time.Minute, exec.Command(ays, "doctor", "-config", config)); !strings.Contains(out, "mount "+mount+": mounted, and it answers") {
		t.Errorf("doctor of a mount behind a symlink: %s", out)
	}
	c.kill()
	stop(0, "")
	if left := mountsUnder(c.dir); len(left) > 0 {
		t.Errorf("still mounted: %q", left)
	}
}

// TestCommandsOfAUser has somebody else than root stop and reload what is root's.
func TestCommandsOfAUser(t *testing.T) {
	t.Parallel()
	s, _ := smallStore(t)
	c := newClient(t, s.url())
	c.word = "supervise"
	c.mount("e2e|app(1)")
	c.start()
	if err := os.Chmod(c.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"stop", "reload", "upgrade"} {
		cmd := exec.Command(aysfs, "-config", filepath.Join(c.dir, "aysfs.toml"), word)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := try(t, time.Minute, cmd); exitCode(err) != 1 || !strings.Contains(out, "run this as root") {
			t.Errorf("%s: %v, %q; want exit code 1, and what helps", word, err, out)
		}
	}
	c.stop()
}
