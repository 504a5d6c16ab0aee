package store_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
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

// batchServer answers batches as a cache does, and counts.
type batchServer struct {
	*blobServer

	posts, gets atomic.Int64
	// frame may answer otherwise for number n of a batch, counted from 0; false
	// cuts the answer off.
	frame func(n int, f *object.Frame) bool
}

func serveBatches(t *testing.T, n, size int) *batchServer {
	t.Helper()
	s := &batchServer{blobServer: serveBlobs(t, n, size, nil)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			s.gets.Add(1)
			_, _ = w.Write(s.blobs[path.Base(r.URL.Path)])
			return
		}
		s.posts.Add(1)
		if login, _, _ := r.BasicAuth(); r.URL.Path != "/default" || login != "me" || r.Header.Get("X-Token") != "token" {
			http.Error(w, "who are you?", http.StatusForbidden)
			return
		}
		text, _ := io.ReadAll(r.Body)
		wants, err := object.ParseWants(text, 4096)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", object.FrameType)
		for i := range wants {
			d := wants[len(wants)-1-i] // any order will do
			f := object.Frame{Digest: d, Stored: s.blobs[d.String()]}
			if f.Stored == nil {
				f.Status = object.FrameAbsent
			}
			if s.frame != nil && !s.frame(i, &f) {
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(append(object.AppendFrameHeader(nil, f.Digest, f.Status, len(f.Stored)), f.Stored...))
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *batchServer) open(t *testing.T) store.Store {
	return open(t, store.Config{
		URL: mustURL(t, s.URL), Login: "me", Secret: "secret", Timeout: 20 * time.Second, Pipeline: true, Batches: true,
		Asking: func(h http.Header) { h.Set("X-Token", "token") },
	})
}

func TestBatchesBringMany(t *testing.T) {
	tiertest.NoLeaks(t)
	s := serveBatches(t, 3000, 3000)
	src := s.open(t)
	s.getAll(t, src, 300)
	if p, g := s.posts.Load(), s.gets.Load(); p > 300 || g != 0 {
		t.Errorf("%d batches and %d single requests for 3000 blobs, 300 at a time", p, g)
	}
	// What somebody waits for goes alone.
	if _, err := src.Get(t.Context(), s.refs[0]); err != nil || s.gets.Load() != 1 {
		t.Errorf("%d single requests, %v", s.gets.Load(), err)
	}
	if _, err := src.Get(tier.InBackground(t.Context()), tiertest.RefOf([]byte("none"))); !strings.Contains(fmt.Sprint(err), tier.ErrAbsent.Error()) {
		t.Errorf("what there isn't: %v", err)
	}
}

// What a batch does not bring is asked for alone.
func TestBatchesThatGoWrong(t *testing.T) {
	for name, frame := range map[string]func(n int, f *object.Frame) bool{
		"cut off":        func(n int, _ *object.Frame) bool { return n != 7 },
		"unavailable":    func(n int, f *object.Frame) bool { f.Status, f.Stored = object.FrameUnavailable, nil; return true },
		"another's":      func(n int, f *object.Frame) bool { f.Digest[0] ^= byte(n % 2); return true },
		"too large":      func(n int, f *object.Frame) bool { f.Stored = make([]byte, 5000); return true },
		"no batches":     nil,
		"nothing at all": func(int, *object.Frame) bool { return false },
	} {
		t.Run(name, func(t *testing.T) {
			tiertest.NoLeaks(t)
			s := serveBatches(t, 100, 3000)
			s.frame = frame
			src := s.open(t)
			if frame == nil {
				src = open(t, store.Config{URL: mustURL(t, s.URL), Login: "another", Batches: true})
			}
			s.getAll(t, src, 20)
			if s.gets.Load() == 0 {
				t.Error("nothing was asked for alone")
			}
			if frame == nil && s.posts.Load() > 20 {
				t.Errorf("%d batches asked for where there are none", s.posts.Load())
			}
		})
	}
}

// A blob of a batch may take its time, as long as enough of it comes.
func TestBatchOverASlowWay(t *testing.T) {
	t.Parallel()
	s := serveBatches(t, 3, 1)
	plain := tiertest.Random(1, 8<<10)
	s.refs[0] = tiertest.RefOf(plain)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			s.gets.Add(1)
			return
		}
		w.Header().Set("Content-Type", object.FrameType)
		frame := append(object.AppendFrameHeader(nil, s.refs[0].Digest, object.FrameBlob, len(plain)), plain...)
		for len(frame) > 0 {
			n, err := w.Write(frame[:min(len(frame), 400)])
			if err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			frame = frame[n:]
			time.Sleep(100 * time.Millisecond)
		}
	}))
	t.Cleanup(s.Close)
	src := open(t, store.Config{URL: mustURL(t, s.URL), Timeout: 3 * time.Second, Batches: true})
	b, err := src.Get(tier.InBackground(t.Context()), s.refs[0])
	if err != nil || s.refs[0].Digest.Check(b) != nil || s.gets.Load() > 0 {
		t.Errorf("%d bytes, %v, %d single requests", len(b), err, s.gets.Load())
	}
}

// A cache that was started anew may have to be told of us first, which is done soon: from
// then on there are batches again.
func TestBatchesAfterUnauthorized(t *testing.T) {
	s := serveBatches(t, 300, 3000)
	inner := s.Config.Handler
	var posts atomic.Int64
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && posts.Add(1) == 1 {
			http.Error(w, "tell of the store anew", http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	})
	src := s.open(t)
	if _, err := src.Get(tier.InBackground(t.Context()), s.refs[0]); err != nil {
		t.Error(err)
	}
	s.getAll(t, src, 50)
	if p, g := s.posts.Load(), s.gets.Load(); p == 0 || g > 1 {
		t.Errorf("%d batches and %d single requests", p, g)
	}
}

// Who leaves doesn't wait for the batch.
func TestBatchLeft(t *testing.T) {
	s := serveBatches(t, 10, 3000)
	hold := make(chan struct{})
	s.frame = func(int, *object.Frame) bool { <-hold; return true }
	t.Cleanup(func() { close(hold) })
	src := s.open(t)
	ctx, cancel := context.WithCancel(tier.InBackground(t.Context()))
	var all sync.WaitGroup
	for _, ref := range s.refs {
		all.Go(func() {
			if _, err := src.Get(ctx, ref); err == nil {
				t.Error("got what was held")
			}
		})
	}
	for s.posts.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	all.Wait()
}

// What somebody comes to wait for doesn't stay in a batch that has come to a halt.
func TestBatchWanted(t *testing.T) {
	s := serveBatches(t, 10, 3000)
	hold := make(chan struct{})
	s.frame = func(int, *object.Frame) bool { <-hold; return true }
	t.Cleanup(func() { close(hold) })
	src := s.open(t)
	wanted := make(chan struct{})
	time.AfterFunc(100*time.Millisecond, func() { close(wanted) })
	ctx, cancel := context.WithTimeout(tier.InBackgroundUntil(t.Context(), wanted), 4*time.Second)
	defer cancel()
	if b, err := src.Get(ctx, s.refs[0]); err != nil || s.refs[0].Digest.Check(b) != nil {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if s.posts.Load() != 1 || s.gets.Load() != 1 {
		t.Errorf("%d batches, %d single requests", s.posts.Load(), s.gets.Load())
	}
}
