package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"
	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

const asJSON = "application/json"

// entries reads a listing that came as JSON.
func entries(t *testing.T, r reply) map[string]jsonEntry {
	t.Helper()
	if r.status != http.StatusOK {
		t.Fatalf("status %d: %s", r.status, r.body)
	}
	var list []jsonEntry
	must(t, json.Unmarshal(r.body, &list))
	byName := make(map[string]jsonEntry)
	for _, e := range list {
		byName[e.Name] = e
	}
	return byName
}

func TestListingByFetch(t *testing.T) {
	t.Parallel()
	for fetch, want := range []struct {
		status int
		kept   bool
	}{{404, false}, {200, true}, {202, true}, {200, false}} {
		t.Run(fmt.Sprint("fetch=", fetch), func(t *testing.T) {
			st, c := newStore(t), newCache(t)
			c.tell(st, "stor")
			path := func(fetch int) string { return fmt.Sprintf("/md/client1/mongodb/lib/deep?fetch=%d", fetch) }
			r := c.get(path(fetch))
			if r.status != want.status || (len(r.body) != 0) != (want.status == 200) {
				t.Fatalf("status %d, %d bytes", r.status, len(r.body))
			}
			if !want.kept {
				if got := c.get(path(0)).status; got != 404 {
					t.Errorf("fetch=0 then: %d", got)
				}
				return
			}
			eventually(t, "kept", func() bool { return c.get(path(0)).status == 200 })
			st.Close() // with what is here all goes on
			for again := range 4 {
				if r := c.get(path(again)); r.status != 200 {
					t.Errorf("the store is gone, fetch=%d: %d", again, r.status)
				}
			}
		})
	}
}

func TestListingForms(t *testing.T) {
	t.Parallel()
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor")
	for _, root := range []string{"/md/client1/mongodb", "/md/client1/mongodb/"} {
		got := entries(t, c.get(root, "Accept", asJSON))
		if len(got) != 2 || got["small"].Digest != digest.Of(small).String() || got["small"].Size != int64(len(small)) || got["lib"].Kind != "dir" {
			t.Fatalf("%v", got)
		}
	}
	r := c.get("/md/client1/mongodb/lib")
	l, err := object.ParseListing(r.body)
	if err != nil || l.Len() != 2 || r.header.Get("Content-Type") != msgpackType {
		t.Fatalf("%v, %v", err, r.header)
	}
	if r.header.Get(domainHeader) != "default" || r.header.Get(serialHeader) != "1" || r.header.Get(treeHeader) != testID {
		t.Errorf("headers %v", r.header)
	}
	tag := r.header.Get("Etag")
	if tag != `"`+digest.Of(r.body).String()+`"` {
		t.Errorf("etag %s", tag)
	}
	if r := c.get("/md/client1/mongodb/lib", "If-None-Match", tag); r.status != 304 || len(r.body) != 0 {
		t.Errorf("If-None-Match: %d", r.status)
	}
	if r := c.get("/md/client1/mongodb/lib", "If-None-Match", tag, "Accept", asJSON); r.status != 200 {
		t.Errorf("If-None-Match of the other form: %d", r.status)
	}
	if h := c.do(http.MethodHead, "/md/client1/mongodb/lib", nil); h.status != 200 || h.header.Get("Content-Length") != fmt.Sprint(len(r.body)) {
		t.Errorf("HEAD: %d %v", h.status, h.header)
	}
	for _, none := range []string{"/md/client1/mongodb/none", "/md/client1/mongodb/small", "/md/client1/mongodb/small/x", "/md/client1/none/", "/md/none/mongodb/"} {
		if r := c.get(none); r.status != 404 || len(r.body) != 0 {
			t.Errorf("%s: %d %q", none, r.status, r.body)
		}
	}
	// The listings are in the data, for others to read.
	eventually(t, "listings in the data", func() bool { return len(c.data.fields("md:"+testID+"/any")) == 3 })
	if f := c.data.fields("md:" + testID + "/any"); strings.Join(f, " ") != " / /lib" {
		t.Errorf("fields %q", f)
	}
}

func TestSubtree(t *testing.T) {
	t.Parallel()
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor")
	r := c.get("/md/client1/mongodb/?subtree=1")
	n, b, err := msgp.ReadArrayHeaderBytes(r.body)
	must(t, err)
	var paths []string
	for range n {
		var pair uint32
		pair, b, err = msgp.ReadArrayHeaderBytes(b)
		must(t, err)
		var path, raw []byte
		path, b, err = msgp.ReadBytesZC(b)
		must(t, err)
		raw, b, err = msgp.ReadBytesZC(b)
		must(t, err)
		if _, err := object.ParseListing(raw); err != nil || pair != 2 {
			t.Fatal(err)
		}
		paths = append(paths, string(path))
	}
	if want := ",lib,lib/deep,lib/deep/er"; strings.Join(paths, ",") != want || len(b) != 0 {
		t.Errorf("got %q, want %q", paths, want)
	}
	var list [][2]any
	must(t, json.Unmarshal(c.get("/md/client1/mongodb/lib?subtree=1", "Accept", asJSON).body, &list))
	if len(list) != 3 || list[0][0] != "lib" || list[2][0] != "lib/deep/er" {
		t.Errorf("got %v", list)
	}
}

func TestSubtreeIsBounded(t *testing.T) {
	t.Parallel()
	st, c := emptyStore(t), newCache(t)
	files := make(map[string][]byte)
	for i := range 75 {
		for j := range 60 {
			files[fmt.Sprintf("d%02d/%s%02d", i, strings.Repeat("n", 250), j)] = []byte("-> x")
		}
	}
	st.publish(testID, "", files)
	c.tell(st, "stor")
	r := c.get("/md/client1/mongodb/?subtree=1")
	if r.status != 200 || len(r.body) > 1<<20 || len(r.body) < 900<<10 {
		t.Errorf("%d, %d bytes", r.status, len(r.body))
	}
}

func TestNewHead(t *testing.T) {
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor")
	if got := entries(t, c.get("/md/client1/mongodb/", "Accept", asJSON)); len(got) != 2 {
		t.Fatal(got)
	}
	for range 20 {
		c.get("/md/client1/mongodb/")
	}
	if n := st.asked("/head"); n > 3 {
		t.Errorf("the head was asked for %d times", n)
	}
	st.publish(testID, "", map[string][]byte{"new": []byte("new"), "small": small, "lib/wordy": wordy})
	eventually(t, "the new tree", func() bool {
		return entries(t, c.get("/md/client1/mongodb/", "Accept", asJSON))["new"].Kind == "file"
	})
	if r := c.get("/md/client1/mongodb/lib/deep"); r.status != 404 {
		t.Errorf("a directory of the old tree: %d", r.status)
	}
	// An older one is not taken.
	must(t, writeFile(st.dir+"/md/"+testID+"/any/head", readFile(t, st.dir+"/md/"+testID+"/any/head.1")))
	time.Sleep(3 * c.cfg.Stor.Refresh)
	c.get("/md/client1/mongodb/")
	time.Sleep(3 * c.cfg.Stor.Refresh)
	if got := entries(t, c.get("/md/client1/mongodb/", "Accept", asJSON)); got["new"].Kind != "file" {
		t.Error("an older head was taken")
	}
}

func TestMountOptions(t *testing.T) {
	t.Parallel()
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor")
	c.post("/ays/client/client2", map[string]any{"platform": "ubuntu64"})
	c.post("/ays/mount/client2/part", map[string]any{"ays": map[string]any{"id": testID}, "stor": map[string]any{"name": "stor"}, "remote": "lib/deep"})
	if got := entries(t, c.get("/md/client2/part/", "Accept", asJSON)); len(got) != 2 || got["er"].Kind != "dir" {
		t.Errorf("remote: %v", got)
	}
	if got := entries(t, c.get("/md/client2/part/er", "Accept", asJSON)); len(got) != 1 {
		t.Errorf("below remote: %v", got)
	}
	var list [][2]any
	must(t, json.Unmarshal(c.get("/md/client2/part/?subtree=1", "Accept", asJSON).body, &list))
	if len(list) != 2 || list[0][0] != "" || list[1][0] != "er" {
		t.Errorf("subtree of remote: %v", list)
	}
	// There is no tree for the platform, so it is the one for any. Once there is
	// one, it is that.
	if n := st.asked("ubuntu64/head"); n == 0 {
		t.Error("the tree for the platform was not asked for")
	}
}

func TestRestartWithoutNetwork(t *testing.T) {
	t.Parallel()
	st := newStore(t)
	cfg, data := defaults(t), newMemory()
	c := startCache(t, cfg, data)
	c.tell(st, "stor")
	c.get("/md/client1/mongodb/lib")
	c.blob("default", digest.Of(small), 1)
	c.stop()
	st.Close()
	c = startCache(t, cfg, data)
	if got := entries(t, c.get("/md/client1/mongodb/lib", "Accept", asJSON)); len(got) != 2 {
		t.Errorf("listing: %v", got)
	}
	if r := c.blob("default", digest.Of(small), 1); r.status != 200 {
		t.Errorf("blob: %d", r.status)
	}
	if r := c.blob("default", digest.Of(random), 1); r.status != 502 || len(r.body) != 0 {
		t.Errorf("a blob that isn't here: %d", r.status)
	}
}

// A cache whose config has the keys of a store goes from one to the next as the
// config does, and gives no head of a key that was lost.
func TestKeysOfAStore(t *testing.T) {
	t.Parallel()
	st := newStore(t)
	file := filepath.Join(st.dir, "md", testID, "any", "head")
	plain, err := object.OpenHead(readFile(t, file), nil)
	must(t, err)
	key := func() (note.Signer, string) {
		private, public, err := note.GenerateKey(nil, "publisher")
		must(t, err)
		s, err := note.NewSigner(private)
		must(t, err)
		return s, public
	}
	testHead := "/md/" + testID + "/any/head"
	oldSigner, oldKey := key()
	newSigner, newKey := key()
	put := func(serial, files int64, signers ...note.Signer) {
		h := *plain
		h.Serial, h.Counts.Files = serial, files
		raw, err := h.Sign(signers...)
		must(t, err)
		must(t, writeFile(file, raw))
	}
	put(1, 1, oldSigner)
	c := newCache(t, func(cfg *config.Server) {
		cfg.Stores = []config.Store{{Name: "stor", URL: parseURL(t, st.URL), Keys: []string{oldKey, newKey}}}
	})
	c.mount("client1", "mongodb", "stor")
	// What the cache gives as the head, in time.
	gives := func(serial, files int64) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for {
			r := c.get(testHead)
			if h, err := object.OpenHead(r.body, nil); err == nil && h.Serial == serial && h.Counts.Files == files {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the head is\n%s, want serial %d with %d files", r.body, serial, files)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	// The store is asked for the head, and it is refused.
	refuses := func(why string) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for !strings.Contains(c.log.String(), why) {
			if time.Now().After(deadline) {
				t.Fatalf("no %q in the log", why)
			}
			c.get(testHead)
			time.Sleep(20 * time.Millisecond)
		}
	}
	gives(1, 1)
	put(2, 2, oldSigner, newSigner)
	gives(2, 2)
	put(3, 3, newSigner)
	gives(3, 3)
	put(4, 4, oldSigner)
	gives(4, 4)

	// The old key was lost, and 4 is not ours.
	cfg := *c.cfg
	cfg.Stores = []config.Store{{Name: "stor", URL: parseURL(t, st.URL), Keys: []string{oldKey + " until 3", newKey}}}
	must(t, c.server.Reload(&cfg))
	refuses("which is good until serial 3")
	if r := c.get(testHead); r.status == 200 {
		t.Errorf("the head of a lost key is given:\n%s", r.body)
	}
	put(3, 3, newSigner)
	gives(3, 3)
	put(3, 33, oldSigner)
	refuses("another thing than the head of this serial")
	gives(3, 3)
	put(5, 5, newSigner)
	gives(5, 5)
}

func TestSignedHeads(t *testing.T) {
	t.Parallel()
	st := newStore(t)
	c := newCache(t, func(cfg *config.Server) {
		cfg.Stores = []config.Store{{Name: "stor", URL: parseURL(t, st.URL), Keys: []string{newKey(t)}}}
	})
	c.mount("client1", "mongodb", "stor")
	if r := c.get("/md/client1/mongodb/"); r.status != 502 {
		t.Errorf("an unsigned head: %d", r.status)
	}
	if !strings.Contains(c.log.String(), "not signed") {
		t.Error("nothing of it in the log")
	}
}
