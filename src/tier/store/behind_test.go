package store_test

import (
	"net/http"
	"path"
	"sync"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
)

// TestPipelineBehindOthers has requests on all connections whose answers don't come, or
// drip: nobody else's read stands behind them for long.
func TestPipelineBehindOthers(t *testing.T) {
	for name, test := range map[string]struct {
		drip bool
		most time.Duration
	}{
		"stalled": {false, 2500 * time.Millisecond}, "dripping": {true, 6 * time.Second},
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
