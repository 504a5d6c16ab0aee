package store_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// fewConnections has a test that counts connections use few: the eight of the pipeline, and
// a few for what goes the ordinary way. A server that gets no processor for a while is a
// slow one, which has more.
func fewConnections(t *testing.T, test func() *blobServer) {
	t.Helper()
	var n int64
	for range 10 {
		if n = test().conns.Load(); n <= 13 {
			return
		}
	}
	t.Errorf("never less than %d connections", n)
}

// A blob that is damaged in the store costs a connection once, whoever reads it how often:
// all others go on being asked for over few connections.
func TestPipelineDamagedBlob(t *testing.T) {
	codec, err := object.NewCodec(1)
	if err != nil {
		t.Fatal(err)
	}
	fewConnections(t, func() *blobServer {
		s := serveBlobs(t, 3000, 5000, nil)
		bad := s.refs[1000]
		s.blobs[bad.Digest.String()] = []byte("damaged")
		src := s.open(t)
		chain := tier.NewChain(tier.ChainConfig{Groups: []tier.Group{groupOf(src)}, Codec: codec, Cache: tiertest.NewCache()})
		defer chain.Close()
		var all sync.WaitGroup
		stop := make(chan struct{})
		all.Go(func() {
			for {
				if _, err := chain.Get(t.Context(), bad); !errors.Is(err, tier.ErrCorrupt) {
					t.Errorf("the damaged blob: %v", err)
				}
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
		refs := slices.Delete(slices.Clone(s.refs), 1000, 1001)
		if err := chain.Bring(t.Context(), tier.ReadAhead, slices.Values(refs), func(ref tier.Ref, err error) {
			if err != nil {
				t.Errorf("bring %v: %v", ref, err)
			}
		}); err != nil {
			t.Error(err)
		}
		close(stop)
		all.Wait()
		return s
	})
}

// A server that is busy once, as proxies say while what is behind them starts, is asked for
// many blobs over few connections all the same.
func TestPipelineAfterBusyAnswers(t *testing.T) {
	fewConnections(t, func() *blobServer {
		s := serveBlobs(t, 3000, 5000, func(n int64, w http.ResponseWriter, r *http.Request) {
			if n > 1 {
				return
			}
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				fmt.Fprint(c, "HTTP/1.0 503 Service Unavailable\r\nConnection: close\r\n\r\nNo server is available.")
				c.Close()
			}
			panic(http.ErrAbortHandler)
		})
		src := s.open(t)
		if _, err := src.Get(t.Context(), s.refs[0]); err != nil {
			t.Error(err)
		}
		s.getAll(t, src, 300)
		return s
	})
}

// An answer that nobody wants any more is read over, however slowly it comes, as long as
// it is no slower than one that somebody wants may be.
func TestPipelineReadsOverWhatIsSlow(t *testing.T) {
	t.Parallel()
	const size = 10 << 10
	asked, left, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	s := play(t, func(n int, c *net.TCPConn, _ *http.Request) bool {
		if n > 0 {
			fmt.Fprint(c, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
			return true
		}
		close(asked)
		<-left
		_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
		for n := 0; n < size && err == nil; n += 256 {
			time.Sleep(100 * time.Millisecond)
			_, err = c.Write(make([]byte, 256))
		}
		ended <- err
		return true
	})
	src := open(t, store.Config{URL: mustURL(t, "http://"+s.addr), Timeout: 4 * time.Second, Pipeline: true})
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		<-asked
		leave()
	}()
	if _, err := src.Get(ctx, tiertest.RefOf([]byte("a blob"))); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(left)
	if err := <-ended; err != nil {
		t.Errorf("the connection was given up: %v", err)
	}
}

// Whatever connections end when, nothing that waits for one is forgotten while another is
// there.
func TestPipelineForgetsNothing(t *testing.T) {
	for _, answers := range []int64{1, 2, 5} {
		t.Run(fmt.Sprint(answers), func(t *testing.T) {
			t.Parallel()
			for range 20 {
				var on sync.Map
				s := serveBlobs(t, 500, 2000, func(_ int64, w http.ResponseWriter, r *http.Request) {
					n, _ := on.LoadOrStore(r.RemoteAddr, new(atomic.Int64))
					if n.(*atomic.Int64).Add(1) == answers {
						w.Header().Set("Connection", "close")
					}
				})
				src := s.open(t)
				came := make(chan tier.Ref, len(s.refs))
				for _, ref := range s.refs {
					if src.Ask(ref, func([]byte, bool) { came <- ref }) == nil {
						came <- ref
					}
				}
				for n := range s.refs {
					select {
					case <-came:
					case <-time.After(5 * time.Second):
						t.Fatalf("only %d of %d came", n, len(s.refs))
					}
				}
			}
		})
	}
}
