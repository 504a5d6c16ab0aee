package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// faultTimeout is io_timeout in these tests.
const faultTimeout = 6 * time.Second

// grid is a store, a cache, and clients that reach the cache by way of a relay
// and keep nothing themselves.
type grid struct {
	*checker
	store   *webStore
	cache   *gridCache
	relay   *relay
	clients []*client
	mounts  []string
	at      [3]held // of the clients and the cache, when all was well
	broken  int     // bolt files that may stay mapped: bolt panicked over them
}

// newGrid starts all of it, of a tree of 100 files of 160 KB.
func newGrid(t *testing.T, prepare func(*gridCache)) *grid {
	t.Helper()
	tree, contents := noisyTree(t, 100, func(int) int { return 160_000 })
	g := &grid{store: newStore(t, "e2e|app(1)", tree), cache: newGridCache(t)}
	if prepare != nil {
		prepare(g.cache)
	}
	g.cache.start()
	g.relay = newRelay(t, g.cache.addr)
	// The kernel and the runtime get some time beyond the promise.
	g.checker = newChecker(t, contents, faultTimeout+10*time.Second)
	for range 2 {
		c := newClient(t, g.store.url())
		c.main = fmt.Sprintf("io_timeout = %q\nmemory = \"16MiB\"", faultTimeout)
		c.disk = fmt.Sprintf("max_size = \"0\"\n[[cache.grid]]\nurl = %q\n", g.relay.url())
		g.clients, g.mounts = append(g.clients, c), append(g.mounts, c.mount("e2e|app(1)"))
		c.start()
	}
	for _, mount := range g.mounts {
		sameTree(t, tree, mount)
		g.allRight(mount)
	}
	var last [3]held
	same := 0
	g.at = g.atRest(func(now [3]held) bool {
		if same++; now != last {
			last, same = now, 0
		}
		return same == 5
	})
	return g
}

// allRight reads a whole tree, of which nothing may fail.
func (g *grid) allRight(mounts ...string) {
	g.t.Helper()
	for _, mount := range mounts {
		if n := g.whole(mount); n > 0 {
			g.t.Errorf("%d of %d reads failed, with the bytes within reach", n, len(g.names))
		}
	}
}

// atRest is what clients and cache hold when nobody reads and all connections
// were dropped, as soon as it is as it should be.
func (g *grid) atRest(ok func([3]held) bool) (now [3]held) {
	g.t.Helper()
	g.store.down()
	g.store.up()
	g.relay.set(carries)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		g.relay.drop()
		for i, c := range g.clients {
			now[i] = holds(g.t, c.proc)
			now[i].routines = c.status().Memory.Routines
		}
		now[2] = holds(g.t, g.cache.proc)
		now[2].routines = int(g.cache.metric("ays_cache_goroutines"))
		if ok(now) || time.Now().After(end) {
			return now
		}
	}
}

// nothingLeaked checks that all hold what they held before the fault.
func (g *grid) nothingLeaked() {
	g.t.Helper()
	const files, routines = 4, 8 // that may well be in use for a moment
	ok := func(now [3]held) bool {
		for i, h := range now {
			if h.files > g.at[i].files+files || h.routines > g.at[i].routines+routines || h.unlinked > g.at[i].unlinked+g.broken {
				return false
			}
		}
		return true
	}
	if now := g.atRest(ok); !ok(now) {
		g.t.Errorf("not given back: clients and cache hold %+v, held %+v", now, g.at)
	}
	g.cacheLives()
}

func (g *grid) cacheLives() {
	g.t.Helper()
	if g.cache.proc.endsWithin(0) {
		g.t.Fatalf("ays_cache ended: %v", g.cache.proc.err)
	}
	resp, err := http.Get(g.cache.url + "/healthz")
	if err != nil {
		g.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		g.t.Errorf("healthz: %s", resp.Status)
	}
	if log := g.cache.log(); strings.Contains(log, "panic:") || strings.Contains(log, "goroutine ") {
		g.t.Errorf("the cache panicked:\n%s", lastLines(log, 60))
	}
}

// storeGone reads with the store away, when the cache was asked for everything.
func (g *grid) storeGone() {
	g.t.Helper()
	for range 2 { // what a client had in memory, it asks for the second time
		g.allRight(g.mounts[0])
	}
	g.storeStaysGone()
}

// storeStaysGone reads what the cache has, with the store away.
func (g *grid) storeStaysGone() {
	g.t.Helper()
	// What was asked for when nobody could give it may not have ended yet.
	for _, c := range g.clients {
		eventually(g.t, 30*time.Second, "nothing is being fetched", func() bool { return len(c.status().Stores[0].Tier.Fetching) == 0 })
	}
	g.store.down()
	defer g.store.up()
	eventually(g.t, time.Minute, "all of the tree is read without the store", func() bool {
		failed := int64(0)
		for _, mount := range g.mounts {
			failed += g.whole(mount)
		}
		return failed == 0 || g.t.Failed()
	})
}

// nothingLeft reads what nobody can give: EIO in time. A client has some of the
// files in memory.
func (g *grid) nothingLeft() {
	g.t.Helper()
	g.store.down()
	defer g.store.up()
	const tries = 10
	for _, mount := range g.mounts {
		for _, name := range g.names[:tries] {
			g.readers.Go(func() { g.read(mount, name) })
		}
	}
	within(g.t, g.limit+30*time.Second, "reads of what is nowhere", g.readers.Wait)
	if n := g.failed.Swap(0); n < tries {
		g.t.Errorf("%d of %d reads ended by EIO", n, tries*len(g.mounts))
	}
}

// TestCacheKilled kills a cache under readers and starts it again.
func TestCacheKilled(t *testing.T) {
	t.Parallel()
	g := newGrid(t, nil)
	g.begin(g.mounts...)
	for range 3 {
		g.goOn(100)
		g.cache.kill()
		g.goOn(20)
		g.cache.start()
	}
	g.goOn(100)
	if n := g.halt(); n > 0 {
		t.Errorf("%d reads failed, with the store within reach", n)
	}
	// It has what it had, and gives it without the store.
	g.storeGone()
	g.cache.stop() // what is killed may lose what it took in the last second
	g.nothingLeft()
	g.cache.start()
	g.storeStaysGone()
	g.nothingLeaked()
}

// TestCachePartitioned has the network between clients and cache fail.
func TestCachePartitioned(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]int32{"black hole": swallows, "RST": resets} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGrid(t, nil)
			g.begin(g.mounts...)
			for range 2 {
				g.goOn(100)
				g.relay.set(mode)
				g.goOn(20)
				g.relay.set(carries)
			}
			g.goOn(100)
			if n := g.halt(); n > 0 {
				t.Errorf("%d reads failed, with the store within reach", n)
			}
			g.storeGone()
			g.relay.set(mode)
			g.nothingLeft()
			g.relay.set(carries)
			g.relay.drop() // a network that was away long enough has forgotten them
			g.storeStaysGone()
			g.nothingLeaked()
		})
	}
}

// TestCacheFilled has the disk of a cache be too small, and others fill it.
func TestCacheFilled(t *testing.T) {
	t.Parallel()
	t.Run("disk", func(t *testing.T) {
		t.Parallel()
		var disk string
		g := newGrid(t, func(c *gridCache) {
			disk = c.data()
			if err := os.Mkdir(disk, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("none", disk, "tmpfs", 0, "size=24m,mode=0700"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount(disk, unix.MNT_DETACH) })
			c.ledis = "min_free = \"0\"\nmax_size = \"1GiB\""
		})
		filler := filepath.Join(disk, "filler")
		g.begin(g.mounts...)
		for range 2 {
			g.goOn(100)
			if err := os.WriteFile(filler, make([]byte, 32<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("the disk does not become full: %v", err)
			}
			g.goOn(200)
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
		}
		if n := g.halt(); n > 0 {
			t.Errorf("%d reads failed, with the store within reach", n)
		}
		// With room again it keeps blobs again.
		eventually(t, time.Minute, "the cache keeps blobs again", func() bool {
			g.allRight(g.mounts...)
			return g.cache.metric("ays_cache_domain_blobs") > 50
		})
		g.nothingLeaked()
		g.cache.stop()
	})
	t.Run("max_size", func(t *testing.T) {
		t.Parallel()
		g := newGrid(t, func(c *gridCache) { c.ledis = `max_size = "16MiB"` }) // the tree has as much
		g.begin(g.mounts...)
		for range 20 {
			g.goOn(30)
			if n := diskUse(t, g.cache.data()); n > 16<<20 {
				t.Errorf("the cache takes %d bytes of at most 16 MiB", n)
			}
		}
		if n := g.halt(); n > 0 {
			t.Errorf("%d reads failed, with the store within reach", n)
		}
		g.nothingLeaked()
		g.cache.stop()
	})
}

// boltFiles are the files that a cache keeps its data in.
func (g *gridCache) boltFiles() (files []string) {
	g.t.Helper()
	err := filepath.WalkDir(g.data(), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && filepath.Ext(path) == ".bolt" {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		g.t.Fatalf("bolt files: %q, %v", files, err)
	}
	return files
}

// flip changes a bit in each of some thousands of bytes of a file, in place.
func flip(t *testing.T, file string, seed uint64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, 1)
	for range 2000 {
		at := r.Int64N(st.Size())
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1 << r.IntN(8)
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCacheCorrupted flips bits in all that a cache has on disk.
func TestCacheCorrupted(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"stopped", "killed", "running"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			g := newGrid(t, nil)
			for round := range uint64(2) {
				g.begin(g.mounts...)
				g.goOn(100)
				switch when {
				case "stopped":
					g.cache.stop()
				case "killed":
					g.cache.kill()
				}
				for i, file := range g.cache.boltFiles() {
					if when != "running" && filepath.Base(file) == "main.bolt" {
						// A start without what is in it has to be told of stores again,
						// which clients do in time.
						continue
					}
					g.broken++
					flip(t, file, 100*round+uint64(i))
				}
				if when != "running" {
					g.cache.start()
				}
				g.goOn(200)
				if n := g.halt(); n > 0 {
					t.Errorf("%d reads failed, with the store within reach", n)
				}
				// What was damaged is had anew, and then it is there without the store.
				g.storeGone()
			}
			g.nothingLeaked()
			g.cache.stop()
		})
	}
}
