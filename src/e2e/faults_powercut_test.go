//go:build faults

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/faults/powercut"
)

// ext4Options are what a disk is mounted with: as it is by default, and with less
// care for those who don't sync.
var ext4Options = []string{"", "data=writeback,noauto_da_alloc", "commit=1,noauto_da_alloc"}

// powerDisk is a disk whose power can be cut, at moments that are chosen at random
// out of all writes and flushes.
type powerDisk struct {
	*powercut.Disk
	t       *testing.T
	r       *rand.Rand
	options string

	promised, copied atomic.Int64 // serials that must outlive a cut from now on: in a store, and in its mirror

	seen    int
	moments []powerMoment
}

type powerMoment struct {
	*powercut.Moment
	promised, copied int64
}

func emptyDisk(t *testing.T, mib int64) *powercut.Image {
	t.Helper()
	image, err := powercut.Format(t.Context(), shortDir(t), mib<<20)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func newPowerDisk(t *testing.T, r *rand.Rand, image *powercut.Image, options string) *powerDisk {
	t.Helper()
	d, err := powercut.Mount(shortDir(t), image, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return &powerDisk{Disk: d, t: t, r: r, options: options}
}

// collect keeps n of the moments of f. Meanwhile the disk is synced here and there.
func (d *powerDisk) collect(n int, f func()) {
	d.t.Helper()
	d.Watch(func(now func() *powercut.Moment) {
		d.seen++
		if at := d.r.IntN(d.seen); len(d.moments) < n {
			d.moments = append(d.moments, powerMoment{now(), d.promised.Load(), d.copied.Load()})
		} else if at < n {
			d.moments[at] = powerMoment{now(), d.promised.Load(), d.copied.Load()}
		}
	})
	// Not by this process, which serves the disk: it could not end while it waits for it.
	other := startProcess(d.t, child(d.t, "sync at random", d.Path()))
	f()
	other.Process.Kill()
	if !other.endsWithin(10 * time.Second) {
		d.t.Fatal("a sync does not end")
	}
	d.Watch(nil)
}

// close is for a disk that nobody uses any more.
func (d *powerDisk) close() {
	d.t.Helper()
	if err := d.Close(); err != nil {
		d.t.Error(err)
	}
}

// cut mounts what is left of a moment.
func (d *powerDisk) cut(m powerMoment) *powerDisk {
	d.t.Helper()
	return newPowerDisk(d.t, d.r, m.Cut(d.r), d.options)
}

// publishedHeads are the heads of e2e|app(1), by their serials.
type publishedHeads map[int64][]byte

// newestOf is the newest head of e2e|app(1), as ays tells of it.
func newestOf(t *testing.T, dir string) (head struct {
	ID, Root string
	Serial   int64
}) {
	t.Helper()
	out := run(t, time.Minute, ays, "ls", "-json", "-store", dir)
	all := []*struct {
		ID, Root string
		Serial   int64
	}{}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	for _, h := range all {
		if h.ID == "e2e|app(1)" {
			return *h
		}
	}
	t.Fatalf("not in %s: %s", dir, out)
	return head
}

func serialOf(t *testing.T, dir string) int64 {
	t.Helper()
	return newestOf(t, dir).Serial
}

func headFile(dir string) string { return filepath.Join(dir, "md", "e2e|app(1)", "any", "head") }

// add remembers the newest head of a store.
func (p publishedHeads) add(t *testing.T, dir string) int64 {
	t.Helper()
	s := serialOf(t, dir)
	p[s] = mustRead(t, headFile(dir))
	return s
}

// check checks a store after a cut: its newest head is one that was published, not
// before the promised one, and all that any of its heads reaches is there.
func (p publishedHeads) check(t *testing.T, dir string, promised int64) int64 {
	t.Helper()
	s := serialOf(t, dir)
	if s < promised || s > promised+1 || !bytes.Equal(mustRead(t, headFile(dir)), p[s]) {
		t.Errorf("after serial %d was published, the head is %d, or another one than that", promised, s)
	}
	run(t, time.Minute, ays, "verify", "-store", dir)
	return s
}

// nothingHalf checks that publishes which were cut off left nothing behind.
func nothingHalf(t *testing.T, dir string) {
	t.Helper()
	var left []string
	for _, p := range []string{"*/.tmp/publish-*", "md/*/*/.*.tmp", "md/.*.tmp"} {
		found, err := filepath.Glob(filepath.Join(dir, p))
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestFaultsPowerCutPublish cuts the power of a store at any write of publishes and
// gcs.
func TestFaultsPowerCutPublish(t *testing.T) {
	r := chances(t)
	image := emptyDisk(t, 64)
	const versions, cuts = 6, 25
	total, old, loose := 0, 0, 0
	for range *faultsRounds {
		for _, options := range ext4Options {
			d := newPowerDisk(t, r, image, options)
			tree, heads := shortDir(t), publishedHeads{}
			store, mirror := filepath.Join(d.Path(), "store"), filepath.Join(d.Path(), "mirror")
			publishVersion(t, store, tree, 1)
			d.promised.Store(heads.add(t, store))
			d.collect(cuts, func() {
				for n := 2; n <= versions; n++ {
					write(t, tree, map[string]node{fmt.Sprint("noise", n%3): {mode: 0o644, data: noise(200_000, byte(n))}})
					publishVersion(t, store, tree, n)
					d.promised.Store(heads.add(t, store))
					if n%2 == 0 {
						run(t, time.Minute, ays, "gc", "-store", store, "-keep", "2")
						run(t, time.Minute, ays, "copy", "-from", store, "-to", mirror)
						d.copied.Store(d.promised.Load())
					}
				}
			})
			d.close()
			// What the last version is for who has never published before.
			fresh := shortDir(t)
			publish(t, fresh, "e2e|app(1)", tree)
			root := newestOf(t, fresh).Root
			for _, m := range d.moments {
				after := d.cut(m)
				dir := filepath.Join(after.Path(), "store")
				if heads.check(t, dir, m.promised) == m.promised {
					old++
				}
				// What the cut left does not spoil what comes next.
				publish(t, dir, "e2e|app(1)", tree)
				if got := newestOf(t, dir).Root; got != root {
					t.Errorf("published again the tree has the root %s, want %s", got, root)
				}
				run(t, time.Minute, ays, "verify", "-store", dir)
				run(t, time.Minute, ays, "gc", "-store", dir)
				nothingHalf(t, dir)
				to := filepath.Join(after.Path(), "mirror")
				if _, err := os.Stat(headFile(to)); err == nil {
					if s := serialOf(t, to); s < m.copied || !bytes.Equal(mustRead(t, headFile(to)), heads[s]) {
						t.Errorf("after serial %d was copied, the mirror's head is %d, or another one than that", m.copied, s)
					}
					run(t, time.Minute, ays, "verify", "-store", to)
				} else if m.copied > 0 {
					t.Errorf("what was copied: %v", err)
				}
				run(t, time.Minute, ays, "copy", "-from", dir, "-to", to)
				run(t, time.Minute, ays, "verify", "-store", to)
				// A copy that finds nothing new looks at no blobs, and not for what was left there.
				run(t, time.Minute, ays, "gc", "-store", to)
				nothingHalf(t, to)
				after.close()
				total, loose = total+1, loose+m.Loose()
				if t.Failed() {
					t.Fatalf("the disk was mounted with %q", options)
				}
			}
		}
	}
	t.Logf("promise: %d power cuts in publish, gc and copy, %d writes lost or not: %d stores with the head before, %d with the new one, all whole",
		total, loose, old, total-old)
}

// getBlob asks a cache for what it has of a digest. The answer must be right, or none.
func getBlob(t *testing.T, url, digest string) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/default/"+digest+"?fetch=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("writer", "w")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		t.Errorf("blob %s: %v", digest, err)
	case resp.StatusCode == http.StatusNotFound:
	case resp.StatusCode != http.StatusOK:
		t.Errorf("blob %s: %s", digest, resp.Status)
	case fmt.Sprintf("%x", sha256.Sum256(b)) != digest:
		t.Errorf("blob %s: %d other bytes", digest, len(b))
	default:
		return true
	}
	return false
}

// on has a cache keep its data on a disk.
func (g *gridCache) on(d *powerDisk) {
	g.t.Helper()
	data := filepath.Join(d.Path(), "data")
	err := os.Mkdir(data, 0o700)
	if errors.Is(err, os.ErrExist) {
		err = nil
	}
	if err := errors.Join(err, os.Symlink(data, g.data())); err != nil {
		g.t.Fatal(err)
	}
}

// writer lets somebody publish to a cache, and returns the flags for that.
func writer(t *testing.T, g *gridCache) []string {
	t.Helper()
	secret := filepath.Join(shortDir(t), "secret")
	mustWrite(t, secret, []byte("w\n"), 0o600)
	g.ledis += "\n[[http.user]]\nlogin = \"writer\"\npasswd = \"w\"\nwrite = true\n"
	return []string{"-login", "writer", "-secret-file", secret}
}

// TestFaultsPowerCutCache cuts the power of a cache server at any write of what is
// published to it, and of what it fetches and evicts.
func TestFaultsPowerCutCache(t *testing.T) {
	r := chances(t)
	image := emptyDisk(t, 96)
	const versions, cuts = 5, 20
	total, blobs, asked := 0, 0, 0
	for range *faultsRounds {
		for _, options := range ext4Options[:2] {
			d := newPowerDisk(t, r, image, options)
			// What it fetches.
			store, digests := otherStore(t, 60_000)

			g := newGridCache(t)
			g.ledis = "max_size = \"16MiB\"\nmin_free = \"0\"\n"
			flags := writer(t, g)
			g.on(d)
			g.start()
			c := newClient(t, store.url())
			c.main = "io_timeout = \"10s\"\nmemory = \"16MiB\""
			c.disk = fmt.Sprintf("max_size = \"0\"\n[[cache.grid]]\nurl = %q\nlogin = \"writer\"\npasswd = \"w\"\n", g.url)
			mount := c.mount("e2e|other(1)")
			c.start()

			tree, heads := shortDir(t), publishedHeads{}
			published := filepath.Join(d.Path(), "data", "published")
			publishVersion(t, g.url, tree, 1, flags...)
			d.promised.Store(heads.add(t, published))
			d.collect(cuts, func() {
				var reader sync.WaitGroup
				reader.Go(func() { sameTree(t, store.tree, mount) })
				for n := 2; n <= versions; n++ {
					publishVersion(t, g.url, tree, n, flags...)
					d.promised.Store(heads.add(t, published))
				}
				reader.Wait()
				// What it holds back reaches the disk within a second or so.
				eventually(t, 30*time.Second, "the cache has written", func() bool { return g.metric("ays_cache_domain_blobs") > 50 })
			})
			c.stop()
			g.kill()
			d.close()
			for _, m := range d.moments {
				after := d.cut(m)
				left := heads.check(t, filepath.Join(after.Path(), "data", "published"), m.promised)
				h := newGridCache(t)
				h.ledis = g.ledis
				h.on(after)
				h.start()
				for _, digest := range digests {
					asked++
					if getBlob(t, h.url, digest) {
						blobs++
					}
				}
				publishVersion(t, h.url, tree, versions, flags...)
				if s := serialOf(t, filepath.Join(after.Path(), "data", "published")); s != left+1 && left != versions {
					t.Errorf("published again, it has serial %d after %d", s, left)
				}
				run(t, time.Minute, ays, "verify", "-store", filepath.Join(after.Path(), "data", "published"))
				if log := h.log(); strings.Contains(log, "panic") || strings.Contains(log, "damage") || strings.Contains(log, "corrupt") {
					t.Errorf("what the cache found after the cut:\n%s", lastLines(log, 30))
				}
				h.kill()
				after.close()
				total++
				if t.Failed() {
					t.Fatalf("the disk was mounted with %q", options)
				}
			}
		}
	}
	t.Logf("promise: %d power cuts of a cache server, nothing lost that it had acknowledged; of %d blobs it had fetched it gave %d, all right", total, asked, blobs)
}

// onDisk has a client's cache be on a disk.
func (c *client) onDisk(d *powerDisk) {
	c.t.Helper()
	dir := filepath.Join(d.Path(), "cache")
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		err = nil
	}
	if err := errors.Join(err, os.Symlink(dir, c.cacheDir())); err != nil {
		c.t.Fatal(err)
	}
}

// TestFaultsPowerCutClient cuts the power of a client's disk at any write to its
// cache: fetches, evictions, new heads, stops and kills.
func TestFaultsPowerCutClient(t *testing.T) {
	r := chances(t)
	image := emptyDisk(t, 64)
	const versions, cuts = 5, 10
	total, withoutStore, fromStore := 0, 0, int64(0)
	for range *faultsRounds {
		for i, options := range ext4Options {
			d := newPowerDisk(t, r, image, options)
			dir, tree := shortDir(t), shortDir(t)
			nodes := map[string]node{}
			for f := range 100 {
				nodes[fmt.Sprintf("more%d/f%d", f%5, f)] = node{mode: 0o644, data: noise(200_000+f, byte(f))}
			}
			write(t, tree, nodes)
			publishVersion(t, dir, tree, 1)
			store := serveStore(t, dir)
			machine := func(d *powerDisk) (*client, string) {
				c := newClient(t, store.url())
				c.main = "refresh = \"1s\"\nio_timeout = \"10s\""
				c.disk = "max_size = \"40MiB\"\nmin_free = \"0\""
				if i == 1 { // too little for the tree
					c.disk = "max_size = \"16MiB\"\nmin_free = \"0\""
				}
				c.onDisk(d)
				return c, c.mount("e2e|app(1)")
			}
			c, mount := machine(d)
			var clean []powerMoment
			d.collect(cuts, func() {
				for n := 1; n <= versions; n++ {
					c.start()
					if n > 1 {
						publishVersion(t, dir, tree, n)
						c.follows(mount, int64(n))
					}
					sameTree(t, tree, mount)
					if n%2 == 0 {
						c.kill()
						continue
					}
					if n == versions {
						c.settled()
					}
					c.stop()
					if n == versions && i != 1 {
						clean = append(clean, powerMoment{Moment: d.Now()})
					}
				}
			})
			d.close()
			for _, m := range d.moments {
				after := d.cut(m)
				c, mount := machine(after)
				before := store.blobs.Load()
				c.start()
				c.follows(mount, versions)
				sameTree(t, tree, mount)
				fromStore += store.blobs.Load() - before
				if strings.Contains(c.log(), "panic") {
					t.Error("it panicked")
				}
				c.stop()
				after.close()
				total++
				if t.Failed() {
					t.Fatalf("the disk was mounted with %q", options)
				}
			}
			// What was closed in order is all there, and enough.
			store.down()
			for _, m := range clean {
				for range 2 {
					after := d.cut(m)
					c, mount := machine(after)
					c.start()
					sameTree(t, tree, mount)
					c.stop()
					after.close()
					withoutStore++
				}
			}
		}
	}
	t.Logf("promise: %d power cuts of a client's disk: each tree whole and right, by %d requests; %d after a stop: whole without a store",
		total, fromStore, withoutStore)
}

// follows waits until a mount shows a serial.
func (c *client) follows(mount string, serial int64) {
	c.t.Helper()
	eventually(c.t, 30*time.Second, fmt.Sprintf("%s shows serial %d", mount, serial), func() bool {
		m := c.status().Mounts[0]
		return m.Path == mount && m.Serial == serial && m.Problem == ""
	})
}
