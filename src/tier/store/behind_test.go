package store_test

import (
	"context"
	"net/http"
	"path"
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

// TestPipelineBehindOthers has requests on all connections whose answers don't come, or
// drip: nobody else's read stands behind them for long.
func TestPipelineBehindOthers(t *testing.T) {
	for name, test := range map[string]struct {
		drip bool
		most time.Duration
	}{
		"stalled": {false, 900 * time.Millisecond}, "dripping": {true, 6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var bad sync.Map
			end := make(chan struct{})
			s := serveBlobs(t, 100, 20_000, func(_ int64, w http.ResponseWriter, r *http.Request) {
				if _, ok := bad.Load(path.Base(r.URL.Path)); !ok {
					return
				}
				if test.drip {
					w.Header().Set("Content-Length", "20000")
					for range 20_000 {
						if _, err := w.Write(make([]byte, 20)); err != nil {
							return
						}
						_ = http.NewResponseController(w).Flush()
						select {
						case <-time.After(10 * time.Millisecond):
						case <-end:
							return
						}
					}
				}
				<-end
			})
			src := open(t, store.Config{URL: mustURL(t, s.URL), Timeout: 15 * time.Second, Pipeline: true})
			get := func(ref tier.Ref) {
				began := time.Now()
				if _, err := src.Get(t.Context(), ref); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > test.most {
					t.Errorf("it took %v", took)
				}
			}
			for i := range s.refs {
				s.refs[i].Limit = 20_000
			}
			for _, ref := range s.refs[:10] {
				get(ref)
			}
			for _, ref := range s.refs[10:22] {
				bad.Store(ref.Digest.String(), true)
			}
			var all sync.WaitGroup
			for _, ref := range s.refs[10:22] {
				all.Go(func() { _, _ = src.Get(t.Context(), ref) })
			}
			time.Sleep(200 * time.Millisecond)
			var others sync.WaitGroup
			for _, ref := range s.refs[30:50] {
				others.Go(func() { get(ref) })
			}
			others.Wait()
			close(end)
			all.Wait()
		})
	}
}

// TestOrdinaryBehindOthers has a server that has no more to do with pipelines keep all that
// nobody waits for waiting: what somebody waits for, from the start or later, does not
// stand behind that.
func TestOrdinaryBehindOthers(t *testing.T) {
	tiertest.NoLeaks(t)
	var held sync.Map
	end := make(chan struct{})
	s := serveBlobs(t, 300, 1000, func(_ int64, _ http.ResponseWriter, r *http.Request) {
		if _, ok := held.Load(path.Base(r.URL.Path)); ok {
			select {
			case <-end:
			case <-r.Context().Done():
			}
		}
	})
	src := open(t, store.Config{URL: mustURL(t, s.URL), Timeout: 20 * time.Second})
	for _, ref := range s.refs[:200] {
		held.Store(ref.Digest.String(), true)
	}
	var all sync.WaitGroup
	get := func(ctx context.Context, ref tier.Ref) {
		all.Go(func() {
			if _, err := src.Get(ctx, ref); err != nil {
				t.Error(err)
			}
		})
	}
	for _, ref := range s.refs[:200] {
		get(tier.InBackground(t.Context()), ref)
	}
	for s.requests.Load() < 50 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	here := s.refs[299]
	here.Here = true // as who finds out whether a cache hangs
	ctx, cancel := context.WithTimeout(tier.InBackground(t.Context()), 2*time.Second)
	defer cancel()
	if _, err := src.Get(ctx, here); err != nil {
		t.Error(err)
	}
	wanted, came := make(chan struct{}), make(chan error)
	for _, ctx := range []context.Context{t.Context(), tier.InBackgroundUntil(t.Context(), wanted)} {
		for _, ref := range s.refs[200:250] {
			go func() {
				_, err := src.Get(ctx, ref)
				came <- err
			}()
		}
		if tier.Background(ctx) {
			select {
			case <-came:
				t.Error("what nobody waits for took a connection that was kept free")
			case <-time.After(50 * time.Millisecond):
			}
			close(wanted)
		}
		for range 50 {
			select {
			case err := <-came:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(2 * time.Second):
				t.Fatal("what somebody waits for stands behind others")
			}
		}
	}
	close(end)
	all.Wait()
}

// TestPipelineBroughtBehindOthers has what is being brought stand behind answers that don't
// come: who comes to wait for it does not stand there for long, either.
func TestPipelineBroughtBehindOthers(t *testing.T) {
	codec, err := object.NewCodec(1)
	if err != nil {
		t.Fatal(err)
	}
	var stalled atomic.Int64
	var bad sync.Map
	end := make(chan struct{})
	s := serveBlobs(t, 40, 20_000, func(_ int64, w http.ResponseWriter, r *http.Request) {
		if _, ok := bad.Load(path.Base(r.URL.Path)); ok {
			stalled.Add(1)
			<-end
		}
	})
	for i := range s.refs {
		s.refs[i].Limit = 20_000
	}
	src := open(t, store.Config{URL: mustURL(t, s.URL), Timeout: 15 * time.Second, Pipeline: true})
	chain := tier.NewChain(tier.ChainConfig{Groups: []tier.Group{groupOf(src)}, Codec: codec, Cache: tiertest.NewCache()})
	t.Cleanup(chain.Close)
	for _, ref := range s.refs[:10] {
		if _, err := chain.Get(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	for _, ref := range s.refs[10:22] {
		bad.Store(ref.Digest.String(), true)
	}
	var all sync.WaitGroup
	all.Go(func() {
		if err := chain.Bring(t.Context(), tier.Profile, slices.Values(s.refs[10:30]), nil); err != nil {
			t.Error(err)
		}
	})
	for len(chain.Status().Fetching) == 0 || stalled.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	var readers sync.WaitGroup
	for _, ref := range s.refs[22:30] {
		readers.Go(func() {
			began := time.Now()
			if _, err := chain.Get(t.Context(), ref); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 800*time.Millisecond {
				t.Errorf("it took %v", took)
			}
		})
	}
	readers.Wait()
	close(end)
	all.Wait()
}
