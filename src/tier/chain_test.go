package tier_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

func codec(t testing.TB) *object.Codec {
	t.Helper()
	c, err := object.NewCodec(2)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// simulated runs a test on simulated time.
func simulated(t *testing.T, test func(t *testing.T, c *object.Codec)) {
	c := codec(t) // its goroutines, if any, stay out of the bubble
	synctest.Test(t, func(t *testing.T) { test(t, c) })
}

func mustGet(t *testing.T, c *tier.Chain, ref tier.Ref, plain []byte) {
	t.Helper()
	b, err := c.Get(t.Context(), ref)
	if err != nil {
		t.Errorf("Get(%v): %v", ref, err)
		return
	}
	defer b.Release()
	if !bytes.Equal(b.Data, plain) {
		t.Errorf("Get(%v) gave %d other bytes", ref, len(b.Data))
	}
}

func TestChainFillsTheCache(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		first, second, cache := tiertest.NewMemory("first"), tiertest.NewMemory("second"), tiertest.NewCache()
		plain := bytes.Repeat([]byte("compressible "), 1000)
		ref := tiertest.RefOf(plain)
		second.Put(ref, c.Pack(plain, nil))
		chain := tier.NewChain(tier.ChainConfig{Cache: cache, Groups: groups(first, second), Codec: c})
		defer chain.Close()

		if _, ok := chain.Local(ref, 0, 1); ok || first.Gets() != 0 {
			t.Error("Local has what nobody fetched")
		}
		mustGet(t, chain, ref, plain)
		synctest.Wait()
		if b, err := cache.Get(ref); err != nil || !bytes.Equal(b.Data, plain) {
			t.Errorf("the cache was not filled: %v", err)
		} else {
			b.Release()
		}
		for range 3 {
			mustGet(t, chain, ref, plain)
		}
		if b, ok := chain.Local(ref, 0, int64(len(plain))); !ok || !bytes.Equal(b.Data, plain) {
			t.Error("Local lacks what was fetched")
		} else {
			b.Release()
		}
		if first.Gets() != 1 || second.Gets() != 1 {
			t.Errorf("asked %d and %d times, want once each", first.Gets(), second.Gets())
		}
		if cache.Lent() != 0 {
			t.Errorf("%d blobs of the cache were not released", cache.Lent())
		}
		s := chain.Status()
		if s.Near.CacheHits != 4 || s.Near.CacheBytes != int64(4*len(plain)) || s.Near.Misses != 1 ||
			s.Sources[0].Absent != 1 || s.Sources[1].Hits != 1 || s.InFlight != 0 || len(s.Fetching) != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// Without a cache, the parts of a blob that are read one after the other cost
// one fetch.
func TestChainKeepsRecent(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		src := tiertest.NewMemory("origin")
		var blobs [][]byte
		for i := range 10 {
			blobs = append(blobs, tiertest.Random(uint64(i), 10_000))
			src.Put(tiertest.RefOf(blobs[i]), blobs[i])
		}
		chain := tier.NewChain(tier.ChainConfig{Groups: groups(src), Codec: c, Recent: 35_000})
		defer chain.Close()
		for _, plain := range blobs {
			for range 8 {
				mustGet(t, chain, tiertest.RefOf(plain), plain)
			}
			if s := chain.Status(); s.RecentUsed > 35_000 || s.RecentBlobs > 3 {
				t.Errorf("%d blobs of %d bytes are kept", s.RecentBlobs, s.RecentUsed)
			}
		}
		if src.Gets() != len(blobs) {
			t.Errorf("%d fetches for %d blobs", src.Gets(), len(blobs))
		}
		synctest.Wait() // until the last of the first flight is over, too
		mustGet(t, chain, tiertest.RefOf(blobs[0]), blobs[0])
		if src.Gets() != len(blobs)+1 {
			t.Error("the oldest was not dropped")
		}
	})
}

func TestChainSingleFlight(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		ref, plain, src := one()
		hold := make(chan struct{})
		src.Always(tiertest.Step{Hold: hold})
		chain := tier.NewChain(tier.ChainConfig{Groups: groups(src), Codec: c})
		defer chain.Close()
		start := time.Now()
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() { mustGet(t, chain, ref, plain) })
		}
		synctest.Wait()
		s := chain.Status()
		if len(s.Fetching) != 1 || s.Fetching[0].Waiters != 64 || s.Fetching[0].Digest != ref.Digest || !s.Fetching[0].Since.Equal(start) {
			t.Errorf("under way: %+v", s.Fetching)
		}
		close(hold)
		all.Wait()
		if src.Calls() != 1 {
			t.Errorf("%d requests for 64 callers", src.Calls())
		}
	})
}

func TestChainLastWaiterCancels(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		ref, plain, src := one()
		src.Next(tiertest.Hang)
		chain := tier.NewChain(tier.ChainConfig{Groups: groups(src), Codec: c})
		defer chain.Close()
		var leave []context.CancelFunc
		left := make(chan error)
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			leave = append(leave, cancel)
			go func() {
				_, err := chain.Get(ctx, ref)
				left <- err
			}()
		}
		synctest.Wait()
		for i, cancel := range leave {
			if src.Cancelled() != 0 {
				t.Errorf("cancelled with %d still waiting", len(leave)-i)
			}
			cancel()
			if err := <-left; !errors.Is(err, context.Canceled) || errors.Is(err, tier.ErrUnavailable) {
				t.Errorf("who left was told: %v", err)
			}
			synctest.Wait()
		}
		if src.Cancelled() != 1 || src.Under() != 0 {
			t.Errorf("%d of 1 request was cancelled, %d are under way", src.Cancelled(), src.Under())
		}
		if s := chain.Status(); len(s.Fetching) != 0 || s.InFlight != 0 {
			t.Errorf("left behind: %+v, %d bytes", s.Fetching, s.InFlight)
		}
		mustGet(t, chain, ref, plain)
	})
}

// Who comes while a fetch is being cancelled must get a new one.
func TestChainDoesNotJoinTheDying(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		ref, plain, src := one()
		dying := &stubborn{Source: src, end: make(chan struct{})}
		chain := tier.NewChain(tier.ChainConfig{Groups: groups(dying), Codec: c})
		defer chain.Close()
		defer close(dying.end)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := chain.Get(ctx, ref); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, tier.ErrUnavailable) {
			t.Errorf("who ran out of time was told: %v", err)
		}
		mustGet(t, chain, ref, plain)
	})
}

// stubborn has a first call that heeds nothing but end.
type stubborn struct {
	tier.Source

	end   chan struct{}
	calls atomic.Int32
}

func (s *stubborn) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	if s.calls.Add(1) == 1 {
		<-s.end
		return nil, tier.ErrUnavailable
	}
	return s.Source.Get(ctx, ref)
}

func TestChainCorrupt(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		plain := tiertest.Random(1, 1000)
		ref := tiertest.RefOf(plain)
		bad, good, cache := tiertest.NewMemory("grid"), tiertest.NewMemory("origin"), tiertest.NewCache()
		flipped := bytes.Clone(plain)
		flipped[7] ^= 1
		bad.Put(ref, flipped)
		good.Put(ref, plain)
		var log bytes.Buffer
		chain := tier.NewChain(tier.ChainConfig{Cache: cache, Groups: groups(bad, good), Codec: c,
			Log: slog.New(slog.NewTextHandler(&log, nil))})
		defer chain.Close()
		mustGet(t, chain, ref, plain)
		if p := bad.Purged(); len(p) != 1 || p[0] != ref {
			t.Errorf("purged %v", p)
		}
		if len(good.Purged()) != 0 {
			t.Error("what was good was purged")
		}
		s := chain.Status().Sources
		if s[0].Corrupt != 1 || s[0].Hits != 0 || s[0].Absent != 1 || s[1].Corrupt != 0 || s[1].Hits != 1 {
			t.Errorf("counted %+v", s)
		}
		if out := log.String(); !strings.Contains(out, "tier=grid") || !strings.Contains(out, ref.Digest.String()) {
			t.Errorf("logged %q", out)
		}
	})
}

// A blob that went wrong on the way is right the second time. One that is
// wrong everywhere is never given to anybody.
func TestChainCorruptOnTheWay(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		ref, plain, src := one()
		memory := src.Source.(*tiertest.Memory)
		chain := tier.NewChain(tier.ChainConfig{Cache: tiertest.NewCache(), Groups: groups(kept{src}), Codec: c})
		defer chain.Close()
		src.Always(tiertest.Flip)
		if b, err := chain.Get(t.Context(), ref); !errors.Is(err, tier.ErrCorrupt) || errors.Is(err, tier.ErrAbsent) || len(b.Data) != 0 {
			t.Errorf("%d bytes, %v", len(b.Data), err)
		}
		if src.Calls() != 2 {
			t.Errorf("asked %d times", src.Calls())
		}
		if _, ok := chain.Local(ref, 0, 1); ok {
			t.Error("corrupt bytes were kept")
		}
		memory.Put(ref, plain)
		src.Always(tiertest.Step{})
		src.Next(tiertest.Flip)
		mustGet(t, chain, ref, plain)
	})
}

// kept is a source whose blobs aren't ours to purge.
type kept struct{ tier.Source }

func (kept) Purge(context.Context, tier.Ref) error { return nil }

func TestChainErrors(t *testing.T) {
	absent, corrupt, denied := tiertest.Fail(tier.ErrAbsent), tiertest.Fail(tier.ErrCorrupt), tiertest.Fail(tier.ErrDenied)
	all := []error{tier.ErrAbsent, tier.ErrCorrupt, tier.ErrDenied, tier.ErrUnavailable}
	tests := []struct {
		name  string
		steps []tiertest.Step
		want  []error
	}{
		{"no source", nil, []error{tier.ErrUnavailable}},
		{"all absent", []tiertest.Step{absent, absent}, []error{tier.ErrAbsent}},
		{"absent and down", []tiertest.Step{absent, down}, []error{tier.ErrUnavailable}},
		{"down and absent", []tiertest.Step{down, absent}, []error{tier.ErrUnavailable}},
		{"denied and absent", []tiertest.Step{denied, absent}, []error{tier.ErrDenied}},
		{"corrupt, down", []tiertest.Step{corrupt, down}, []error{tier.ErrCorrupt, tier.ErrUnavailable}},
		{"no class", []tiertest.Step{tiertest.Fail(errors.New("what")), absent}, []error{tier.ErrUnavailable}},
		{"one out of time", []tiertest.Step{absent, tiertest.Hang}, []error{tier.ErrUnavailable}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			simulated(t, func(t *testing.T, c *object.Codec) {
				cfg := tier.ChainConfig{Codec: c}
				for i, step := range tt.steps {
					f := tiertest.NewFaulty(tiertest.NewMemory(fmt.Sprint("tier", i)))
					f.Always(step)
					cfg.Groups = append(cfg.Groups, tier.One(f))
				}
				chain := tier.NewChain(cfg)
				defer chain.Close()
				ref, _, _ := one()
				_, err := chain.Get(t.Context(), ref)
				for _, e := range all {
					want := false
					for _, w := range tt.want {
						want = want || w == e
					}
					if errors.Is(err, e) != want {
						t.Errorf("errors.Is(err, %q) is %t: %v", e, !want, err)
					}
				}
				if err == nil || !strings.Contains(err.Error(), ref.Digest.String()) {
					t.Errorf("the error doesn't name the blob: %v", err)
				}
				for i := range tt.steps {
					if !strings.Contains(err.Error(), fmt.Sprint("tier", i)) {
						t.Errorf("the error doesn't name tier%d: %v", i, err)
					}
				}
			})
		})
	}
}

// One tier that hangs must leave time for those behind it, and a read that none
// answers ends with the timeout.
func TestChainTimeout(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		ref, plain, src := one()
		hung := tiertest.NewFaulty(tiertest.NewMemory("hung"))
		hung.Always(tiertest.Hang)
		chain := tier.NewChain(tier.ChainConfig{Groups: groups(tier.Retry(hung, tier.RetryPolicy{}), src), Codec: c, Timeout: 30 * time.Second})
		defer chain.Close()
		start := time.Now()
		mustGet(t, chain, ref, plain)
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("a tier that hangs cost %v", took)
		}
		synctest.Wait() // until that fetch can't be joined any more
		src.Always(tiertest.Hang)
		start = time.Now()
		if _, err := chain.Get(t.Context(), ref); !errors.Is(err, tier.ErrUnavailable) {
			t.Error(err)
		}
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("ended after %v, want 30 s", took)
		}
	})
}

func TestChainClose(t *testing.T) {
	tiertest.NoLeaks(t)
	simulated(t, func(t *testing.T, c *object.Codec) {
		ref, plain, src := one()
		chain := tier.NewChain(tier.ChainConfig{Groups: groups(src), Codec: c, Recent: 1 << 20})
		mustGet(t, chain, ref, plain)
		src.Always(tiertest.Hang)
		other := tiertest.RefOf([]byte("other"))
		told := make(chan error)
		go func() {
			_, err := chain.Get(t.Context(), other)
			told <- err
		}()
		if !chain.Prefetch(tiertest.RefOf([]byte("third"))) {
			t.Error("there is room for a prefetch")
		}
		synctest.Wait()
		go chain.Close()
		if err := <-told; !errors.Is(err, tier.ErrUnavailable) || errors.Is(err, context.Canceled) {
			t.Errorf("who waited was told: %v", err)
		}
		synctest.Wait()
		if src.Under() != 0 {
			t.Errorf("%d requests are under way after Close", src.Under())
		}
		if _, err := chain.Get(t.Context(), other); !errors.Is(err, tier.ErrUnavailable) {
			t.Errorf("Get after Close: %v", err)
		}
		if chain.Prefetch(other) {
			t.Error("Prefetch after Close")
		}
		mustGet(t, chain, ref, plain) // it is here
		chain.Close()                 // again does no harm
	})
}

func TestChainPrefetch(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		ref, plain, src := one()
		cache := tiertest.NewCache()
		hold := make(chan struct{})
		src.Next(tiertest.Step{Hold: hold})
		chain := tier.NewChain(tier.ChainConfig{Cache: cache, Groups: groups(src), Codec: c})
		defer chain.Close()
		for range 3 {
			if !chain.Prefetch(ref) {
				t.Error("no room")
			}
		}
		// Who joins and leaves doesn't end it.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := chain.Get(ctx, ref); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		synctest.Wait()
		if s := chain.Status(); len(s.Fetching) != 1 || !s.Fetching[0].Prefetch || s.Fetching[0].Waiters != 0 {
			t.Errorf("under way: %+v", s.Fetching)
		}
		close(hold)
		synctest.Wait()
		if cache.Len() != 1 || src.Calls() != 1 {
			t.Errorf("%d blobs after %d requests", cache.Len(), src.Calls())
		}
		if !chain.Prefetch(ref) || src.Calls() != 1 {
			t.Error("what is there was fetched again")
		}
		mustGet(t, chain, ref, plain)
		if cache.Lent() != 0 {
			t.Errorf("%d blobs of the cache were not released", cache.Lent())
		}
	})
}

// A prefetch may be near the end of its time when a Get joins it.
func TestChainGetOutlivesPrefetch(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		ref, plain, src := one()
		src.Next(tiertest.Hang)
		chain := tier.NewChain(tier.ChainConfig{Groups: groups(src), Codec: c, Timeout: 30 * time.Second})
		defer chain.Close()
		chain.Prefetch(ref)
		time.Sleep(29 * time.Second)
		mustGet(t, chain, ref, plain)
	})
}

// refs returns names of n blobs that nobody has, each of up to size bytes.
func refs(n int, size int64) []tier.Ref {
	all := make([]tier.Ref, n)
	for i := range all {
		all[i] = tiertest.RefOf(fmt.Appendf(nil, "blob %d of %d", i, size))
		all[i].Limit = size
	}
	return all
}

func TestChainDemandIsNotDelayedByPrefetch(t *testing.T) {
	for _, size := range []int64{1 << 10, 256 << 10, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			simulated(t, func(t *testing.T, c *object.Codec) {
				ref, plain, src := one()
				src.Always(tiertest.Hang)
				chain := tier.NewChain(tier.ChainConfig{Groups: groups(src), Codec: c, Budget: 16 << 20})
				defer chain.Close()
				begun := 0
				for _, r := range refs(1000, size) {
					if chain.Prefetch(r) {
						begun++
					}
				}
				synctest.Wait()
				if s := chain.Status(); begun == 0 || begun > 512 || src.Under() != begun || s.InFlight > 8<<20 {
					t.Errorf("%d prefetches begun, %d under way, %d bytes of %d", begun, src.Under(), s.InFlight, s.Budget)
				}
				src.Next(tiertest.Step{})
				start := time.Now()
				mustGet(t, chain, ref, plain)
				if took := time.Since(start); took != 0 {
					t.Errorf("demand waited for %v", took)
				}
			})
		})
	}
}

// A blob that doesn't fit beside the prefetches has their room at once, and
// they can't take it back meanwhile.
func TestChainLargeDemandHasThePrefetchesRoom(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		src := tiertest.NewFaulty(tiertest.NewMemory("origin"))
		chain := tier.NewChain(tier.ChainConfig{Groups: groups(src), Codec: c, Budget: 16 << 20})
		defer chain.Close()
		small := refs(3, 100<<10)
		src.Always(tiertest.Hang)
		for _, r := range small {
			chain.Prefetch(r)
		}
		// One of them is waited for, and so is demand.
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		go func() { _, _ = chain.Get(ctx, small[0]) }()
		synctest.Wait()
		large := refs(1, 100<<20)[0]
		go func() { _, _ = chain.Get(t.Context(), large) }()
		synctest.Wait()
		if src.Cancelled() != 2 || src.Under() != 1 {
			t.Errorf("%d of 2 prefetches were cancelled, %d under way", src.Cancelled(), src.Under())
		}
		if chain.Prefetch(small[1]) {
			t.Error("a prefetch began before demand")
		}
		time.Sleep(31 * time.Second) // the first one runs out of time
		s := chain.Status()
		if len(s.Fetching) != 1 || s.Fetching[0].Digest != large.Digest || s.InFlight != 16<<20 || src.Under() != 1 {
			t.Errorf("%d bytes, under way: %+v", s.InFlight, s.Fetching)
		}
	})
}

// The budget holds for any mix of sizes, and a blob larger than all of it comes
// alone.
func TestChainBudget(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		const budget = 8 << 20
		src := &gauge{Memory: tiertest.NewMemory("origin"), delay: 100 * time.Millisecond}
		chain := tier.NewChain(tier.ChainConfig{Groups: groups(src), Codec: c, Budget: budget, Timeout: time.Hour})
		defer chain.Close()
		r := rand.New(rand.NewPCG(1, 2))
		var all sync.WaitGroup
		for i := range 400 {
			plain := tiertest.Random(uint64(i), 100)
			ref := tiertest.RefOf(plain)
			ref.Limit = 1 + r.Int64N(1<<20)
			if i%100 == 50 {
				ref.Limit = budget * 2
			}
			src.Put(ref, plain)
			if i%3 == 0 {
				chain.Prefetch(ref)
				continue
			}
			all.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				mustGet(t, chain, ref, plain)
			})
		}
		all.Wait()
		synctest.Wait()
		if src.most > budget {
			t.Errorf("%d bytes were in flight, budget is %d", src.most, budget)
		}
		if src.most < budget*3/4 {
			t.Errorf("only %d bytes were in flight at once: the test shows nothing", src.most)
		}
		if src.larges == 0 || src.besides != 0 {
			t.Errorf("%d blobs over the budget were fetched, %d times beside others", src.larges, src.besides)
		}
		if s := chain.Status(); s.InFlight != 0 {
			t.Errorf("%d bytes were not given back", s.InFlight)
		}
	})
}

// gauge is a source that adds up what all calls under way may hold.
type gauge struct {
	*tiertest.Memory

	delay time.Duration

	mu              sync.Mutex
	now, most       int64
	calls           int
	larges, besides int
}

func (g *gauge) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	size := 2 * ref.Max()
	large := size > 8<<20
	g.mu.Lock()
	g.calls++
	if large {
		g.larges++
		if g.calls > 1 {
			g.besides++
		}
	} else {
		g.now += size
		g.most = max(g.most, g.now)
	}
	g.mu.Unlock()
	time.Sleep(g.delay)
	g.mu.Lock()
	g.calls--
	if !large {
		g.now -= size
	}
	g.mu.Unlock()
	return g.Memory.Get(ctx, ref)
}

// While the cache takes a blob, whoever asks for it finds it in the flight.
func TestChainNoGapBeforeTheCache(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		ref, plain, src := one()
		cache := &slowCache{Cache: tiertest.NewCache()}
		chain := tier.NewChain(tier.ChainConfig{Cache: cache, Groups: groups(src), Codec: c})
		defer chain.Close()
		start := time.Now()
		for range 3 {
			mustGet(t, chain, ref, plain)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("readers waited %v for the cache", took)
		}
		if src.Calls() != 1 {
			t.Errorf("%d requests", src.Calls())
		}
	})
}

type slowCache struct{ *tiertest.Cache }

func (s *slowCache) Put(ctx context.Context, ref tier.Ref, plain []byte) {
	time.Sleep(time.Second)
	s.Cache.Put(ctx, ref, plain)
}

func (s *slowCache) Offer(tier.Ref, tier.Blob) bool { return false }

func TestChainBrokenCacheCostsHitsOnly(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		ref, plain, src := one()
		cache := tiertest.NewCache()
		cache.Fail(errors.New("input/output error"))
		var log bytes.Buffer
		chain := tier.NewChain(tier.ChainConfig{Cache: cache, Groups: groups(src), Codec: c, Log: slog.New(slog.NewTextHandler(&log, nil))})
		defer chain.Close()
		mustGet(t, chain, ref, plain)
		if !strings.Contains(log.String(), "input/output error") || chain.Status().Near.CacheErrors == 0 {
			t.Errorf("logged %q", log.String())
		}
	})
}

func TestChainSurvivesPanic(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		ref, plain, src := one()
		src.Next(tiertest.Step{Change: func([]byte) []byte { panic("index out of range") }})
		chain := tier.NewChain(tier.ChainConfig{Groups: groups(src), Codec: c})
		defer chain.Close()
		if _, err := chain.Get(t.Context(), ref); !errors.Is(err, tier.ErrCorrupt) {
			t.Error(err)
		}
		mustGet(t, chain, ref, plain)
	})
}

func TestChainRefusesWhatIsTooLarge(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		src := tiertest.NewMemory("origin")
		bomb := make([]byte, 32<<20)
		ref := tiertest.RefOf(bomb)
		src.Put(ref, c.Pack(bomb, nil))
		ref.Limit = 0 // a blob of files
		chain := tier.NewChain(tier.ChainConfig{Groups: groups(src), Codec: c})
		defer chain.Close()
		if _, err := chain.Get(t.Context(), ref); !errors.Is(err, tier.ErrCorrupt) {
			t.Error(err)
		}
	})
}

// Limits come out of metadata: whatever they are, nothing overflows.
func TestChainOddLimits(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		for _, limit := range []int64{-1, -1 << 63, 1 << 62, 1<<62 + 1<<20, 1<<63 - 1} {
			ref, _, src := one()
			ref.Limit = limit
			chain := tier.NewChain(tier.ChainConfig{Groups: groups(src), Codec: c})
			b, err := chain.Get(t.Context(), ref)
			if want := limit > 0; (err == nil) != want || (len(b.Data) > 0) != want {
				t.Errorf("limit %d: %d bytes, %v", limit, len(b.Data), err)
			}
			chain.Close()
		}
	})
}

func TestChainHitDoesNotAllocate(t *testing.T) {
	ref, plain, src := one()
	for name, cfg := range map[string]tier.ChainConfig{
		"cache":  {Cache: oneBlob{plain}},
		"recent": {Recent: 1 << 20},
	} {
		cfg.Groups, cfg.Codec = groups(src), codec(t)
		chain := tier.NewChain(cfg)
		mustGet(t, chain, ref, plain)
		ctx := t.Context()
		if n := testing.AllocsPerRun(1000, func() {
			b, err := chain.Get(ctx, ref)
			if err != nil {
				t.Error(err)
			}
			b.Release()
		}); n > 0 {
			t.Errorf("%s: %v allocations for a hit", name, n)
		}
		chain.Close()
	}
}

type oneBlob struct{ plain []byte }

func (o oneBlob) Get(tier.Ref) (tier.Blob, error) { return tier.NewBlob(o.plain, nil), nil }

func (o oneBlob) Range(_ tier.Ref, off, n int64) (tier.Blob, error) {
	return tier.NewBlob(o.plain[off:off+n], nil), nil
}

func (o oneBlob) Ready(_ tier.Ref, off, n int64) (tier.Blob, tier.Nearness) {
	return tier.NewBlob(o.plain[off:off+n], nil), tier.InMemory
}

func (o oneBlob) WillNeed(tier.Ref) bool { return false }

func (o oneBlob) Copy(tier.Ref) ([]byte, error) { return bytes.Clone(o.plain), nil }

func (oneBlob) Has(tier.Ref) bool { return true }

func (oneBlob) Put(context.Context, tier.Ref, []byte) {}

func (oneBlob) Offer(tier.Ref, tier.Blob) bool { return true }

func BenchmarkChainHit(b *testing.B) {
	ref, plain, src := one()
	chain := tier.NewChain(tier.ChainConfig{Cache: oneBlob{plain}, Groups: groups(src), Codec: codec(b)})
	defer chain.Close()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			blob, err := chain.Get(context.Background(), ref)
			if err != nil {
				b.Error(err)
			}
			blob.Release()
		}
	})
}

// unhurried gives nothing until somebody waits for it.
type unhurried struct{ tier.Source }

func (u unhurried) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	if tier.Background(ctx) {
		select {
		case <-tier.Wanted(ctx):
		case <-ctx.Done():
			return nil, tier.Unavailable(ctx.Err())
		}
	}
	return u.Source.Get(ctx, ref)
}

// A source is told when somebody comes to wait for what it was asked for in the background.
func TestChainTellsWhatIsWanted(t *testing.T) {
	for name, wait := range map[string]func(context.Context) context.Context{
		"at once": func(ctx context.Context) context.Context { return ctx },
		"later": func(ctx context.Context) context.Context {
			wanted := make(chan struct{})
			time.AfterFunc(time.Second, func() { close(wanted) })
			return tier.InBackgroundUntil(ctx, wanted)
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T, codec *object.Codec) {
				mem := tiertest.NewMemory("store")
				plain := []byte("wanted in the end")
				ref := tiertest.RefOf(plain)
				mem.Put(ref, plain)
				for kind, group := range map[string]tier.Group{
					"got": tier.One(unhurried{mem}),
					"asked for, and refused": {Sources: []tier.Source{unhurried{mem}}, Ask: func(_ tier.Ref, answered func([]byte, bool)) tier.Asked {
						go answered(nil, false)
						return &slip{d: newDesk(), over: true}
					}},
				} {
					chain := chainOf(codec, group)
					if !chain.Prefetch(ref) {
						t.Fatal(kind)
					}
					synctest.Wait()
					began := time.Now()
					var all sync.WaitGroup
					for range 2 {
						all.Go(func() {
							b, err := chain.Get(wait(t.Context()), ref)
							if err != nil || !bytes.Equal(b.Data, plain) {
								t.Errorf("%s: %v", kind, err)
							}
						})
					}
					all.Wait()
					if took := time.Since(began); took > 3*time.Second {
						t.Errorf("%s: after %v", kind, took)
					}
					chain.Close()
				}
			})
		})
	}
}
