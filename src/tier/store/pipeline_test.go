package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// blobServer has n blobs of up to size bytes, counts what it is asked, and lets before
// have a look at each request.
type blobServer struct {
	*httptest.Server

	refs            []tier.Ref
	blobs           map[string][]byte
	requests, conns atomic.Int64
	before          func(n int64, w http.ResponseWriter, r *http.Request)
}

func serveBlobs(t *testing.T, n, size int, before func(n int64, w http.ResponseWriter, r *http.Request)) *blobServer {
	t.Helper()
	s := newBlobServer(t, n, size, before)
	s.Start()
	return s
}

// serveBlobsTLS is serveBlobs over TLS, with HTTP/2 and HTTP/1.1.
func serveBlobsTLS(t *testing.T, n, size int, before func(n int64, w http.ResponseWriter, r *http.Request)) *blobServer {
	t.Helper()
	s := newBlobServer(t, n, size, before)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(t.Output(), "", 0)
	s.StartTLS()
	return s
}

func newBlobServer(t *testing.T, n, size int, before func(n int64, w http.ResponseWriter, r *http.Request)) *blobServer {
	s := &blobServer{blobs: make(map[string][]byte), before: before}
	for i := range n {
		b := tiertest.Random(uint64(i), 1+i*7919%size)
		s.refs = append(s.refs, tiertest.RefOf(b))
		s.blobs[s.refs[i].Digest.String()] = b
	}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k := s.requests.Add(1)
		if s.before != nil {
			s.before(k, w, r)
		}
		b, ok := s.blobs[path.Base(r.URL.Path)]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		_, _ = w.Write(b)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}
	t.Cleanup(s.Close)
	return s
}

func (s *blobServer) open(t *testing.T) store.Store {
	cfg := store.Config{URL: mustURL(t, s.URL), Login: "me", Secret: "secret", Timeout: 20 * time.Second, Pipeline: true}
	if s.Certificate() != nil {
		cfg.CA = caFile(t, s)
	}
	return open(t, cfg)
}

// getAll gets all blobs, many at a time, and checks them.
func (s *blobServer) getAll(t *testing.T, src tier.Source, atOnce int) {
	t.Helper()
	next := make(chan tier.Ref)
	var all sync.WaitGroup
	ctx := tier.InBackground(t.Context())
	for range atOnce {
		all.Go(func() {
			for ref := range next {
				b, err := src.Get(ctx, ref)
				if err != nil {
					t.Error(err)
				} else if !bytes.Equal(b, s.blobs[ref.Digest.String()]) {
					t.Errorf("%v: %d other bytes", ref, len(b))
				}
			}
		})
	}
	for _, ref := range s.refs {
		next <- ref
	}
	close(next)
	all.Wait()
}

func TestPipelineManyOverFewConnections(t *testing.T) {
	t.Run("plain", func(t *testing.T) { manyOverFew(t, serveBlobs) })
	t.Run("TLS", func(t *testing.T) { manyOverFew(t, serveBlobsTLS) })
}

func manyOverFew(t *testing.T, serve func(*testing.T, int, int, func(int64, http.ResponseWriter, *http.Request)) *blobServer) {
	tiertest.NoLeaks(t)
	var unauthorised atomic.Int64
	check := func(_ int64, _ http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			t.Errorf("asked by %s", r.Proto)
		}
		if login, secret, _ := r.BasicAuth(); login != "me" || secret != "secret" || r.UserAgent() == "" || r.Header.Get("Accept-Encoding") != "zstd" {
			unauthorised.Add(1)
		}
	}
	// A server that gets no processor for a while is a slow one, which has more.
	few := false
	for try := 0; try < 10 && !few; try++ {
		s := serve(t, 3000, 5_000, check)
		s.getAll(t, s.open(t), 300)
		r, c := s.requests.Load(), s.conns.Load()
		if r != 3000 {
			t.Errorf("%d requests, want 3000", r)
		}
		few = c <= 8
		t.Logf("%d connections", c)
	}
	if !few {
		t.Error("never over 8 connections at most")
	}
	if n := unauthorised.Load(); n > 0 {
		t.Errorf("%d requests lacked something", n)
	}
}

// A server ends a connection after some requests, and with it those behind.
func TestPipelineGoesOnWhereConnectionsEnd(t *testing.T) {
	for name, end := range map[string]func(w http.ResponseWriter){
		"in good order": func(w http.ResponseWriter) { w.Header().Set("Connection", "close") },
		"between answers": func(w http.ResponseWriter) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				c.Close()
			}
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveBlobs(t, 1000, 5000, func(n int64, w http.ResponseWriter, _ *http.Request) {
				if n%100 == 0 {
					end(w)
				}
			})
			s.getAll(t, s.open(t), 50)
			if r := s.requests.Load(); r < 1000 || r > 1100 {
				t.Errorf("%d requests for 1000 blobs", r)
			}
		})
	}
}

// Once it is known after how many answers a server ends a connection, nothing is asked
// for beyond, which would have to be asked for again.
func TestPipelineKnowsWhenConnectionsEnd(t *testing.T) {
	blob := []byte("the blob")
	for _, c := range []struct {
		limit int64
		known bool // before it was seen
	}{{1000, true}, {100, false}} {
		t.Run(fmt.Sprint(c.limit), func(t *testing.T) {
			var answered sync.Map // *net.TCPConn -> *atomic.Int64
			var beyond atomic.Int64
			s := play(t, func(_ int, conn *net.TCPConn, _ *http.Request) bool {
				count, _ := answered.LoadOrStore(conn, new(atomic.Int64))
				end := ""
				switch n := count.(*atomic.Int64).Add(1); {
				case n > c.limit:
					beyond.Add(1)
					return true
				case n == c.limit:
					end = "Connection: close\r\n"
				}
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s", end, len(blob), blob)
				return true
			})
			src := open(t, store.Config{URL: mustURL(t, "http://"+s.addr), Timeout: 20 * time.Second, Pipeline: true})
			getMany := func(n int) {
				var all sync.WaitGroup
				var begun atomic.Int64
				ctx := tier.InBackground(t.Context())
				for range 200 {
					all.Go(func() {
						for begun.Add(1) <= int64(n) {
							if b, err := src.Get(ctx, tiertest.RefOf(blob)); err != nil || !bytes.Equal(b, blob) {
								t.Errorf("%q, %v", b, err)
							}
						}
					})
				}
				all.Wait()
			}
			if !c.known {
				getMany(3000)
				beyond.Store(0)
			}
			getMany(8000)
			if n := beyond.Load(); n > 0 {
				t.Errorf("%d requests on connections that were to end before", n)
			}
		})
	}
}

// A server that thinks of one request at a time, for long, gets many connections.
func TestPipelineSlowServer(t *testing.T) {
	s := serveBlobs(t, 3000, 500, func(int64, http.ResponseWriter, *http.Request) { time.Sleep(10 * time.Millisecond) })
	began := time.Now()
	s.getAll(t, s.open(t), 200)
	if c := s.conns.Load(); c < 40 {
		t.Errorf("%d connections, in %v", c, time.Since(began))
	}
}

// What somebody waits for doesn't stand behind what nobody waits for, nor behind
// what somebody no longer waits for.
func TestPipelineDemandFirst(t *testing.T) {
	open := make(chan struct{})
	var slow sync.Map
	s := serveBlobs(t, 2000, 20_000, func(_ int64, _ http.ResponseWriter, r *http.Request) {
		if _, ok := slow.Load(path.Base(r.URL.Path)); ok {
			<-open
		}
	})
	t.Cleanup(func() { close(open) })
	src := s.open(t)
	ctx, cancel := context.WithCancel(tier.InBackground(t.Context()))
	defer cancel()
	for _, ref := range s.refs[100:] {
		slow.Store(ref.Digest.String(), true)
	}
	var all sync.WaitGroup
	for _, ref := range s.refs[100:] {
		all.Go(func() { _, _ = src.Get(ctx, ref) })
	}
	for s.requests.Load() < 6 { // until each of their connections has one
		time.Sleep(time.Millisecond)
	}
	urgent, stop := context.WithTimeout(t.Context(), 3*time.Second)
	defer stop()
	for _, ref := range s.refs[:100] {
		if _, err := src.Get(urgent, ref); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	all.Wait() // they return at once
}

// What somebody comes to wait for goes before what nobody waits for, as long as it has
// not been sent.
func TestPipelineRaises(t *testing.T) {
	open := make(chan struct{})
	var last string
	s := serveBlobs(t, 200, 20_000, func(_ int64, _ http.ResponseWriter, r *http.Request) {
		if path.Base(r.URL.Path) != last {
			<-open
		}
	})
	wanted := s.refs[len(s.refs)-1]
	last = wanted.Digest.String()
	src := s.open(t)
	came := make(chan bool, len(s.refs))
	others := make(chan bool, len(s.refs))
	var asked tier.Asked
	for _, ref := range s.refs {
		to := others
		if ref == wanted {
			to = came
		}
		if asked = src.Ask(ref, func(_ []byte, ok bool) { to <- ok }); asked == nil {
			t.Fatal("not asked for")
		}
	}
	select {
	case <-came:
		t.Fatal("it came before its turn")
	case <-time.After(100 * time.Millisecond):
	}
	for range 2 {
		asked.Raise()
	}
	select {
	case ok := <-came:
		if !ok || len(others) > 0 {
			t.Errorf("came %v, after %d others", ok, len(others))
		}
	case <-time.After(3 * time.Second):
		t.Error("it waits for its turn")
	}
	asked.Raise() // too late, which is all the same
	close(open)
	for range len(s.refs) - 1 {
		select {
		case ok := <-others:
			if !ok {
				t.Error("another one did not come")
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the others did not come")
		}
	}
}

// What isn't a plain answer is asked for in the ordinary way, which says what it is.
func TestPipelineLeavesTheRestToTheOrdinaryWay(t *testing.T) {
	blob := []byte("the blob")
	ref := tiertest.RefOf(blob)
	for name, c := range map[string]struct {
		answer string
		err    error // nil: the second answer is right
		most   int   // requests
	}{
		"absent":             {"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone", nil, 2},
		"gone":               {"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", nil, 2},
		"denied":             {"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", nil, 2},
		"busy":               {"HTTP/1.1 503 Busy\r\nContent-Length: 3\r\n\r\nnow", nil, 2},
		"chunked":            {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nthe blob\r\n0\r\n\r\n", nil, 2},
		"until the end":      {"HTTP/1.0 200 OK\r\n\r\nthe blob", nil, 2},
		"gzip":               {"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 8\r\n\r\nthe blob", nil, 2},
		"broken off":         {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nthe", nil, 2},
		"too large":          {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nthe blob!", nil, 2},
		"huge":               {"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\nthe blob!", nil, 2},
		"two lengths":        {"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nContent-Length: 9\r\n\r\nthe blob", nil, 2},
		"negative":           {"HTTP/1.1 200 OK\r\nContent-Length: -8\r\n\r\nthe blob", nil, 2},
		"no HTTP":            {"SSH-2.0-OpenSSH_9.2\r\n", nil, 2},
		"another HTTP":       {"HTTP/3.0 200 OK\r\nContent-Length: 8\r\n\r\nthe blob", nil, 2},
		"nothing":            {"", nil, 2},
		"an endless header":  {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("x", 1000)+"\r\n", 1000), nil, 2},
		"an endless line":    {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20), nil, 2},
		"more than asked":    {"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nthe blobHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nthe blob", nil, 1},
		"a length with sign": {"HTTP/1.1 200 OK\r\nContent-Length: +8\r\n\r\nthe blob", nil, 2},
		"lengths in a list":  {"HTTP/1.1 200 OK\r\nContent-Length: 8, 8\r\n\r\nthe blob", nil, 2},
		"bare line feeds":    {"HTTP/1.1 200 OK\nContent-Length: 8\n\nthe blob", nil, 1},
		"odd case and space": {"HTTP/1.1 200\r\ncontent-LENGTH:8 \r\ncontent-encoding:  IDENTITY\r\n\r\nthe blob", nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			tiertest.NoLeaks(t)
			s := play(t, func(n int, conn *net.TCPConn, r *http.Request) bool {
				if n > 0 {
					fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nthe blob")
					return true
				}
				fmt.Fprint(conn, c.answer)
				return false
			})
			src := open(t, store.Config{URL: mustURL(t, "http://"+s.addr), Timeout: 20 * time.Second, Pipeline: true})
			b, err := src.Get(t.Context(), ref)
			if !errors.Is(err, c.err) || err == nil && digest.Of(b) != ref.Digest {
				t.Errorf("%q, %v", b, err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.reqs) > c.most {
				t.Errorf("%d requests", len(s.reqs))
			}
		})
	}
}

// oddAnswers are what a server, or who is between, may make of one request so that
// others' answers come where they don't belong. %[1]s is the blob and %[2]s another
// one, %[3]d and %[4]d are their lengths.
var oddAnswers = map[string]string{
	"one answer more":      "HTTP/1.1 200 OK\r\nContent-Length: %[3]d\r\n\r\n%[1]sHTTP/1.1 200 OK\r\nContent-Length: %[4]d\r\n\r\n%[2]s",
	"and one that says no": "HTTP/1.1 200 OK\r\nContent-Length: %[3]d\r\n\r\n%[1]sHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
	"another's":            "HTTP/1.1 200 OK\r\nContent-Length: %[4]d\r\n\r\n%[2]s",
	"a hint before":        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %[3]d\r\n\r\n%[1]s",
	"go on, before":        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %[3]d\r\n\r\n%[1]s",
	"no content, and some": "HTTP/1.1 204 No Content\r\nContent-Length: %[3]d\r\n\r\n%[1]s",
	"not modified":         "HTTP/1.1 304 Not Modified\r\nContent-Length: %[3]d\r\n\r\n",
	"a length and chunks":  "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n%[3]x\r\n%[1]s\r\n0\r\n\r\n",
	"chunks and a length":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: %[3]d\r\n\r\n%[1]s",
	"chunks, folded":       "HTTP/1.1 200 OK\r\nContent-Length: %[3]d\r\nTransfer-Encoding:\r\n chunked\r\n\r\n%[1]s",
	"chunks, and a space":  "HTTP/1.1 200 OK\r\nContent-Length: %[3]d\r\nTransfer-Encoding : chunked\r\n\r\n%[1]s",
	"two lengths":          "HTTP/1.1 200 OK\r\nContent-Length: %[3]d\r\nContent-Length: 3\r\n\r\n%[1]s",
	"too short a length":   "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n%[1]s",
	"too long a length":    "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n%[1]s",
	"only a header":        "HTTP/1.1 200 OK\r\nContent-Length: %[3]d\r\n\r\n",
}

// Whatever one answer does to those behind it, every blob comes, and is the right
// one, and a connection on which answers went astray is soon used no more.
func TestPipelineAstray(t *testing.T) {
	tiertest.NoLeaks(t)
	codec, err := object.NewCodec(1)
	if err != nil {
		t.Fatal(err)
	}
	all := atOnce{T: t}
	for name, answer := range oddAnswers {
		all.Go(name, func(t *testing.T) {
			const n = 300
			blobs := make(map[string][]byte)
			var refs []tier.Ref
			for i := range n {
				b := fmt.Appendf(nil, "blob %d of %s", i, name)
				refs = append(refs, tiertest.RefOf(b))
				blobs[refs[i].Digest.String()] = b
			}
			other := blobs[refs[n-1].Digest.String()]
			var odd atomic.Int64
			var had sync.Map // paths with an odd answer: another try is to get a right one
			s := play(t, func(k int, conn *net.TCPConn, r *http.Request) bool {
				b := blobs[path.Base(r.URL.Path)]
				if _, again := had.Load(r.URL.Path); k%100 == 50 && !again {
					had.Store(r.URL.Path, true)
					odd.Add(1)
					fmt.Fprintf(conn, answer+"%.0[2]s%.0[3]d%.0[4]d", b, other, len(b), len(other))
				} else {
					fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
				}
				return true
			})
			src := open(t, store.Config{URL: mustURL(t, "http://"+s.addr), Timeout: 20 * time.Second, Pipeline: true})
			chain := tier.NewChain(tier.ChainConfig{Groups: []tier.Group{groupOf(src)}, Codec: codec, Cache: tiertest.NewCache()})
			t.Cleanup(chain.Close)
			// To who asks for nothing else a status is an answer, also one that makes no sense.
			refused := func(ref tier.Ref, err error) bool {
				_, ok := had.Load("/" + ref.String())
				return ok && errors.Is(err, tier.ErrRefused)
			}
			next := make(chan tier.Ref)
			var readers sync.WaitGroup
			readers.Go(func() {
				if err := chain.Bring(t.Context(), tier.Profile, slices.Values(refs), func(ref tier.Ref, err error) {
					if err != nil && !refused(ref, err) {
						t.Errorf("bring %v: %v", ref, err)
					}
				}); err != nil {
					t.Errorf("bring: %v", err)
				}
			})
			for range 30 {
				readers.Go(func() {
					for ref := range next {
						b, err := chain.Get(t.Context(), ref)
						if refused(ref, err) {
							b, err = chain.Get(t.Context(), ref)
						}
						if err != nil {
							t.Errorf("%v: %v", ref, err)
						} else if !bytes.Equal(b.Data, blobs[ref.Digest.String()]) {
							t.Errorf("%v: %q", ref, b.Data)
						}
					}
				})
			}
			for _, ref := range refs {
				next <- ref
			}
			close(next)
			readers.Wait()
			if odd.Load() == 0 {
				t.Error("no answer was odd")
			}
		})
	}
	all.Wait()
}

// groupOf is a store that is asked by the pipeline for what nobody waits for.
func groupOf(src store.Store) tier.Group {
	r := tier.Retry(src, tier.RetryPolicy{})
	return tier.Group{Sources: []tier.Source{r}, Ask: r.Asking(src.Ask)}
}

// What nobody waits for comes whole over few connections, large and small, compressed
// and not, also where they end.
func TestPipelineBrings(t *testing.T) {
	codec, err := object.NewCodec(2)
	if err != nil {
		t.Fatal(err)
	}
	drop := func(w http.ResponseWriter) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			c.Close()
		}
		panic(http.ErrAbortHandler)
	}
	for name, before := range map[string]func(n int64, w http.ResponseWriter, r *http.Request){
		"well": nil,
		"connections end": func(n int64, w http.ResponseWriter, _ *http.Request) {
			if n%100 == 0 {
				w.Header().Set("Connection", "close")
			}
		},
		"connections break off": func(n int64, w http.ResponseWriter, _ *http.Request) {
			switch n % 300 {
			case 100:
				drop(w)
			case 200:
				w.Header().Set("Content-Length", "100000")
				_, _ = w.Write(make([]byte, 10))
				_ = http.NewResponseController(w).Flush()
				drop(w)
			}
		},
		"errors": func(n int64, w http.ResponseWriter, _ *http.Request) {
			if n%50 == 0 {
				w.WriteHeader(http.StatusInternalServerError)
			}
		},
		"pages": func(_ int64, w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "text/html") },
	} {
		t.Run(name, func(t *testing.T) {
			tiertest.NoLeaks(t)
			s := serveBlobs(t, 500, 30_000, before)
			plain := make(map[tier.Ref][]byte)
			for i, ref := range s.refs {
				plain[ref] = s.blobs[ref.Digest.String()]
				if i%2 == 0 {
					text := fmt.Appendf(nil, "blob %d has %.1000x", i, plain[ref])
					text = bytes.Repeat(text, 1+i%9)
					s.refs[i] = tiertest.RefOf(text)
					plain[s.refs[i]] = text
					s.blobs[s.refs[i].Digest.String()] = codec.Pack(text, nil)
				}
			}
			cache := tiertest.NewCache()
			chain := tier.NewChain(tier.ChainConfig{Groups: []tier.Group{groupOf(s.open(t))}, Codec: codec, Cache: cache})
			defer chain.Close()
			if err := chain.Bring(t.Context(), tier.Profile, slices.Values(s.refs), func(ref tier.Ref, err error) {
				if err != nil {
					t.Errorf("%v: %v", ref, err)
				}
			}); err != nil {
				t.Fatal(err)
			}
			for _, ref := range s.refs {
				if b, err := cache.Get(ref); err != nil || !bytes.Equal(b.Data, plain[ref]) {
					t.Errorf("%v: %d other bytes, %v", ref, len(b.Data), err)
				}
			}
			chain.Close()
			if st := chain.Status(); st.InFlight != 0 || st.Sources[0].Requests != st.Sources[0].Hits+st.Sources[0].Errors || st.Sources[0].Hits < 500 {
				t.Errorf("%d in flight, %+v", st.InFlight, st.Sources[0])
			}
			if n := s.requests.Load(); name == "well" && n != 500 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// Who closes a chain and its store does not wait for answers.
func TestPipelineClosesWhileItBrings(t *testing.T) {
	tiertest.NoLeaks(t)
	hold := make(chan struct{})
	s := serveBlobs(t, 300, 5000, func(n int64, _ http.ResponseWriter, _ *http.Request) {
		if n > 100 {
			<-hold
		}
	})
	codec, err := object.NewCodec(2)
	if err != nil {
		t.Fatal(err)
	}
	src := s.open(t)
	chain := tier.NewChain(tier.ChainConfig{Groups: []tier.Group{groupOf(src)}, Codec: codec, Cache: tiertest.NewCache()})
	brought := make(chan error)
	go func() { brought <- chain.Bring(t.Context(), tier.Profile, slices.Values(s.refs), nil) }()
	for s.requests.Load() <= 100 {
		time.Sleep(time.Millisecond)
	}
	start := time.Now()
	chain.Close()
	if err := <-brought; !errors.Is(err, tier.ErrClosed) {
		t.Errorf("bring: %v", err)
	}
	if err := src.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("closed after %v", took)
	}
	close(hold)
}

// A connection that nobody answers on any more costs a part of the time that a read
// has.
func TestPipelineSilence(t *testing.T) {
	var silent atomic.Bool
	s := serveBlobs(t, 20, 1000, func(n int64, _ http.ResponseWriter, r *http.Request) {
		if silent.Load() && n == 11 {
			<-r.Context().Done()
		}
	})
	src := open(t, store.Config{URL: mustURL(t, s.URL), Timeout: 3 * time.Second, Pipeline: true})
	for _, ref := range s.refs[:10] {
		if _, err := src.Get(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	silent.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := src.Get(ctx, s.refs[10]); err != nil {
		t.Error(err)
	}
}

// Where there is memory for few large blobs at a time, they wait for it on their connections, and
// those behind them come all the same.
func TestPipelineWaitsForRoom(t *testing.T) {
	codec, err := object.NewCodec(2)
	if err != nil {
		t.Fatal(err)
	}
	s := serveBlobs(t, 300, 400_000, nil)
	src := s.open(t)
	const budget, asking = 2*2*object.MaxBlob + 1<<20, 100 << 17
	memory, first := semaphore.NewWeighted(budget), semaphore.NewWeighted(asking)
	chain := tier.NewChain(tier.ChainConfig{
		Groups: []tier.Group{groupOf(src)}, Codec: codec, Stored: true, Timeout: time.Minute,
		Budget: budget, Memory: memory, Asking: first,
	})
	var all sync.WaitGroup
	for _, ref := range s.refs {
		all.Go(func() {
			b, err := chain.Get(t.Context(), ref)
			if err != nil || !bytes.Equal(b.Data, s.blobs[ref.Digest.String()]) {
				t.Errorf("%v: %d bytes, error %v", ref, len(b.Data), err)
			}
			b.Release()
		})
	}
	all.Wait()
	chain.Close()
	if !memory.TryAcquire(budget) || !first.TryAcquire(asking) {
		t.Error("not all memory was given back")
	}
}
