//go:build faults

package e2e

import (
	"maps"
	"slices"

	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// killable are programs that are killed at random moments of their lives.
type killable struct {
	t     *testing.T
	r     *rand.Rand
	takes map[string]time.Duration // how long each took that was not killed
	cut   map[string]int           // how often each was killed in time
	all   int
}

func newKillable(t *testing.T, r *rand.Rand) *killable {
	return &killable{t: t, r: r, takes: map[string]time.Duration{}, cut: map[string]int{}}
}

// run runs ays and kills it at any moment. It tells whether that came too late.
func (k *killable) run(args ...string) (ended bool) {
	k.t.Helper()
	what := args[0]
	cmd := exec.Command(ays, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	began := time.Now()
	p := startProcess(k.t, cmd)
	k.all++
	if takes, known := k.takes[what]; known {
		p.endsWithin(time.Duration(k.r.Int64N(int64(takes) * 5 / 4)))
		cmd.Process.Kill()
	}
	if !p.endsWithin(time.Minute) {
		k.t.Fatalf("%s does not end", what)
	}
	if cmd.ProcessState.Exited() {
		if p.err != nil {
			k.t.Fatalf("%s %q: %v\n%s", what, args, p.err, out.String())
		}
		took := time.Since(began)
		if takes, known := k.takes[what]; known {
			took = (3*takes + took) / 4
		}
		k.takes[what] = took
		return true
	}
	k.cut[what]++
	return false
}

func (k *killable) kills() (n int) {
	for _, c := range k.cut {
		n += c
	}
	return n
}

// files counts the files below a directory.
func files(t *testing.T, dir string) (n int) {
	t.Helper()
	for range strings.Lines(run(t, time.Minute, "find", dir, "-type", "f", "!", "-path", "*/.*")) {
		n++
	}
	return n
}

// TestFaultsKillPublisher kills whatever changes stores and images: publish, gc,
// rollback, copy, bake. Whole is what there was before, or what was to be.
func TestFaultsKillPublisher(t *testing.T) {
	r := chances(t)
	k := newKillable(t, r)
	dir, mirror, tree := shortDir(t), shortDir(t), shortDir(t)
	heads := publishedHeads{}
	publishVersion(t, dir, tree, 1)
	serial := heads.add(t, dir)
	store := serveStore(t, dir)
	private, public := keyPair(t)
	publish(t, dir, "e2e|app!main", tree, "-key", private)
	// Its own tree has no other versions, and so no other head to look for.
	im := newImage(t, fmt.Sprintf("[main]\nid = \"image\"\n[[ays.stor]]\nname = \"s\"\nurl = %q\nkey = '%s'\n"+
		"[[mount_files]]\nname = \"m\"\npath = \"/opt/apps/app\"\nays.id = \"e2e|app!main\"\nstor.name = \"s\"\n", store.url(), public))
	seed := im.at("usr/share/aysfs/seed/seed.json")
	instance := filepath.Join(shortDir(t), "instance")
	baked := 0

	// newest checks the head, which must be the one before or the next one.
	newest := func(ended bool) {
		t.Helper()
		b := mustRead(t, headFile(dir))
		if old := bytes.Equal(b, heads[serial]); old && !ended {
			return
		} else if old {
			t.Fatal("a publish that ended well changed nothing")
		}
		if s := heads.add(t, dir); s != serial+1 {
			t.Fatalf("serial %d after %d", s, serial)
		}
		serial++
	}
	n := 1
	for round := range 150 * *faultsRounds {
		switch op := round % 5; op {
		case 0, 2:
			n++
			write(t, tree, map[string]node{fmt.Sprint("noise", n%5): {mode: 0o644, data: noise(300_000, byte(n))}})
			for name, data := range version(n) {
				mustWrite(t, filepath.Join(tree, name), data, 0o644)
			}
			newest(k.run("publish", "-store", dir, "-id", "e2e|app(1)", tree))
		case 1:
			if to := serial - 1; to > 0 {
				newest(k.run("rollback", "-store", dir, "-id", "e2e|app(1)", "-serial", fmt.Sprint(to), "-from-key", "none"))
			}
		case 3:
			k.run("gc", "-store", dir, "-keep", "3")
			if !bytes.Equal(mustRead(t, headFile(dir)), heads[serial]) {
				t.Fatal("gc changed the newest head")
			}
		case 4:
			k.run("copy", "-from", dir, "-to", mirror)
			if _, err := os.Stat(headFile(mirror)); err == nil {
				run(t, time.Minute, ays, "verify", "-store", mirror)
			}
			// A bake, too, of something new.
			if err := os.MkdirAll(instance, 0o755); err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				write(t, instance, map[string]node{fmt.Sprint("f", i): {mode: 0o644, data: noise(30_000, byte(round+i))}})
			}
			publish(t, dir, "e2e|app!main", instance, "-key", private)
			before, _ := os.ReadFile(seed)
			ended := k.run("bake", "-config", im.source, "-rootfs", im.root, "-with-data")
			if after, _ := os.ReadFile(seed); ended && bytes.Equal(before, after) {
				t.Error("a bake that ended well changed nothing")
			}
			if baked++; baked%4 == 0 && len(mustRead(t, seed)) > 0 {
				im.boot(im.offline)
				run(t, time.Minute, "sh", "-c", `cat "$1"/* >/dev/null`, "sh", im.at("opt/apps/app"))
				im.shutDown()
			}
		}
		run(t, time.Minute, ays, "verify", "-store", dir)
		if t.Failed() {
			t.Fatalf("in round %d, after %v", round, k.cut)
		}
	}
	// What was cut off goes on, and what it left goes.
	publishVersion(t, dir, tree, n+1)
	run(t, time.Minute, ays, "gc", "-store", dir, "-keep", "3")
	run(t, time.Minute, ays, "copy", "-from", dir, "-to", mirror)
	run(t, time.Minute, ays, "verify", "-store", mirror)
	nothingHalf(t, dir)
	nothingHalf(t, mirror)
	fresh := shortDir(t)
	run(t, time.Minute, ays, "copy", "-from", dir, "-to", fresh)
	if have, need := files(t, filepath.Join(dir, "default")), files(t, filepath.Join(fresh, "default")); have != need {
		t.Errorf("%d files are in the store, its heads need %d", have, need)
	}
	im.bake("-with-data")
	im.boot(im.offline)
	sameTree(t, instance, im.at("opt/apps/app"))
	im.shutDown()
	if k.kills() < k.all/3 {
		t.Errorf("only %d of %d were killed in time: this shows nothing", k.kills(), k.all)
	}
	t.Logf("promise: %d of %d killed in time (%v): each store whole after each, nothing left behind", k.kills(), k.all, k.cut)
}

// otherStore serves, as e2e|other(1), a tree of 120 files of a size and a little more,
// which have the digests.
func otherStore(t *testing.T, size int) (store *webStore, digests []string) {
	t.Helper()
	tree, contents := noisyTree(t, 120, func(i int) int { return size + i })
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		digests = append(digests, fmt.Sprintf("%x", sha256.Sum256(contents[name])))
	}
	return newStore(t, "e2e|other(1)", tree), digests
}

// TestFaultsKillCache kills a cache server while it takes what is published, fetches
// and evicts.
func TestFaultsKillCache(t *testing.T) {
	r := chances(t)
	store, digests := otherStore(t, 200_000)
	g := newGridCache(t)
	g.ledis = "max_size = \"16MiB\"\nmin_free = \"0\"\n"
	flags := writer(t, g)
	g.start()
	tell := func() {
		t.Helper()
		req, _ := http.NewRequest(http.MethodPost, g.url+"/ays/stor/s", strings.NewReader(fmt.Sprintf(`{"url":%q}`, store.url())))
		req.SetBasicAuth("writer", "w")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			t.Fatalf("tell of a store: %s", resp.Status)
		}
	}
	tell()
	tree, heads := shortDir(t), publishedHeads{}
	published := filepath.Join(g.data(), "published")
	publishVersion(t, g.url, tree, 1, flags...)
	serial := heads.add(t, published)

	var reads, right atomic.Int64
	n, kills, acked := 1, 0, 0
	for round := range 15 * *faultsRounds {
		stop := make(chan struct{})
		var readers sync.WaitGroup
		for i := range 3 {
			from := r.IntN(len(digests))
			readers.Go(func() {
				for at := from + i*40; ; at++ {
					select {
					case <-stop:
						return
					default:
					}
					digest := digests[at%len(digests)]
					req, _ := http.NewRequest(http.MethodGet, g.url+"/default/"+digest, nil)
					req.SetBasicAuth("writer", "w")
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						time.Sleep(5 * time.Millisecond)
						continue
					}
					b, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					reads.Add(1)
					if err != nil || resp.StatusCode != http.StatusOK {
						continue
					}
					right.Add(1)
					if fmt.Sprintf("%x", sha256.Sum256(b)) != digest {
						t.Errorf("blob %s: %d other bytes", digest, len(b))
					}
				}
			})
		}
		n++
		for name, data := range version(n) {
			mustWrite(t, filepath.Join(tree, name), data, 0o644)
		}
		cmd := exec.Command(ays, append(append([]string{"publish", "-store", g.url, "-id", "e2e|app(1)"}, flags...), tree)...)
		p := startProcess(t, cmd)
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		g.kill()
		kills++
		acknowledged := p.endsWithin(0) && p.err == nil
		cmd.Process.Kill()
		p.endsWithin(10 * time.Second)
		close(stop)
		readers.Wait()

		promised := serial
		if acknowledged {
			promised++
			acked++
		}
		if s := serialOf(t, published); s < promised || s > serial+1 {
			t.Fatalf("round %d: serial %d, after %d was acknowledged", round, s, promised)
		} else if s == serial && !bytes.Equal(mustRead(t, headFile(published)), heads[serial]) {
			t.Fatal("another head of the same serial")
		}
		serial = heads.add(t, published)
		run(t, time.Minute, ays, "verify", "-store", published)
		g.start()
		for _, digest := range digests[:20] {
			getBlob(t, g.url, digest)
		}
		if use := diskUse(t, filepath.Join(g.data(), "ledis")); use > 16<<20 {
			t.Errorf("the cache takes %d bytes of at most 16 MiB", use)
		}
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	publishVersion(t, g.url, tree, n+1, flags...)
	g.stop()
	run(t, time.Minute, ays, "gc", "-store", published)
	nothingHalf(t, published)
	if log := g.log(); strings.Contains(log, "panic") || strings.Contains(log, "damage") || strings.Contains(log, "corrupt") {
		t.Errorf("the log tells of damage:\n%s", lastLines(log, 30))
	}
	if right.Load() < int64(kills) {
		t.Errorf("only %d of %d reads were answered", right.Load(), reads.Load())
	}
	t.Logf("promise: %d kills of a cache server, %d publishes acknowledged, none lost; %d of %d reads answered, all right", kills, acked, right.Load(), reads.Load())
}

// TestFaultsKillClient kills a client while it reads, evicts, changes segments, sees
// new heads and reloads its config.
func TestFaultsKillClient(t *testing.T) {
	r := chances(t)
	dir, tree := shortDir(t), shortDir(t)
	nodes := map[string]node{}
	var names []string
	for i := range 90 {
		name := fmt.Sprintf("more%d/f%d", i%5, i)
		names = append(names, name)
		nodes[name] = node{mode: 0o644, data: noise(300_000+i, byte(i))}
	}
	write(t, tree, nodes)
	publishVersion(t, dir, tree, 1)
	store := serveStore(t, dir)
	c := newClient(t, store.url())
	c.main = "refresh = \"1s\"\nio_timeout = \"10s\"\nmemory = \"16MiB\""
	limit := func(mib int) { c.disk = fmt.Sprintf("max_size = \"%dMiB\"\nmin_free = \"0\"", mib) }
	const least, most = 16, 18 // the tree has 27
	limit(most)
	mount := c.mount("e2e|app(1)")
	var reads, failed atomic.Int64
	n, kills, stops := 1, 0, 0
	for round := range 25 * *faultsRounds {
		c.start()
		stop := make(chan struct{})
		var readers sync.WaitGroup
		for range 3 {
			from := r.IntN(len(names))
			readers.Go(func() {
				for at := from; ; at++ {
					select {
					case <-stop:
						return
					default:
					}
					name := names[at%len(names)]
					b, err := readDirect(filepath.Join(mount, name))
					reads.Add(1)
					switch want := nodes[name].data; {
					case err != nil:
						failed.Add(1)
						time.Sleep(time.Millisecond)
					case !bytes.Equal(b, want[:min(len(want), len(b))]) || len(b) < min(len(want), 512<<10):
						t.Errorf("%s: %d other bytes", name, len(b))
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
		switch round % 3 {
		case 0:
			n++
			publishVersion(t, dir, tree, n)
		case 1:
			limit(least + r.IntN(most-least+1))
			c.writeConfig()
			c.proc.Process.Signal(syscall.SIGHUP)
		}
		// A new head is looked for within a second.
		time.Sleep(time.Duration(r.IntN(400)) * time.Millisecond)
		if r.IntN(5) == 0 {
			c.proc.Process.Signal(syscall.SIGTERM) // it is not to end in peace, either
			time.Sleep(time.Duration(r.IntN(50)) * time.Millisecond)
			stops++
		}
		c.kill()
		kills++
		close(stop)
		within(t, time.Minute, "readers of a dead mount end", readers.Wait)
		if use := diskUse(t, c.cacheDir()); use > most<<20 {
			t.Errorf("the cache takes %d bytes of at most %d MiB", use, most)
		}
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
		if round%5 == 4 {
			c.start()
			c.follows(mount, int64(n))
			sameTree(t, tree, mount)
			c.kill()
			kills++
		}
	}
	c.start()
	c.follows(mount, int64(n))
	sameTree(t, tree, mount)
	c.stop()
	if log := c.log(); strings.Contains(log, "panic") || strings.Contains(log, "corrupt") {
		t.Errorf("the log tells of damage:\n%s", lastLines(log, 30))
	}
	if ok := reads.Load() - failed.Load(); ok < 10*int64(kills) {
		t.Errorf("only %d of %d reads went well", ok, reads.Load())
	}
	t.Logf("promise: %d kills of a client, %d in a stop: %d reads, %d of them with an error as it died, all others right", kills, stops, reads.Load(), failed.Load())
}

// TestFaultsKillKeeper kills what serves kept mounts, in upgrades, reloads and
// changes of head, with programs at work that must not notice.
func TestFaultsKillKeeper(t *testing.T) {
	r := chances(t)
	tree := keptTree(t)
	dir := shortDir(t)
	publish(t, dir, "e2e|app(1)", tree)
	changing := shortDir(t)
	publishChanging := func(n int) {
		t.Helper()
		write(t, changing, map[string]node{"version": {mode: 0o644, data: fmt.Append(nil, n)}})
		publish(t, dir, "e2e|changing(1)", changing)
	}
	publishChanging(1)
	c := keptClient(t, serveStore(t, dir).url())
	c.main = "refresh = \"1s\""
	mount, moving := c.mount("e2e|app(1)"), c.mount("e2e|changing(1)")
	c.start()
	id := mountID(t, mount)
	ws := startWork(t, mount, tree)
	var o outages
	var last []byte
	n, kills, upgrades := 1, 0, 0
	for range 6 * *faultsRounds {
		s := c.soon()
		time.Sleep(time.Until(s.Since.Add(1200 * time.Millisecond))) // or it counts as one that can't live
		n++
		publishChanging(n)
		delay := time.Duration(r.IntN(300)) * time.Millisecond
		switch r.IntN(3) {
		case 0:
			syscall.Kill(s.PID, syscall.SIGHUP)
		default:
			c.install(aysfs)
			cmd := exec.Command(aysfs, "-config", filepath.Join(c.dir, "aysfs.toml"), "upgrade")
			p := startProcess(t, cmd)
			upgrades++
			defer func() {
				if !p.endsWithin(time.Minute) {
					t.Error("an upgrade does not end")
				}
			}()
		}
		time.Sleep(delay)
		// Whichever serves just now, or is about to.
		pid := s.PID
		if now, err := fetchStatus(c); err == nil && r.IntN(2) == 0 {
			pid = now.PID
		}
		err := syscall.Kill(pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			err = syscall.Kill(c.soon().PID, syscall.SIGKILL)
		}
		if err == nil {
			kills++
		} else if !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
		o = append(o, answers(t, mount))
		ws.working()
		b, err := readFile(t, time.Minute, filepath.Join(moving, "version"))
		var have, had int
		fmt.Sscan(string(b), &have)
		fmt.Sscan(string(last), &had)
		if err != nil || have < had || have > n {
			t.Errorf("version %q after %q, of %d: %v", b, last, n, err)
		}
		last = b
	}
	ws.end()
	if now := mountID(t, mount); now != id {
		t.Errorf("it was mount %s, and is %s", id, now)
	}
	eventually(t, time.Minute, "the newest version is shown", func() bool {
		b, err := os.ReadFile(filepath.Join(moving, "version"))
		return err == nil && string(b) == fmt.Sprint(n)
	})
	sameTree(t, tree, mount)
	c.stop()
	t.Logf("promise: %d kills in %d upgrades and %d others, nobody in the mount noticed: %v", kills, upgrades, n-1-upgrades, o)
}
