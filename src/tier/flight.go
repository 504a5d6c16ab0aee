package tier

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/semaphore"
)

// flight is one fetch under way, and those who wait for it.
type flight struct {
	ref      Ref
	since    time.Time
	prefetch bool     // goes on with nobody waiting
	priority Priority // of a prefetch
	demand   bool     // somebody waits, and no job would have made it
	passed   bool     // somebody wants it while it arrives
	alone    bool     // hardly any others were under way when it began
	cost     int64
	estimate int64 // bytes that a prefetch will have on its way
	cancel   context.CancelFunc
	asked    Asked       // the request, where there is no goroutine to wait for it
	late     *time.Timer // of asked
	arrival  *Arrival    // nil where blobs are not passed on

	waiters int    // GUARDED_BY(Chain.mu)
	keep    bool   // GUARDED_BY(Chain.mu); give it to the cache
	jobs    []*job // GUARDED_BY(Chain.mu); to be told what became of it

	awaited bool          // GUARDED_BY(Chain.mu); somebody has come to wait for it
	wanted  chan struct{} // GUARDED_BY(Chain.mu); closed when that happens; nil: nobody is to be told

	abandoned bool // GUARDED_BY(Chain.mu)

	over bool // GUARDED_BY(Chain.mu); blob is released when nobody waits any more

	done chan struct{} // closed once blob or err is set
	blob Blob
	err  error
}

// flightOverhead is about what a flight costs besides the blob: a stack, and a
// share of a connection's buffers. With it the budget also bounds how many there are.
const flightOverhead = 16 << 10

// cost is what a fetch may come to hold, in bytes: the blob in stored form,
// which is no larger than plain, and plain.
func (c *Chain) cost(ref Ref) int64 { return min(2*ref.Max()+flightOverhead, c.budget) }

// join returns the flight for ref with one more waiter, and begins it where
// there is none. demand tells whether who waits is not to be held up by jobs, and passed
// whether it wants the blob to be passed on.
func (c *Chain) join(ref Ref, keep, demand, passed bool) (*flight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed(ref)
	}
	f, ok := c.flights[ref]
	profiled := ok && f.prefetch && f.priority == Profile
	if !ok {
		f = &flight{ref: ref, passed: passed}
		if j := c.expected(ref); j != nil {
			f.jobs = []*job{j}
			profiled = j.priority == Profile
		} else if demand {
			f.demand = true
			c.demands++
			if len(c.jobs[Profile]) > 0 {
				c.others.read()
			}
		}
		c.begin(f)
	}
	if profiled && demand {
		c.others.followed()
	}
	f.waiters++
	f.keep = f.keep || keep
	return f, nil
}

// want says that somebody waits for the flight. Chain.mu is held.
func (f *flight) want() {
	if !f.awaited && f.wanted != nil {
		close(f.wanted)
	}
	f.awaited = true
}

// standingBehind is ctx for what a flight asks of sources: it stands behind what somebody
// waits for until somebody waits for the flight. Chain.mu is held.
func (f *flight) standingBehind(ctx context.Context) context.Context {
	if f.awaited {
		return ctx
	}
	f.wanted = make(chan struct{})
	return InBackgroundUntil(ctx, f.wanted)
}

// leave takes one waiter off the flight. A fetch that nobody wants any more is
// cancelled; it is out of the table at once, so that nobody joins it.
func (c *Chain) leave(f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.waiters--
	if f.waiters == 0 && !f.prefetch && !f.landed() {
		c.abandon(f)
	}
	if f.over && f.waiters == 0 {
		f.blob.Release()
	}
}

func (f *flight) landed() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// abandon cancels a flight. Jobs have to begin it anew. c.mu is held.
func (c *Chain) abandon(f *flight) {
	f.abandoned = true
	f.cancel()
	for _, j := range f.jobs {
		j.flying--
		j.ready = append([]Ref{f.ref}, j.ready...)
	}
	f.jobs = nil
	if c.flights[f.ref] == f {
		delete(c.flights, f.ref)
	}
}

// begin starts a flight, of which is said what it is for; the budget of a prefetch is
// taken already. c.mu is held.
func (c *Chain) begin(f *flight) {
	f.since, f.cost, f.done = time.Now(), c.cost(f.ref), make(chan struct{})
	f.alone = len(c.flights) < 2
	c.flights[f.ref] = f
	if f.prefetch {
		f.keep, f.estimate = true, c.window.estimate(f.ref.Max())
		if p := c.paces[f.priority]; p != nil {
			p.begin(c.flying[f.priority], f.estimate)
		}
		c.flying[f.priority] += f.estimate
		if c.asks() && c.askFor(f) {
			return
		}
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.timeoutFor(f.ref))
	f.cancel = cancel
	if f.prefetch {
		ctx = f.standingBehind(ctx)
	}
	if c.stored && len(c.groups) == 1 && len(c.groups[0].members) == 1 {
		f.arrival = &Arrival{passed: f.passed, begun: make(chan struct{})}
		if all := f.cost; c.asking != nil {
			f.cost = min(2*small+flightOverhead, all)
			f.arrival.room = &room{memory: c.memory, rest: all - f.cost, taken: &c.inFlight}
		}
		ctx = withArrival(ctx, f.arrival)
	}
	c.running.Go(func() { c.fly(ctx, f) })
}

// timeoutFor is Timeout for an ordinary blob, and as much again for each
// further object.MaxBlob bytes that a larger one may have.
func (c *Chain) timeoutFor(ref Ref) time.Duration {
	return c.timeout * time.Duration(1+(ref.Max()-1)/maxBlob)
}

// fly fetches the blob of a flight, answers those who wait, and then gives the
// blob to the cache.
func (c *Chain) fly(ctx context.Context, f *flight) {
	defer f.cancel()
	if f.demand {
		defer c.demandEnded()
	}
	if !f.prefetch {
		if err := c.admit(ctx, f); err != nil {
			c.land(f, nil, err)
			return
		}
	}
	defer c.release(f)
	if plain, ok := c.landedBefore(f.ref); ok {
		c.land(f, plain, nil)
		return
	}
	began := time.Now()
	plain, stored, err := c.fetch(ctx, f.ref)
	if err == nil || errors.Is(err, ErrUnavailable) {
		c.took(f, began, len(plain), stored)
	}
	c.land(f, plain, err)
}

// took has the windows take note of what a flight brought since it began to fetch.
func (c *Chain) took(f *flight, began time.Time, plain, stored int) {
	c.window.took(began, int64(plain), int64(stored), f.alone, !f.prefetch)
	c.guesses.took(began, int64(plain), int64(stored), f.alone, !f.prefetch || f.priority != Guess)
}

// landedBefore returns a blob whose flight landed between the miss that this one
// began with and now.
func (c *Chain) landedBefore(ref Ref) ([]byte, bool) {
	if b, ok := c.recent.get(ref); ok {
		return b.Data, true // never to be released
	}
	if c.cache == nil || !c.cache.Has(ref) {
		return nil, false
	}
	b, err := c.cache.Get(ref)
	if err != nil {
		return nil, false
	}
	defer b.Release()
	return slices.Clone(b.Data), true // a flight's bytes stay
}

// land ends a flight with its result.
func (c *Chain) land(f *flight, plain []byte, err error) {
	if c.settle(f, NewBlob(plain, nil), err) {
		// The flight stays in the table meanwhile, so that whoever misses the
		// cache now finds it here.
		c.cache.Put(c.ctx, f.ref, plain)
	}
	c.landed(f)
}

// settle gives a flight its result, and tells whether the cache is to have it.
func (c *Chain) settle(f *flight, blob Blob, err error) (toCache bool) {
	f.blob, f.err = blob, err
	if err != nil || !c.kept(f) {
		// First out of the table: who asks again is to have a new try.
		c.remove(f)
		close(f.done)
		return false
	}
	c.recent.add(f.ref, blob)
	if !c.stored {
		close(f.done)
	}
	return c.cache != nil
}

// landed is what is left to do for a flight that has its result, and that the cache
// was given.
func (c *Chain) landed(f *flight) {
	if c.stored && !f.landed() {
		close(f.done) // who is answered may ask for what is kept
	}
	c.remove(f)
	f.arrival.end()
	c.landedFor(f)
}

// remove takes a flight out of the table.
func (c *Chain) remove(f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flights[f.ref] == f {
		delete(c.flights, f.ref)
	}
}

// kept tells whether anybody wants the flight's blob kept. Where nobody does it
// leaves the table, so that nobody who wants it comes too late.
func (c *Chain) kept(f *flight) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !f.keep && c.flights[f.ref] == f {
		delete(c.flights, f.ref)
	}
	return f.keep
}

// admit waits until the budget has room for a demand flight.
func (c *Chain) admit(ctx context.Context, f *flight) error {
	memory := c.memoryOf(f)
	if !memory.TryAcquire(f.cost) {
		if f.cost > c.budget-c.prefetchBudget {
			defer c.clearPrefetches()()
		}
		if err := memory.Acquire(ctx, f.cost); err != nil {
			return Unavailable(ended(ctx, "wait for memory to fetch", f.ref))
		}
	}
	c.inFlight.Add(f.cost)
	return nil
}

// memoryOf is what a flight's cost is taken from.
func (c *Chain) memoryOf(f *flight) *semaphore.Weighted {
	if f.arrival != nil && f.arrival.room != nil {
		return c.asking
	}
	return c.memory
}

// clearPrefetches makes room for a blob that does not fit into what is kept
// free for demand: it cancels the prefetches that nobody waits for, and lets
// none begin until the function that it returns is called.
func (c *Chain) clearPrefetches() (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cleared++
	for _, f := range c.flights {
		if f.prefetch && f.waiters == 0 && !f.landed() {
			c.abandon(f)
		}
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.cleared--
		c.dispatch()
	}
}

// admitPrefetch takes what a prefetch costs, if it may have it at once: if there is
// room on the way beside all that is as urgent, and in memory. c.mu is held.
func (c *Chain) admitPrefetch(p Priority, ref Ref) bool {
	cost, budget, flying := c.cost(ref), c.prefetchBudget, int64(0)
	for _, n := range c.flying[:p+1] {
		flying += n
	}
	if p > ReadAhead {
		budget -= budget / 4 // which is left to the more urgent
	}
	if c.prefetching > 0 && c.prefetching+cost > budget || cost > c.prefetchBudget {
		return false
	}
	size := c.window.estimate(ref.Max())
	if pace := c.paceNow(p); pace != nil && !pace.fits(c.flying[p], size) {
		return false
	}
	if p == Guess && !c.guesses.fits(c.flying[Guess], size) {
		return false
	}
	if c.cleared > 0 || !c.window.fits(flying, size) || !c.memory.TryAcquire(cost) {
		return false
	}
	c.prefetching += cost
	c.inFlight.Add(cost)
	return true
}

// release gives back what a flight was admitted with, to who waits for it.
func (c *Chain) release(f *flight) {
	c.inFlight.Add(-f.cost)
	c.memoryOf(f).Release(f.cost)
	if f.arrival != nil && f.arrival.room != nil {
		f.arrival.room.giveBack()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.over = true; f.waiters == 0 {
		f.blob.Release()
	}
	if f.prefetch {
		c.prefetching -= f.cost
		c.flying[f.priority] -= f.estimate
		if p := c.paces[f.priority]; p != nil && c.flying[f.priority] == 0 {
			p.ended(c.window.latency())
		}
	}
	c.dispatch()
}

// demandEnded has jobs go on that stood back.
func (c *Chain) demandEnded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.demands--
	c.demanded = time.Now()
	c.others.ended()
	c.dispatch()
}

// background marks what nobody waits for, with what Wanted returns.
type background struct{}

// InBackground returns a context for calls of a chain that nothing has to stand back
// for: those that find out what a job brings next.
func InBackground(ctx context.Context) context.Context { return InBackgroundUntil(ctx, nil) }

// InBackgroundUntil is InBackground for a call that somebody comes to wait for when
// wanted is closed.
func InBackgroundUntil(ctx context.Context, wanted <-chan struct{}) context.Context {
	return context.WithValue(ctx, background{}, wanted)
}

// Background tells whether a call is made for somebody who doesn't wait, or did not
// when it began: a source is to have it stand behind those that somebody waits for.
func Background(ctx context.Context) bool { return ctx.Value(background{}) != nil }

// Wanted is closed once somebody waits for a call in the background; nil: that will not
// be, or somebody did from the start.
func Wanted(ctx context.Context) <-chan struct{} {
	wanted, _ := ctx.Value(background{}).(<-chan struct{})
	return wanted
}
