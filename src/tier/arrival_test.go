package tier_test

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// slowly is a source whose blobs arrive in ten pieces, a second each.
type slowly struct{ *tiertest.Memory }

func (s slowly) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	b, err := s.Memory.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	a := tier.ArrivalOf(ctx)
	a.Begin(int64(len(b)))
	for i := 1; i <= 10; i++ {
		time.Sleep(time.Second)
		a.Add(b[:len(b)*i/10])
	}
	return b, nil
}

// Large blobs are seen to arrive by all who follow, each at its own pace; small
// ones are not.
func TestFollow(t *testing.T) {
	simulated(t, func(t *testing.T, codec *object.Codec) {
		src := slowly{tiertest.NewMemory("slow")}
		large, small := tiertest.Random(1, 100_000), tiertest.Random(2, 10_000)
		for _, b := range [][]byte{large, small} {
			src.Put(tiertest.RefOf(b), b)
		}
		chain := tier.NewChain(tier.ChainConfig{Groups: groups(src), Codec: codec, Stored: true})
		defer chain.Close()
		for _, pace := range []time.Duration{0, 3 * time.Second, time.Minute} {
			go func() {
				began := time.Now()
				copied := make(chan []byte, 1)
				told := 0
				b, err := chain.Follow(t.Context(), tiertest.RefOf(large), true, func(a *tier.Arrival) {
					told++
					if took := time.Since(began); took != time.Second {
						t.Errorf("told after %v", took)
					}
					go func() {
						var got []byte
						for {
							data, size, ok := a.Next(t.Context(), len(got))
							if !ok {
								break
							}
							if size != int64(len(large)) {
								t.Errorf("size %d", size)
							}
							got = bytes.Clone(data)
							time.Sleep(pace)
						}
						copied <- got
					}()
				})
				if err != nil || !bytes.Equal(b.Data, large) || told != 1 || time.Since(began) != 10*time.Second {
					t.Errorf("told %d times, after %v: %d bytes, %v", told, time.Since(began), len(b.Data), err)
				}
				if got := <-copied; !bytes.Equal(got, large) {
					t.Errorf("at a pace of %v %d bytes were seen to arrive", pace, len(got))
				}
			}()
		}
		b, err := chain.Follow(t.Context(), tiertest.RefOf(small), true, func(*tier.Arrival) { t.Error("told of a small blob") })
		if err != nil || !bytes.Equal(b.Data, small) {
			t.Error(err)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if src.Gets() != 2 {
			t.Errorf("%d fetches of 2 blobs", src.Gets())
		}
	})
}

// A fetch that begins again, or fails, is seen to.
func TestFollowAFailure(t *testing.T) {
	simulated(t, func(t *testing.T, codec *object.Codec) {
		mem := tiertest.NewMemory("slow")
		good := tiertest.Random(1, 100_000)
		ref := tiertest.RefOf(good)
		wrong := bytes.Clone(good)
		wrong[len(wrong)-1] ^= 1
		mem.Put(ref, wrong)
		chain := tier.NewChain(tier.ChainConfig{Groups: groups(slowly{mem}), Codec: codec, Stored: true})
		defer chain.Close()
		ended := make(chan time.Duration, 1)
		began := time.Now()
		_, err := chain.Follow(t.Context(), ref, true, func(a *tier.Arrival) {
			go func() {
				for have := 0; ; {
					data, _, ok := a.Next(t.Context(), have)
					if !ok {
						break
					}
					have = len(data)
				}
				ended <- time.Since(began)
			}()
		})
		if err == nil {
			t.Error("a wrong blob was given")
		}
		// It was asked for once more after it came wrong.
		if took := <-ended; took < 10*time.Second || took != time.Since(began) {
			t.Errorf("nothing more was to come after %v, of %v", took, time.Since(began))
		}
	})
}
