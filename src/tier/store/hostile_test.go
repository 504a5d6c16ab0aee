package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/disk"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// However a server behaves, and whoever comes and leaves: nobody sees other bytes, what
// was taken of the budget is given back, and closing waits for nobody.
func TestBringingFromABadServer(t *testing.T) {
	tiertest.NoLeaks(t)
	codec, err := object.NewCodec(2)
	if err != nil {
		t.Fatal(err)
	}
	bomb := codec.Pack(make([]byte, 64<<20), nil)
	var s *blobServer
	var evil atomic.Bool
	s = serveBlobs(t, 300, 60_000, func(_ int64, w http.ResponseWriter, r *http.Request) {
		b := s.blobs[path.Base(r.URL.Path)]
		if b == nil || !evil.Load() {
			return
		}
		say := func(status int, b []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			w.WriteHeader(status)
			_, _ = w.Write(b)
			panic(http.ErrAbortHandler)
		}
		switch rand.IntN(400) {
		case 0:
			panic(http.ErrAbortHandler)
		case 1: // half of it
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			_, _ = w.Write(b[:len(b)/2])
			panic(http.ErrAbortHandler)
		case 2:
			b = bytes.Clone(b)
			b[rand.IntN(len(b))] ^= 1
			say(200, b)
		case 3:
			say(200, bomb)
		case 4:
			say(503, nil)
		case 5:
			w.Header().Set("Connection", "close")
		case 6:
			time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
		case 7:
			say(200, s.blobs[s.refs[rand.IntN(len(s.refs))].Digest.String()])
		case 8:
			w.Header().Set("Content-Type", "text/html")
			say(200, []byte("<html>log in</html>"))
		}
	})
	for i, ref := range s.refs {
		if i%2 == 0 { // as they come compressed
			stored := s.blobs[ref.Digest.String()]
			text := slices.Repeat(stored[:1+len(stored)/9], 9)
			s.refs[i] = tiertest.RefOf(text)
			s.blobs[s.refs[i].Digest.String()] = codec.Pack(text, nil)
		}
	}
	large := bytes.Repeat([]byte("large"), 1<<20)
	largeRef := tiertest.RefOf(large)
	s.blobs[largeRef.Digest.String()] = codec.Pack(large, nil)
	for round := range 4 {
		cache, err := disk.Open(disk.Options{Path: t.TempDir(), MaxSize: 1 << 30, Queue: 256 << 10})
		if err != nil {
			t.Fatal(err)
		}
		evil.Store(round%3 > 0)
		src, err := store.New(store.Config{URL: mustURL(t, s.URL), Timeout: 3 * time.Second, Pipeline: true})
		if err != nil {
			t.Fatal(err)
		}
		chain := tier.NewChain(tier.ChainConfig{Groups: []tier.Group{groupOf(src)}, Codec: codec, Cache: cache,
			Recent: 128 << 10, Budget: 4 << 20, Timeout: 3 * time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var looks, failures atomic.Int64
		check := func(ref tier.Ref, b tier.Blob) {
			looks.Add(1)
			time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
			if err := ref.Digest.Check(b.Data); err != nil {
				t.Errorf("%v: %d bytes: %v", ref, len(b.Data), err)
			}
			b.Release()
		}
		refs := slices.Clone(s.refs)
		rand.Shuffle(len(refs), func(i, j int) { refs[i], refs[j] = refs[j], refs[i] })
		for p := range 4 {
			all.Go(func() {
				for ctx.Err() == nil {
					bctx, stop := context.WithTimeout(ctx, time.Duration(rand.IntN(200))*time.Millisecond)
					_ = chain.Bring(bctx, tier.Priority(p), slices.Values(refs[rand.IntN(len(refs)):]), nil)
					stop()
				}
			})
		}
		for k := range 8 {
			all.Go(func() {
				for ctx.Err() == nil {
					ref := refs[rand.IntN(len(refs))]
					gctx, stop := context.WithTimeout(ctx, time.Duration(1+rand.IntN(100))*time.Millisecond)
					switch rand.IntN(5) {
					case 0:
						if b, near := chain.Ready(ref, 0, ref.Limit); near == tier.InMemory {
							check(ref, b)
						}
					case 1:
						if b, ok := chain.Local(ref, 0, ref.Limit); ok {
							check(ref, b)
						}
					case 2:
						if b, err := chain.Copy(gctx, ref); err == nil {
							check(ref, tier.Blob{Data: b})
						}
					case 3:
						if k == 0 && rand.IntN(8) == 0 {
							ref = largeRef
						}
						if b, err := chain.Get(gctx, ref); err == nil {
							check(ref, b)
						} else {
							failures.Add(1)
						}
					case 4:
						chain.Prefetch(ref)
						cache.Purge(refs[rand.IntN(len(refs))])
					}
					stop()
				}
			})
		}
		time.Sleep(500 * time.Millisecond)
		before := time.Now()
		if round%2 == 0 {
			chain.Close()
			cancel()
			all.Wait()
		} else {
			cancel()
			all.Wait()
			for limit := time.Now().Add(20 * time.Second); chain.Status().InFlight != 0; time.Sleep(time.Millisecond) {
				if time.Now().After(limit) {
					t.Fatalf("%+v", chain.Status())
				}
			}
			st := chain.Status()
			m := st.Sources[0]
			if len(st.Fetching) != 0 || m.Requests != m.Hits+m.Absent+m.Errors+m.Corrupt+m.Cancelled {
				t.Errorf("%+v", st)
			}
			chain.Close()
		}
		if st := chain.Status(); st.InFlight != 0 || len(st.Fetching) != 0 {
			t.Errorf("%+v", st)
		}
		m := chain.Status().Sources[0]
		t.Logf("round %d: %d looks, %d failures, closed in %v; %d requests %d hits %d corrupt %d err %d cancelled", round, looks.Load(), failures.Load(), time.Since(before), m.Requests, m.Hits, m.Corrupt, m.Errors, m.Cancelled)
		if err := errors.Join(src.Close(), cache.Close(context.Background())); err != nil {
			t.Fatal(err)
		}
	}
}
