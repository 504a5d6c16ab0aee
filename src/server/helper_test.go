package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testCache is a cache on a real socket.
type testCache struct {
	t      testing.TB
	server *Server
	data   *memory
	cfg    *config.Server
	http   *httptest.Server
	url    string
	log    *logBuffer
	client *http.Client
}

// logBuffer keeps what is logged, at every level.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// defaults is the config of an empty file, with less patience.
func defaults(t testing.TB) *config.Server {
	t.Helper()
	cfg, err := config.ParseServer("test", nil)
	must(t, err)
	cfg.Main.Data = t.TempDir()
	cfg.Stor.Refresh = 50 * time.Millisecond
	cfg.Stor.Timeout = 3 * time.Second
	return cfg
}

func newCache(t testing.TB, change ...func(*config.Server)) *testCache {
	t.Helper()
	cfg := defaults(t)
	for _, c := range change {
		c(cfg)
	}
	return startCache(t, cfg, newMemory())
}

// startCache starts a cache on data that may be another one's from before.
func startCache(t testing.TB, cfg *config.Server, data *memory) *testCache {
	t.Helper()
	c := &testCache{t: t, data: data, cfg: cfg, log: &logBuffer{}}
	c.start()
	t.Cleanup(c.stop)
	return c
}

func (c *testCache) start() {
	c.t.Helper()
	log := slog.New(slog.NewTextHandler(c.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := New(c.t.Context(), Options{Config: c.cfg, ID: "test", Version: "v1", Data: c.data, Disk: c.data, Log: log})
	must(c.t, err)
	c.server, c.http = s, httptest.NewServer(s)
	c.url, c.client = c.http.URL, c.http.Client()
}

func (c *testCache) stop() {
	if c.http == nil {
		return
	}
	c.http.Close()
	c.server.Close()
	c.http = nil
	c.data.mu.Lock()
	defer c.data.mu.Unlock()
	if c.data.lent != 0 {
		c.t.Errorf("%d blobs were not released", c.data.lent)
	}
}

// reply is an answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// do makes a request; header has pairs of key and value.
func (c *testCache) do(method, path string, body io.Reader, header ...string) reply {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, body)
	must(c.t, err)
	req.Header.Set("Accept-Encoding", "identity")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if header := req.Header.Get("Basic"); header != "" {
		req.Header.Del("Basic")
		login, passwd, _ := strings.Cut(header, ":")
		req.SetBasicAuth(login, passwd)
	}
	resp, err := c.client.Do(req)
	must(c.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(c.t, err)
	return reply{resp.StatusCode, resp.Header, b}
}

func (c *testCache) get(path string, header ...string) reply {
	c.t.Helper()
	return c.do(http.MethodGet, path, nil, header...)
}

// post sends a value as JSON and expects that it is taken.
func (c *testCache) post(path string, v any, header ...string) map[string]any {
	c.t.Helper()
	r := c.try(path, v, header...)
	if r.status != http.StatusOK {
		c.t.Fatalf("POST %s: %d %s", path, r.status, r.body)
	}
	var reply map[string]any
	must(c.t, json.Unmarshal(r.body, &reply))
	return reply
}

func (c *testCache) try(path string, v any, header ...string) reply {
	c.t.Helper()
	b, err := json.Marshal(v)
	must(c.t, err)
	return c.do(http.MethodPost, path, bytes.NewReader(b), append([]string{"Content-Type", "application/json"}, header...)...)
}

func (c *testCache) blob(domain string, d digest.Digest, fetch int, header ...string) reply {
	c.t.Helper()
	return c.get(fmt.Sprintf("/%s/%v?fetch=%d", domain, d, fetch), header...)
}

// eventually waits until ok, for half a minute.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("it didn't come to that: %s", what)
}

const testID = "jumpscale|mongodb(10.1.888)"

var (
	small  = []byte("hello from a small file\n")
	wordy  = bytes.Repeat([]byte("all work and no play makes jack a dull boy\n"), 2000)
	random = tiertest.Random(7, 200<<10)
)

// testStore is a store on a real socket.
type testStore struct {
	t   testing.TB
	dir string
	*httptest.Server

	mu       sync.Mutex
	requests map[string]int                                    // by path
	fault    func(w http.ResponseWriter, r *http.Request) bool // may answer instead
	login    string
	passwd   string

	wholes atomic.Int64 // see drip
}

// newStore serves a published tree of some files.
func newStore(t testing.TB) *testStore {
	t.Helper()
	s := emptyStore(t)
	s.publish(testID, "", map[string][]byte{"small": small, "lib/wordy": wordy, "lib/deep/random": random, "lib/deep/er/x": []byte("x")})
	return s
}

func emptyStore(t testing.TB) *testStore {
	t.Helper()
	s := &testStore{t: t, dir: t.TempDir(), requests: make(map[string]int)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *testStore) publish(id, domain string, files map[string][]byte) publish.Result {
	s.t.Helper()
	root := s.t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		must(s.t, os.MkdirAll(filepath.Dir(path), 0o755))
		if target, ok := bytes.CutPrefix(content, []byte("-> ")); ok {
			must(s.t, os.Symlink(string(target), path))
			continue
		}
		must(s.t, os.WriteFile(path, content, 0o644))
	}
	res, err := publish.Run(s.t.Context(), publish.Options{
		Store: s.dir, Tree: object.TreeName{ID: id}, Domain: domain, Root: root, Workers: 2,
	})
	must(s.t, err)
	return res
}

// put has the store hold a blob.
func (s *testStore) put(domain string, plain []byte) digest.Digest {
	s.t.Helper()
	d := digest.Of(plain)
	must(s.t, os.MkdirAll(filepath.Join(s.dir, domain), 0o755))
	must(s.t, os.WriteFile(filepath.Join(s.dir, domain, d.String()), plain, 0o644))
	return d
}

// close behind a login, from now on.
func (s *testStore) lock(login, passwd string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.login, s.passwd = login, passwd
}

func (s *testStore) setFault(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// asked is how often there were requests for paths with a part.
func (s *testStore) asked(part string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for path, k := range s.requests {
		if strings.Contains(path, part) {
			n += k
		}
	}
	return n
}

func (s *testStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests[r.URL.Path]++
	fault, login, passwd := s.fault, s.login, s.passwd
	s.mu.Unlock()
	if l, p, _ := r.BasicAuth(); login != "" && (l != login || p != passwd) {
		http.Error(w, "login, please", http.StatusUnauthorized)
		return
	}
	if fault != nil && fault(w, r) {
		return
	}
	http.FileServer(http.Dir(s.dir)).ServeHTTP(w, r)
}

// tell has the cache know the store by a name, and a client's mount of its tree.
func (c *testCache) tell(s *testStore, name string) {
	c.t.Helper()
	c.post("/ays/stor/"+name, map[string]any{"url": s.URL})
	c.mount("client1", "mongodb", name)
}

func (c *testCache) mount(client, mount, store string) {
	c.t.Helper()
	c.post("/ays/mount/"+client+"/"+mount, map[string]any{"ays.id": testID, "stor.name": store, "path": "/opt/mongodb"})
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

// writeFile changes a file as a publisher does.
func writeFile(path string, b []byte) error {
	if err := os.WriteFile(path+".new", b, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func parseURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	must(t, err)
	return u
}

// newKey returns a publisher's public key.
func newKey(t testing.TB) string {
	t.Helper()
	_, vkey, err := note.GenerateKey(nil, "publisher")
	must(t, err)
	return vkey
}
