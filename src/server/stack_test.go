package server

import (
	"bytes"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier/store"
)

// A cache does as a store: for a client, and for another cache.
func TestCacheAsStore(t *testing.T) {
	t.Parallel()
	st, top := newStore(t), newCache(t)
	top.tell(st, "stor")
	src, err := store.New(store.Config{Name: "cache", URL: parseURL(t, top.url)})
	must(t, err)
	defer src.Close()
	trees, err := src.Trees(t.Context())
	if err != nil || len(trees) != 1 || trees[0].ID != testID {
		t.Errorf("trees: %v, %v", trees, err)
	}
	want := readFile(t, st.dir+"/md/"+testID+"/any/head")
	note, err := src.Head(t.Context(), object.TreeName{ID: testID}, nil)
	if err != nil || !bytes.Equal(note, want) {
		t.Errorf("head: %q, %v", note, err)
	}
	if again, err := src.Head(t.Context(), object.TreeName{ID: testID}, note); err != nil || &again[0] != &note[0] {
		t.Errorf("the same head again: %v", err)
	}

	middle, bottom := newCache(t), newCache(t)
	middle.post("/ays/stor/top", map[string]any{"url": top.url})
	bottom.post("/ays/stor/middle", map[string]any{"url": middle.url})
	bottom.mount("client1", "mongodb", "middle")
	if got := entries(t, bottom.get("/md/client1/mongodb/lib/deep", "Accept", asJSON)); len(got) != 2 {
		t.Errorf("a listing through three caches: %v", got)
	}
	if r := bottom.blob("default", digest.Of(wordy), 1); r.status != 200 || !bytes.Equal(r.body, wordy) {
		t.Errorf("a blob through three caches: %d", r.status)
	}
	for name, c := range map[string]*testCache{"top": top, "middle": middle, "bottom": bottom} {
		if r := c.blob("default", digest.Of(wordy), 0, "Accept-Encoding", "zstd"); r.status != 200 || r.header.Get("Content-Encoding") != "zstd" {
			t.Errorf("%s didn't keep it, as it came: %d %v", name, r.status, r.header)
		}
	}
	st.publish(testID, "", map[string][]byte{"new": []byte("new")})
	eventually(t, "a new head came through", func() bool {
		return entries(t, bottom.get("/md/client1/mongodb/", "Accept", asJSON))["new"].Kind == "file"
	})
	if n := st.asked(digest.Of(wordy).String()); n != 1 {
		t.Errorf("the store was asked %d times", n)
	}
	// A store that can't be asked is no store without the blob.
	st.Close()
	if r := bottom.blob("default", digest.Of(random), 1); r.status != 502 && r.status != 504 {
		t.Errorf("the store is down: %d", r.status)
	}
}

// Private stores stay so through a cache.
func TestPrivateThroughACache(t *testing.T) {
	t.Parallel()
	top, _, _, _ := privateCache(t)
	bottom := newCache(t)
	if r := bottom.try("/ays/stor/top", map[string]any{"url": top.url, "login": login, "passwd": "wrong"}); r.status != 403 {
		t.Errorf("wrong credentials: %d %s", r.status, r.body)
	}
	token := bottom.post("/ays/stor/top", map[string]any{"url": top.url, "login": login, "passwd": secret})["token"].(string)
	if r := bottom.blob("hidden", digest.Of(secretText), 1, tokenHeader, token); r.status != 200 {
		t.Errorf("with the token: %d", r.status)
	}
	if r := bottom.blob("hidden", digest.Of(secretText), 1); r.status != 404 {
		t.Errorf("without: %d", r.status)
	}
	if r := bottom.get("/md/customer|secrets(1)/any/head", tokenHeader, token); r.status != 200 {
		t.Errorf("a head: %d", r.status)
	}
}

func TestLoops(t *testing.T) {
	for n := 1; n <= 3; n++ {
		var ring []*testCache
		for range n {
			ring = append(ring, newCache(t))
		}
		for i, c := range ring {
			c.post("/ays/stor/next", map[string]any{"url": ring[(i+1)%n].url})
		}
		began := time.Now()
		none := digest.Of([]byte("none"))
		for _, path := range []string{"/default/" + none.String(), "/md/" + testID + "/any/head", "/md/trees"} {
			if r := ring[0].get(path); r.status != 404 && path != "/md/trees" {
				t.Errorf("%d caches, %s: %d", n, path, r.status)
			}
		}
		// All at once, they don't wait for each other.
		var all sync.WaitGroup
		for i := range 8 * n {
			all.Go(func() {
				r := ring[i%n].blob("default", digest.Of([]byte("other")), 1)
				if i%2 == 0 {
					r = ring[i%n].get("/md/jumpscale|other(1)/any/head")
				}
				if r.status != 404 {
					t.Errorf("%d caches, at once: %d", n, r.status)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%d caches: it took %v", n, took)
		}
		var loops int64
		for _, c := range ring {
			loops += c.server.loops.Load()
		}
		if loops == 0 || !strings.Contains(ring[0].log.String(), "loop") {
			t.Errorf("%d caches: %d loops were seen", n, loops)
		}
		// What a store beside them has comes all the same.
		st := newStore(t)
		ring[n-1].post("/ays/stor/stor", map[string]any{"url": st.URL})
		if r := ring[0].blob("default", digest.Of(small), 1); r.status != 200 {
			t.Errorf("%d caches, a store beside them: %d", n, r.status)
		}
		if m := st.asked(digest.Of(small).String()); m != 1 {
			t.Errorf("%d caches: the store was asked %d times", n, m)
		}
	}
}

func TestLoopIs508(t *testing.T) {
	t.Parallel()
	c := newCache(t)
	for _, via := range []string{c.server.instance, "a, " + c.server.instance + ", b", strings.Repeat("x,", 1000)} {
		if r := c.get("/default/"+digest.Of(small).String(), store.ViaHeader, via); r.status != http.StatusLoopDetected {
			t.Errorf("%.40q: %d", via, r.status)
		}
	}
	if r := c.get("/default/"+digest.Of(small).String(), store.ViaHeader, "a, b"); r.status != 404 {
		t.Errorf("via others: %d", r.status)
	}
}

// Two stores may have a tree of the same name: who says which one it is about gets
// that one's.
func TestHeadOfTheStoreMeant(t *testing.T) {
	t.Parallel()
	evil, good, c := emptyStore(t), newStore(t), newCache(t)
	evil.publish(testID, "", map[string][]byte{"evil": small})
	c.post("/ays/stor/evil", map[string]any{"url": evil.URL})
	c.post("/ays/stor/good", map[string]any{"url": good.URL})
	path := "/md/" + testID + "/any/head"
	want := readFile(t, good.dir+path)
	for _, header := range [][]string{{storHeader, "good"}, {storHeader, good.URL}, {storHeader, good.URL + "/"}} {
		if r := c.get(path, header...); r.status != 200 || !bytes.Equal(r.body, want) {
			t.Errorf("%v: %d %s", header, r.status, r.body)
		}
	}
	if r := c.get(path + "?stor=good"); !bytes.Equal(r.body, want) {
		t.Errorf("stor=: %d", r.status)
	}
	if r := c.get(path, storHeader, "http://127.0.0.1:1/other"); r.status != 404 {
		t.Errorf("a store that isn't known: %d", r.status)
	}
	if r := c.get("/md/trees", storHeader, "http://127.0.0.1:1/other"); r.status != 200 || len(r.body) != 0 {
		t.Errorf("its trees: %d %s", r.status, r.body)
	}
	// Of blobs it is asked first, and others if it has none.
	if r := c.blob("default", digest.Of(wordy), 1, storHeader, evil.URL); r.status != 200 {
		t.Errorf("a blob: %d", r.status)
	}
}
