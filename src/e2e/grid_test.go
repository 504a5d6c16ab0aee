package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// behind is a client that asks the caches before the store.
func behind(t *testing.T, store *webStore, caches ...*gridCache) (*client, string) {
	t.Helper()
	c := newClient(t, store.url())
	for _, g := range caches {
		c.disk += fmt.Sprintf("\n[[cache.grid]]\nurl = %q\n", g.url)
	}
	return c, c.mount("e2e|app(1)")
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
	served := 0
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

	// The second finds it there, its head included; but where a cache is slower
	// than nearly always the other is asked, too, and may not have it. And a
	// cache looks for a newer head when its own is some seconds old.
	store.blobs.Store(0)
	store.heads.Store(0)
	second, mount := behind(t, store, one, two)
	second.start()
	sameTree(t, tree, mount)
	if b, h := store.blobs.Load(), store.heads.Load(); b > 100 || h > 2 {
		t.Errorf("a second client led to requests to the store: %d for blobs, %d for heads", b, h)
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
