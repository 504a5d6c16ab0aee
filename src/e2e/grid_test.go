package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// behind is a client that asks the caches before the store.
func behind(t *testing.T, store *webStore, caches ...*gridCache) (*client, string) {
	t.Helper()
	c := newClient(t, store.url())
	c.main = `io_timeout = "2m"` // no cache is given up because the machine is busy
	for _, g := range caches {
		c.disk += g.config()
	}
	return c, c.mount("e2e|app(1)")
}

// failures is how often caches failed a client.
func failures(c *client) (n int64) {
	for _, s := range c.status().Stores[0].Tier.Sources {
		if strings.HasPrefix(s.Tier, "grid ") {
			n += s.Errors + s.Corrupt
		}
	}
	return n
}

func TestGridCaches(t *testing.T) {
	t.Parallel()
	tree := shortDir(t)
	nodes := map[string]node{"large": file(3 << 20)}
	for i := range 200 {
		nodes[fmt.Sprintf("d%02d/f%d", i/10, i)] = file(1000 + i)
	}
	write(t, tree, nodes)
	store := newStore(t, "e2e|app(1)", tree)
	one, two := startGridCache(t), startGridCache(t)

	// What the first client needs comes from the store by way of the caches.
	first, mount := behind(t, store, one, two)
	first.start()
	sameTree(t, tree, mount)
	served, failed := 0, failures(first)
	for _, s := range first.status().Stores[0].Tier.Sources {
		switch {
		case strings.HasPrefix(s.Tier, "grid ") && s.Hits > 50:
			served++
		case strings.HasPrefix(s.Tier, "store ") && s.Requests > 0:
			t.Errorf("the store was asked %d times beside its caches", s.Requests)
		}
	}
	if served != 2 {
		t.Errorf("%d of 2 caches had a share of the work", served)
	}
	first.stop()

	// The second finds it there, its head included: also where a cache is slower
	// than nearly always, and the other is asked, too, that one doesn't fetch it
	// again. Only a cache that failed was stood in for. And a cache looks for a
	// newer head when its own is some seconds old.
	store.blobs.Store(0)
	store.heads.Store(0)
	second, mount := behind(t, store, one, two)
	second.start()
	sameTree(t, tree, mount)
	failed += failures(second)
	if b, h := store.blobs.Load(), store.heads.Load(); b > failed || h > 2 {
		t.Errorf("a second client led to requests to the store: %d for blobs after %d failures of caches, %d for heads", b, failed, h)
	}
	second.stop()

	// With one cache there is nobody else to ask.
	alone, mount := behind(t, store, one)
	alone.start()
	sameTree(t, tree, mount)
	alone.stop()
	store.blobs.Store(0)
	again, mount := behind(t, store, one)
	again.start()
	sameTree(t, tree, mount)
	if b, h := store.blobs.Load(), store.heads.Load(); b > 0 || h > 1 {
		t.Errorf("a second client of one cache led to requests to the store: %d for blobs, %d for heads", b, h)
	}
	again.stop()

	// With one cache gone the other does the work, with both the store.
	for i, g := range []*gridCache{one, two} {
		g.proc.Process.Kill()
		g.proc.endsWithin(10 * time.Second)
		c, mount := behind(t, store, one, two)
		c.start()
		sameTree(t, tree, mount)
		if n := store.blobs.Load(); i == 1 && n == 0 {
			t.Error("nobody asked the store")
		}
		c.stop()
	}
}

// TestGridCacheOfALyingStore: a cache passes on what arrives before it knows that
// it is right. The client must not take that for the blob.
func TestGridCacheOfALyingStore(t *testing.T) {
	t.Parallel()
	tree := shortDir(t)
	data := noise(900_000, 1)
	write(t, tree, map[string]node{"a": {mode: 0o644, data: data}, "b": {mode: 0o644, data: data}})
	store := newStore(t, "e2e|app(1)", tree)
	cache := startGridCache(t)
	c, mount := appClient(t, store.url())
	c.main = `io_timeout = "8s"`
	c.disk += cache.config()
	c.start()
	run(t, 30*time.Second, "ls", "-lR", mount)
	blob := fmt.Sprintf("/default/%x", sha256.Sum256(data))
	var lies atomic.Int64
	store.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != blob {
			return false
		}
		lies.Add(1)
		bad := bytes.Clone(data)
		bad[len(bad)-1] ^= 1
		w.Header().Set("Content-Length", fmt.Sprint(len(bad)))
		_, _ = w.Write(bad[:len(bad)/2])
		_ = http.NewResponseController(w).Flush()
		time.Sleep(50 * time.Millisecond) // so that the first half is on its way alone
		_, _ = w.Write(bad[len(bad)/2:])
		return true
	})
	wantError(t, 60*time.Second, filepath.Join(mount, "a"), syscall.EIO)
	if lies.Load() == 0 {
		t.Error("the store was not asked")
	}
	resp, err := http.Get(cache.url + blob + "?fetch=0")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("the cache has it: %d", resp.StatusCode)
	}
	store.setFault(nil)
	eventually(t, 60*time.Second, "what failed can be read now", func() bool {
		got, err := os.ReadFile(filepath.Join(mount, "b"))
		if err == nil && !bytes.Equal(got, data) {
			t.Fatal("wrong bytes")
		}
		return err == nil
	})
	c.stop()
}
