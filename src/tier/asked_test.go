package tier_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// desk is a source that takes requests and answers them one after the other, each out
// of the same few bytes of memory, over which it writes afterwards.
type desk struct {
	*tiertest.Memory

	answer func(n int, stored []byte) ([]byte, bool) // nil: none, ever; may be nil itself
	refuse func(n int) bool                          // may be nil

	mu     sync.Mutex
	n      int // requests
	left   int // of them
	gets   int // and those that somebody waited for
	memory []byte
	turn   sync.Mutex

	raised atomic.Int64 // requests that somebody came to wait for
}

// slip is a request at a desk.
type slip struct {
	d    *desk
	over bool // GUARDED_BY(d.mu)
}

func (s *slip) Leave() bool {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	was := s.over
	s.over = true
	if !was {
		s.d.left++
	}
	return !was
}

// Raise is of no use: all requests are sent at once.
func (s *slip) Raise() { s.d.raised.Add(1) }

func newDesk() *desk { return &desk{Memory: tiertest.NewMemory("desk"), memory: make([]byte, 2<<20)} }

func (d *desk) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	d.mu.Lock()
	d.gets++
	d.mu.Unlock()
	time.Sleep(10 * time.Millisecond)
	return d.Memory.Get(ctx, ref)
}

// Purge leaves it as it is: what it has is right.
func (d *desk) Purge(context.Context, tier.Ref) error { return nil }

func (d *desk) ask(ref tier.Ref, answered func([]byte, bool)) tier.Asked {
	d.mu.Lock()
	d.n++
	n := d.n
	d.mu.Unlock()
	if d.refuse != nil && d.refuse(n) {
		return nil
	}
	s := &slip{d: d}
	go func() {
		time.Sleep(10 * time.Millisecond)
		d.turn.Lock()
		defer d.turn.Unlock()
		stored, err := d.Memory.Get(context.Background(), ref)
		ok := err == nil
		if d.answer != nil && ok {
			if stored, ok = d.answer(n, stored); stored == nil {
				return
			}
		}
		d.mu.Lock()
		was := s.over
		s.over = true
		d.mu.Unlock()
		if was {
			return
		}
		b := d.memory[:copy(d.memory, stored)]
		answered(b, ok)
		for i := range b {
			b[i] = 0xee
		}
	}()
	return s
}

func (d *desk) group() tier.Group {
	r := tier.Retry(d, tier.RetryPolicy{})
	return tier.Group{Sources: []tier.Source{r}, Ask: r.Asking(d.ask)}
}

// fill gives the source n blobs, some of which don't compress.
func (d *desk) fill(c *object.Codec, n int) (all []tier.Ref, plain map[tier.Ref][]byte) {
	plain = make(map[tier.Ref][]byte)
	for i := range n {
		b := tiertest.Random(uint64(i), 10+i*7919%20_000)
		if i%3 > 0 {
			b = bytes.Repeat(fmt.Appendf(nil, "blob %d and ", i), 1+i%500)
		}
		ref := tiertest.RefOf(b)
		d.Put(ref, bytes.Clone(c.Pack(b, nil)))
		all, plain[ref] = append(all, ref), b
	}
	return all, plain
}

// What is asked for comes right, whatever the source does with its memory and however
// its answers go wrong.
func TestAskedComesRight(t *testing.T) {
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)-1] ^= 1
		return b
	}
	for name, x := range map[string]struct {
		answer func(n int, stored []byte) ([]byte, bool)
		refuse func(n int) bool
		gets   int // at least
	}{
		"well":    {},
		"refused": {refuse: func(n int) bool { return n%5 == 0 }, gets: 100},
		"for Get": {answer: func(n int, b []byte) ([]byte, bool) { return b, n%5 > 0 }, gets: 100},
		"corrupt": {answer: func(n int, b []byte) ([]byte, bool) {
			if n%5 == 0 {
				b = flip(b)
			}
			return b, true
		}, gets: 100},
		"of another": {answer: func(n int, b []byte) ([]byte, bool) {
			if n%5 == 0 {
				b = []byte("another one")
			}
			return b, true
		}, gets: 100},
		"nothing": {answer: func(n int, b []byte) ([]byte, bool) {
			if n%5 == 0 {
				b = []byte{}
			}
			return b, true
		}, gets: 100},
	} {
		for _, recent := range []int64{0, 1 << 20} {
			t.Run(fmt.Sprint(name, recent), func(t *testing.T) {
				simulated(t, func(t *testing.T, c *object.Codec) {
					src := newDesk()
					src.answer, src.refuse = x.answer, x.refuse
					all, plain := src.fill(c, 600)
					cache := tiertest.NewCache()
					chain := tier.NewChain(tier.ChainConfig{Cache: cache, Groups: []tier.Group{src.group()}, Codec: c, Recent: recent})
					defer chain.Close()
					var readers sync.WaitGroup
					for i := range 4 { // meanwhile
						readers.Go(func() {
							for j := i; j < len(all); j += 7 {
								mustGet(t, chain, all[j], plain[all[j]])
							}
						})
					}
					err := chain.Bring(t.Context(), tier.Profile, slices.Values(all), func(_ tier.Ref, err error) {
						if err != nil {
							t.Error(err)
						}
					})
					if err != nil {
						t.Error(err)
					}
					readers.Wait()
					synctest.Wait()
					for _, ref := range all {
						if b, err := cache.Get(ref); err != nil || !bytes.Equal(b.Data, plain[ref]) {
							t.Errorf("the cache has %d other bytes, %v", len(b.Data), err)
						}
					}
					s := chain.Status()
					if src.gets < x.gets || src.gets > 300 {
						t.Errorf("%d calls of Get", src.gets)
					}
					if m := s.Sources[0]; s.InFlight != 0 || len(s.Fetching) != 0 || m.Requests != m.Hits+m.Absent+m.Errors+m.Corrupt+m.Cancelled || m.Hits != 600 {
						t.Errorf("status %+v", s)
					}
				})
			})
		}
	}
}

// Nobody waits for an answer that does not come for longer than a fetch may take.
func TestAskedNeverAnswered(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		src := newDesk()
		src.answer = func(int, []byte) ([]byte, bool) { return nil, false }
		all, plain := src.fill(c, 10)
		chain := tier.NewChain(tier.ChainConfig{Groups: []tier.Group{src.group()}, Codec: c, Timeout: 30 * time.Second})
		defer chain.Close()
		start := time.Now()
		var failed atomic.Int64
		if err := chain.Bring(t.Context(), tier.Profile, slices.Values(all), func(ref tier.Ref, err error) {
			if !errors.Is(err, tier.ErrUnavailable) {
				t.Errorf("%v: error %v", ref, err)
			}
			failed.Add(1)
		}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if took := time.Since(start); failed.Load() != 10 || took != 30*time.Second {
			t.Errorf("%d failed in %v", failed.Load(), took)
		}
		// Who comes to wait for one doesn't do so for long.
		if !chain.Prefetch(all[0]) {
			t.Error("not prefetched")
		}
		start = time.Now()
		var readers sync.WaitGroup
		for range 3 {
			readers.Go(func() { mustGet(t, chain, all[0], plain[all[0]]) })
		}
		readers.Wait()
		synctest.Wait()
		if took := time.Since(start); took > 2*time.Second || src.gets != 1 || src.raised.Load() != 3 {
			t.Errorf("waited for %v, %d calls of Get, raised %d times", took, src.gets, src.raised.Load())
		}
		// Nor does who comes to wait for a call that nobody waited for.
		if !chain.Prefetch(all[1]) {
			t.Error("not prefetched")
		}
		const before = 10 * time.Second
		wanted := make(chan struct{})
		time.AfterFunc(before, func() { close(wanted) })
		start = time.Now()
		if b, err := chain.Copy(tier.InBackgroundUntil(t.Context(), wanted), all[1]); err != nil || !bytes.Equal(b, plain[all[1]]) {
			t.Errorf("%d other bytes, %v", len(b), err)
		}
		synctest.Wait()
		if took := time.Since(start); took < before || took > before+2*time.Second || src.gets != 2 || src.raised.Load() != 4 {
			t.Errorf("waited for %v, %d calls of Get, raised %d times", took, src.gets, src.raised.Load())
		}
		if s := chain.Status(); s.InFlight != 0 || len(s.Fetching) != 0 || s.Sources[0].Cancelled != 10 || s.Sources[0].Requests != 12 {
			t.Errorf("status %+v", s)
		}
	})
}

// A chain that is closed waits for no answer.
func TestAskedAndClosed(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		src := newDesk()
		src.answer = func(n int, b []byte) ([]byte, bool) {
			if n%2 == 0 {
				return nil, false
			}
			return b, true
		}
		all, _ := src.fill(c, 100)
		chain := tier.NewChain(tier.ChainConfig{Cache: tiertest.NewCache(), Groups: []tier.Group{src.group()}, Codec: c})
		brought := make(chan error)
		go func() { brought <- chain.Bring(t.Context(), tier.Profile, slices.Values(all), nil) }()
		got := make(chan error)
		time.Sleep(time.Millisecond)
		go func() {
			_, err := chain.Get(t.Context(), all[1])
			got <- err
		}()
		time.Sleep(12 * time.Millisecond)
		start := time.Now()
		chain.Close()
		if err := <-got; !errors.Is(err, tier.ErrUnavailable) {
			t.Errorf("Get: %v", err)
		}
		if err := <-brought; !errors.Is(err, tier.ErrClosed) {
			t.Errorf("Bring: %v", err)
		}
		if took := time.Since(start); took != 0 || chain.Status().InFlight != 0 {
			t.Errorf("closed after %v, %+v", took, chain.Status())
		}
	})
}

// What is asked for leaves its memory to a large blob that somebody waits for, and comes
// after it.
func TestAskedMakesRoom(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		src := newDesk()
		all, plain := src.fill(c, 30)
		large := make([]byte, 3<<20)
		ref := tiertest.RefOf(large)
		src.Put(ref, c.Pack(large, nil))
		cache := tiertest.NewCache()
		chain := tier.NewChain(tier.ChainConfig{Cache: cache, Groups: []tier.Group{src.group()}, Codec: c, Budget: 4 << 20})
		defer chain.Close()
		brought := make(chan error)
		go func() { brought <- chain.Bring(t.Context(), tier.Profile, slices.Values(all), nil) }()
		time.Sleep(5 * time.Millisecond)
		mustGet(t, chain, ref, large)
		if err := <-brought; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		for _, ref := range all {
			mustGet(t, chain, ref, plain[ref])
		}
		if s := chain.Status(); src.left == 0 || s.InFlight != 0 || s.Sources[0].Cancelled != int64(src.left) {
			t.Errorf("%d left, status %+v", src.left, s)
		}
	})
}

// A cache that takes its time holds up no answers.
func TestAskedDoesNotWaitForTheCache(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		src := newDesk()
		all, plain := src.fill(c, 20)
		cache := &slowCache{Cache: tiertest.NewCache()} // a second each
		chain := tier.NewChain(tier.ChainConfig{Cache: cache, Groups: []tier.Group{src.group()}, Codec: c})
		defer chain.Close()
		for _, ref := range all {
			if !chain.Prefetch(ref) {
				t.Errorf("%v is not prefetched", ref)
			}
		}
		start := time.Now()
		for _, ref := range all {
			mustGet(t, chain, ref, plain[ref])
		}
		if took := time.Since(start); took != 10*time.Millisecond {
			t.Errorf("all were there after %v", took)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		if n := cache.Len(); n != len(all) || src.gets != 0 || chain.Status().InFlight != 0 {
			t.Errorf("%d in the cache, %d calls of Get, %+v", n, src.gets, chain.Status())
		}
	})
}

// The more quickly guesses come, the more of them are on their way, also where they are
// asked for.
func TestAskedGuessesHaveTheirWindow(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		src := newDesk()
		var all []tier.Ref
		for i := range 2000 {
			b := tiertest.Random(uint64(i), 8<<10)
			ref := tiertest.RefOf(b)
			ref.Limit = int64(len(b))
			src.Put(ref, b)
			all = append(all, ref)
		}
		chain := tier.NewChain(tier.ChainConfig{Cache: tiertest.NewCache(), Groups: []tier.Group{src.group()}, Codec: c})
		defer chain.Close()
		start := time.Now()
		if err := chain.Bring(t.Context(), tier.Guess, slices.Values(all), nil); err != nil {
			t.Error(err)
		}
		// Each takes 10 ms. By no more than at first it would be more than 600.
		if took := time.Since(start); took > 250*time.Millisecond || src.gets != 0 {
			t.Errorf("%d came in %v, with %d calls of Get", len(all), took, src.gets)
		}
	})
}

// What takes long to unpack is not asked for where others wait behind that.
func TestLargeIsNotAskedFor(t *testing.T) {
	simulated(t, func(t *testing.T, c *object.Codec) {
		src := newDesk()
		chain := tier.NewChain(tier.ChainConfig{Cache: tiertest.NewCache(), Groups: []tier.Group{src.group()}, Codec: c, Budget: 64 << 20})
		defer chain.Close()
		for i, size := range []int{1 << 20, 5 << 20} {
			plain := bytes.Repeat([]byte{byte(i)}, size)
			ref := tiertest.RefOf(plain)
			ref.Limit = int64(size)
			src.Put(ref, c.Pack(plain, nil))
			if !chain.Prefetch(ref) {
				t.Errorf("%d bytes are not prefetched", size)
			}
			mustGet(t, chain, ref, plain)
			if src.n != 1 || src.gets != i {
				t.Errorf("%d requests and %d calls of Get", src.n, src.gets)
			}
		}
	})
}
