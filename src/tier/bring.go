package tier

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"
)

// Priority is how urgent a blob is that nobody waits for yet. What somebody
// waits for, demand, goes before all of them, and the lower ones before the
// higher.
type Priority uint8

const (
	// ReadAhead is what a reader will come to next.
	ReadAhead Priority = iota
	// Profile is what programs asked for after earlier mounts. It stands still
	// while somebody waits for a blob that it would not have brought. Where that happens
	// again and again, and nobody waits for what it brings, it takes a tenth of what the
	// way to the sources carries.
	Profile
	// Guess is what a reader may come to, going by what it read. It leaves the way to the
	// sources before anybody has to wait there (newNarrowWindow). None of it comes
	// while there is a profile, which knows better.
	Guess
	// Whole is whatever else there is. It stands still while anybody reads, takes a
	// tenth of what the way to the sources carries, and ends where the cache is full.
	Whole

	priorities = 4
)

// Errors of Bring.
var (
	// ErrNoRoom says that the cache would have to drop something for more.
	ErrNoRoom = errors.New("the cache is full")
	// ErrUnasked says that a blob comes only when somebody asks for it.
	ErrUnasked = errors.New("too large to come unasked")
	// ErrClosed says that the chain was closed meanwhile.
	ErrClosed = errors.New("closed")
)

const (
	// readyAhead is how many blobs of a job are looked up ahead of their turn:
	// about as many as a window holds.
	readyAhead = 512
	// givingUp is how many blobs of a job must fail, one after the other, for
	// it to end early, and missing how many if the sources answer, and have none of
	// them: that says less of those behind.
	givingUp = 16
	missing  = 256
	// calm is how long nobody must have read for Whole to go on.
	calm = 100 * time.Millisecond
	// roomOnce is for how many bytes the cache's room is looked at in one go, and
	// roomOverhead what it takes beside a blob, about.
	roomOnce     = 16 << 20
	roomOverhead = 4 << 10
)

// job is one call of Bring.
type job struct {
	priority Priority
	each     func(Ref, error)
	told     chan struct{} // holds one; after every change of what follows

	ready  []Ref // GUARDED_BY(Chain.mu); the next ones, in order
	flying int   // GUARDED_BY(Chain.mu); how many are on their way
	failed int   // GUARDED_BY(Chain.mu); how many of the last failed, one after the other
	absent int   // GUARDED_BY(Chain.mu); how many of these the sources do not have
	err    error // GUARDED_BY(Chain.mu); of the last of these
}

// Bring brings blobs near in the order of refs, as fast as the way to the
// sources carries them beside what is more urgent, and no more of them at a time
// than Budget has room for. It returns when all have come or failed; or with an
// error when ctx is done, the chain is closed (ErrClosed), one blob after the
// other fails, or, for Whole, the cache has no more room (ErrNoRoom). Blobs on
// their way come all the same.
//
// each, if not nil, is told of every blob what became of it, at once for one
// that is here, and must return quickly. It is called by several goroutines at
// a time. refs is asked for some hundred blobs ahead of what is on its way; it may
// wait, also for something that each is told.
func (c *Chain) Bring(ctx context.Context, p Priority, refs iter.Seq[Ref], each func(Ref, error)) error {
	if each == nil {
		each = func(Ref, error) {}
	}
	if p == Guess && c.profiled() {
		return nil
	}
	j := &job{priority: p, each: each, told: make(chan struct{}, 1)}
	c.mu.Lock()
	c.jobs[p] = append(c.jobs[p], j)
	c.mu.Unlock()
	defer c.dismiss(j)
	room := int64(0) // that is left of what was looked at
	for ref := range refs {
		ref = bounded(ref)
		if c.has(ref) {
			each(ref, nil)
		} else if c.cost(ref) > c.prefetchBudget {
			each(ref, fmt.Errorf("bring %v: %w: %w: it may have %d bytes", ref, ErrUnavailable, ErrUnasked, ref.Max()))
		} else {
			if need := ref.Max() + roomOverhead; p == Whole && c.room != nil {
				if room < need {
					// What is on its way has not taken its room yet.
					if err := c.awaitJob(ctx, j, j.idle); err != nil {
						return err
					}
					if room = min(c.room(), max(roomOnce, need)); room < need {
						return ErrNoRoom
					}
				}
				room -= need
			}
			if err := c.offer(ctx, j, ref); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return c.awaitJob(ctx, j, j.idle)
}

// idle tells whether none of a job's blobs is wanted or on its way. The chain's mu
// is held.
func (j *job) idle() bool { return len(j.ready) == 0 && j.flying == 0 }

// profiled tells whether a profile is being brought.
func (c *Chain) profiled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.jobs[Profile]) > 0
}

// offer puts a blob at the end of a job's list, once there is room in it.
func (c *Chain) offer(ctx context.Context, j *job, ref Ref) error {
	if err := c.awaitJob(ctx, j, func() bool { return len(j.ready) < readyAhead }); err != nil {
		return err
	}
	c.mu.Lock()
	j.ready = append(j.ready, ref)
	if len(j.ready) == 1 {
		c.dispatch()
	}
	c.mu.Unlock()
	return nil
}

// awaitJob waits until ok, which is called with c.mu held.
func (c *Chain) awaitJob(ctx context.Context, j *job, ok func() bool) error {
	for {
		c.mu.Lock()
		done, closed, failed, absent, err := ok(), c.closed, j.failed, j.absent, j.err
		c.mu.Unlock()
		switch {
		case closed:
			return ErrClosed
		case failed-absent >= givingUp || absent >= missing:
			return fmt.Errorf("%d blobs one after the other: %w", failed, err)
		case done:
			return nil
		}
		select {
		case <-j.told:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
			return ErrClosed
		}
	}
}

func (j *job) tell() {
	select {
	case j.told <- struct{}{}:
	default:
	}
}

// dismiss takes a job off the list.
func (c *Chain) dismiss(j *job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jobs[j.priority] = slices.DeleteFunc(c.jobs[j.priority], func(o *job) bool { return o == j })
	j.ready = nil
	c.dispatch()
}

// dispatch begins what there is room for, the most urgent first. c.mu is held.
func (c *Chain) dispatch() {
	for p := range Priority(priorities) {
		// Jobs of one priority take turns.
		for waiting := len(c.jobs[p]); waiting > 0; {
			j := c.jobs[p][0]
			c.jobs[p] = append(c.jobs[p][1:], j)
			if len(j.ready) == 0 {
				waiting--
				continue
			}
			ref := j.ready[0]
			if f := c.flights[ref]; f != nil {
				f.jobs = append(f.jobs, j)
			} else if c.closed || !c.mayBegin(p) || !c.admitPrefetch(p, ref) {
				return
			} else {
				c.begin(&flight{ref: ref, prefetch: true, priority: p, jobs: []*job{j}})
			}
			j.flying++
			if j.ready = j.ready[1:]; len(j.ready) == readyAhead/2 || len(j.ready) == 0 {
				j.tell()
			}
			waiting = len(c.jobs[p])
		}
	}
}

// mayBegin tells whether something of a priority may begin at all, or has
// dispatch called again later. c.mu is held.
func (c *Chain) mayBegin(p Priority) bool {
	if p == ReadAhead || p == Guess {
		return true
	}
	if c.demands > 0 {
		return false
	}
	wait := time.Until(c.demanded.Add(c.window.rest()))
	if p == Whole {
		if c.flying[ReadAhead]+c.flying[Profile]+c.flying[Guess] > 0 {
			return false
		}
		if reads := c.reads(); reads != c.seen {
			c.seen, c.quiet = reads, time.Now()
		}
		wait = max(wait, time.Until(c.quiet.Add(calm)))
	}
	if pace := c.paceNow(p); pace != nil && c.flying[p] == 0 {
		wait = max(wait, time.Until(pace.next))
	}
	if wait <= 0 {
		return true
	}
	if !c.waking {
		c.waking = true
		time.AfterFunc(wait, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.waking = false
			c.dispatch()
		})
	}
	return false
}

// paceNow is the pace that a priority has at present; nil if it has none. c.mu is held.
func (c *Chain) paceNow(p Priority) *pace {
	if p == Profile && !c.others.many() {
		return nil
	}
	return c.paces[p]
}

// reads counts the reads of files so far.
func (c *Chain) reads() int64 {
	return c.cacheHits.Load() + c.recentHits.Load() + c.misses.Load() - c.copies.Load()
}

// expected takes a blob that somebody waits for now off the list of the job that
// would bring it soon, if there is one: who follows a job closely does not stand in
// its way. c.mu is held.
func (c *Chain) expected(ref Ref) *job {
	for p := range c.jobs {
		for _, j := range c.jobs[p] {
			if i := slices.Index(j.ready, ref); i >= 0 {
				j.ready = slices.Delete(j.ready, i, i+1)
				j.flying++
				j.tell()
				return j
			}
		}
	}
	return nil
}

// landedFor tells the jobs of a flight what became of it.
func (c *Chain) landedFor(f *flight) {
	c.mu.Lock()
	jobs := f.jobs
	f.jobs = nil
	for _, j := range jobs {
		if j.flying--; f.err == nil {
			j.failed, j.absent = 0, 0
		} else {
			j.failed, j.err = j.failed+1, f.err
			if errors.Is(f.err, ErrAbsent) {
				j.absent++
			}
		}
		j.tell()
	}
	c.mu.Unlock()
	for _, j := range jobs {
		j.each(f.ref, f.err)
	}
}
