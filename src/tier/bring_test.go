package tier_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// way is a source that is some time away, carries a blob after the other, and
// takes down the order in which it was asked.
type way struct {
	*tiertest.Memory

	delay, each time.Duration

	mu    sync.Mutex
	free  time.Time
	order []tier.Ref
	most  int
	under int
}

func (w *way) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	w.mu.Lock()
	w.order = append(w.order, ref)
	w.under++
	w.most = max(w.most, w.under)
	if now := time.Now(); w.free.Before(now) {
		w.free = now
	}
	w.free = w.free.Add(w.each)
	at := w.free.Add(w.delay)
	w.mu.Unlock()
	time.Sleep(time.Until(at))
	w.mu.Lock()
	w.under--
	w.mu.Unlock()
	return w.Memory.Get(ctx, ref)
}

func (w *way) asked() []tier.Ref {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.order)
}

// filled is a way with n blobs of size bytes.
func filled(n, size int) (w *way, all []tier.Ref) {
	w = &way{Memory: tiertest.NewMemory("origin"), delay: 10 * time.Millisecond, each: time.Millisecond}
	for i := range n {
		plain := tiertest.Random(uint64(i), size)
		all = append(all, tiertest.RefOf(plain))
		w.Put(all[i], plain)
	}
	return w, all
}

func TestBringInOrder(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		src, all := filled(1000, 100)
		cache := tiertest.NewCache()
		chain := tier.NewChain(tier.ChainConfig{Cache: cache, Groups: groups(src), Codec: c})
		defer chain.Close()
		var mu sync.Mutex
		told := make(map[tier.Ref]int)
		for range 2 { // the second time all is here
			if err := chain.Bring(t.Context(), tier.Profile, slices.Values(all), func(ref tier.Ref, err error) {
				mu.Lock()
				defer mu.Unlock()
				told[ref]++
				if err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Error(err)
			}
		}
		asked := src.asked()
		if len(asked) != len(all) {
			t.Errorf("%d blobs were asked for, of %d", len(asked), len(all))
		}
		for i, ref := range asked { // those that are on their way together in any order
			if n := slices.Index(all, ref); n < i-src.most || n > i+src.most {
				t.Errorf("number %d was asked for as number %d", n, i)
			}
		}
		for _, ref := range all {
			if told[ref] != 2 || !cache.Has(ref) {
				t.Errorf("%v: told %d times", ref, told[ref])
			}
		}
		if src.most < 100 {
			t.Errorf("never more than %d at once", src.most)
		}
		if s := chain.Status(); s.InFlight != 0 {
			t.Errorf("%d bytes were not given back", s.InFlight)
		}
	})
}

// What is more urgent begins first, whatever came first, and all comes.
func TestBringByPriority(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		src, all := filled(3000, 8000)
		chain := tier.NewChain(tier.ChainConfig{Cache: tiertest.NewCache(), Groups: groups(src), Codec: c})
		defer chain.Close()
		var jobs sync.WaitGroup
		bring := func(p tier.Priority, refs []tier.Ref) {
			jobs.Go(func() {
				if err := chain.Bring(t.Context(), p, slices.Values(refs), nil); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(300 * time.Millisecond)
		}
		whole, profile, ahead := all[:1000], all[1000:2000], all[2000:]
		bring(tier.Whole, whole)
		bring(tier.Profile, profile)
		bring(tier.ReadAhead, ahead)
		began := len(src.asked())
		jobs.Wait()
		asked := src.asked()
		if len(asked) != len(all) {
			t.Fatalf("%d of %d were asked for", len(asked), len(all))
		}
		last := func(refs []tier.Ref) int { return slices.Index(asked, refs[len(refs)-1]) }
		if last(ahead) > last(profile) || last(profile) > last(whole) {
			t.Errorf("the last of each came as number %d, %d, %d", last(ahead), last(profile), last(whole))
		}
		for i, ref := range asked[began:last(ahead)] {
			if !slices.Contains(ahead, ref) {
				t.Fatalf("number %d is not what is most urgent", i)
			}
		}
	})
}

// A reader of what no job brings waits for what is on its way already, once, and
// then for nobody.
func TestBringStandsBackForDemand(t *testing.T) {
	for _, p := range []tier.Priority{tier.Profile, tier.Whole} {
		t.Run(fmt.Sprint(p), func(t *testing.T) {
			read := func(beside bool) (took time.Duration, brought int) {
				simulated(t, func(t *testing.T, c *object.Codec) {
					src, all := filled(4000, 4000)
					src.each = 50 * time.Microsecond
					chain := tier.NewChain(tier.ChainConfig{Cache: tiertest.NewCache(), Groups: groups(src), Codec: c})
					defer chain.Close()
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					asked, brings := all[:100], all[100:]
					if beside {
						go chain.Bring(ctx, p, slices.Values(brings), nil)
						time.Sleep(20 * time.Millisecond)
					}
					began := time.Now()
					for _, ref := range asked {
						b, err := chain.Get(ctx, ref)
						if err != nil {
							t.Fatal(err)
						}
						b.Release()
						time.Sleep(100 * time.Microsecond)
					}
					took, brought = time.Since(began), len(src.asked())-len(asked)
					if beside { // it goes on by itself
						time.Sleep(2 * time.Second)
						if n := len(src.asked()); n != len(all) {
							t.Errorf("%d of %d were brought afterwards", n, len(all))
						}
					}
				})
				return took, brought
			}
			alone, _ := read(false)
			beside, brought := read(true)
			t.Logf("alone %v, beside it %v, %d brought meanwhile", alone, beside, brought)
			if beside > alone*105/100 {
				t.Errorf("demand took %v, alone %v", beside, alone)
			}
			if brought == 0 {
				t.Error("nothing had been brought: the test shows nothing")
			}
		})
	}
}

// A reader that follows a job closely doesn't stop it.
func TestBringGoesOnBeforeWhoFollows(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		src, all := filled(500, 4000)
		chain := tier.NewChain(tier.ChainConfig{Cache: tiertest.NewCache(), Groups: groups(src), Codec: c})
		defer chain.Close()
		began := time.Now()
		go chain.Bring(t.Context(), tier.Profile, slices.Values(all), nil)
		for _, ref := range all {
			b, err := chain.Get(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			b.Release()
		}
		// Alone it would be 11 ms for each.
		if took := time.Since(began); took > 700*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if n := len(src.asked()); n != len(all) {
			t.Errorf("%d requests for %d blobs", n, len(all))
		}
	})
}

// Whole comes so slowly that a read which begins at any moment hardly waits longer, on
// average, over a way whatever it carries.
func TestBringWholeLeavesTheWayFree(t *testing.T) {
	for _, each := range []time.Duration{50 * time.Microsecond, time.Millisecond, 20 * time.Millisecond} {
		t.Run(fmt.Sprint(each), func(t *testing.T) {
			read := func(beside bool) (took time.Duration, brought int) {
				simulated(t, func(t *testing.T, c *object.Codec) {
					src, all := filled(4000, 4000)
					src.each = each
					chain := tier.NewChain(tier.ChainConfig{Cache: tiertest.NewCache(), Groups: groups(src), Codec: c})
					defer chain.Close()
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					asked, brings := all[:100], all[100:]
					if beside {
						go chain.Bring(ctx, tier.Whole, slices.Values(brings), nil)
					}
					for i, ref := range asked {
						// Longer than readers are waited for, and never in step.
						time.Sleep(150*time.Millisecond + time.Duration(i*37%100)*time.Millisecond)
						began := time.Now()
						b, err := chain.Get(ctx, ref)
						if err != nil {
							t.Fatal(err)
						}
						b.Release()
						took += time.Since(began)
					}
					brought = len(src.asked()) - len(asked)
				})
				return took, brought
			}
			alone, _ := read(false)
			beside, brought := read(true)
			t.Logf("alone %v, beside it %v, %d brought meanwhile", alone, beside, brought)
			if beside > alone*105/100 {
				t.Errorf("demand took %v, alone %v", beside, alone)
			}
			if brought < 50 {
				t.Errorf("%d were brought meanwhile", brought)
			}
		})
	}
}

// A whole tree takes about a tenth of a slow way as well, though each blob takes that for long.
func TestBringWholeOnASlowWay(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		const long = time.Hour
		src, all := filled(1000, 1000)
		src.each = 4 * time.Second
		chain := tier.NewChain(tier.ChainConfig{Cache: tiertest.NewCache(), Groups: groups(src), Codec: c})
		defer chain.Close()
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		if err := chain.Bring(ctx, tier.Whole, slices.Values(all), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if took := time.Duration(len(src.asked())) * src.each; took > long/6 || took < long/16 {
			t.Errorf("it took the way for %v of %v", took, long)
		}
	})
}

// Where somebody needs something else again and again, a profile comes so slowly that they
// hardly wait longer, on average; and where nobody does any more, or it was once only, as
// fast as it can.
func TestBringProfileBesideOthers(t *testing.T) {
	const asked = 100
	read := func(beside bool, reads int) (took, rest time.Duration, brought int) {
		simulated(t, func(t *testing.T, c *object.Codec) {
			src, all := filled(20_000+asked, 400)
			src.each = 50 * time.Microsecond
			chain := tier.NewChain(tier.ChainConfig{Cache: tiertest.NewCache(), Groups: groups(src), Codec: c})
			defer chain.Close()
			var bring sync.WaitGroup
			if beside {
				bring.Go(func() { chain.Bring(t.Context(), tier.Profile, slices.Values(all[asked:]), nil) })
			}
			for i, ref := range all[:reads] {
				time.Sleep(20*time.Millisecond + time.Duration(i*17%40)*time.Millisecond)
				began := time.Now()
				b, err := chain.Get(t.Context(), ref)
				if err != nil {
					t.Fatal(err)
				}
				b.Release()
				if i >= 2 { // by then it is clear that there will be more
					took += time.Since(began)
				}
			}
			brought = len(src.asked()) - reads
			began := time.Now()
			bring.Wait()
			rest = time.Since(began)
		})
		return took, rest, brought
	}
	alone, _, _ := read(false, asked)
	beside, rest, brought := read(true, asked)
	t.Logf("alone %v, beside it %v, %d brought meanwhile, the rest in %v", alone, beside, brought, rest)
	if beside > alone*105/100 {
		t.Errorf("demand took %v, alone %v", beside, alone)
	}
	if brought < 1000 || brought > 19_000 {
		t.Errorf("%d were brought meanwhile", brought)
	}
	// It takes the way for a second in all.
	if rest > 4*time.Second {
		t.Errorf("the rest took %v", rest)
	}
	if _, rest, _ = read(true, 1); rest > 1500*time.Millisecond {
		t.Errorf("after one read it took %v", rest)
	}
}

// That holds as well where the way is so slow that each of these reads takes long beside
// a profile.
func TestBringProfileBesideOthersOnASlowWay(t *testing.T) {
	read := func(beside bool) (took time.Duration) {
		simulated(t, func(t *testing.T, c *object.Codec) {
			src, all := filled(2000, 20_000)
			src.each = 80 * time.Millisecond
			chain := tier.NewChain(tier.ChainConfig{Cache: tiertest.NewCache(), Groups: groups(src), Codec: c})
			defer chain.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if beside {
				go chain.Bring(ctx, tier.Profile, slices.Values(all[50:]), nil)
			}
			for i, ref := range all[:50] {
				time.Sleep(time.Second + time.Duration(i*170%400)*time.Millisecond)
				began := time.Now()
				b, err := chain.Get(t.Context(), ref)
				if err != nil {
					t.Fatal(err)
				}
				b.Release()
				if i >= 5 {
					took += time.Since(began)
				}
			}
		})
		return took
	}
	alone, beside := read(false), read(true)
	t.Logf("alone %v, beside it %v", alone, beside)
	if beside > alone*11/10 {
		t.Errorf("demand took %v, alone %v", beside, alone)
	}
}

// Who waits for what a profile brings has it come as fast as it can, whatever others read.
func TestBringProfileFastForWhoFollows(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		src, all := filled(5000, 400)
		src.each = 50 * time.Microsecond
		chain := tier.NewChain(tier.ChainConfig{Cache: tiertest.NewCache(), Groups: groups(src), Codec: c})
		defer chain.Close()
		mustGet := func(ref tier.Ref) {
			b, err := chain.Get(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			b.Release()
		}
		others, profile := all[:10], all[10:]
		go chain.Bring(t.Context(), tier.Profile, slices.Values(profile), nil)
		for _, ref := range others {
			mustGet(ref)
		}
		before := len(src.asked())
		began := time.Now()
		for _, ref := range profile {
			mustGet(ref)
		}
		// A tenth of the way would have it take ten times as long as all blobs take there.
		took, bytes := time.Since(began), time.Duration(len(src.asked())-before)*src.each
		t.Logf("%d came in %v, for which the way takes %v", len(src.asked())-before, took, bytes)
		if took > 3*bytes {
			t.Errorf("took %v, on a way that takes %v", took, bytes)
		}
	})
}

// Whole waits while anybody reads, be it what is here.
func TestBringWholeWhileNobodyReads(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		src, all := filled(2000, 4000)
		chain := tier.NewChain(tier.ChainConfig{Cache: tiertest.NewCache(), Groups: groups(src), Codec: c})
		defer chain.Close()
		mustCopy := func(ref tier.Ref) {
			if _, err := chain.Copy(t.Context(), ref); err != nil {
				t.Error(err)
			}
		}
		mustCopy(all[0])
		go chain.Bring(t.Context(), tier.Whole, slices.Values(all), nil)
		time.Sleep(300 * time.Millisecond)
		before := len(src.asked())
		if before < 10 {
			t.Fatalf("only %d while nobody reads", before)
		}
		var reading int
		for i := range 100 {
			if _, ok := chain.Local(all[0], 0, 100); !ok {
				t.Error("it isn't here")
			}
			time.Sleep(50 * time.Millisecond)
			if i == 2 {
				reading = len(src.asked())
			}
		}
		if n := len(src.asked()); n != reading {
			t.Errorf("%d were brought while somebody read", n-reading)
		}
		for range 600 { // thirty seconds, a tenth of which all of them take
			mustCopy(all[0]) // which is no reader
			time.Sleep(50 * time.Millisecond)
		}
		if n := len(src.asked()); n != len(all) {
			t.Errorf("%d of %d came in the end", n, len(all))
		}
	})
}

func TestBringEnds(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		src, all := filled(2000, 4000)
		cache := tiertest.NewCache()
		chain := tier.NewChain(tier.ChainConfig{Cache: cache, Groups: groups(src), Codec: c, Room: func() int64 {
			return int64(500-cache.Len()) * 4000
		}})
		if err := chain.Bring(t.Context(), tier.Whole, slices.Values(all), nil); !errors.Is(err, tier.ErrNoRoom) {
			t.Errorf("with a full cache: %v", err)
		}
		full := cache.Len()
		if full < 450 || full > 500 {
			t.Errorf("%d blobs are in a cache of 500", full)
		}
		if err := chain.Bring(t.Context(), tier.Whole, slices.Values(all[:full]), nil); err != nil {
			t.Errorf("what is there, with a full cache: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(10 * time.Millisecond)
			cancel()
		}()
		if err := chain.Bring(ctx, tier.Profile, slices.Values(all), nil); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		_, absent := filled(400, 5000) // of another one
		came := cache.Len()
		if err := chain.Bring(t.Context(), tier.Profile, slices.Values(slices.Concat(absent[:100], all)), nil); err != nil || cache.Len() == came {
			t.Errorf("behind many that there aren't: %v, %d blobs came", err, cache.Len()-came)
		}
		if err := chain.Bring(t.Context(), tier.Profile, slices.Values(absent), nil); !errors.Is(err, tier.ErrAbsent) {
			t.Errorf("of what there isn't: %v", err)
		}
		ended := make(chan error)
		go func() { ended <- chain.Bring(t.Context(), tier.Whole, slices.Values(absent), nil) }()
		time.Sleep(time.Millisecond)
		chain.Close()
		if err := <-ended; !errors.Is(err, tier.ErrClosed) && !errors.Is(err, tier.ErrAbsent) && !errors.Is(err, tier.ErrNoRoom) {
			t.Errorf("closed: %v", err)
		}
		synctest.Wait()
		if s := chain.Status(); s.InFlight != 0 {
			t.Errorf("%d bytes were not given back", s.InFlight)
		}
	})
}
