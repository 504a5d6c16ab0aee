package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/redistest"
)

// keptTree is a tree to be worked in while what serves it comes and goes.
func keptTree(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	tree := map[string]node{"large": file(12 << 20), "link": {mode: os.ModeSymlink, target: "d1/f1"}}
	for i := range 300 {
		tree[fmt.Sprintf("d%d/e%d/f%d", i%5, i%20, i)] = file(500 + i*i)
	}
	tree["d1/deep/er/and/deep/er/file"] = file(70_000)
	tree["d1/f1"] = file(100)
	write(t, dir, tree)
	return dir
}

// keptClient is a client whose mounts are kept, with a program of its own, which
// can be replaced.
func keptClient(t *testing.T, url string) *client {
	t.Helper()
	c := newClient(t, url)
	c.word = "supervise"
	c.program = filepath.Join(c.dir, "bin", "aysfs")
	if err := os.Mkdir(filepath.Dir(c.program), 0o755); err != nil {
		t.Fatal(err)
	}
	c.install(aysfs)
	return c
}

// startKept is a keptClient with one mount, of e2e|app(1), that runs. More
// lines of the mount's table may follow.
func startKept(t *testing.T, url string, lines ...string) (c *client, mount string) {
	t.Helper()
	c = keptClient(t, url)
	mount = c.mount("e2e|app(1)", lines...)
	c.start()
	return c, mount
}

// install puts another program in the place of the client's, as packages do.
func (c *client) install(program string) {
	c.t.Helper()
	c.installBytes(mustRead(c.t, program))
}

func (c *client) installBytes(b []byte) {
	c.t.Helper()
	replace(c.t, c.program, b, 0o755)
}

// says runs the client's program with a command.
func (c *client) says(word string) (string, error) {
	c.t.Helper()
	return try(c.t, time.Minute, exec.Command(aysfs, "-config", filepath.Join(c.dir, "aysfs.toml"), word))
}

// does is says for what must go well.
func (c *client) does(word string) string {
	c.t.Helper()
	out, err := c.says(word)
	if err != nil {
		c.t.Fatalf("%s: %v: %s", word, err, out)
	}
	return out
}

// soon is status once a worker that has just begun can be asked.
func (c *client) soon() (s *control.Status) {
	c.t.Helper()
	eventually(c.t, 20*time.Second, "it tells how it is", func() (ok bool) {
		var err error
		s, err = fetchStatus(c)
		return err == nil
	})
	return s
}

// killWorker kills what serves, once that has been up for long enough not to be
// taken for something that can't live.
func (c *client) killWorker() {
	c.t.Helper()
	s := c.soon()
	if s.Keeper == nil {
		c.t.Fatal("nobody keeps the mounts")
	}
	time.Sleep(time.Until(s.Since.Add(1200 * time.Millisecond)))
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
}

// kills kills what serves n times, with ws at work in mount.
func (c *client) kills(n int, mount string, ws *workers) {
	c.t.Helper()
	r := rand.New(rand.NewPCG(5, 6))
	var o outages
	for range n {
		c.killWorker()
		o = append(o, answers(c.t, mount))
		time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond)
		ws.working()
	}
	c.t.Log("killed", o)
	if least := slices.Min(o); least > 500*time.Millisecond {
		c.t.Errorf("never back before %v", least)
	}
}

// upgrades replaces what serves n times.
func (c *client) upgrades(n int, mount string, ws *workers) {
	c.t.Helper()
	var o outages
	for range n {
		c.install(aysfs)
		before := c.soon()
		slowest := make(chan time.Duration, 1)
		done := make(chan struct{})
		go func() {
			var most time.Duration
			for over := false; !over; {
				select {
				case <-done:
					over = true
				default:
				}
				began := time.Now()
				os.Lstat(filepath.Join(mount, fmt.Sprint("absent", began.UnixNano())))
				most = max(most, time.Since(began))
				time.Sleep(time.Millisecond)
			}
			slowest <- most
		}()
		out, err := c.says("upgrade")
		close(done)
		if err != nil || !strings.Contains(out, "is upgraded") {
			c.t.Fatalf("upgrade: %v: %s", err, out)
		}
		o = append(o, <-slowest)
		after := c.status()
		if after.PID == before.PID || after.Keeper.PID != before.Keeper.PID || after.Keeper.Upgrades != before.Keeper.Upgrades+1 {
			c.t.Fatalf("process %d kept by %+v, after %d kept by %+v", after.PID, after.Keeper, before.PID, before.Keeper)
		}
		if !sameFile(fmt.Sprintf("/proc/%d/exe", after.PID), c.program) {
			c.t.Fatal("what serves is not what was installed")
		}
		ws.working()
	}
	c.t.Log("upgraded", o)
}

func sameFile(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// TestKillsAndUpgrades kills and replaces what serves, with programs at work. They
// must not notice.
func TestKillsAndUpgrades(t *testing.T) {
	t.Parallel()
	tree := keptTree(t)
	c, mount := startKept(t, newStore(t, "e2e|app(1)", tree).url())
	id := mountID(t, mount)
	ws := startWork(t, mount, tree)
	c.kills(12, mount, ws)
	c.upgrades(5, mount, ws)
	c.kills(3, mount, ws)
	ws.end()
	if now := mountID(t, mount); now != id {
		t.Errorf("it was mount %s, and is %s", id, now)
	}
	if s := c.soon(); s.Keeper.Restarts != 15 || s.Keeper.Upgrades != 5 {
		t.Errorf("status tells of %+v", s.Keeper)
	}
	c.wantStatus(0, "restarted 15 times after it died, upgraded 5 times")
	sameTree(t, tree, mount)
	c.stop()
}

// mountID is what tells a mount from one that came later to the same place.
func mountID(t *testing.T, mount string) string {
	t.Helper()
	table := mustRead(t, "/proc/self/mountinfo")
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); f[4] == mount {
			return f[0] + " " + f[2]
		}
	}
	t.Fatalf("%s is not mounted", mount)
	return ""
}

// TestReadsGoOn kills what serves while reads wait for the store: they end well, as
// soon as it answers.
func TestReadsGoOn(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := startKept(t, store.url(), "prefetch = 1")
	c.settled()
	store.setFault(stall)
	type answer struct {
		name string
		data []byte
		err  error
	}
	answers := make(chan answer)
	for _, name := range names[:5] {
		go func() {
			b, err := os.ReadFile(filepath.Join(mount, name))
			answers <- answer{name, b, err}
		}()
	}
	eventually(t, 20*time.Second, "reads wait for the store", func() bool { return len(c.status().Stores[0].Tier.Fetching) > 0 })
	c.killWorker()
	eventually(t, 20*time.Second, "another one waits for it", func() bool {
		s, err := fetchStatus(c)
		return err == nil && s.Keeper.Restarts == 1 && len(s.Stores[0].Tier.Fetching) > 0
	})
	c.does("upgrade")
	store.setFault(nil)
	for range 5 {
		select {
		case a := <-answers:
			want := mustRead(t, filepath.Join(store.tree, a.name))
			if a.err != nil || string(a.data) != string(want) {
				t.Errorf("%s: %d bytes, %v", a.name, len(a.data), a.err)
			}
		case <-time.After(40 * time.Second):
			t.Fatal("a read hangs")
		}
	}
	c.stop()
}

// TestKilledInMoves kills what serves while the mount moves from tree to tree.
func TestKilledInMoves(t *testing.T) {
	t.Parallel()
	dir, tree := shortDir(t), shortDir(t)
	publishVersion(t, dir, tree, 1)
	c := keptClient(t, serveStore(t, dir).url())
	c.install(aysfsRace)
	mount := c.mount("e2e|app(1)")
	c.start()
	c.shows(mount, 1, 1)
	held := openFile(t, filepath.Join(mount, "d0/f0"))
	r := rand.New(rand.NewPCG(7, 8))
	for n := 2; n <= 9; n++ {
		publishVersion(t, dir, tree, n)
		s := c.soon()
		time.Sleep(time.Until(s.Since.Add(1200 * time.Millisecond)))
		syscall.Kill(s.PID, syscall.SIGHUP)
		time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
		syscall.Kill(s.PID, syscall.SIGKILL)
		answers(t, mount)
		eventually(t, 30*time.Second, fmt.Sprint("it shows version ", n), func() bool {
			s, err := fetchStatus(c)
			return err == nil && s.Mounts[0].Serial == int64(n) && wholeTree(mount, version(n)) == nil
		})
		if b, err := io.ReadAll(io.NewSectionReader(held, 0, 1<<20)); err != nil || string(b) != string(versionOf(0, 1)) {
			t.Errorf("what is held open of version 1, at version %d: %d bytes, %v", n, len(b), err)
		}
	}
	c.stop()
	if strings.Contains(c.log(), "DATA RACE") {
		t.Error(c.log())
	}
}

// TestKilledWithoutATree kills what serves while it has found no tree yet.
func TestKilledWithoutATree(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	store.down()
	c := keptClient(t, store.url())
	c.main = `io_timeout = "2s"`
	mount := c.mount("e2e|app(1)", `wait = "1s"`)
	c.start()
	id := mountID(t, mount)
	wantError(t, 2*time.Second, filepath.Join(mount, names[0]), syscall.EIO)
	for range 2 {
		c.killWorker()
		wantError(t, 5*time.Second, filepath.Join(mount, names[0]), syscall.EIO)
	}
	store.up()
	comesToHave(t, 40*time.Second, "a tree is there once the store is", filepath.Join(mount, names[0]), content(100_000))
	c.killWorker()
	wantContent(t, 5*time.Second, filepath.Join(mount, names[0]), content(100_000))
	if now := mountID(t, mount); now != id {
		t.Errorf("it was mount %s, and is %s", id, now)
	}
	c.stop()
}

// standIn is a program that waits for its turn as a worker does.
const standIn = "#!/usr/bin/env python3\nimport socket, time\ns = socket.socket(fileno=4)\ns.send(b'{\"op\":\"standby\"}')\nwhile b'\"go\"' not in s.recv(99999): pass\n"

// TestBadUpgrades tries programs that are of no use. The old one goes on.
func TestBadUpgrades(t *testing.T) {
	store, names := smallStore(t)
	for name, p := range map[string]struct{ program, want string }{
		"fails its config":     {"#!/bin/sh\necho the config is bad\nexit 2\n", "exit status 2"},
		"can't run":            {"not a program at all", "exec format error"},
		"hangs":                {"#!/bin/sh\nexec sleep 100\n", "takes more than 10s"},
		"dies in its turn":     {standIn, "does not serve: it ended"},
		"hangs in its turn":    {standIn + "time.sleep(100)\n", "does not serve: it takes more than 15s"},
		"is killed as it runs": {standIn + "import os\nos.kill(os.getpid(), 9)\n", "signal: killed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, mount := startKept(t, store.url())
			good := mustRead(t, c.program)
			held := openFile(t, filepath.Join(mount, names[0]))
			c.installBytes([]byte(p.program))
			out, err := c.says("upgrade")
			if exitCode(err) != 1 || !strings.Contains(out, p.want) || !strings.Contains(out, "the old version goes on") {
				t.Errorf("upgrade: %v, want exit 1 and %q:\n%s", err, p.want, out)
			}
			answers(t, mount)
			for i, n := range names {
				wantContent(t, 5*time.Second, filepath.Join(mount, n), content(100_000+i))
			}
			if b, err := io.ReadAll(held); err != nil || string(b) != string(content(100_000)) {
				t.Errorf("what is held open: %d bytes, %v", len(b), err)
			}
			// What died in the meantime was the old version; it is so again.
			c.killWorker()
			answers(t, mount)
			eventually(t, 10*time.Second, "it tells how it is", func() bool {
				s, err := fetchStatus(c)
				return err == nil && s.Version == "e2e" && s.Keeper.Upgrades == 0
			})
			c.installBytes(good)
			if out, err := c.says("upgrade"); err != nil {
				t.Errorf("a good one after a bad one: %v\n%s", err, out)
			}
			c.stop()
		})
	}
}

// TestNewVersionThatDies takes a new version back that dies soon after it took over.
func TestNewVersionThatDies(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := startKept(t, store.url())
	id := mountID(t, mount)
	c.installBytes([]byte(standIn + "s.send(b'{\"op\":\"serving\"}')\ntime.sleep(1.5)\nexit(1)\n"))
	c.does("upgrade")
	answers(t, mount)
	wantContent(t, 5*time.Second, filepath.Join(mount, names[0]), content(100_000))
	if s := c.soon(); s.Version != "e2e" || s.Keeper.Restarts != 1 || mountID(t, mount) != id {
		t.Errorf("version %s serves, %+v", s.Version, s.Keeper)
	}
	if !strings.Contains(c.log(), "going back to the one before") {
		t.Error("the log does not tell")
	}
	c.stop()
}

// TestHungWorker stops what serves without ending it.
func TestHungWorker(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := startKept(t, store.url())
	id := mountID(t, mount)
	pid := c.status().PID
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "it is stopped", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return strings.Contains(string(b), ") T ")
	})
	answers(t, mount)
	wantContent(t, 5*time.Second, filepath.Join(mount, names[0]), content(100_000))
	if s := c.soon(); s.Keeper.Restarts != 1 || mountID(t, mount) != id {
		t.Errorf("status tells of %+v", s.Keeper)
	}
	c.stop()
}

// TestSignalsOfOneStop has a worker be told more than once to stop, as by the death of
// a supervisor, whose threads end one after the other. It stops in order.
func TestSignalsOfOneStop(t *testing.T) {
	t.Parallel()
	store, _ := smallStore(t)
	c, mount := startKept(t, store.url())
	worker := c.status().PID
	for end := time.Now().Add(300 * time.Millisecond); syscall.Kill(worker, syscall.SIGTERM) == nil && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if !c.proc.endsWithin(30 * time.Second) {
		t.Fatal("the supervisor goes on after a worker that was told to stop")
	}
	if c.proc.err != nil || !strings.Contains(c.log(), "msg=unmounted op=stop mount="+mount) {
		t.Errorf("it ended with %v", c.proc.err)
	}
}

// TestReloadUpgrades has reload replace what serves where its program has
// changed, and do no more than reload where it has not.
func TestReloadUpgrades(t *testing.T) {
	t.Parallel()
	store, _ := smallStore(t)
	c, _ := startKept(t, store.url())
	c.does("reload")
	eventually(t, 10*time.Second, "the config is read again", func() bool { return strings.Contains(c.log(), "nothing differs") })
	before := c.status().PID
	c.install(aysfs)
	if out, err := c.says("reload"); err != nil || !strings.Contains(out, "upgraded") {
		t.Fatalf("%v: %s", err, out)
	}
	if s := c.status(); s.PID == before || s.Keeper.Upgrades != 1 {
		t.Errorf("process %d is %d now, %+v", before, s.PID, s.Keeper)
	}
	c.stop()
	for word, code := range map[string]int{"upgrade": 7, "reload": 7} {
		if out, err := c.says(word); exitCode(err) != code {
			t.Errorf("%s of what does not run: %v, want %d: %s", word, err, code, out)
		}
	}
}

// TestKeptMountsFollowTheConfig changes the config while nothing serves.
func TestKeptMountsFollowTheConfig(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c := keptClient(t, store.url())
	stays := c.mount("e2e|app(1)")
	inner := filepath.Join(stays, "in/ner")
	c.mountAt(inner, "e2e|app(1)")
	goes := c.mount("e2e|app(1)")
	c.start()
	id, innerID := mountID(t, stays), mountID(t, inner)
	c.mounts.Reset()
	c.mountAt(stays, "e2e|app(1)")
	c.mountAt(inner, "e2e|app(1)")
	comes := filepath.Join(c.dir, "comes")
	c.mountAt(comes, "e2e|app(1)")
	s := c.status()
	syscall.Kill(s.PID, syscall.SIGSTOP) // the change is not for it
	c.writeConfig()
	syscall.Kill(s.PID, syscall.SIGKILL)
	answers(t, stays)
	wantContent(t, 5*time.Second, filepath.Join(inner, names[0]), content(100_000))
	eventually(t, 20*time.Second, "the mounts are as configured", func() bool {
		all := strings.Join(mountsUnder(c.dir), " ")
		return strings.Contains(all, comes) && !strings.Contains(all, goes)
	})
	wantContent(t, 5*time.Second, filepath.Join(comes, names[0]), content(100_000))
	if mountID(t, stays) != id || mountID(t, inner) != innerID {
		t.Error("what stays was mounted anew")
	}
	c.stop()
}

// TestPrefetchGoesOn: who follows what served goes on to bring the whole tree near, and
// the trees that come after it.
func TestPrefetchGoesOn(t *testing.T) {
	t.Parallel()
	store, _ := smallStore(t)
	c := keptClient(t, store.url())
	c.main = "refresh = \"1s\""
	mount := c.mount("e2e|app(1)", "prefetch = 2")
	c.start()
	c.killWorker()
	answers(t, mount)
	whole := func(serial int64) func() bool {
		return func() bool {
			s, err := fetchStatus(c)
			if err != nil || len(s.Mounts) != 1 {
				return false
			}
			b := s.Mounts[0].PrefetchTree
			return s.Mounts[0].Serial == serial && b != nil && !b.Running && b.Bytes == s.Mounts[0].Bytes
		}
	}
	eventually(t, time.Minute, "the whole tree is here", whole(1))
	write(t, store.tree, map[string]node{"new": {mode: 0o644, data: noise(100_000, 9)}})
	publish(t, store.dir, "e2e|app(1)", store.tree)
	eventually(t, time.Minute, "the whole of the next tree is here", whole(2))
	c.stop()
}

// TestDetachedMountsGoOn takes a mount out of the config while a file is open in it,
// and then kills and replaces what serves.
func TestDetachedMountsGoOn(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := startKept(t, store.url())
	f := openFile(t, filepath.Join(mount, names[3]))
	wantHeld := func() {
		t.Helper()
		var b []byte
		var err error
		within(t, 20*time.Second, "a read", func() { b, err = dropped(f) })
		if err != nil || string(b) != string(content(100_003)) {
			t.Errorf("what is held open: %d bytes, %v", len(b), err)
		}
	}
	wantHeld()
	for range 2 {
		c.mounts.Reset()
		other := filepath.Join(c.dir, "other")
		c.mountAt(other, "e2e|app(1)")
		c.writeConfig()
		eventually(t, 20*time.Second, "the mount is taken away", func() bool { return strings.Join(mountsUnder(c.dir), " ") == other })
		c.killWorker()
		wantHeld()
		c.does("upgrade")
		wantHeld()
		// And another one at the same path is another mount.
		c.mounts.Reset()
		c.mountAt(mount, "e2e|app(1)")
		c.writeConfig()
		eventually(t, 20*time.Second, "it is back", func() bool { return strings.Join(mountsUnder(c.dir), " ") == mount })
		c.killWorker()
		wantHeld()
		wantContent(t, 5*time.Second, filepath.Join(mount, names[0]), content(100_000))
	}
	held := func() int {
		pid := c.soon().Keeper.PID
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	before := held()
	f.Close()
	eventually(t, 20*time.Second, "the keeper lets go of what nobody uses", func() bool { return held() == before-2 })
	c.stop()
}

// TestWorkerThatCantLive has nothing serve for long: who waits gets an error in the
// end, and once it is mended all is there again.
func TestWorkerThatCantLive(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := startKept(t, store.url())
	config := filepath.Join(c.dir, "aysfs.toml")
	s := c.status()
	syscall.Kill(s.PID, syscall.SIGSTOP)
	mustWrite(t, config, []byte("[main"), 0o644)
	syscall.Kill(s.PID, syscall.SIGKILL)
	began := time.Now()
	var err error
	within(t, time.Minute, "a look-up ends", func() { _, err = os.Lstat(filepath.Join(mount, "absent")) })
	if took := time.Since(began); err == nil || os.IsNotExist(err) || took < 20*time.Second {
		t.Errorf("with nobody to answer: %v after %v", err, took)
	}
	if n := strings.Count(c.log(), "the worker died"); n < 3 || n > 8 {
		t.Errorf("%d workers died in half a minute", n)
	}
	c.writeConfig()
	if out, err := c.says("upgrade"); err != nil || !strings.Contains(out, "started") {
		t.Errorf("upgrade: %v: %s", err, out)
	}
	comesToHave(t, 20*time.Second, "it is mounted anew", filepath.Join(mount, names[0]), content(100_000))
	c.stop()
}

// TestKeeperAndDebug: what is written in a mount with debug is waited for, and the
// mount comes back, anew.
func TestKeeperAndDebug(t *testing.T) {
	t.Parallel()
	tree, names := smallTree(t)
	r := redistest.Start(t, "")
	c := keptClient(t, newStore(t, "e2e|app(1)", tree).url())
	host, port, _ := strings.Cut(r.Addr, ":")
	fmt.Fprintf(&c.mounts, "[[debug]]\nname = \"lab\"\nredis.addr = %q\nredis.port = %s\n", host, port)
	mount := filepath.Join(c.dir, "mnt")
	c.mountAt(mount, "e2e|app(1)", `debug = "lab"`, `debug_filter = ['.*\.conf']`)
	inner := filepath.Join(mount, "inner")
	c.mountAt(inner, "e2e|app(1)")
	c.start()
	// A process of its own: that a descriptor is closed by a fork sends the file.
	const program = "import sys\nf = open(sys.argv[1], 'wb', 0)\nf.write(b'one')\nprint(1, flush=True)\nsys.stdin.read()\nf.close()"
	writer := exec.Command("python3", "-c", program, filepath.Join(mount, "a.conf"))
	in, err := writer.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, writer)
	eventually(t, 20*time.Second, "a file is being written", func() bool { return c.status().Mounts[0].Debug.Unsent == 1 })
	before := c.status().PID
	if out, err := c.says("upgrade"); exitCode(err) != 1 || !strings.Contains(out, "files are being written") {
		t.Errorf("with a file half written: %v: %s", err, out)
	}
	in.Close()
	time.Sleep(100 * time.Millisecond) // one refusal is for one upgrade
	if now := c.status().PID; now != before {
		t.Errorf("process %d has become %d", before, now)
	}
	if !p.endsWithin(10*time.Second) || p.err != nil {
		t.Fatalf("the writer: %v", p.err)
	}
	c.does("upgrade")
	back := func() bool {
		_, err := os.Stat(filepath.Join(inner, names[1]))
		return hasContent(filepath.Join(mount, "a.conf"), []byte("one")) && err == nil
	}
	eventually(t, 20*time.Second, "it is mounted again", back)
	wantContent(t, 5*time.Second, filepath.Join(mount, names[0]), content(100_000))
	c.killWorker()
	eventually(t, 20*time.Second, "it is back", back)
	if err := os.WriteFile(filepath.Join(mount, "b.conf"), []byte("two"), 0o644); err != nil {
		t.Error(err)
	}
	if got := len(mountsUnder(c.dir)); got != 2 {
		t.Errorf("%d mounts, want the two", got)
	}
	c.stop()
}
