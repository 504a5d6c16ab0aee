package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// drip has the store send the first half of a blob, and the rest of it only once
// what it returns is called; wholes counts how often all was sent. Anything else
// is answered as usual.
func (s *testStore) drip(d digest.Digest, stored []byte) (rest func()) {
	s.t.Helper()
	gate := make(chan struct{})
	rest = sync.OnceFunc(func() { close(gate) })
	s.t.Cleanup(rest)
	s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/default/"+d.String() {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(stored)))
		_, err := w.Write(stored[:len(stored)/2])
		if err != nil || http.NewResponseController(w).Flush() != nil {
			return true
		}
		select {
		case <-gate:
		case <-r.Context().Done():
			return true
		}
		if _, err := w.Write(stored[len(stored)/2:]); err == nil {
			s.wholes.Add(1)
		}
		return true
	})
	return rest
}

// patient is a cache whose stores have time.
func patient(cfg *config.Server) {
	cfg.Stor.Timeout = time.Minute
	cfg.HTTP.StallTimeout = time.Minute
	cfg.HTTP.MaxObject = 12 << 20
}

// patientCache is a cache with one store, for which it has time.
func patientCache(t *testing.T) (*testStore, *testCache) {
	t.Helper()
	st, c := emptyStore(t), newCache(t, patient)
	c.post("/ays/stor/stor", map[string]any{"url": st.URL})
	return st, c
}

// reader reads an answer to its end, as it wants to.
type reader struct {
	t testing.TB
	*http.Response
	cancel context.CancelFunc
}

// begin makes a request for a blob with a connection of its own; header has pairs.
func begin(t testing.TB, url string, h2 bool, d digest.Digest, header ...string) *reader {
	t.Helper()
	return beginAt(t, url+"/default/"+d.String(), h2, header...)
}

func beginAt(t testing.TB, url string, h2 bool, header ...string) *reader {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}}
	tr := client.Transport.(*http.Transport)
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetUnencryptedHTTP2(h2)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	must(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	must(t, err)
	r := &reader{t, resp, cancel}
	t.Cleanup(func() {
		cancel()
		resp.Body.Close()
		tr.CloseIdleConnections()
	})
	return r
}

func (r *reader) wantNext(want []byte) {
	r.t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r.Body, got); err != nil || !bytes.Equal(got, want) {
		r.t.Errorf("%d of %d bytes, or others: %v", n, len(want), err)
	}
}

func (r *reader) wantRest(want []byte) {
	r.t.Helper()
	got, err := io.ReadAll(r.Body)
	if err != nil || !bytes.Equal(got, want) {
		r.t.Errorf("%d of %d bytes, or others: %v", len(got), len(want), err)
	}
}

// overBoth is the same cache by HTTP/1.1 and by HTTP/2.
func overBoth(t *testing.T, test func(t *testing.T, h2 bool, st *testStore, c *testCache)) {
	for name, h2 := range map[string]bool{"HTTP1": false, "HTTP2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, c := patientCache(t)
			if h2 {
				front := httptest.NewUnstartedServer(c.server)
				front.Config.Protocols = new(http.Protocols)
				front.Config.Protocols.SetUnencryptedHTTP2(true)
				front.Start()
				t.Cleanup(front.Close)
				c.url = front.URL
				c.client = &http.Client{Transport: &http.Transport{Protocols: front.Config.Protocols}}
			}
			test(t, h2, st, c)
		})
	}
}

// words is content that packs to some 300 KB.
func words(t testing.TB) (plain, packed []byte) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	for len(plain) < 1<<20 {
		plain = fmt.Appendf(plain, "%d %s\n", r.Uint32()%1_000_000, "and some words that come again")
	}
	plain = plain[:1<<20]
	codec, err := object.NewCodec(1)
	must(t, err)
	packed = codec.Pack(plain, nil)
	if len(packed) < 100_000 || len(packed) > len(plain)/2 {
		t.Fatalf("packed to %d bytes", len(packed))
	}
	return plain, packed
}

// Bytes go out while they arrive, in the form that the store sends.
func TestBytesFlow(t *testing.T) {
	t.Parallel()
	plain, packed := words(t)
	random := tiertest.Random(3, 1<<20)
	overBoth(t, func(t *testing.T, h2 bool, st *testStore, c *testCache) {
		for _, blob := range []struct{ plain, stored []byte }{{random, random}, {plain, packed}} {
			d, stored := digest.Of(blob.plain), blob.stored
			rest := st.drip(d, stored)
			clients := []*reader{begin(t, c.url, h2, d, "Accept-Encoding", "zstd"), begin(t, c.url, h2, d, "Accept-Encoding", "gzip, zstd")}
			for _, r := range clients {
				r.wantNext(stored[:len(stored)/2])
				if packed := len(stored) != len(blob.plain); r.StatusCode != 200 || (r.Header.Get("Content-Encoding") == "zstd") != packed {
					t.Errorf("%d %v", r.StatusCode, r.Header)
				}
			}
			rest()
			for _, r := range clients {
				r.wantRest(stored[len(stored)/2:])
			}
			whole := c.blob("default", d, 0, "Accept-Encoding", "zstd")
			if whole.status != 200 || !bytes.Equal(whole.body, stored) {
				t.Errorf("it was not kept: %d, %d bytes", whole.status, len(whole.body))
			}
			for _, key := range []string{"Etag", "Content-Length", "Content-Encoding", "Content-Type", "Cache-Control", "Vary", "Accept-Ranges", "X-Content-Type-Options"} {
				if got, want := clients[0].Header.Get(key), whole.header.Get(key); got != want {
					t.Errorf("%s: %q while it arrived, %q afterwards", key, got, want)
				}
			}
			if n := st.asked(d.String()); n != 1 {
				t.Errorf("the store was asked %d times", n)
			}
		}
	})
}

// They do so through several caches.
func TestBytesFlowThroughCaches(t *testing.T) {
	t.Parallel()
	st, top, bottom := emptyStore(t), newCache(t, patient), newCache(t, patient)
	top.post("/ays/stor/stor", map[string]any{"url": st.URL})
	bottom.post("/ays/stor/top", map[string]any{"url": top.url})
	b := tiertest.Random(4, 1<<20)
	rest := st.drip(digest.Of(b), b)
	r := begin(t, bottom.url, false, digest.Of(b))
	r.wantNext(b[:len(b)/2])
	rest()
	r.wantRest(b[len(b)/2:])
}

// Who asks for a part, for what has changed, or for another form than the store's
// waits for what is verified, and shares the fetch.
func TestOthersWaitForTheWhole(t *testing.T) {
	t.Parallel()
	plain, packed := words(t)
	d := digest.Of(plain)
	st, c := patientCache(t)
	rest := st.drip(d, packed)
	first := begin(t, c.url, false, d, "Accept-Encoding", "zstd")
	first.wantNext(packed[:len(packed)/2])
	var all sync.WaitGroup
	replies := make([]reply, 4)
	for i, header := range [][]string{
		{"Accept-Encoding", "zstd", "Range", "bytes=10-99"}, {"Accept-Encoding", "identity"}, {"If-None-Match", blobTag(d)}, {"Accept-Encoding", "zstd", "Range", "bytes=-10"},
	} {
		all.Go(func() { replies[i] = c.blob("default", d, 1, header...) })
	}
	head := make(chan reply, 1)
	go func() { head <- c.do(http.MethodHead, "/default/"+d.String(), nil, "Accept-Encoding", "zstd") }()
	eventually(t, "all wait", func() bool { return c.server.misses.total.Load() == 6 })
	rest()
	all.Wait()
	first.wantRest(packed[len(packed)/2:])
	if r := replies[0]; r.status != 206 || !bytes.Equal(r.body, packed[10:100]) {
		t.Errorf("a part: %d, %d bytes", r.status, len(r.body))
	}
	if r := replies[1]; r.status != 200 || !bytes.Equal(r.body, plain) || r.header.Get("Content-Encoding") != "" {
		t.Errorf("plain: %d, %d bytes, %v", r.status, len(r.body), r.header)
	}
	if r := replies[2]; r.status != 304 {
		t.Errorf("what it has: %d", r.status)
	}
	if r := replies[3]; r.status != 206 || !bytes.Equal(r.body, packed[len(packed)-10:]) {
		t.Errorf("the end: %d, %d bytes", r.status, len(r.body))
	}
	if r := <-head; r.status != 200 || r.header.Get("Content-Length") != fmt.Sprint(len(packed)) || len(r.body) != 0 {
		t.Errorf("HEAD: %d %v", r.status, r.header)
	}
	if n := st.asked(d.String()); n != 1 {
		t.Errorf("the store was asked %d times", n)
	}
}

// What turns out to be wrong is cut off, for all, and not kept.
func TestFlowIsCut(t *testing.T) {
	t.Parallel()
	good := tiertest.Random(5, 1<<20)
	d := digest.Of(good)
	lie := bytes.Clone(good)
	lie[len(lie)-1] ^= 1
	half := len(good) / 2
	abort := func(w http.ResponseWriter) {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	for name, fault := range map[string]func(w http.ResponseWriter){
		"the last byte":  func(w http.ResponseWriter) { _, _ = w.Write(lie[half:]) },
		"broken off":     func(w http.ResponseWriter) { _, _ = w.Write(good[half : half+10_000]); abort(w) },
		"all but a byte": func(w http.ResponseWriter) { _, _ = w.Write(good[half : len(good)-1]); abort(w) },
	} {
		t.Run(name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, h2 bool, st *testStore, c *testCache) {
				gate := make(chan struct{})
				st.setFault(func(w http.ResponseWriter, r *http.Request) bool {
					// Each time anew: a part is not to be had.
					w.Header().Set("Content-Length", fmt.Sprint(len(good)))
					_, _ = w.Write(good[:half])
					_ = http.NewResponseController(w).Flush()
					<-gate
					fault(w)
					return true
				})
				clients := []*reader{begin(t, c.url, h2, d), begin(t, c.url, h2, d)}
				for _, r := range clients {
					r.wantNext(good[:half])
				}
				close(gate)
				for i, r := range clients {
					rest, err := io.ReadAll(r.Body)
					if err == nil || half+len(rest) >= len(good) || !bytes.HasPrefix(good[half:], rest) {
						t.Errorf("client %d got %d of %d bytes, and %v", i, half+len(rest), len(good), err)
					}
				}
				if r := c.blob("default", d, 0); r.status != 404 {
					t.Errorf("it was kept: %d", r.status)
				}
				st.setFault(nil)
				st.put("default", good)
				if r := c.blob("default", d, 1); r.status != 200 || !bytes.Equal(r.body, good) {
					t.Errorf("afterwards: %d", r.status)
				}
			})
		})
	}
}

// A fetch that goes on after it broke off goes on for the client as well, if what
// comes is what went before.
func TestFlowGoesOn(t *testing.T) {
	t.Parallel()
	good := tiertest.Random(6, 1<<20)
	d := digest.Of(good)
	half := len(good) / 2
	for name, first := range map[string][]byte{"the same": good, "others": tiertest.Random(7, 1<<20)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, c := patientCache(t)
			gate := make(chan struct{})
			tries := 0
			var mu sync.Mutex
			st.setFault(func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				tries++
				n := tries
				mu.Unlock()
				b := good
				if n == 1 {
					b = first
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(b)))
				if n == 1 {
					_, _ = w.Write(b[:half])
					_ = http.NewResponseController(w).Flush()
					<-gate
					panic(http.ErrAbortHandler)
				}
				_, _ = w.Write(b)
				return true
			})
			r := begin(t, c.url, false, d)
			r.wantNext(first[:half])
			close(gate)
			rest, err := io.ReadAll(r.Body)
			if name == "the same" && (err != nil || !bytes.Equal(rest, good[half:])) {
				t.Errorf("%d bytes more, %v", len(rest), err)
			}
			if name == "others" && (err == nil || half+len(rest) >= len(good)) {
				t.Errorf("%d bytes more, and no error: %v", len(rest), err)
			}
			if r := c.blob("default", d, 1); r.status != 200 || !bytes.Equal(r.body, good) {
				t.Errorf("afterwards: %d", r.status)
			}
		})
	}
}

// A client that doesn't read is in nobody's way, nor is one that leaves.
func TestSlowReaderAndLeaver(t *testing.T) {
	t.Parallel()
	b := tiertest.Random(8, 12<<20) // more than sockets' buffers take
	d := digest.Of(b)
	overBoth(t, func(t *testing.T, h2 bool, st *testStore, c *testCache) {
		rest := st.drip(d, b)
		slow, leaver, quick := begin(t, c.url, h2, d), begin(t, c.url, h2, d), begin(t, c.url, h2, d)
		slow.wantNext(b[:1000])
		leaver.wantNext(b[:1000])
		leaver.cancel()
		quick.wantNext(b[:len(b)/2])
		rest()
		quick.wantRest(b[len(b)/2:])
		if r := c.blob("default", d, 0); r.status != 200 {
			t.Errorf("it was not kept while one doesn't read: %d", r.status)
		}
		slow.wantRest(b[1000:])
		if n := st.wholes.Load(); n != 1 {
			t.Errorf("the store sent it %d times", n)
		}
	})
}

// What flows is for those who may read it.
func TestPrivateFlow(t *testing.T) {
	t.Parallel()
	st, c := emptyStore(t), newCache(t, patient)
	st.lock(login, secret)
	token := c.post("/ays/stor/private", map[string]any{"url": st.URL, "login": login, "passwd": secret})["token"].(string)
	b := tiertest.Random(9, 1<<20)
	d := digest.Of(b)
	rest := st.drip(d, b)
	r := begin(t, c.url, false, d, tokenHeader, token)
	r.wantNext(b[:len(b)/2])
	if v := r.Header.Get("Cache-Control"); v != privateImmutable[0] {
		t.Errorf("to be kept by anybody: %q", v)
	}
	for _, fetch := range []int{0, 1, 3} {
		if r := c.blob("default", d, fetch); r.status != 404 || len(r.body) != 0 {
			t.Errorf("without the token, fetch=%d: %d, %d bytes", fetch, r.status, len(r.body))
		}
	}
	rest()
	r.wantRest(b[len(b)/2:])
}

// Content that is zstd itself is told apart in the end.
func TestFlowOfZstdContent(t *testing.T) {
	t.Parallel()
	_, content := words(t)
	d := digest.Of(content)
	st, c := patientCache(t)
	rest := st.drip(d, content)
	r := begin(t, c.url, false, d, "Accept-Encoding", "zstd")
	r.wantNext(content[:len(content)/2])
	rest()
	if b, err := io.ReadAll(r.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d bytes more as the zstd of something: %v", len(b), err)
	}
	if r := c.blob("default", d, 1, "Accept-Encoding", "zstd"); r.status != 200 || !bytes.Equal(r.body, content) || r.header.Get("Content-Encoding") != "" {
		t.Errorf("the next time: %d, %d bytes, %v", r.status, len(r.body), r.header)
	}
	// Nor is it mistaken again where it is not kept.
	other := append(content[:len(content)-1:len(content)-1], content[len(content)-1]^1)
	d = digest.Of(other)
	rest = st.drip(d, other)
	pass := c.url + "/default/" + d.String() + "?fetch=3"
	r = beginAt(t, pass, false, "Accept-Encoding", "zstd")
	r.wantNext(other[:len(other)/2])
	rest()
	if b, err := io.ReadAll(r.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("passed on: %d bytes more as the zstd of something: %v", len(b), err)
	}
	rest = st.drip(d, other)
	time.AfterFunc(300*time.Millisecond, rest)
	r = beginAt(t, pass, false, "Accept-Encoding", "zstd")
	if b, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(b, other) || r.Header.Get("Content-Encoding") != "" {
		t.Errorf("passed on again: %d bytes, %v, %v", len(b), err, r.Header)
	}
	for _, d := range []digest.Digest{st.put("default", append(bytes.Clone(content), 0)), st.put("default", content[:100_000])} {
		if r := c.blob("default", d, 3, "Accept-Encoding", "zstd"); r.status != 200 || digest.Of(r.body) != d || r.header.Get("Content-Encoding") != "" {
			t.Errorf("passed on: %d, %d bytes, %v", r.status, len(r.body), r.header)
		}
	}
}

// Content as zstd(1) makes it is not mistaken at all.
func TestFlowOfChecksummedContent(t *testing.T) {
	t.Parallel()
	plain, _ := words(t)
	enc, err := zstd.NewWriter(nil)
	must(t, err)
	content := enc.EncodeAll(plain, nil)
	st, c := patientCache(t)
	d := digest.Of(content)
	st.drip(d, content)()
	r := begin(t, c.url, false, d, "Accept-Encoding", "zstd")
	if b, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(b, content) || r.Header.Get("Content-Encoding") != "" {
		t.Errorf("%d bytes, %v, %v", len(b), err, r.Header)
	}
}

// However many ask an empty cache at once, of each blob the store is asked once.
func TestCrowd(t *testing.T) {
	t.Parallel()
	st, c := patientCache(t)
	var blobs []digest.Digest
	for i, size := range []int{0, 1, 100, 4096, 10_000, 30_000, 65_535, 65_536, 65_537, 200_000, 300_000, 1 << 20} {
		blobs = append(blobs, st.put("default", tiertest.Random(uint64(i), size)))
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			order := rand.New(rand.NewPCG(uint64(i), 0)).Perm(len(blobs))
			for _, j := range order {
				resp, err := client.Get(c.url + "/default/" + blobs[j].String())
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 || digest.Of(b) != blobs[j] {
					t.Errorf("blob %d: %d, %d bytes, %v", j, resp.StatusCode, len(b), err)
				}
			}
		})
	}
	all.Wait()
	for i, d := range blobs {
		if n := st.asked(d.String()); n != 1 {
			t.Errorf("the store was asked for blob %d %d times", i, n)
		}
	}
}
