package tier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

const maxBlob = object.MaxBlob

// ChainConfig is what a chain is made of.
type ChainConfig struct {
	Cache  Cache   // nil for none
	Groups []Group // asked one after the other, nearest first
	Codec  *object.Codec

	// Budget bounds what fetches under way hold, in bytes, stored and plain
	// form together; a larger blob is fetched with nothing beside it. 0 means
	// 32 MiB. What nobody waits for has at most half of it.
	Budget int64
	// Recent is how many bytes of the blobs fetched last are kept in memory;
	// 0 keeps none.
	Recent int64
	// Timeout bounds a fetch over all sources; 0 means 30 s. A blob of more
	// than object.MaxBlob bytes has as much again for each MaxBlob more.
	Timeout time.Duration
	// Room is how many bytes the cache can take before it must drop something;
	// nil: any.
	Room func() int64
	Log  *slog.Logger // nil for none

	// Stored has the chain give and keep blobs in the stored form that a source
	// gave, verified all the same, and answer when they are kept: for a server,
	// which passes them on.
	Stored bool
	// Memory, of Budget bytes, is shared with other chains; nil for one's own.
	Memory *semaphore.Weighted
	// Asking is memory, too, shared in the same way: where blobs of most sizes are asked for with
	// the same limit, a fetch of a Stored chain with one source takes little out of it, and the rest
	// out of Memory once the source says that the blob is large. nil: all at once, out of Memory.
	Asking *semaphore.Weighted
}

// Chain answers for blobs: from the cache, from those fetched last, or from the
// first source that has them, which fills the cache behind the answer. It alone
// decides that bytes are what their digest says.
//
// It may be used by many goroutines at once. mu guards the table of flights and
// is never held over I/O; recent's and the budget's locks are taken under it or
// alone.
type Chain struct {
	cache   Cache
	groups  []*group
	codec   *object.Codec
	recent  *recent
	buffers memory // for blobs that nobody waits for
	origins origins
	window  *window
	guesses *window // of Guess alone, within window
	timeout time.Duration
	room    func() int64 // nil: without end
	log     *slog.Logger
	stored  bool // what is called plain below is in stored form

	budget, prefetchBudget int64
	memory                 *semaphore.Weighted
	asking                 *semaphore.Weighted // may be nil
	inFlight               atomic.Int64        // bytes taken of memory

	ctx     context.Context // of everything that runs behind Get and Prefetch
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu          sync.Mutex
	closed      bool               // GUARDED_BY(mu)
	flights     map[Ref]*flight    // GUARDED_BY(mu)
	prefetching int64              // GUARDED_BY(mu); bytes of memory that prefetches have
	cleared     int                // GUARDED_BY(mu); while above 0 no prefetch begins
	jobs        [priorities][]*job // GUARDED_BY(mu); in the order of their turns
	flying      [priorities]int64  // GUARDED_BY(mu); bytes on their way, estimated
	demands     int                // GUARDED_BY(mu); fetches that somebody waits for and no job would have made
	demanded    time.Time          // GUARDED_BY(mu); when the last of them ended
	seen        int64              // GUARDED_BY(mu); reads, when they were last looked at
	quiet       time.Time          // GUARDED_BY(mu); since when there were no more
	paces       [priorities]*pace  // nil for none; what they point to is GUARDED_BY(mu)
	others      others             // GUARDED_BY(mu)
	waking      bool               // GUARDED_BY(mu); dispatch will be called by a timer

	arrived  atomic.Int64 // when a source last gave a blob, in nanoseconds since 1970
	unfilled atomic.Int64 // blobs that a nearer group was not given

	complaints sync.Mutex
	complained time.Time // GUARDED_BY(complaints); when a corrupt blob was last logged
	omitted    int       // GUARDED_BY(complaints); how many were not since

	cacheHits, cacheBytes, cacheErrors, recentHits, recentBytes, misses atomic.Int64

	copies atomic.Int64 // of these, those that no reader of files made
}

// NewChain returns a chain. Close ends it; the cache and the sources are the
// caller's to close, after the chain.
func NewChain(cfg ChainConfig) *Chain {
	if cfg.Budget <= 0 {
		cfg.Budget = 32 << 20
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Chain{
		cache: cfg.Cache, codec: cfg.Codec, recent: newRecent(cfg.Recent), timeout: cfg.Timeout, log: cfg.Log,
		budget: cfg.Budget, prefetchBudget: cfg.Budget / 2, memory: cfg.Memory, asking: cfg.Asking, stored: cfg.Stored,
		flights: make(map[Ref]*flight), window: newWindow(), guesses: newNarrowWindow(), room: cfg.Room,
		paces: [priorities]*pace{Profile: {size: firstBurst}, Whole: {size: firstBurst}},
	}
	if c.memory == nil {
		c.memory = semaphore.NewWeighted(cfg.Budget)
	}
	for i, g := range cfg.Groups {
		c.groups = append(c.groups, newGroup(g, i == len(cfg.Groups)-1))
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Get returns a blob, from wherever it can be had first. It returns as soon as
// ctx is done; the fetch itself goes on while others wait for the same blob.
// Where no source has it the error is a *FetchError.
func (c *Chain) Get(ctx context.Context, ref Ref) (Blob, error) {
	return c.get(ctx, ref, true, nil)
}

// Pass is Get that doesn't have the blob kept: it may be all the same, where
// others get it at the time.
func (c *Chain) Pass(ctx context.Context, ref Ref) (Blob, error) {
	return c.get(ctx, ref, false, nil)
}

// Follow is Get, or Pass where keep is false, that calls arriving when the blob
// is large and has begun to arrive, which must return at once. Only a chain with
// Stored and one source does that.
func (c *Chain) Follow(ctx context.Context, ref Ref, keep bool, arriving func(*Arrival)) (Blob, error) {
	return c.get(ctx, ref, keep, arriving)
}

func (c *Chain) get(ctx context.Context, ref Ref, keep bool, arriving func(*Arrival)) (Blob, error) {
	ref = bounded(ref)
	if b, ok := c.near(ref); ok {
		return b, nil
	}
	c.misses.Add(1)
	if Background(ctx) {
		c.copies.Add(1)
	}
	if ctx.Err() != nil {
		return Blob{}, ended(ctx, "get", ref)
	}
	b, prefetched, err := c.fetched(ctx, ref, keep, arriving)
	if prefetched && errors.Is(err, ErrUnavailable) && ctx.Err() == nil {
		// That prefetch had less time left than this call has.
		b, _, err = c.fetched(ctx, ref, keep, arriving)
	}
	return b, err
}

// fetched waits for the flight of a blob, and tells whether that began as a
// prefetch.
func (c *Chain) fetched(ctx context.Context, ref Ref, keep bool, arriving func(*Arrival)) (b Blob, prefetched bool, err error) {
	f, err := c.join(ref, keep, !Background(ctx), arriving != nil)
	if err != nil {
		return Blob{}, false, err
	}
	defer c.leave(f)
	var begun <-chan struct{}
	if arriving != nil && f.arrival != nil {
		begun = f.arrival.begun
	}
	wanted := Wanted(ctx)
	var late <-chan time.Time
	if !Background(ctx) {
		late = c.awaited(f)
	}
	for waiting := true; waiting; {
		select {
		case <-f.done:
			waiting = false
		case <-late:
			c.hurry(f)
		case <-wanted:
			wanted, late = nil, c.awaited(f)
		case <-begun:
			begun = nil
			arriving(f.arrival)
		case <-ctx.Done():
			return Blob{}, f.prefetch, ended(ctx, "wait for", ref)
		}
	}
	switch {
	case f.err == nil:
		b, _ := f.blob.Again() // the flight has it until all have left
		return b, f.prefetch, nil
	case c.ctx.Err() != nil:
		return Blob{}, false, errClosed(ref) // rather than that something was cancelled
	}
	return Blob{}, f.prefetch, f.err
}

// bounded is the one spelling of ref that the tables have, with a limit that
// can be reckoned with.
func bounded(ref Ref) Ref {
	ref.Limit = min(max(ref.Max(), 1), object.MaxMetadata)
	return ref
}

// Local returns n bytes at off of a blob if the machine has it. It never asks a
// source.
func (c *Chain) Local(ref Ref, off, n int64) (Blob, bool) {
	ref = bounded(ref)
	if c.cache != nil {
		b, err := c.cache.Range(ref, off, n)
		if c.cached(ref, b, err) {
			return b, true
		}
	}
	return c.rememberedPart(ref, off, n)
}

// Ready is Local for what is in memory: it waits for nothing. What is on disk the
// disk begins to read.
func (c *Chain) Ready(ref Ref, off, n int64) (Blob, Nearness) {
	ref = bounded(ref)
	if c.cache != nil {
		switch b, near := c.cache.Ready(ref, off, n); near {
		case InMemory:
			c.hit(b)
			return b, near
		case Coming:
			return b, near
		}
	}
	if b, ok := c.rememberedPart(ref, off, n); ok {
		return b, InMemory
	}
	return Blob{}, Unknown
}

// WillNeed has the disk begin to read a blob that the machine has, and what lies
// behind it. It is false where there is nothing to read.
func (c *Chain) WillNeed(ref Ref) bool {
	return c.cache != nil && c.cache.WillNeed(bounded(ref))
}

// Copy is Get for callers that look at the bytes themselves: they lie in memory that
// stays, which others may look at, too, and are not to be changed.
func (c *Chain) Copy(ctx context.Context, ref Ref) ([]byte, error) {
	ref = bounded(ref)
	if c.cache != nil {
		data, err := c.cache.Copy(ref)
		if c.cached(ref, Blob{Data: data}, err) {
			c.copies.Add(1)
			return data, nil
		}
	}
	b, err := c.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if b.lender == nil {
		return b.Data, nil
	}
	defer b.Release()
	return bytes.Clone(b.Data), nil
}

// Has tells whether the machine has a blob, without a look at it.
func (c *Chain) Has(ref Ref) bool { return c.has(bounded(ref)) }

// Arrived tells whether any source gave a blob since then: a chain that is slow is
// not one that stands still.
func (c *Chain) Arrived(since time.Time) bool { return c.arrived.Load() > since.UnixNano() }

// Origin names the tier that a blob came from, if it was fetched not long ago,
// or else the one nearest that is known to have it.
func (c *Chain) Origin(ref Ref) string {
	ref = bounded(ref)
	if name, ok := c.origins.get(ref); ok {
		return name
	}
	if c.cache != nil && c.cache.Has(ref) {
		return "disk"
	}
	return "not fetched"
}

// Prefetch begins to fetch a blob in the background, as ReadAhead, unless the
// machine has it or it is on its way. It is false where there is no room for that
// now. It never waits, and demand keeps at least half of the budget to itself.
func (c *Chain) Prefetch(ref Ref) bool {
	ref = bounded(ref)
	if c.has(ref) {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	if _, ok := c.flights[ref]; ok {
		return true
	}
	if !c.admitPrefetch(ReadAhead, ref) {
		return false
	}
	c.begin(&flight{ref: ref, prefetch: true, priority: ReadAhead})
	return true
}

// Close ends what runs in the background, and waits for that. What the machine
// has can still be got afterwards, nothing else.
func (c *Chain) Close() {
	c.cancel()
	c.mu.Lock()
	c.closed = true
	for _, f := range c.flights {
		f.cancel()
	}
	c.mu.Unlock()
	c.running.Wait()
}

// near looks into the cache and what was fetched last.
func (c *Chain) near(ref Ref) (Blob, bool) {
	if c.cache != nil {
		b, err := c.cache.Get(ref)
		if c.cached(ref, b, err) {
			return b, true
		}
	}
	return c.remembered(ref)
}

// cached counts what the cache answered, and tells whether it had the blob.
func (c *Chain) cached(ref Ref, b Blob, err error) bool {
	if err == nil {
		c.hit(b)
		return true
	}
	if !errors.Is(err, ErrAbsent) {
		// A broken cache costs hits, not reads.
		c.cacheErrors.Add(1)
		c.log.Warn("read the cache", "op", "get", "digest", ref.Digest, "err", err)
	}
	return false
}

// hit counts an answer of the cache.
func (c *Chain) hit(b Blob) {
	c.cacheHits.Add(1)
	c.cacheBytes.Add(int64(len(b.Data)))
}

// remembered looks into what was fetched last.
func (c *Chain) remembered(ref Ref) (Blob, bool) {
	b, ok := c.recent.get(ref)
	if ok {
		c.recentHits.Add(1)
		c.recentBytes.Add(int64(len(b.Data)))
	}
	return b, ok
}

// rememberedPart is remembered for n bytes at off, if the blob has them.
func (c *Chain) rememberedPart(ref Ref, off, n int64) (Blob, bool) {
	b, ok := c.remembered(ref)
	if !ok {
		return Blob{}, false
	}
	if off < 0 || n < 0 || off > int64(len(b.Data))-n {
		b.Release()
		return Blob{}, false
	}
	b.Data = b.Data[off : off+n]
	return b, true
}

// has is near without the counting.
func (c *Chain) has(ref Ref) bool {
	if c.cache != nil && c.cache.Has(ref) {
		return true
	}
	return c.recent.has(ref)
}

// fetch asks the groups in their order, until one has the blob. Those whose members
// are all left alone come last: nobody waits for them who can have it elsewhere, but
// they may be the only ones that have it. It also returns how large that was in stored
// form.
func (c *Chain) fetch(ctx context.Context, ref Ref) (plain []byte, stored int, err error) {
	failed := &FetchError{Ref: ref}
	got := func(i int, order []*member, behind int) bool {
		a, failures := c.askInTime(ctx, c.groups[i], order, ref, behind)
		if a.from != "" {
			c.origins.add(ref, a.from)
			c.arrived.Store(time.Now().UnixNano())
			c.fillBefore(i, ref, a.stored)
			plain, stored = a.plain, len(a.stored)
			return true
		}
		for _, err := range failures {
			failed.Failures = append(failed.Failures, Unavailable(err))
		}
		return false
	}
	var aside []int
	for i, g := range c.groups {
		order := g.order(ref, time.Now())
		if len(order) == 0 {
			aside = append(aside, i)
			if g.only && g.members[0].due(time.Now()) {
				c.findOut(g.members[0], ref)
			}
			continue
		}
		if got(i, order, len(c.groups)-i-1+len(aside)) {
			return plain, stored, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	for n, i := range aside {
		if ctx.Err() == nil && got(i, c.groups[i].all(ref), len(aside)-n-1) {
			return plain, stored, nil
		}
	}
	if ctx.Err() != nil {
		failed.Failures = append(failed.Failures, ended(ctx, "ask further sources for", ref))
	}
	if len(c.groups) == 0 {
		failed.Failures = append(failed.Failures, fmt.Errorf("%w: no source is configured", ErrUnavailable))
	}
	return nil, 0, failed
}

// askInTime lets members of a group have half of the time that is left where others
// come after it, so that one that hangs doesn't stand before one that works.
func (c *Chain) askInTime(ctx context.Context, g *group, order []*member, ref Ref, behind int) (answer, []error) {
	if end, ok := ctx.Deadline(); ok && behind > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	if behind == 0 || !g.only || !g.leaves {
		return c.askGroup(ctx, g, order, ref, behind)
	}
	a := c.askOnly(ctx, g, order[0], ref)
	if a.err != nil {
		return a, []error{a.err}
	}
	return a, nil
}

// fillBefore gives a blob to the groups nearer than number i.
func (c *Chain) fillBefore(i int, ref Ref, stored []byte) {
	for _, g := range c.groups[:i] {
		if g.fill == nil {
			continue
		}
		if err := g.fill(ref, stored); err != nil {
			c.unfilled.Add(1)
			c.log.Debug("fill a nearer tier", "op", "fill", "tier", g.members[0].Name(), "digest", ref.Digest, "err", err)
		}
	}
}

// ask gets a blob from one source and checks it. One with a wrong digest is
// purged there, if that is ours, and asked for once more: it may have gone
// wrong on the way.
func (c *Chain) ask(ctx context.Context, s *Meter, ref Ref) (a answer) {
	defer func() {
		// As in unpack, of all that a source does with what it is given.
		if r := recover(); r != nil {
			c.log.Error("panic while fetching", "op", "fetch", "tier", s.Name(), "digest", ref.Digest, "err", r, "stack", string(debug.Stack()))
			a = answer{err: Corrupt(s.Name(), ref, fmt.Errorf("panic: %v", r))}
		}
	}()
	var corrupt error
	for range corruptTries {
		stored, err := s.Get(ctx, ref)
		switch {
		case err == nil:
		case corrupt != nil:
			// Absence, say, of what was just purged is not the answer.
			return answer{err: fmt.Errorf("%w (and then: %v)", corrupt, err)}
		default:
			return answer{err: err}
		}
		plain, err := c.unpack(s, ref, stored, func(n int) []byte {
			if ArrivalOf(ctx).Room(ctx, int64(n)) != nil {
				return nil
			}
			return make([]byte, 0, n)
		})
		switch {
		case err != nil && ctx.Err() != nil:
			return answer{err: Unavailable(ended(ctx, "unpack", ref))}
		case err == nil && c.stored:
			return answer{plain: stored, stored: stored, from: s.Name()}
		case err == nil:
			return answer{plain: plain, stored: stored, from: s.Name()}
		case c.stored && errors.Is(err, object.ErrTooLarge):
			return answer{err: Corrupt(s.Name(), ref, err)} // asked for by somebody who didn't know its size
		}
		corrupt = Corrupt(s.Name(), ref, err)
		c.complain(s, ref, err)
		c.purge(ctx, s, ref)
	}
	return answer{err: corrupt}
}

// purge has a source drop what it gave.
func (c *Chain) purge(ctx context.Context, s *Meter, ref Ref) {
	if err := s.Purge(ctx, ref); err != nil {
		c.log.Warn("purge a corrupt blob", "op", "purge", "tier", s.Name(), "digest", ref.Digest, "err", err)
	}
}

// complain logs a corrupt blob: of those that come within a second the first one,
// with the number of those before that it left out.
func (c *Chain) complain(s *Meter, ref Ref, err error) {
	c.complaints.Lock()
	defer c.complaints.Unlock()
	if time.Since(c.complained) < time.Second {
		c.omitted++
		return
	}
	c.log.Warn("corrupt blob", "op", "fetch", "tier", s.Name(), "digest", ref.Digest, "omitted", c.omitted, "err", err)
	c.complained, c.omitted = time.Now(), 0
}

// FetchError says what was wrong with each source. It is ErrAbsent only if all
// of them said so: else it is what the others said.
type FetchError struct {
	Ref      Ref
	Failures []error // in the order of the sources
}

func (e *FetchError) Error() string {
	msgs := make([]string, len(e.Failures))
	for i, err := range e.Failures {
		msgs[i] = err.Error()
	}
	return fmt.Sprintf("fetch %v: %s", e.Ref, strings.Join(msgs, "; "))
}

// Unwrap leaves out absence where another source could not be asked: it may
// have had the blob.
func (e *FetchError) Unwrap() []error {
	absent := func(err error) bool { return errors.Is(err, ErrAbsent) }
	if others := slices.DeleteFunc(slices.Clone(e.Failures), absent); len(others) > 0 {
		return others
	}
	return e.Failures
}

// ended says that ctx is done. Out of time is unavailable; a caller who left is
// not.
func ended(ctx context.Context, doing string, ref Ref) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("%s %v: %w: %w", doing, ref, ErrUnavailable, cause)
	}
	return fmt.Errorf("%s %v: %w", doing, ref, cause)
}

func errClosed(ref Ref) error {
	return fmt.Errorf("get %v: %w: the chain is closed", ref, ErrUnavailable)
}

// Fetching is one fetch under way.
type Fetching struct {
	Domain   string        `json:"domain"`
	Digest   digest.Digest `json:"digest"`
	Since    time.Time     `json:"since"`
	Waiters  int           `json:"waiters"`
	Prefetch bool          `json:"prefetch"`
}

// NearStats counts what was answered without a source.
type NearStats struct {
	CacheHits   int64 `json:"cache_hits"`
	CacheBytes  int64 `json:"cache_bytes"`  // plain, of all hits
	CacheErrors int64 `json:"cache_errors"` // reads of the cache that failed
	RecentHits  int64 `json:"recent_hits"`
	RecentBytes int64 `json:"recent_bytes"`
	Misses      int64 `json:"misses"` // Gets that had to wait for a fetch
}

// ChainStatus is what a chain does and did.
type ChainStatus struct {
	Fetching []Fetching `json:"fetching"` // oldest first
	Near     NearStats  `json:"near"`
	Sources  []Stats    `json:"sources"` // in their order

	Unfilled    int64 `json:"unfilled"`  // blobs that a nearer tier was not given
	InFlight    int64 `json:"in_flight"` // bytes of Budget that are taken
	Budget      int64 `json:"budget"`
	Window      int64 `json:"window"`       // most bytes on their way that nobody waits for
	RecentBlobs int   `json:"recent_blobs"` // kept now
	RecentUsed  int64 `json:"recent_used"`  // bytes that they take
}

// Status returns a snapshot for people and metrics.
func (c *Chain) Status() ChainStatus {
	s := ChainStatus{
		Near: NearStats{
			CacheHits: c.cacheHits.Load(), CacheBytes: c.cacheBytes.Load(), CacheErrors: c.cacheErrors.Load(),
			RecentHits: c.recentHits.Load(), RecentBytes: c.recentBytes.Load(), Misses: c.misses.Load(),
		},
		Unfilled: c.unfilled.Load(), InFlight: c.inFlight.Load(), Budget: c.budget, Window: c.window.now(),
	}
	s.RecentBlobs, s.RecentUsed = c.recent.usage()
	for _, g := range c.groups {
		for _, m := range g.members {
			s.Sources = append(s.Sources, m.Stats())
		}
	}
	c.mu.Lock()
	for _, f := range c.flights {
		s.Fetching = append(s.Fetching, Fetching{f.ref.Domain, f.ref.Digest, f.since, f.waiters, f.prefetch})
	}
	c.mu.Unlock()
	slices.SortFunc(s.Fetching, func(a, b Fetching) int { return a.Since.Compare(b.Since) })
	return s
}
