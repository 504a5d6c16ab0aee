package tier_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// groups makes a group of each source.
func groups(sources ...tier.Source) []tier.Group {
	var all []tier.Group
	for _, s := range sources {
		all = append(all, tier.One(s))
	}
	return all
}

// cache is a source of a group: it has everything in blobs, after delay, unless
// it fails.
type cacheDouble struct {
	name  string
	blobs *tiertest.Memory
	delay time.Duration
	late  atomic.Int64 // more, in nanoseconds
	slow  atomic.Int64 // still more, where it is not asked for what it has
	err   atomic.Pointer[error]
	asked atomic.Int64
}

func (c *cacheDouble) Name() string { return c.name }

func (c *cacheDouble) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	c.asked.Add(1)
	delay := c.delay + time.Duration(c.late.Load())
	if !ref.Here {
		delay += time.Duration(c.slow.Load())
	}
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := c.err.Load(); err != nil {
		return nil, *err
	}
	return c.blobs.Get(ctx, ref)
}

func (c *cacheDouble) Purge(context.Context, tier.Ref) error { return nil }

func gridOf(n int, blobs *tiertest.Memory) (tier.Group, []*cacheDouble) {
	var g tier.Group
	var all []*cacheDouble
	for i := range n {
		c := &cacheDouble{name: fmt.Sprint("grid ", i), blobs: blobs}
		all = append(all, c)
		g.Sources = append(g.Sources, c)
	}
	return g, all
}

func manyBlobs(n int) (*tiertest.Memory, []tier.Ref) {
	m := tiertest.NewMemory("all")
	var refs []tier.Ref
	for i := range n {
		b := fmt.Appendf(nil, "blob %d", i)
		ref := tiertest.RefOf(b)
		m.Put(ref, b)
		refs = append(refs, ref)
	}
	return m, refs
}

func getAll(t *testing.T, c *tier.Chain, refs []tier.Ref) {
	t.Helper()
	for _, ref := range refs {
		b, err := c.Get(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
}

// slowGets gets one blob a second, and counts those that take more than one. None
// may take more than four.
func slowGets(t *testing.T, c *tier.Chain, refs []tier.Ref) (n int) {
	t.Helper()
	for _, ref := range refs {
		began := time.Now()
		getAll(t, c, []tier.Ref{ref})
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("it took %v", took)
		} else if took > time.Second {
			n++
		}
		time.Sleep(time.Second)
	}
	return n
}

// chainOf is a chain of groups, and of nothing else.
func chainOf(codec *object.Codec, groups ...tier.Group) *tier.Chain {
	return tier.NewChain(tier.ChainConfig{Groups: groups, Codec: codec})
}

// errDown is what one says of a server that is not there.
var errDown = fmt.Errorf("dial: %w", tier.ErrUnavailable)

func TestGroupSharesTheLoad(t *testing.T) {
	simulated(t, func(t *testing.T, codec *object.Codec) {
		blobs, refs := manyBlobs(600)
		g, caches := gridOf(3, blobs)
		chain := chainOf(codec, g)
		defer chain.Close()
		getAll(t, chain, refs)
		var before [3]int64
		for i, c := range caches {
			before[i] = c.asked.Load()
			if before[i] < 100 || before[i] > 300 {
				t.Errorf("%s was asked for %d of 600 blobs", c.name, before[i])
			}
		}
		getAll(t, chain, refs)
		for i, c := range caches {
			if c.asked.Load() != 2*before[i] {
				t.Errorf("%s was asked for other blobs the second time", c.name)
			}
		}
	})
}

func TestGroupLeavesFailedMembersAlone(t *testing.T) {
	simulated(t, func(t *testing.T, codec *object.Codec) {
		blobs, refs := manyBlobs(300)
		g, caches := gridOf(3, blobs)
		chain := chainOf(codec, g)
		defer chain.Close()
		caches[1].err.Store(&errDown)
		getAll(t, chain, refs)
		if n := caches[1].asked.Load(); n != 1 {
			t.Errorf("a cache that is down was asked %d times within its first pause", n)
		}
		// Pauses grow: an hour of requests must not become an hour of tries.
		for range 600 {
			time.Sleep(time.Second)
			getAll(t, chain, refs[:30])
		}
		if n := caches[1].asked.Load(); n < 5 || n > 30 {
			t.Errorf("a cache that was down for ten minutes was asked %d times", n)
		}
		caches[1].err.Store(nil)
		time.Sleep(time.Minute)
		was := caches[1].asked.Load()
		getAll(t, chain, refs)
		if n := caches[1].asked.Load() - was; n < 50 {
			t.Errorf("a cache that came back was asked for %d of 300 blobs", n)
		}
	})
}

// TestSingleMembers asks an only cache again and again, whatever it says, and so has
// what it has at any time.
func TestSingleMembers(t *testing.T) {
	simulated(t, func(t *testing.T, codec *object.Codec) {
		blobs, refs := manyBlobs(50)
		g, caches := gridOf(1, blobs)
		s, stores := gridOf(1, blobs)
		chain := chainOf(codec, g, s)
		defer chain.Close()
		caches[0].err.Store(&errDown)
		getAll(t, chain, refs)
		if n := caches[0].asked.Load(); n != int64(len(refs)) {
			t.Errorf("an only cache was asked %d times, for %d blobs", n, len(refs))
		}
		caches[0].err.Store(nil)
		stores[0].err.Store(&errDown)
		getAll(t, chain, refs)
	})
}

// TestOnlyMemberHangs has an only cache hang: few wait for it, and none for long; it is
// used again once it answers, and asked if nobody else has a blob.
func TestOnlyMemberHangs(t *testing.T) {
	simulated(t, func(t *testing.T, codec *object.Codec) {
		blobs, refs := manyBlobs(300)
		g, caches := gridOf(1, blobs)
		s, stores := gridOf(1, blobs)
		chain := chainOf(codec, g, s)
		defer chain.Close()
		getAll(t, chain, refs[:10])
		caches[0].late.Store(int64(time.Hour))
		began := time.Now()
		if slow := slowGets(t, chain, refs[10:200]); slow != 1 {
			t.Errorf("%d reads waited for it", slow)
		}
		if n := caches[0].asked.Load(); n > 10+2+30 {
			t.Errorf("it was asked %d times in %v", n-10, time.Since(began))
		}
		caches[0].late.Store(0)
		time.Sleep(2 * time.Minute)
		getAll(t, chain, refs[200:201]) // has it looked for
		synctest.Wait()
		before := stores[0].asked.Load()
		getAll(t, chain, refs[201:250])
		if n := stores[0].asked.Load() - before; n > 0 {
			t.Errorf("the store was asked %d times, with the cache back", n)
		}
		// One that is slow, and there, is waited for.
		caches[0].slow.Store(int64(10 * time.Second))
		getAll(t, chain, refs[250:260])
		caches[0].slow.Store(0)
		if n := stores[0].asked.Load() - before; n > 0 {
			t.Errorf("the store was asked %d times, with the cache at work", n)
		}
		// One that hung may have what nobody else has.
		caches[0].late.Store(int64(time.Hour))
		getAll(t, chain, refs[260:261])
		caches[0].late.Store(int64(5 * time.Second))
		stores[0].err.Store(&errDown)
		getAll(t, chain, refs[261:262])
	})
}

// TestOneOfTwoHangs has one of two caches hang: its share is had by way of the other, and
// only the first to ask waits.
func TestOneOfTwoHangs(t *testing.T) {
	simulated(t, func(t *testing.T, codec *object.Codec) {
		blobs, refs := manyBlobs(200)
		g, caches := fetchersOf(blobs)
		chain := chainOf(codec, g, tier.One(tiertest.NewMemory("store")))
		defer chain.Close()
		getAll(t, chain, refs[:50])
		caches[0].hung.Store(true)
		if slow := slowGets(t, chain, refs[50:]); slow == 0 || slow > 12 { // once for each pause, which grow
			t.Errorf("%d of 150 reads waited for it", slow)
		}
	})
}

// TestBothHang has both caches hang with a store behind them: after each pause, which grow,
// a read or two wait for them, and none for half of its time.
func TestBothHang(t *testing.T) {
	simulated(t, func(t *testing.T, codec *object.Codec) {
		blobs, refs := manyBlobs(300)
		g, caches := fetchersOf(blobs)
		s, _ := gridOf(1, blobs)
		chain := chainOf(codec, g, s)
		defer chain.Close()
		getAll(t, chain, refs[:20])
		caches[0].hung.Store(true)
		caches[1].hung.Store(true)
		waited := 0
		for _, ref := range refs[20:] {
			began := time.Now()
			getAll(t, chain, []tier.Ref{ref})
			if took := time.Since(began); took > 6*time.Second {
				t.Errorf("it took %v", took)
			} else if took > time.Second {
				waited++
			}
			time.Sleep(time.Second)
		}
		if waited == 0 || waited > 20 {
			t.Errorf("%d of 280 reads waited for them", waited)
		}
		caches[0].hung.Store(false)
		time.Sleep(2 * time.Minute)
		was := caches[0].fetched.Load()
		getAll(t, chain, refs)
		if n := caches[0].fetched.Load() - was; n < 250 {
			t.Errorf("back, and alone, it was asked for %d of 300 blobs", n)
		}
	})
}

// TestOneOfTwoIsSlow has one of two caches tell what it has, and never come to an end with
// what it fetches: after each pause, which grow, one read waits for it, whatever else is
// read at the time.
func TestOneOfTwoIsSlow(t *testing.T) {
	for name, test := range map[string]struct {
		atOnce int
		other  time.Duration // that the other takes
	}{
		"one at a time": {1, 0}, "many at once": {20, 0}, "company for the other": {1, 2 * time.Second},
	} {
		atOnce := test.atOnce
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T, codec *object.Codec) {
				const rounds = 120
				blobs, refs := manyBlobs((rounds + 100) * atOnce)
				g, caches := fetchersOf(blobs)
				chain := chainOf(codec, g, tier.One(tiertest.NewMemory("store")))
				defer chain.Close()
				var waited atomic.Int64
				round := func() {
					var all sync.WaitGroup
					for range atOnce {
						ref := refs[0]
						refs = refs[1:]
						all.Go(func() {
							began := time.Now()
							getAll(t, chain, []tier.Ref{ref})
							if took := time.Since(began); took > 8*time.Second {
								t.Errorf("it took %v", took)
							} else if took > 4*time.Second {
								waited.Add(1)
							}
						})
					}
					all.Wait()
					time.Sleep(time.Second)
				}
				caches[0].slow.Store(int64(time.Hour))
				caches[1].delay = test.other
				for waited.Load() == 0 {
					round()
				}
				first := waited.Swap(0)
				for range rounds {
					round()
				}
				if n := waited.Load(); n == 0 || n > 12 || caches[0].fetched.Load() != first+n {
					t.Errorf("%d reads waited for it, after %d at first; it was to fetch %d blobs", n, first, caches[0].fetched.Load())
				}
				caches[0].slow.Store(0)
				caches[1].delay = 0
				time.Sleep(time.Minute)
				was := caches[0].fetched.Load()
				for range 40 {
					round()
				}
				if n := caches[0].fetched.Load() - was; n < int64(10*atOnce) || waited.Load() > 12 {
					t.Errorf("as quick as the other, it was asked for %d of %d blobs", n, 40*atOnce)
				}
			})
		})
	}
}

// TestCacheWithoutItsStore has two caches that can't get what they lack: they are
// asked for what they have all the same.
func TestCacheWithoutItsStore(t *testing.T) {
	simulated(t, func(t *testing.T, codec *object.Codec) {
		blobs, refs := manyBlobs(50)
		g, caches := gridOf(2, blobs)
		s, stores := gridOf(1, blobs)
		chain := chainOf(codec, g, s)
		defer chain.Close()
		lacks := fmt.Errorf("status 502: %w: %w", tier.ErrUnavailable, tier.ErrBehind)
		for _, c := range caches {
			c.err.Store(&lacks)
		}
		getAll(t, chain, refs)
		for _, c := range caches {
			c.err.Store(nil)
		}
		stores[0].err.Store(&errDown)
		getAll(t, chain, refs)
	})
}

func TestGroupWithAllDown(t *testing.T) {
	simulated(t, func(t *testing.T, codec *object.Codec) {
		blobs, refs := manyBlobs(10)
		g, caches := gridOf(2, blobs)
		chain := chainOf(codec, g, tier.One(blobs))
		defer chain.Close()
		for _, c := range caches {
			c.err.Store(&errDown)
		}
		getAll(t, chain, refs) // from the store behind
		if n := caches[0].asked.Load() + caches[1].asked.Load(); n != 2 {
			t.Errorf("caches that are down were asked %d times", n)
		}
		alone := chainOf(codec, g)
		defer alone.Close()
		for range 2 {
			if _, err := alone.Get(t.Context(), refs[0]); !errors.Is(err, tier.ErrUnavailable) {
				t.Errorf("with all caches down: %v", err)
			}
		}
	})
}

func TestGroupHedgesSlowMembers(t *testing.T) {
	simulated(t, func(t *testing.T, codec *object.Codec) {
		blobs, refs := manyBlobs(200)
		g, caches := gridOf(2, blobs)
		caches[0].delay, caches[1].delay = 5*time.Millisecond, 5*time.Millisecond
		chain := chainOf(codec, g)
		defer chain.Close()
		getAll(t, chain, refs[:100])
		caches[0].delay = time.Minute
		for _, ref := range refs[100:] {
			began := time.Now()
			getAll(t, chain, []tier.Ref{ref})
			if d := time.Since(began); d > 100*time.Millisecond {
				t.Fatalf("a blob took %v though one of two caches is quick", d)
			}
		}
	})
}

// Where the others have everything, a cache that is slow costs a read now and then, not each
// time: it is left alone. One that is as quick, but lacks what it is asked for, is not.
func TestSlowAmongThoseThatHaveAll(t *testing.T) {
	for name, test := range map[string]struct {
		late, slow time.Duration
		most       int // reads that may wait, of a minute's
	}{
		"slow":  {300 * time.Millisecond, 0, 18},
		"lacks": {0, 300 * time.Millisecond, 6000},
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T, codec *object.Codec) {
				blobs, refs := manyBlobs(300)
				g, caches := gridOf(3, blobs)
				for _, c := range caches {
					c.delay = 2 * time.Millisecond
				}
				chain := chainOf(codec, g)
				defer chain.Close()
				getAll(t, chain, refs)
				caches[1].late.Store(int64(test.late))
				caches[1].slow.Store(int64(test.slow))
				caches[1].asked.Store(0)
				waited := 0
				for end := time.Now().Add(time.Minute); time.Now().Before(end); {
					for _, ref := range refs[:100] {
						began := time.Now()
						getAll(t, chain, []tier.Ref{ref})
						if time.Since(began) > 10*time.Millisecond {
							waited++
						}
					}
				}
				if waited > test.most || waited == 0 {
					t.Errorf("%d reads waited for it", waited)
				}
				if n := caches[1].asked.Load(); name == "lacks" && n < 1000 {
					t.Errorf("it was asked %d times", n)
				}
				caches[1].late.Store(0)
				caches[1].slow.Store(0)
				time.Sleep(time.Minute)
				before := caches[1].asked.Load()
				getAll(t, chain, refs)
				if n := caches[1].asked.Load() - before; n < 50 {
					t.Errorf("as quick as the others, it was asked for %d of 300 blobs", n)
				}
			})
		})
	}
}

// partly is a cache that has some blobs, and takes a second to fetch others.
type partly struct {
	cacheDouble
	has map[tier.Ref]bool
}

func (p *partly) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	if has := p.has[tier.Ref{Domain: ref.Domain, Digest: ref.Digest}]; !has && ref.Here {
		return nil, fmt.Errorf("%s: %w", p.name, tier.ErrAbsent)
	} else if !has {
		time.Sleep(time.Second)
	}
	return p.cacheDouble.Get(ctx, ref)
}

// A cache that is left alone for being slow is still asked for what it has, where the others
// would have to fetch it.
func TestSlowOneHasWhatOthersLack(t *testing.T) {
	simulated(t, func(t *testing.T, codec *object.Codec) {
		blobs, refs := manyBlobs(400)
		slow := &cacheDouble{name: "slow", blobs: blobs, delay: 2 * time.Millisecond}
		quick := &partly{cacheDouble{name: "quick", blobs: blobs, delay: 2 * time.Millisecond}, make(map[tier.Ref]bool)}
		for _, ref := range refs[:300] {
			quick.has[tier.Ref{Domain: ref.Domain, Digest: ref.Digest}] = true
		}
		chain := chainOf(codec, tier.Group{Sources: []tier.Source{slow, quick}})
		defer chain.Close()
		getAll(t, chain, refs[:100])
		slow.late.Store(int64(100 * time.Millisecond))
		for before := slow.asked.Load(); ; before = slow.asked.Load() {
			getAll(t, chain, refs[100:300])
			if slow.asked.Load() == before {
				break // it is left alone
			}
		}
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		getAll(t, chain, refs[300:301])
		if took := time.Since(began); took > 200*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

func TestNearerGroupsAreFilled(t *testing.T) {
	simulated(t, func(t *testing.T, codec *object.Codec) {
		near, far := tiertest.NewMemory("near"), tiertest.NewMemory("far")
		plain := bytes.Repeat([]byte("compressible "), 1000)
		ref := tiertest.RefOf(plain)
		far.Put(ref, codec.Pack(plain, nil))
		filled := 0
		chain := tier.NewChain(tier.ChainConfig{Codec: codec, Groups: []tier.Group{
			{Sources: []tier.Source{near}, Fill: func(ref tier.Ref, stored []byte) error {
				filled++
				near.Put(ref, bytes.Clone(stored))
				return nil
			}},
			tier.One(far),
		}})
		defer chain.Close()
		for range 3 {
			mustGet(t, chain, ref, plain)
			synctest.Wait()
		}
		if filled != 1 || far.Gets() != 1 {
			t.Errorf("filled %d times, the far one was asked %d times", filled, far.Gets())
		}
	})
}

// fetcher is a cache that fetches what it lacks, which takes delay.
type fetcher struct {
	cacheDouble
	fetched, looked atomic.Int64
	hung            atomic.Bool // not even what it has is told
}

func (f *fetcher) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	if f.hung.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if ref.Here {
		f.looked.Add(1)
		return nil, fmt.Errorf("%s: %w", f.name, tier.ErrAbsent)
	}
	f.fetched.Add(1)
	return f.cacheDouble.Get(ctx, ref)
}

func fetchersOf(blobs *tiertest.Memory) (tier.Group, [2]*fetcher) {
	var all [2]*fetcher
	for i := range all {
		all[i] = &fetcher{cacheDouble: cacheDouble{name: fmt.Sprint("grid ", i), blobs: blobs}}
	}
	return tier.Group{Sources: []tier.Source{all[0], all[1]}}, all
}

// A cache that is slow because it fetches is company for, but what none has is
// fetched by one.
func TestHedgeDoesNotFetch(t *testing.T) {
	simulated(t, func(t *testing.T, codec *object.Codec) {
		blobs, refs := manyBlobs(50)
		g, caches := fetchersOf(blobs)
		for _, c := range caches {
			c.delay = 3 * time.Second
		}
		chain := chainOf(codec, g)
		defer chain.Close()
		getAll(t, chain, refs)
		if n := caches[0].fetched.Load() + caches[1].fetched.Load(); n != int64(len(refs)) {
			t.Errorf("%d fetches of %d blobs", n, len(refs))
		}
		// And the one that fetches is asked whether it is there at all.
		if n := caches[0].looked.Load() + caches[1].looked.Load(); n != 2*int64(len(refs)) {
			t.Errorf("for %d slow answers of %d the other cache was asked as well", n-int64(len(refs)), len(refs))
		}
	})
}

// Where all are as slow, because their store is, none is left alone for it.
func TestSlowStoreBehindCaches(t *testing.T) {
	simulated(t, func(t *testing.T, codec *object.Codec) {
		blobs, refs := manyBlobs(20)
		g, caches := fetchersOf(blobs)
		for _, c := range caches {
			c.delay = 15 * time.Second
		}
		chain := chainOf(codec, g)
		defer chain.Close()
		getAll(t, chain, refs)
		if n := caches[0].fetched.Load() + caches[1].fetched.Load(); n != 2*int64(len(refs)) {
			t.Errorf("%d fetches of %d blobs by two caches", n, len(refs))
		}
	})
}

// What fails, or hangs, hands over the fetch.
func TestFetchGoesOnWithTheNext(t *testing.T) {
	reset := fmt.Errorf("reset: %w", tier.ErrUnavailable)
	for name, break1 := range map[string]func(*fetcher){
		"fails late": func(c *fetcher) { c.delay = 2 * time.Second; c.err.Store(&reset) },
		"hangs":      func(c *fetcher) { c.delay = time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T, codec *object.Codec) {
				blobs, refs := manyBlobs(20)
				g, caches := fetchersOf(blobs)
				break1(caches[0])
				chain := chainOf(codec, g)
				defer chain.Close()
				for _, ref := range refs {
					began := time.Now()
					getAll(t, chain, []tier.Ref{ref})
					if took := time.Since(began); took > 15*time.Second {
						t.Errorf("it took %v of 30 s", took)
					}
				}
				if caches[0].fetched.Load() == 0 || caches[1].fetched.Load() != int64(len(refs)) {
					t.Errorf("asked to fetch: %d, and %d of %d", caches[0].fetched.Load(), caches[1].fetched.Load(), len(refs))
				}
			})
		})
	}
}
