package store_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// serve starts a web server for the time of the test.
func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

var mongodb = object.TreeName{ID: "jumpscale|mongodb(10.1.888)", Platform: "ubuntu64"}

// A static server and a directory must find the same files by the names that
// trees have.
func TestNames(t *testing.T) {
	root := t.TempDir()
	trees := []object.TreeName{
		mongodb,
		{ID: "jumpscale|mongodb!main", RepoID: "1SdY294"},
		{ID: "a|100% sure?#;&=+,:@$'*~(ü 1)"},
	}
	for _, tree := range trees {
		dir := filepath.Join(root, tree.Dir())
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "head"), []byte("head of "+tree.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	var asked []string
	files := http.FileServer(http.Dir(filepath.Dir(root)))
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.RequestURI)
		mu.Unlock()
		files.ServeHTTP(w, r)
	})
	base := "/" + filepath.Base(root)
	for name, s := range map[string]store.Store{
		"http": open(t, store.Config{URL: mustURL(t, srv.URL+base+"/")}),
		"file": open(t, store.Config{URL: mustURL(t, "file://"+root)}),
	} {
		for _, tree := range trees {
			b, err := s.Head(t.Context(), tree, nil)
			if err != nil || string(b) != "head of "+tree.String() {
				t.Errorf("%s: head of %v: %q, %v", name, tree, b, err)
			}
		}
	}
	if want := base + "/md/jumpscale%7Cmongodb%2810.1.888%29/ubuntu64/head"; asked[0] != want {
		t.Errorf("asked for %s, want %s", asked[0], want)
	}
}

// Escapes in the store's own URL stay as they are spelled.
func TestBaseURLIsKept(t *testing.T) {
	var asked atomic.Value
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.RequestURI)
		http.NotFound(w, r)
	})
	s := open(t, store.Config{URL: mustURL(t, srv.URL+"/a%2Fb%28c/?sig=SIGNATURE&x=1#frag")})
	_, err := s.Head(t.Context(), mongodb, nil)
	if want := "/a%2Fb%28c/md/jumpscale%7Cmongodb%2810.1.888%29/ubuntu64/head?sig=SIGNATURE&x=1"; asked.Load() != want {
		t.Errorf("asked for %s, want %s", asked.Load(), want)
	}
	if err == nil || strings.Contains(err.Error(), "SIGNATURE") || !strings.Contains(err.Error(), "/a%2Fb%28c/md/") {
		t.Errorf("message: %v", err)
	}
}

// A cache that is asked for what it has only is told so, whatever else its URL says.
func TestAskedForWhatIsHere(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.URL.RawQuery)
		http.NotFound(w, r)
	})
	for _, query := range []string{"", "?sig=a%20b"} {
		s := open(t, store.Config{URL: mustURL(t, srv.URL+query)})
		for _, here := range []bool{true, false} {
			ref := tiertest.RefOf([]byte("x"))
			ref.Here = here
			if _, err := s.Get(t.Context(), ref); !errors.Is(err, tier.ErrAbsent) {
				t.Error(err)
			}
		}
	}
	if want := []string{"fetch=0", "", "sig=a%20b&fetch=0", "sig=a%20b"}; !slices.Equal(asked, want) {
		t.Errorf("asked with %q, want %q", asked, want)
	}
}

// It is told so as well where blobs come by the pipeline, in whose requests there is no
// room for that.
func TestAskedForWhatIsHereBesideThePipeline(t *testing.T) {
	var asked atomic.Value
	s := serveBlobs(t, 20, 1000, func(_ int64, _ http.ResponseWriter, r *http.Request) { asked.Store(r.URL.RawQuery) })
	src := s.open(t)
	s.getAll(t, src, 4)
	here := s.refs[0]
	here.Here = true
	if src.Ask(here, func([]byte, bool) {}) != nil {
		t.Error("it goes by the pipeline")
	}
	for _, ctx := range []context.Context{t.Context(), tier.InBackground(t.Context())} {
		if _, err := src.Get(ctx, here); err != nil || asked.Load() != "fetch=0" {
			t.Errorf("asked with %q: %v", asked.Load(), err)
		}
	}
}

func TestStatuses(t *testing.T) {
	tests := []struct {
		status  int
		retry   string // Retry-After
		want    error
		refused bool
		busy    time.Duration // -1 for not told
	}{
		{404, "", tier.ErrAbsent, false, -1},
		{410, "", tier.ErrAbsent, false, -1},
		{401, "", tier.ErrDenied, false, -1},
		{403, "", tier.ErrDenied, false, -1},
		{400, "", tier.ErrUnavailable, true, -1},
		{405, "5", tier.ErrUnavailable, true, -1},
		{414, "", tier.ErrUnavailable, true, -1},
		{418, "", tier.ErrUnavailable, true, -1},
		{202, "", tier.ErrUnavailable, true, -1},
		{300, "", tier.ErrUnavailable, true, -1},
		{408, "", tier.ErrUnavailable, false, -1},
		{429, "7", tier.ErrUnavailable, false, 7 * time.Second},
		{429, "soon", tier.ErrUnavailable, false, -1},
		{429, "-7", tier.ErrUnavailable, false, -1},
		{500, "", tier.ErrUnavailable, false, -1},
		{502, "", tier.ErrUnavailable, false, -1},
		{503, "99999999999999999999", tier.ErrUnavailable, false, -1},
		{503, "Thu, 01 Jan 1970 00:00:00 GMT", tier.ErrUnavailable, false, 0},
		{503, "2", tier.ErrUnavailable, false, 2 * time.Second},
		{599, "", tier.ErrUnavailable, false, -1},
		{999, "", tier.ErrUnavailable, false, -1},
	}
	for _, tt := range tests {
		srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if tt.retry != "" {
				w.Header().Set("Retry-After", tt.retry)
			}
			w.WriteHeader(tt.status)
		})
		s := open(t, store.Config{Name: "jumpscale", URL: mustURL(t, srv.URL), Login: "me", Secret: "hush"})
		ref := tiertest.RefOf([]byte("x"))
		_, err := s.Get(t.Context(), ref)
		for _, e := range []error{tier.ErrAbsent, tier.ErrCorrupt, tier.ErrDenied, tier.ErrUnavailable} {
			if errors.Is(err, e) != (e == tt.want) {
				t.Errorf("%d: errors.Is(err, %q) is %t: %v", tt.status, e, e != tt.want, err)
			}
		}
		if errors.Is(err, tier.ErrRefused) != tt.refused {
			t.Errorf("%d: refused is %t: %v", tt.status, !tt.refused, err)
		}
		told := time.Duration(-1)
		if busy, ok := errors.AsType[*tier.BusyError](err); ok {
			told = busy.After
		}
		if told != tt.busy {
			t.Errorf("%d, Retry-After %q: told to wait %v, want %v", tt.status, tt.retry, told, tt.busy)
		}
		for _, part := range []string{"store jumpscale", srv.URL + "/default/" + ref.Digest.String(), fmt.Sprint(tt.status)} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("the message lacks %q: %v", part, err)
			}
		}
		if strings.Contains(err.Error(), "hush") {
			t.Errorf("the message has the secret: %v", err)
		}
	}
}

func TestCredentials(t *testing.T) {
	plain := []byte("for those who know the secret")
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if login, secret, _ := r.BasicAuth(); login != "me" || secret != "hush" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write(plain)
	})
	get := func(cfg store.Config) error {
		b, err := open(t, cfg).Get(t.Context(), tiertest.RefOf(plain))
		if err == nil && !bytes.Equal(b, plain) {
			t.Errorf("got %q", b)
		}
		return err
	}
	if err := get(store.Config{URL: mustURL(t, srv.URL), Login: "me", Secret: "hush"}); err != nil {
		t.Error(err)
	}
	inURL := mustURL(t, srv.URL)
	inURL.User = url.UserPassword("me", "hush")
	if err := get(store.Config{URL: inURL}); err != nil {
		t.Error(err)
	}
	inURL.User = url.UserPassword("me", "wrong-secret")
	err := get(store.Config{Name: "customerx", URL: inURL})
	if !errors.Is(err, tier.ErrDenied) || !strings.Contains(err.Error(), "check login and secret of store customerx") || strings.Contains(err.Error(), "wrong-secret") {
		t.Error(err)
	}
}

func TestEncodings(t *testing.T) {
	plain := bytes.Repeat([]byte("text "), 2000)
	ref := tiertest.RefOf(plain)
	codec, err := object.NewCodec(1)
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(plain)
	_ = z.Close()
	tests := []struct {
		encoding string
		body     []byte
		want     error
	}{
		{"", plain, nil},
		{"", codec.Pack(plain, nil), nil},
		{"identity", plain, nil},
		{"zstd", codec.Pack(plain, nil), nil},
		{"gzip", zipped.Bytes(), tier.ErrRefused},
		{"br", []byte("whatever"), tier.ErrRefused},
	}
	for _, tt := range tests {
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if got := r.Header["Accept-Encoding"]; !slices.Equal(got, []string{"zstd"}) {
				t.Errorf("accepts %q", got)
			}
			if got := r.Header.Get("User-Agent"); got != "aysfs/1.2.3" {
				t.Errorf("user agent %q", got)
			}
			if tt.encoding != "" {
				w.Header().Set("Content-Encoding", tt.encoding)
			}
			_, _ = w.Write(tt.body)
		})
		b, err := open(t, store.Config{URL: mustURL(t, srv.URL), Version: "1.2.3"}).Get(t.Context(), ref)
		if !errors.Is(err, tt.want) {
			t.Errorf("%q: %v, want %v", tt.encoding, err, tt.want)
		}
		if tt.want != nil {
			if err == nil || !strings.Contains(err.Error(), tt.encoding) {
				t.Errorf("the message doesn't say %q: %v", tt.encoding, err)
			}
			continue
		}
		if got, err := codec.Unpack(ref.Digest, b, ref.Max()); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%q: not the blob: %v", tt.encoding, err)
		}
	}
}

// A page in a blob's place is told from a blob that is a page.
func TestHTML(t *testing.T) {
	page := []byte("<html><body>Please log in to the guest network</body></html>")
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(page)
	})
	s := open(t, store.Config{URL: mustURL(t, srv.URL)})
	if b, err := s.Get(t.Context(), tiertest.RefOf(page)); err != nil || !bytes.Equal(b, page) {
		t.Errorf("a blob that is a page: %q, %v", b, err)
	}
	ref := tiertest.RefOf([]byte("x"))
	ref.Limit = 0
	if _, err := s.Get(t.Context(), ref); !errors.Is(err, tier.ErrCorrupt) || !strings.Contains(err.Error(), "text/html") {
		t.Errorf("a page in place of a blob: %v", err)
	}
	if _, err := s.Head(t.Context(), mongodb, nil); !errors.Is(err, tier.ErrCorrupt) || !strings.Contains(err.Error(), "text/html") {
		t.Errorf("a page in place of a head: %v", err)
	}
	ref.Limit = 10
	if _, err := s.Get(t.Context(), ref); !errors.Is(err, tier.ErrCorrupt) || !strings.Contains(err.Error(), "text/html") {
		t.Errorf("a page larger than the blob: %v", err)
	}
}

func TestRedirects(t *testing.T) {
	plain := []byte("at the end of the road")
	ref := tiertest.RefOf(plain)
	var auth sync.Map // host -> Authorization last seen there
	var elsewhere *httptest.Server
	secure := httptest.NewTLSServer(nil)
	t.Cleanup(secure.Close)
	handler := func(w http.ResponseWriter, r *http.Request) {
		auth.Store(r.Host, r.Header.Get("Authorization")+r.Header.Get("X-Token"))
		dir, rest, _ := strings.Cut(r.URL.Path[1:], "/")
		to := map[string]string{
			"near":     "/end/" + rest,
			"far":      elsewhere.URL + "/end/" + rest,
			"circle":   "/circle2/" + rest,
			"circle2":  "/circle/" + rest,
			"down":     elsewhere.URL + "/end/" + rest,
			"file":     "file:///etc/passwd",
			"nowhere":  "",
			"nonsense": "http://[::1]:namedport/%zz",
		}
		switch target, ok := to[dir]; {
		case dir == "end":
			_, _ = w.Write(plain)
		case dir == "chain":
			w.Header().Set("Location", r.URL.Path+"x")
			w.WriteHeader(http.StatusFound)
		case ok:
			w.Header().Set("Location", target)
			w.WriteHeader(http.StatusMovedPermanently)
		default:
			http.NotFound(w, r)
		}
	}
	elsewhere = serve(t, handler)
	srv := serve(t, handler)
	secure.Config.Handler = http.HandlerFunc(handler)

	get := func(base string) error {
		cfg := store.Config{URL: mustURL(t, base), Login: "me", Secret: "hush", Asking: func(h http.Header) { h.Set("X-Token", "token") }}
		if strings.HasPrefix(base, "https") {
			cfg.CA = caFile(t, &tiertest.Origin{Server: secure})
		}
		b, err := open(t, cfg).Get(t.Context(), ref)
		if err == nil && !bytes.Equal(b, plain) {
			t.Errorf("%s: got %q", base, b)
		}
		return err
	}
	seen := func(s *httptest.Server) string {
		v, _ := auth.Load(strings.TrimPrefix(s.URL, "http://"))
		got, _ := v.(string)
		return got
	}
	if err := get(srv.URL + "/near"); err != nil || !strings.HasSuffix(seen(srv), "token") || len(seen(srv)) < 10 {
		t.Errorf("to the same host: %v, credentials %q", err, seen(srv))
	}
	if err := get(srv.URL + "/far"); err != nil || seen(elsewhere) != "" {
		t.Errorf("to another host: %v, credentials %q", err, seen(elsewhere))
	}
	for dir, says := range map[string]string{
		"circle": "in a circle", "chain": "more than 5", "file": "from http to file", "nowhere": "301", "nonsense": "Location",
	} {
		err := get(srv.URL + "/" + dir)
		if !errors.Is(err, tier.ErrUnavailable) || errors.Is(err, tier.ErrAbsent) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", dir, err)
		}
		if dir != "nonsense" && !errors.Is(err, tier.ErrRefused) {
			t.Errorf("%s would be asked for again: %v", dir, err)
		}
	}
	if err := get(secure.URL + "/near"); err != nil {
		t.Error(err)
	}
	if err := get(secure.URL + "/down"); !errors.Is(err, tier.ErrRefused) || !strings.Contains(err.Error(), "from https to http") {
		t.Errorf("from https to http: %v", err)
	}
}

func TestHeads(t *testing.T) {
	const first, second = "first head", "second head"
	old := time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)
	var status atomic.Value // what the server saw and did
	var note, modified atomic.Value
	note.Store(first)
	modified.Store(old)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		tag := fmt.Sprintf("%q", note.Load())
		w.Header().Set("ETag", tag)
		w.Header().Set("Last-Modified", modified.Load().(string))
		if r.Header.Get("If-None-Match") == tag {
			status.Store("304")
			w.WriteHeader(http.StatusNotModified)
			return
		}
		status.Store("200")
		if r.Header.Get("If-None-Match") != "" {
			status.Store("200 conditional")
		}
		_, _ = w.Write([]byte(note.Load().(string)))
	})
	s := open(t, store.Config{URL: mustURL(t, srv.URL)})
	head := func(since []byte, want, did string) []byte {
		t.Helper()
		b, err := s.Head(t.Context(), mongodb, since)
		if err != nil || string(b) != want {
			t.Errorf("head is %q, %v; want %q", b, err, want)
		}
		if status.Load() != did {
			t.Errorf("the server did %v, want %v", status.Load(), did)
		}
		return b
	}
	same := func(a, b []byte) bool { return len(a) > 0 && len(b) > 0 && &a[0] == &b[0] }

	a := head(nil, first, "200")
	if b := head(a, first, "304"); !same(a, b) {
		t.Error("not the slice that was given")
	}
	own := bytes.Clone(a)
	if b := head(own, first, "304"); !same(own, b) {
		t.Error("not the slice that was given")
	}
	head(nil, first, "200") // who has nothing needs all of it
	note.Store(second)
	b := head(a, second, "200 conditional")
	// One of the present second could stand for the next head as well.
	modified.Store(time.Now().UTC().Format(http.TimeFormat))
	note.Store(first)
	a = head(b, first, "200 conditional")
	if c := head(a, first, "200"); !same(a, c) {
		t.Error("not the slice that was given")
	}
	note.Store(strings.Repeat("x", object.MaxHead+1))
	if _, err := s.Head(t.Context(), mongodb, a); !errors.Is(err, tier.ErrCorrupt) {
		t.Errorf("a head that is too large: %v", err)
	}
	if _, err := s.Head(t.Context(), object.TreeName{ID: "../../etc"}, nil); !errors.Is(err, tier.ErrRefused) {
		t.Errorf("a name that is none: %v", err)
	}
}

func TestTrees(t *testing.T) {
	root := t.TempDir()
	dir := open(t, store.Config{URL: mustURL(t, "file://"+root)})
	if trees, err := dir.Trees(t.Context()); err != nil || len(trees) != 0 {
		t.Errorf("of an empty store: %v, %v", trees, err)
	}
	want := []object.TreeName{
		{ID: "jumpscale|mongodb!main", RepoID: "1SdY294"},
		{ID: "jumpscale|mongodb(10.1.888)"},
		mongodb,
	}
	var list strings.Builder
	for _, tree := range want {
		fmt.Fprintln(&list, tree.Dir())
		if err := os.MkdirAll(filepath.Join(root, tree.Dir()), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"head", "head.1", "head.12", "head.7", "head.x", "head.007", "head.-3", "head.", ".head.tmp"} {
			if err := os.WriteFile(filepath.Join(root, tree.Dir(), name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, odd := range []string{"md/not a tree/any", "md/lost+found", "md/a|b(c)/any/too/deep"} {
		if err := os.MkdirAll(filepath.Join(root, odd), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, odd, "head"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "md/trees"), []byte(list.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	srv := serve(t, http.FileServer(http.Dir(root)).ServeHTTP)
	web := open(t, store.Config{URL: mustURL(t, srv.URL)})
	for name, s := range map[string]store.Store{"file": dir, "http": web} {
		if got, err := s.Trees(t.Context()); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", name, got, err, want)
		}
	}
	// Parts of it may be elsewhere.
	for _, path := range []string{filepath.Join(root, "md/jumpscale|mongodb(10.1.888)"), filepath.Join(root, "md")} {
		if err := errors.Join(os.Rename(path, path+" moved"), os.Symlink(path+" moved", path)); err != nil {
			t.Fatal(err)
		}
		if got, err := dir.Trees(t.Context()); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s is a symlink: %v, %v", path, got, err)
		}
	}
	d := store.OpenDir("d", root)
	if got, err := d.Serials(t.Context(), mongodb); err != nil || !slices.Equal(got, []int64{1, 7, 12}) {
		t.Errorf("serials %v, %v", got, err)
	}
	if _, err := d.Serials(t.Context(), object.TreeName{ID: "no|such(tree)"}); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("serials of no tree: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "md/trees"), []byte("md/../../etc/passwd\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := web.Trees(t.Context()); !errors.Is(err, tier.ErrCorrupt) {
		t.Errorf("a list of other things: %v", err)
	}
	if err := os.Remove(filepath.Join(root, "md/trees")); err != nil {
		t.Fatal(err)
	}
	if _, err := web.Trees(t.Context()); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("no list: %v", err)
	}
}

func TestRefused(t *testing.T) {
	for _, s := range []store.Store{
		open(t, store.Config{URL: mustURL(t, "http://127.0.0.1:1")}),
		open(t, store.Config{URL: mustURL(t, "file:///")}),
	} {
		for _, domain := range []string{"", "..", "../etc", "a/b", "md"} {
			ref := tiertest.RefOf([]byte("x"))
			ref.Domain = domain
			if _, err := s.Get(t.Context(), ref); !errors.Is(err, tier.ErrRefused) {
				t.Errorf("%s, domain %q: %v", s.Name(), domain, err)
			}
		}
	}
}

func TestNew(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(notPEM, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ url, ca, says string }{
		{"ftp://host/x", "", "scheme"},
		{"http:///x", "", "no host"},
		{"file://host/x", "", "three slashes"},
		{"file:x", "", "absolute"},
		{"https://host", "/does/not/exist", "/does/not/exist"},
		{"https://host", notPEM, "no PEM certificate"},
		{"http://me:hush@/x", "", "no host"},
	} {
		_, err := store.New(store.Config{Name: "n", URL: mustURL(t, tt.url), CA: tt.ca})
		if err == nil || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "store n") || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", tt.url, err)
		}
	}
	if _, err := store.New(store.Config{Name: "n"}); err == nil {
		t.Error("no url")
	}
}

func TestUntrustedCertificate(t *testing.T) {
	o := tiertest.NewOrigin(t, true)
	_, err := open(t, store.Config{URL: mustURL(t, o.URL)}).Get(t.Context(), tiertest.RefOf([]byte("x")))
	if !errors.Is(err, tier.ErrUnavailable) || !errors.Is(err, tier.ErrRefused) || !strings.Contains(err.Error(), "set ca") {
		t.Error(err)
	}
	u := mustURL(t, o.URL)
	u.Host = "localhost:" + u.Port()
	_, err = open(t, store.Config{URL: u, CA: caFile(t, o)}).Get(t.Context(), tiertest.RefOf([]byte("x")))
	if err == nil || strings.Contains(err.Error(), "set ca") || !strings.Contains(err.Error(), "write the url with a name that its certificate has") {
		t.Error(err)
	}
}

// A store is used over few connections, whatever is asked of it at once.
func TestConnections(t *testing.T) {
	for _, tt := range []struct {
		h2   bool
		most int
	}{{false, 64}, {true, 2}} {
		o := tiertest.NewOrigin(t, tt.h2)
		plain := tiertest.Random(1, 20_000)
		ref := tiertest.RefOf(plain)
		o.Put(tiertest.Path("", ref.Domain, ref.Digest.String()), plain)
		cfg := store.Config{URL: mustURL(t, o.URL)}
		if tt.h2 {
			cfg.CA = caFile(t, o)
		}
		s := open(t, cfg)
		var all sync.WaitGroup
		for range 200 {
			all.Go(func() {
				if b, err := s.Get(t.Context(), ref); err != nil || !bytes.Equal(b, plain) {
					t.Errorf("%d bytes, %v", len(b), err)
				}
				if _, err := s.Get(t.Context(), tiertest.RefOf([]byte("nobody has this"))); !errors.Is(err, tier.ErrAbsent) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		from := make(map[string]bool)
		for _, r := range o.Requests() {
			from[r.RemoteAddr] = true
			if (r.ProtoMajor == 2) != tt.h2 {
				t.Fatalf("the request came by %s", r.Proto)
			}
		}
		if len(from) > tt.most {
			t.Errorf("HTTP/2 %t: %d connections for 400 requests", tt.h2, len(from))
		}
	}
}

func TestClose(t *testing.T) {
	tiertest.NoLeaks(t)
	for _, h2 := range []bool{false, true} {
		o := tiertest.NewOrigin(t, h2)
		cfg := store.Config{URL: mustURL(t, o.URL)}
		if h2 {
			cfg.CA = caFile(t, o)
		}
		s := open(t, cfg)
		o.Fault(tiertest.Silent)
		told := make(chan error)
		go func() {
			_, err := s.Get(context.Background(), tiertest.RefOf([]byte("x")))
			told <- err
		}()
		for len(o.Requests()) == 0 {
			time.Sleep(time.Millisecond)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		select {
		case err := <-told:
			if !errors.Is(err, tier.ErrUnavailable) || errors.Is(err, context.Canceled) {
				t.Errorf("who waited was told: %v", err)
			}
		case <-time.After(2 * time.Second):
			t.Fatal("a call is under way after Close")
		}
		if _, err := s.Get(t.Context(), tiertest.RefOf([]byte("x"))); !errors.Is(err, tier.ErrUnavailable) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// The chain's single flight, and its cancelling, reach the wire.
func TestChainOverHTTP(t *testing.T) {
	tiertest.NoLeaks(t)
	o := tiertest.NewOrigin(t, false)
	plain := tiertest.Random(1, 600_000)
	ref := tiertest.RefOf(plain)
	o.Put(tiertest.Path("", ref.Domain, ref.Digest.String()), plain)
	codec, err := object.NewCodec(1)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, store.Config{URL: mustURL(t, o.URL)})
	chain := tier.NewChain(tier.ChainConfig{Groups: []tier.Group{tier.One(tier.Retry(s, tier.RetryPolicy{}))}, Codec: codec, Recent: 1 << 20})
	t.Cleanup(chain.Close)
	o.Fault(tiertest.Slow)
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			if b, err := chain.Get(t.Context(), ref); err != nil || !bytes.Equal(b.Data, plain) {
				t.Errorf("%d bytes, %v", len(b.Data), err)
			}
		})
	}
	all.Wait()
	if n := len(o.Requests()); n != 1 {
		t.Errorf("%d requests for 64 callers", n)
	}
	o.Fault(tiertest.Silent)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := chain.Get(ctx, tiertest.RefOf([]byte("x"))); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	for range 200 {
		if o.Gone() == 1 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the request goes on with nobody waiting for it")
}
