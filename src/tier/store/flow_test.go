package store_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/disk"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// Memory is used for one blob after the other; who holds a blob never sees that, while
// a store brings them, the disk cache writes them, and both are short of room. With the
// race detector memory that was given back is overwritten at once.
func TestWhoHoldsABlobKeepsIt(t *testing.T) {
	codec, err := object.NewCodec(2)
	if err != nil {
		t.Fatal(err)
	}
	s := serveBlobs(t, 400, 40_000, nil)
	for i, ref := range s.refs {
		if i%2 == 0 { // as they come compressed
			stored := s.blobs[ref.Digest.String()]
			text := slices.Repeat(stored[:1+len(stored)/9], 9)
			s.refs[i] = tiertest.RefOf(text)
			s.blobs[s.refs[i].Digest.String()] = codec.Pack(text, nil)
		}
	}
	for round := range 3 {
		cache, err := disk.Open(disk.Options{Path: t.TempDir(), MaxSize: 1 << 30, Queue: 256 << 10})
		if err != nil {
			t.Fatal(err)
		}
		src := s.open(t)
		chain := tier.NewChain(tier.ChainConfig{Groups: []tier.Group{groupOf(src)}, Codec: codec, Cache: cache, Recent: 256 << 10, Budget: 8 << 20})
		var brought atomic.Bool
		var looks atomic.Int64
		var readers sync.WaitGroup
		check := func(ref tier.Ref, b tier.Blob) {
			looks.Add(1)
			for range rand.IntN(4) {
				runtime.Gosched()
			}
			if err := ref.Digest.Check(b.Data); err != nil {
				t.Errorf("%v: %d bytes: %v", ref, len(b.Data), err)
			}
			switch rand.IntN(8) {
			case 0: // never
			case 1:
				b.Release()
				b.Release()
			default:
				b.Release()
			}
		}
		for range 6 {
			readers.Go(func() {
				for !brought.Load() && !t.Failed() {
					ref := s.refs[rand.IntN(len(s.refs))]
					if b, near := chain.Ready(ref, 0, ref.Limit); near == tier.InMemory {
						check(ref, b)
					} else if rand.IntN(20) == 0 {
						b, err := chain.Get(t.Context(), ref)
						if err != nil {
							t.Error(err)
							return
						}
						check(ref, b)
					} else if b, ok := chain.Local(ref, 0, ref.Limit); ok {
						check(ref, b)
					}
				}
			})
		}
		err = chain.Bring(t.Context(), tier.Profile, slices.Values(s.refs), func(_ tier.Ref, err error) {
			if err != nil {
				t.Error(err)
			}
		})
		brought.Store(true)
		readers.Wait()
		for _, ref := range s.refs {
			b, err := chain.Get(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			check(ref, b)
		}
		chain.Close()
		if err := errors.Join(err, src.Close(), cache.Close(context.Background())); err != nil {
			t.Fatal(err)
		}
		t.Logf("round %d: %d looks", round, looks.Load())
	}
}
