package server

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
	"github.com/aysfs/aysfs/src/tier/store"
)

const asWriter, asReader = "writer:w", "reader:r"

// publishedCache is a cache that one user may publish to, and another may read.
func publishedCache(t *testing.T, change ...func(*config.Server)) *testCache {
	t.Helper()
	return newCache(t, append([]func(*config.Server){func(cfg *config.Server) {
		cfg.HTTP.Users = []config.User{
			{Login: "writer", Passwd: config.NewSecret("w"), Write: true}, {Login: "reader", Passwd: config.NewSecret("r")},
		}
		cfg.Ledis.MinFree = config.MinFree{}
	}}, change...)...)
}

func (c *testCache) put(path string, body []byte, header ...string) reply {
	c.t.Helper()
	if len(header) == 0 {
		header = []string{"Basic", asWriter}
	}
	return c.do(http.MethodPut, path, bytes.NewReader(body), header...)
}

// putAll puts all blobs of a directory store's domain.
func (c *testCache) putAll(s *testStore, domain string) {
	c.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, domain, strings.Repeat("?", 64)))
	if must(c.t, err); len(files) == 0 {
		c.t.Fatal("the store has no blobs")
	}
	for _, f := range files {
		if r := c.put("/"+domain+"/"+filepath.Base(f), readFile(c.t, f)); r.status != http.StatusCreated && r.status != http.StatusNoContent {
			c.t.Fatalf("PUT %s: %d %s", f, r.status, r.body)
		}
	}
}

const headPath = "/md/" + testID + "/any/head"

// nothingKept checks that a refused blob is neither given nor left somewhere.
func (c *testCache) nothingKept(d digest.Digest) {
	c.t.Helper()
	if r := c.blob("default", d, 1, "Basic", asReader); r.status != http.StatusNotFound {
		c.t.Errorf("%v was refused, and is there: %d", d.Short(), r.status)
	}
	c.server.intake.Close()
	err := filepath.WalkDir(c.server.publishedDir(), func(path string, _ os.DirEntry, _ error) error {
		if strings.Contains(path, d.String()) {
			c.t.Errorf("%s was refused, and is there", path)
		}
		return nil
	})
	must(c.t, err)
}

// Who may publish, and what is a blob.
func TestPutBlob(t *testing.T) {
	t.Parallel()
	c := publishedCache(t, func(cfg *config.Server) { cfg.HTTP.MaxObject = 2 << 20 })
	codec, err := object.NewCodec(1)
	must(t, err)
	packed := func(plain []byte) []byte { return codec.Pack(plain, nil) }
	d := digest.Of(wordy)
	path := "/default/" + d.String()
	ask := path + "?fetch=0&stor=published"
	if r := c.do(http.MethodHead, ask, nil, "Basic", asWriter); r.status != http.StatusNotFound {
		t.Errorf("is it there? %d", r.status)
	}
	large := make([]byte, 3<<20)
	flipped := packed(wordy)
	flipped[len(flipped)/2] ^= 1
	for what, k := range map[string]struct {
		path   string
		body   []byte
		login  string
		status int
		line   string
	}{
		"no login":             {path, wordy, "", 401, "login"},
		"a wrong password":     {path, wordy, "writer:x", 401, "login"},
		"no right":             {path, wordy, asReader, 403, "write = true"},
		"a wrong digest":       {"/default/" + digest.Of(small).String(), wordy, asWriter, 422, "digest"},
		"flipped bytes":        {path, flipped, asWriter, 422, "digest"},
		"nothing":              {path, nil, asWriter, 422, "digest"},
		"a body too long":      {"/default/" + digest.Of(large).String(), large, asWriter, 413, "2097152"},
		"too long when plain":  {"/default/" + digest.Of(large).String(), packed(large), asWriter, 413, "2097152"},
		"a domain that can't":  {"/Not-A-Domain/" + d.String(), wordy, asWriter, 400, "domain"},
		"a digest that is not": {"/default/abc", wordy, asWriter, 400, "digest"},
	} {
		header := []string{"X-Test", what}
		if k.login != "" {
			header = []string{"Basic", k.login}
		}
		if r := c.put(k.path, k.body, header...); r.status != k.status || !strings.Contains(string(r.body), k.line) {
			t.Errorf("%s: %d %s, want %d with %q", what, r.status, r.body, k.status, k.line)
		}
	}
	if r := c.do(http.MethodPut, path, io.MultiReader(bytes.NewReader(wordy)), "Basic", asWriter); r.status != http.StatusLengthRequired {
		t.Errorf("a body of unknown length: %d", r.status)
	}
	if r := c.do(http.MethodHead, ask, nil, "Basic", asReader); r.status != http.StatusForbidden {
		t.Errorf("a reader asks what a writer does: %d", r.status)
	}

	r1, r2 := c.put(path, packed(wordy)), c.put(path, wordy)
	if r1.status != 201 || r2.status != 204 {
		t.Errorf("put, and again: %d, %d", r1.status, r2.status)
	}
	// Metadata is larger than files' blobs.
	index := bytes.Repeat([]byte("an index\n"), 200_000)
	if r := c.put("/default/"+digest.Of(index).String(), packed(index)); r.status != 201 {
		t.Errorf("metadata of %d bytes: %d %s", len(index), r.status, r.body)
	}
	if r := c.do(http.MethodHead, ask, nil, "Basic", asWriter); r.status != http.StatusOK {
		t.Errorf("is it there? %d", r.status)
	}
	c.nothingKept(digest.Of(small))
	c.nothingKept(digest.Of(large))
}

// Without a writer nothing is taken, and there is no store for it.
func TestPutWithoutWriters(t *testing.T) {
	t.Parallel()
	c := newCache(t)
	for _, path := range []string{"/default/" + digest.Of(small).String(), headPath} {
		if r := c.put(path, small, "X-Test", "y"); r.status != 403 || !strings.Contains(string(r.body), "nobody may publish") {
			t.Errorf("PUT %s: %d %s", path, r.status, r.body)
		}
	}
	if _, err := os.Stat(c.server.publishedDir()); !os.IsNotExist(err) {
		t.Errorf("there is a store: %v", err)
	}
}

// A body that stands still is not waited for.
func TestPutStalls(t *testing.T) {
	t.Parallel()
	c := publishedCache(t, func(cfg *config.Server) { cfg.HTTP.StallTimeout = 100 * time.Millisecond })
	d := digest.Of(small)
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
	must(t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "PUT /default/%v HTTP/1.1\r\nHost: x\r\nAuthorization: Basic d3JpdGVyOnc=\r\nContent-Length: %d\r\n\r\n%s", d, len(small), small[:5])
	must(t, conn.SetReadDeadline(time.Now().Add(30*time.Second)))
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
		t.Errorf("%q, %v", answer, err)
	}
	c.nothingKept(d)
}

// A large body that comes slowly is in nobody's way.
func TestPutSlowly(t *testing.T) {
	t.Parallel()
	c := publishedCache(t, func(cfg *config.Server) { cfg.HTTP.StallTimeout = time.Minute })
	large := bytes.Repeat([]byte("an index\n"), 200_000)
	for i := range 3 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
		must(t, err)
		defer conn.Close()
		fmt.Fprintf(conn, "PUT /default/%v HTTP/1.1\r\nHost: x\r\nAuthorization: Basic d3JpdGVyOnc=\r\nContent-Length: %d\r\n\r\n", digest.Of(large), len(large))
		_, err = conn.Write(large[:len(large)/2+i])
		must(t, err)
	}
	done := make(chan reply, 1)
	go func() { done <- c.put("/default/"+digest.Of(large).String(), large) }()
	select {
	case r := <-done:
		if r.status != http.StatusCreated {
			t.Errorf("%d %s", r.status, r.body)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it waits for the others")
	}
	if left, _ := filepath.Glob(filepath.Join(c.server.opts.Config.Main.Data, "upload-*")); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}

// A head is taken when all it reaches is here, in order, and is then what all get.
func TestPutHead(t *testing.T) {
	t.Parallel()
	c, st := publishedCache(t), newStore(t)
	head := func() []byte { return readFile(t, st.dir+headPath) }
	first := head()
	if r := c.get(headPath+"?stor=published", "Basic", asReader); r.status != 404 {
		t.Errorf("before: %d", r.status)
	}
	if r := c.put(headPath, first); r.status != 409 || !strings.Contains(string(r.body), "not here: default/") {
		t.Errorf("without blobs: %d %s", r.status, r.body)
	}
	c.putAll(st, "default")
	// One blob of a file lacks.
	lacking := digest.Of(small)
	c.server.intake.Close()
	c.restart()
	must(t, os.Remove(filepath.Join(c.server.publishedDir(), "default", lacking.String())))
	if r := c.put(headPath, first); r.status != 409 || !strings.HasPrefix(string(r.body), "publish again, with -full ") || !strings.Contains(string(r.body), lacking.String()) {
		t.Errorf("without a blob: %d %s", r.status, r.body)
	}
	if r := c.get(headPath, "Basic", asReader); r.status != 404 {
		t.Errorf("a head that was refused is there: %d", r.status)
	}
	c.putAll(st, "default")
	for what, k := range map[string]struct {
		path, login string
		body        []byte
		status      int
	}{
		"no right":                 {headPath, asReader, first, 403},
		"a wrong password":         {headPath, "writer:x", first, 401},
		"of another tree":          {"/md/jumpscale|other(1)/any/head", asWriter, first, 422},
		"nonsense":                 {headPath, asWriter, []byte("nonsense"), 422},
		"too long":                 {headPath, asWriter, make([]byte, object.MaxHead+1), 413},
		"its root is not its root": {headPath, asWriter, bytes.Replace(first, []byte("\nroot "), []byte("\nroot 00"), 1), 422},
	} {
		if r := c.put(k.path, k.body, "Basic", k.login); r.status != k.status {
			t.Errorf("%s: %d %s, want %d", what, r.status, r.body, k.status)
		}
	}
	if r := c.put(headPath, first); r.status != 201 {
		t.Fatalf("PUT of a head: %d %s", r.status, r.body)
	}
	if r := c.put(headPath, first); r.status != 204 {
		t.Errorf("again: %d", r.status)
	}
	st.publish(testID, "", map[string][]byte{"new": []byte("new")})
	second := head()
	c.putAll(st, "default")
	if r := c.put(headPath, second); r.status != 201 {
		t.Errorf("the next one: %d %s", r.status, r.body)
	}
	if r := c.put(headPath, first); r.status != 409 || !strings.Contains(string(r.body), "serial 1") {
		t.Errorf("an older one: %d %s", r.status, r.body)
	}
	if r := c.put(headPath, bytes.Replace(second, []byte("\ntime 20"), []byte("\ntime 19"), 1)); r.status != 409 {
		t.Errorf("another one of the same serial: %d %s", r.status, r.body)
	}
	// What is given is the newest, at once, to a client as well as to a cache below.
	check := func() {
		t.Helper()
		src, err := store.New(store.Config{Name: "cache", URL: parseURL(t, c.url), Login: "reader", Secret: "r"})
		must(t, err)
		defer src.Close()
		if got, err := src.Head(t.Context(), object.TreeName{ID: testID}, nil); err != nil || !bytes.Equal(got, second) {
			t.Errorf("head: %q, %v", got, err)
		}
		if trees, err := src.Trees(t.Context()); err != nil || len(trees) != 1 || trees[0].ID != testID {
			t.Errorf("trees: %v, %v", trees, err)
		}
	}
	check()
	if old := readFile(t, c.server.publishedDir()+strings.TrimSuffix(headPath, "head")+"head.1"); !bytes.Equal(old, first) {
		t.Error("the older head is not kept")
	}
	if r := c.blob("default", digest.Of([]byte("new")), 1, "Basic", asReader); r.status != 200 || string(r.body) != "new" {
		t.Errorf("a blob: %d %q", r.status, r.body)
	}
	// It stays when what was cached of it is gone, and nobody may publish any more.
	c.data.mu.Lock()
	delete(c.data.hash, "files:default")
	c.data.mu.Unlock()
	c.cfg.HTTP.Users[0].Write = false
	c.restart()
	check()
	if r := c.blob("default", digest.Of([]byte("new")), 1, "Basic", asReader); r.status != 200 || string(r.body) != "new" {
		t.Errorf("a blob that was evicted: %d %q", r.status, r.body)
	}
	if r := c.put(headPath, second); r.status != 403 {
		t.Errorf("nobody may publish: %d", r.status)
	}
}

func (c *testCache) restart() {
	c.t.Helper()
	c.stop()
	c.start()
}

// With a key only what it signed is taken.
func TestPutHeadSigned(t *testing.T) {
	t.Parallel()
	skey, vkey, err := note.GenerateKey(nil, "publisher")
	must(t, err)
	signer, err := note.NewSigner(skey)
	must(t, err)
	c, st := publishedCache(t, func(cfg *config.Server) { cfg.Publish.Keys = []string{vkey} }), newStore(t)
	c.putAll(st, "default")
	unsigned := readFile(t, st.dir+headPath)
	if r := c.put(headPath, unsigned); r.status != 422 || !strings.Contains(string(r.body), "not signed") {
		t.Errorf("not signed: %d %s", r.status, r.body)
	}
	h, err := object.OpenHead(unsigned, nil)
	must(t, err)
	signed, err := h.Sign(signer)
	must(t, err)
	if r := c.put(headPath, bytes.Replace(signed, []byte("\nserial 1\n"), []byte("\nserial 2\n"), 1)); r.status != 422 {
		t.Errorf("changed after it was signed: %d %s", r.status, r.body)
	}
	if r := c.put(headPath, signed); r.status != 201 {
		t.Errorf("signed: %d %s", r.status, r.body)
	}
}

// What there is no room for is refused, and what a gc frees can be used.
func TestPutNoRoom(t *testing.T) {
	t.Parallel()
	c := publishedCache(t, func(cfg *config.Server) { cfg.Ledis.MaxSize = 300 << 10 })
	put := func(plain []byte) reply { return c.put("/default/"+digest.Of(plain).String(), plain) }
	if r := put(random); r.status != 201 {
		t.Fatalf("with room: %d %s", r.status, r.body)
	}
	other := bytes.Clone(random)
	other[0]++
	if r := put(other); r.status != 507 || !strings.Contains(string(r.body), "max_size") {
		t.Errorf("without: %d %s", r.status, r.body)
	}
	if r := put(random); r.status != 204 {
		t.Errorf("what is here: %d %s", r.status, r.body)
	}
	c.nothingKept(digest.Of(other))
	full := publishedCache(t, func(cfg *config.Server) { cfg.Ledis.MinFree = config.MinFree{Bytes: 1 << 60} })
	if r := full.put("/default/"+digest.Of(small).String(), small); r.status != 507 || !strings.Contains(string(r.body), "min_free") {
		t.Errorf("on a full disk: %d %s", r.status, r.body)
	}
}

// A publish to a cache is as one to a directory.
func TestPublishToCache(t *testing.T) {
	t.Parallel()
	c := publishedCache(t)
	cache, err := store.NewHTTP(store.Config{Name: "cache", URL: parseURL(t, c.url), Login: "writer", Secret: "w"})
	must(t, err)
	defer cache.Close()
	root := t.TempDir()
	must(t, os.MkdirAll(root+"/lib/deep", 0o755))
	for name, b := range map[string][]byte{"small": small, "lib/same": small, "lib/wordy": wordy, "lib/deep/random": random, "lib/empty": nil} {
		must(t, os.WriteFile(filepath.Join(root, name), b, 0o644))
	}
	o := publish.Options{Cache: cache, Tree: object.TreeName{ID: testID}, Root: root, Full: true}
	first, err := publish.Run(t.Context(), o)
	if err != nil || first.Serial != 1 || first.NewBlobs == 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := publish.Run(t.Context(), o)
	if err != nil || !again.Unchanged || again.NewBlobs != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
	must(t, os.WriteFile(filepath.Join(root, "new"), []byte("new"), 0o644))
	third, err := publish.Run(t.Context(), o)
	if err != nil || third.Serial != 2 || third.NewBlobs != 3 {
		t.Errorf("one more file, a catalog and the index: %+v, %v", third, err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	must(t, w.AddFS(os.DirFS(root)))
	must(t, w.Close())
	packed, err := publish.Run(t.Context(), publish.Options{
		Cache: cache, Tree: object.TreeName{ID: "jumpscale|archive(1)"}, Root: "-", Format: publish.Tar, Stdin: &archive,
	})
	if err != nil || packed.Counts != third.Counts || packed.Serial != 1 {
		t.Errorf("an archive: %+v, %v", packed, err)
	}
	same, err := publish.Run(t.Context(), publish.Options{Store: t.TempDir(), Tree: o.Tree, Root: root})
	if err != nil || same.Root != third.Root {
		t.Errorf("to a directory: %+v, %v, not %v", same, err, third.Root)
	}
	if _, err := publish.Verify(t.Context(), publish.VerifyOptions{
		Source: cache, Heads: cache, Trees: []object.TreeName{o.Tree},
		Report: func(p publish.Problem) { t.Errorf("verify: %v", p) },
	}); err != nil {
		t.Error(err)
	}
}

// A publish goes on where connections break, also where an answer is lost.
func TestPublishToCacheRetries(t *testing.T) {
	t.Parallel()
	c := publishedCache(t)
	var mu sync.Mutex
	broken := make(map[string]int) // by method and kind
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := r.Method
		if strings.HasSuffix(r.URL.Path, "/head") {
			kind += " head"
		}
		mu.Lock()
		broken[kind]++
		n := broken[kind]
		mu.Unlock()
		switch n {
		case 1: // it is done, and nobody hears of it
			c.server.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		case 2:
			http.Error(w, "busy", http.StatusServiceUnavailable)
		default:
			c.server.ServeHTTP(w, r)
		}
	}))
	front.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	defer front.Close()
	cache, err := store.NewHTTP(store.Config{Name: "cache", URL: parseURL(t, front.URL), Login: "writer", Secret: "w"})
	must(t, err)
	defer cache.Close()
	root := t.TempDir()
	must(t, os.WriteFile(filepath.Join(root, "small"), small, 0o644))
	res, err := publish.Run(t.Context(), publish.Options{Cache: cache, Tree: object.TreeName{ID: testID}, Root: root, Workers: 1})
	if err != nil || res.Serial != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, kind := range []string{"HEAD", "PUT", "GET head", "PUT head"} {
		if broken[kind] < 3 {
			t.Errorf("%s: %d requests", kind, broken[kind])
		}
	}
	if r := c.get(headPath, "Basic", asReader); r.status != 200 || !strings.Contains(string(r.body), "\nserial 1\n") {
		t.Errorf("the head: %d %s", r.status, r.body)
	}
}
