package e2e

import (
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/bench/link"
)

// publish publishes tree to the store in dir.
func publish(t *testing.T, dir, id, tree string, flags ...string) {
	t.Helper()
	run(t, 2*time.Minute, ays, slices.Concat([]string{"publish", "-store", dir, "-id", id}, flags, []string{tree})...)
}

// keygen makes a key and returns its file and what clients have of it. name is the
// key's, behind a directory.
func keygen(t *testing.T, name string) (private, public string) {
	t.Helper()
	run(t, 10*time.Second, ays, "keygen", name)
	return name + ".key", strings.TrimSpace(string(mustRead(t, name+".pub")))
}

// keyPair is keygen for a key with some name.
func keyPair(t *testing.T) (private, public string) {
	t.Helper()
	return keygen(t, filepath.Join(shortDir(t), "release"))
}

// webStore serves a directory store over HTTP, counts what it is asked for, and
// can be made to fail.
type webStore struct {
	t    *testing.T
	dir  string
	tree string // that newStore has published
	addr string
	http *http.Server
	// listener is closed apart: http may not know of it yet.
	listener net.Listener
	// namespace is where it listens; nil: here.
	namespace *link.Thread

	heads, profiles, blobs atomic.Int64 // requests
	delay                  atomic.Int64 // of each answer, in nanoseconds
	// fault may answer instead; it is true then.
	fault atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
}

// newStore serves a new store that has the tree.
func newStore(t *testing.T, id, tree string, flags ...string) *webStore {
	t.Helper()
	dir := shortDir(t)
	publish(t, dir, id, tree, flags...)
	s := serveStore(t, dir)
	s.tree = tree
	return s
}

// smallStore serves a smallTree as e2e|app(1).
func smallStore(t *testing.T) (s *webStore, names []string) {
	t.Helper()
	tree, names := smallTree(t)
	return newStore(t, "e2e|app(1)", tree), names
}

func serveStore(t *testing.T, dir string) *webStore {
	t.Helper()
	return serveStoreAt(t, dir, freeAddr(t), nil)
}

// serveStoreAt serves at an address of a network namespace; nil is this one.
func serveStoreAt(t *testing.T, dir, addr string, ns *link.Thread) *webStore {
	t.Helper()
	s := &webStore{t: t, dir: dir, addr: addr, namespace: ns}
	s.up()
	t.Cleanup(s.down)
	return s
}

// up begins to serve, again at the same address.
func (s *webStore) up() {
	s.t.Helper()
	var l net.Listener
	err := inside(s.namespace, func() (err error) {
		l, err = net.Listen("tcp", s.addr)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr, s.listener = l.Addr().String(), l
	s.http = &http.Server{Handler: http.HandlerFunc(s.serve)}
	go s.http.Serve(l)
}

// down drops all connections; new ones are refused.
func (s *webStore) down() {
	s.http.Close()
	s.listener.Close()
}

func (s *webStore) serve(w http.ResponseWriter, r *http.Request) {
	switch {
	case !strings.HasPrefix(r.URL.Path, "/md/"):
		s.blobs.Add(1)
	case strings.HasSuffix(r.URL.Path, "/profile"):
		s.profiles.Add(1)
	default:
		s.heads.Add(1)
	}
	select {
	case <-time.After(time.Duration(s.delay.Load())):
	case <-r.Context().Done():
		return
	}
	if f := s.fault.Load(); f != nil && (*f)(w, r) {
		return
	}
	http.FileServer(http.Dir(s.dir)).ServeHTTP(w, r)
}

// setFault makes requests fail by f; nil ends that.
func (s *webStore) setFault(f func(http.ResponseWriter, *http.Request) bool) {
	if f == nil {
		s.fault.Store(nil)
		return
	}
	s.fault.Store(&f)
}

// stall lets every request wait for an answer that doesn't come.
func stall(_ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}

func (s *webStore) url() string { return "http://" + s.addr }
