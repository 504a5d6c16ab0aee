package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/bench/link"
)

// countPaths counts what a store is asked for by path.
func countPaths(store *webStore) func() map[string]int {
	var mu sync.Mutex
	asked := map[string]int{}
	store.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		asked[r.URL.Path]++
		return false
	})
	return func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		now := asked
		asked = map[string]int{}
		return now
	}
}

// TestSecondClientFarFromTheStore has two clients in network namespaces of their
// own near a cache in a third, and the store 50 ms away from all of them in a
// fourth. They can reach the store by way of the cache's machine, so it is their
// choice not to.
func TestSecondClientFarFromTheStore(t *testing.T) {
	t.Parallel()
	const cacheNear, storeIP = "198.18.1.1", "198.18.1.2"
	tree := shortDir(t)
	nodes := map[string]node{"large": file(3 << 20)}
	for i := range 60 {
		nodes[fmt.Sprintf("d%d/f%d", i/10, i)] = file(1000 + 997*i)
	}
	write(t, tree, nodes)
	dir := shortDir(t)
	publish(t, dir, "e2e|app(1)", tree)

	hub, err := link.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hub.End)
	// /proc shows each thread the settings of its own namespace.
	forward := func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }
	if err := hub.Do(forward); err != nil {
		t.Fatal(err)
	}
	join := func(cfg link.Config) *link.Link {
		l, err := link.New(cfg, hub)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		return l
	}
	far := join(link.Config{RoundTrip: 50 * time.Millisecond, Mbits: 1000, Near: cacheNear, Far: storeIP})
	store := serveStoreAt(t, dir, storeIP+":80", far.Far())
	asked := countPaths(store)

	cache := newGridCache(t)
	cache.namespace = hub
	cache.at("0.0.0.0:8080")
	cache.start()

	var mounts []string
	for i := range 2 {
		near, ip := fmt.Sprintf("198.18.%d.1", i+2), fmt.Sprintf("198.18.%d.2", i+2)
		l := join(link.Config{RoundTrip: 200 * time.Microsecond, Mbits: 1000, Near: near, Far: ip})
		c := newClient(t, store.url())
		c.namespace = l.Far()
		c.disk = fmt.Sprintf("\n[[cache.grid]]\nurl = \"http://%s:8080\"\n", near)
		mounts = append(mounts, c.mount("e2e|app(1)"))
		before := far.Traffic()
		c.start()
		sameTree(t, tree, mounts[i])
		served := int64(0)
		for _, s := range c.status().Stores[0].Tier.Sources {
			if strings.HasPrefix(s.Tier, "grid ") {
				served += s.Hits
			}
		}
		paths, after := asked(), far.Traffic()
		if i == 0 && len(paths) < len(nodes) {
			t.Errorf("the first client led to only %d requests to the store", len(paths))
		}
		if i == 1 {
			// Behind its answer the cache may look whether its head is the newest.
			delete(paths, "/md/e2e|app(1)/any/head")
			if down := after.Down - before.Down; len(paths) > 0 || down > 4<<10 {
				t.Errorf("the second client's cold read asked the store for %v, and had %d bytes come over the link", paths, down)
			}
		}
		if served < int64(len(nodes)) {
			t.Errorf("client %d had %d blobs from the cache", i, served)
		}
		c.stop()
	}
}

// TestManyStartAtOnce starts 64 clients on an empty cache: each blob crosses the
// way from the store once.
func TestManyStartAtOnce(t *testing.T) {
	const clients, files = 64, 40
	tree, nodes := shortDir(t), map[string]node{}
	for i := range files {
		nodes[fmt.Sprintf("d%d/f%02d", i%4, i)] = node{mode: 0o644, data: noise(20_000+i, byte(i))}
	}
	write(t, tree, nodes)
	store := newStore(t, "e2e|app(1)", tree)
	asked := countPaths(store)
	store.delay.Store(int64(20 * time.Millisecond)) // so that many wait for the same
	cache := startGridCache(t)

	all := make([]*client, clients)
	mounts := make([]string, clients)
	for i := range all {
		c := newClient(t, store.url())
		c.main = "memory = \"16MiB\"\nio_timeout = \"2m\""
		c.disk = fmt.Sprintf("max_size = \"16MiB\"\n[[cache.grid]]\nurl = %q\n", cache.url)
		all[i], mounts[i] = c, c.mount("e2e|app(1)")
	}
	for _, c := range all {
		c.begin()
	}
	// Each reads all of the tree as soon as it is there.
	errs := make(chan error, clients)
	for _, mount := range mounts {
		go func() { errs <- readTree(mount, nodes) }()
	}
	for range clients {
		select {
		case err := <-errs:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(2 * time.Minute):
			t.Fatal("not all of the clients have read the tree after 2 minutes")
		}
	}
	blobs := 0
	for path, n := range asked() {
		switch {
		case strings.HasPrefix(path, "/default/"):
			if blobs++; n != 1 {
				t.Errorf("the store was asked %d times for %s", n, path)
			}
		case n > clients/8:
			t.Errorf("the store was asked %d times for %s", n, path)
		}
	}
	if blobs < files {
		t.Errorf("the store was asked for %d blobs only", blobs)
	}
	for _, c := range all {
		c.proc.Process.Signal(os.Interrupt)
	}
	for _, c := range all {
		if !c.proc.endsWithin(time.Minute) || c.proc.err != nil {
			t.Errorf("aysfs ended: %v, %v", c.ended(), c.proc.err)
		}
	}
}

// readTree reads all files of a mount, which may have yet to come up, and
// compares them.
func readTree(mount string, nodes map[string]node) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Lstat(filepath.Join(mount, "d0")); err == nil {
			break
		} else if time.Now().After(end) {
			return fmt.Errorf("not mounted: %w", err)
		}
	}
	for name, n := range nodes {
		got, err := os.ReadFile(filepath.Join(mount, name))
		if err != nil {
			return err
		}
		if string(got) != string(n.data) {
			return fmt.Errorf("%s: wrong bytes", filepath.Join(mount, name))
		}
	}
	return nil
}
