package fs

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/tier"
)

// guesses keeps account of what is fetched ahead by guess, so that who reads at
// random is left alone: what came and is not read is never more than creditTimes what is
// read and quietCredit, or startCredit where a program began that is in the tree. Both come back
// after a rest; they are halved each time that less than a quarter of what came was of
// use, down to leastCredit, and double when more was.
type guesses struct {
	off     atomic.Bool  // nothing is guessed
	any     atomic.Bool  // something was brought lately
	running atomic.Int32 // how many are being made

	mu      sync.Mutex
	brought map[uint64]guess // GUARDED_BY(mu); by id of the file
	start   int64            // GUARDED_BY(mu); startCredit, or what is left of it; 0: not known yet
	started bool             // GUARDED_BY(mu); it was given since the last rest
	left    int64            // GUARDED_BY(mu); bytes that may come
	issued  int64            // GUARDED_BY(mu); bytes brought since the last rest
	used    int64            // GUARDED_BY(mu); and of these, what was read
	grown   chan struct{}    // GUARDED_BY(mu); closed when left has grown; nil: nobody waits for that
	rest    *time.Timer      // GUARDED_BY(mu); ends any
}

// guess is a file that was brought, and how much of that was not read yet.
type guess struct {
	unread int64
	crowd  *crowd // nil: it belongs to none
	entry  bool   // what else is in its directory is to come when it is read
}

const (
	creditTimes = 2
	quietCredit = 3 << 19
	startCredit = 8 << 20
	leastCredit = 256 << 10
	// mostCredit is what who reads much has at most.
	mostCredit = 3 * startCredit
	// guessRest is how long what was brought is watched.
	guessRest = 10 * time.Second
	// maxBrought is how many files are watched at once.
	maxBrought = 1 << 14
	// leastGuess is what a file counts for at least, in bytes: it costs a request.
	leastGuess = 4 << 10
	// mostFlying is how many bytes one guess has on their way.
	mostFlying = 4 << 20
	// mostGuessing is how many guesses are made at once, or wait for credit; of crowds
	// and herds there are fewer, so that there is room for those of a program.
	mostGuessing = 64
	mostCrowding = 32
)

// SetGuess says whether files are fetched ahead that nobody is seen to read in
// order.
func (f *FS) SetGuess(on bool) { f.guesses.off.Store(!on) }

// guess has do make a guess in the background. It is false where as many as most are
// being made.
func (f *FS) guess(most int32, do func()) bool {
	g := &f.guesses
	if g.running.Add(1) > most {
		g.running.Add(-1)
		return false
	}
	f.background.Go(func() {
		defer g.running.Add(-1)
		do()
	})
	return true
}

// worth is what a file of so many bytes counts for.
func worth(size int64) int64 { return max(size, leastGuess) }

// read takes note that n bytes were fetched for somebody who waited.
func (g *guesses) read(n int64) {
	g.mu.Lock()
	g.grow(creditTimes * n)
	g.mu.Unlock()
}

// hit takes note that n bytes of a file are read, and tells whether it is an entry that
// was not read before.
func (g *guesses) hit(id uint64, n int64) (entry bool) {
	if !g.any.Load() {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	v, ok := g.brought[id]
	if !ok || v.unread == 0 {
		return false
	}
	entry, v.entry = v.entry, false
	n = min(n, v.unread)
	if v.unread -= n; v.unread == 0 && len(g.brought) > maxBrought/2 {
		delete(g.brought, id) // there is to be room for what comes
	} else {
		g.brought[id] = v
	}
	g.used += n
	if v.crowd != nil {
		v.crowd.used += n
	}
	g.grow(n + creditTimes*n)
	return entry
}

// knows tells whether a file was brought, or is on its way.
func (g *guesses) knows(id uint64) bool {
	if !g.any.Load() {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	_, ok := g.brought[id]
	return ok
}

// grow lets n more bytes come. g.mu is held.
func (g *guesses) grow(n int64) {
	g.begin()
	g.left = min(g.left+n, mostCredit)
	if g.grown != nil {
		close(g.grown)
		g.grown = nil
	}
}

// begin sets out the first credit. g.mu is held.
func (g *guesses) begin() {
	if g.start == 0 {
		g.start, g.left = startCredit, quietCredit
	}
}

// program takes note that a program began.
func (g *guesses) program() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.begin()
	if !g.started {
		g.started = true
		g.grow(max(g.start-g.left, 0))
	}
}

// remains is how many bytes may come now.
func (g *guesses) remains() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.begin()
	return g.left
}

// take takes n bytes for a file, of which is said what it is, as soon as there are as
// many left and keep more. It is false where that doesn't happen within guessRest.
func (g *guesses) take(ctx context.Context, id uint64, n, keep int64, as guess) bool {
	var late <-chan time.Time
	for {
		g.mu.Lock()
		g.begin()
		if g.left >= n+keep && len(g.brought) < maxBrought {
			g.watch(id, n, as)
			g.mu.Unlock()
			return true
		}
		if g.grown == nil {
			g.grown = make(chan struct{})
		}
		grown := g.grown
		g.mu.Unlock()
		if late == nil {
			timer := time.NewTimer(guessRest)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return false
		case <-late:
			return false
		}
	}
}

// watch takes note of n bytes that are brought. g.mu is held.
func (g *guesses) watch(id uint64, n int64, as guess) {
	if g.brought == nil {
		g.brought = make(map[uint64]guess)
	}
	as.unread = g.brought[id].unread + n
	g.brought[id] = as
	g.left -= n
	g.issued += n
	if as.crowd != nil {
		as.crowd.issued += n
	}
	g.any.Store(true)
	if g.rest == nil {
		g.rest = time.AfterFunc(guessRest, g.rested)
	} else {
		g.rest.Reset(guessRest)
	}
}

// useful tells whether enough of what was brought of a crowd was asked for.
func (g *guesses) useful(c *crowd) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return 4*c.used >= c.issued
}

// rested judges what was brought.
func (g *guesses) rested() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if 4*g.used < g.issued {
		g.start = max(g.start/2, leastCredit)
	} else {
		g.start = min(g.start*2, startCredit)
	}
	g.left, g.started = max(g.left, min(g.start, quietCredit)), false
	g.issued, g.used, g.brought = 0, 0, nil
	g.any.Store(false)
}

// end forgets all.
func (g *guesses) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.rest != nil {
		g.rest.Stop()
	}
}

// wanted is what is to be brought, of which file.
type wanted struct {
	id   uint64
	ref  tier.Ref
	part bool // there is more of the file
	// entry has what else is in its directory come when it is read.
	entry bool
}

// bring brings what is not here, as far as the credit goes, of which keep is left to
// others. It is true when all was brought.
func (g *guesses) bring(s *shown, keep int64, c *crowd, all iter.Seq[wanted]) bool {
	done := false
	var flying atomic.Int64
	landed := make(chan struct{}, 1)
	refs := func(yield func(tier.Ref) bool) {
		flying.Store(0) // after a reload nothing is told of what had not begun
		for w := range all {
			if !w.part && g.knows(w.id) || s.blobs.Has(w.ref) {
				continue
			}
			for flying.Load() >= mostFlying {
				select {
				case <-landed:
				case <-s.over.Done():
					return
				}
			}
			if !g.take(s.over, w.id, worth(w.ref.Max()), keep, guess{crowd: c, entry: w.entry}) {
				return
			}
			flying.Add(w.ref.Max())
			if !yield(w.ref) {
				return
			}
		}
		done = true
	}
	// What doesn't come now does when it is asked for.
	err := s.blobs.Bring(s.over, tier.Guess, refs, func(ref tier.Ref, _ error) {
		flying.Add(-ref.Max())
		signal(landed)
	})
	return done && err == nil
}
