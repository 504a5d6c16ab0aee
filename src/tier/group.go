package tier

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Group is one step of a chain: sources that are as near as each other. Each
// blob has its own order among them, so that they share the load and each keeps
// its own part. One that fails is left alone for a while.
type Group struct {
	Sources []Source
	// Fill, if not nil, is given what a later group answered, in stored form,
	// for this one to keep. It doesn't wait: what it keeps for later is its to
	// bound, and what it can't keep is an error.
	Fill func(ref Ref, stored []byte) error
	// Ask, if not nil, asks the only source for what nobody waits for.
	Ask AskFunc
}

// One is a group of a single source.
func One(s Source) Group { return Group{Sources: []Source{s}} }

// group is a Group at work.
type group struct {
	members []*member
	fill    func(ref Ref, stored []byte) error
	ask     AskFunc // nil: none
	leaves  bool    // members that fail alone
	only    bool    // there is one member
	slow    slowness
}

// member is a source in a group, and whether it is left alone.
type member struct {
	*Meter
	hash uint64 // of its name

	longest time.Duration // that it is left alone

	mu     sync.Mutex
	pause  time.Duration // the last one, 0 while all is well
	resume time.Time
	slow   bool      // it is left alone for being slow
	probed bool      // it is being found out whether it is back
	tried  bool      // somebody asks it for the first blob since it was left alone
	outrun int       // how many blobs, one after the other, another had sooner that was asked later
	outran time.Time // when that was last
}

// newGroup makes a group of a chain. An only source is left alone if it hangs, and
// only then: what it has may be nowhere else within reach. Not so where it is the last
// one, and there is no other to ask; nor one that is filled, which is on this machine
// and sees to that itself.
func newGroup(g Group, last bool) *group {
	only := len(g.Sources) == 1
	w := &group{fill: g.Fill, ask: g.Ask, leaves: !only || !last && g.Fill == nil, only: only}
	for _, s := range g.Sources {
		h := fnv.New64a()
		h.Write([]byte(s.Name()))
		m := &member{Meter: NewMeter(s), hash: h.Sum64(), longest: lastAside}
		if only {
			m.longest = lastLook
		}
		w.members = append(w.members, m)
	}
	return w
}

// order is who to ask for a blob, the best first: rendezvous hashing, so that
// when a member comes or goes only its own share of the blobs moves. Those that
// are left alone are not in it, but for slow ones, which come last: they may have what
// others would have to fetch.
func (g *group) order(ref Ref, now time.Time) []*member {
	if !g.leaves {
		return g.members
	}
	seed := binary.LittleEndian.Uint64(ref.Digest[:8])
	able := make([]*member, 0, len(g.members))
	var slow []*member
	for _, m := range g.members {
		switch aside, isSlow := m.aside(now, g.only); {
		case !aside:
			able = append(able, m)
		case isSlow:
			slow = append(slow, m)
		}
	}
	if len(able) == 0 {
		return nil
	}
	sortFor(able, seed)
	return append(able, slow...)
}

// all is order without leaving anybody out.
func (g *group) all(ref Ref) []*member {
	all := slices.Clone(g.members)
	sortFor(all, binary.LittleEndian.Uint64(ref.Digest[:8]))
	return all
}

func sortFor(members []*member, seed uint64) {
	slices.SortFunc(members, func(a, b *member) int {
		if spread(seed^a.hash) > spread(seed^b.hash) {
			return -1
		}
		return 1
	})
}

// spread is the finalizer of MurmurHash3.
func spread(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// Pauses for a member that fails.
const (
	firstAside = time.Second
	lastAside  = time.Minute
	// hangs is how long a member may take before it is asked whether it is there at all,
	// and probeTime how long it may take to answer that.
	hangs     = time.Second
	probeTime = 2 * time.Second
	// lastLook is the longest pause of an only member: nobody waits to find out that it
	// is not back.
	lastLook = 10 * time.Second
)

// aside tells whether m is left alone: for a while, and then but for one blob at a time
// until it answers; an only one until it is known to be back. slow is why.
func (m *member) aside(now time.Time, only bool) (aside, slow bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return now.Before(m.resume) || m.tried || only && m.pause > 0, m.slow
}

// try tells whether who asks m now is the first to do so since it was left alone, or
// somebody else is. The first calls triedOut.
func (m *member) try(now time.Time) (first, other bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pause == 0 || m.tried || now.Before(m.resume) {
		return false, m.tried
	}
	m.tried = true
	return true, false
}

func (m *member) triedOut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tried = false
}

// due tells whether it is time to find out whether m is back. Who is told so does.
func (m *member) due(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pause == 0 || m.probed || now.Before(m.resume) {
		return false
	}
	m.probed = true
	return true
}

// answered takes note of how m answered, and tells whether it is newly left
// alone. What was under way already when that began is not counted again.
func (m *member) answered(err error, now time.Time) (pause time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil, errors.Is(err, ErrAbsent), errors.Is(err, ErrBehind):
		m.pause, m.resume, m.outrun, m.slow = 0, time.Time{}, 0, false
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrCorrupt):
		slow := errors.Is(err, errSlow)
		if !now.Before(m.resume) || m.slow && !slow {
			m.slow = slow
			m.pause = min(max(2*m.pause, firstAside), m.longest)
			m.resume = now.Add(m.pause)
			return m.pause
		}
	}
	return 0
}

// mostOutrun is how many blobs, one after the other, others may have sooner that were
// asked later before it is found out whether a member is slow.
const mostOutrun = 3

// wasOutrun takes note that m was asked for a blob at that time and another, asked later,
// gave it. It tells whether that is so often, or closely after m was left alone. What goes
// on side by side counts once: it may all have waited for one thing.
func (m *member) wasOutrun(asked, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if asked.Before(m.outran) {
		return false
	}
	m.outrun, m.outran = m.outrun+1, now
	if m.outrun < mostOutrun && m.pause == 0 {
		return false
	}
	m.outrun = 0
	return true
}

// patience is the part of a group's time after which a member that was to fetch a
// blob, and neither did nor failed, counts as one that fails: it may hang.
const patience = 3

// errSlow is what becomes of one that was to fetch a blob, when another that was asked
// later was quicker.
var errSlow = fmt.Errorf("%w: another cache was asked later and answered sooner", ErrUnavailable)

// askGroup asks the members of a group one after the other. One that takes
// longer than nearly all answers do gets company: others are asked for what they
// have, and whoever answers first does. But only one at a time is to fetch it,
// so that a blob that all of them lack is fetched once. Where all hang, those are not
// waited for that come behind the group.
func (c *Chain) askGroup(ctx context.Context, g *group, order []*member, ref Ref, behind int) (answer, []error) {
	if len(order) == 1 && (g.only || behind == 0) {
		if first, _ := order[0].try(time.Now()); first {
			defer order[0].triedOut()
		}
		a := c.askMember(ctx, g, order[0], ref)
		if a.err != nil {
			return a, []error{a.err}
		}
		return a, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := round{chain: c, group: g, ref: ref, order: order, answers: make(chan memberAnswer, 2*len(order)), failed: make([]bool, len(order)), gone: make([]bool, len(order))}
	hang := mostSlow * time.Duration(patience)
	if end, ok := ctx.Deadline(); ok {
		hang = time.Until(end) / patience
	}
	r.fetch(ctx)
	hedge, hung, check := time.NewTimer(g.slow.limit()), time.NewTimer(hang), time.NewTimer(hangs)
	defer hedge.Stop()
	defer hung.Stop()
	defer check.Stop()
	gone := make(chan int, len(order)) // members that hang
	next := func() bool {
		if !r.fetch(ctx) {
			return false
		}
		hung.Reset(hang)
		check.Reset(hangs)
		return true
	}
	var failures []error
	for {
		select {
		case a := <-r.answers:
			r.open--
			if a.err == nil {
				r.passed(a.member)
				if a.here {
					r.outrun(a.member)
				}
				return a.answer, failures
			}
			if !a.here || !errors.Is(a.err, ErrAbsent) {
				failures = append(failures, a.err)
				r.failed[a.member] = true
			}
			if !a.here && a.member == r.fetched-1 && ctx.Err() == nil {
				next()
			}
			if r.open == 0 {
				return answer{}, failures
			}
		case <-hedge.C:
			if r.look(ctx) {
				hedge.Reset(g.slow.limit())
			}
		case <-hung.C:
			next()
		case <-check.C:
			// It may be fetching the blob: what it has it tells at once.
			n := r.fetched - 1
			c.running.Go(func() {
				if !c.there(ctx, order[n], ref, probeTime) && ctx.Err() == nil {
					gone <- n
				}
			})
		case n := <-gone:
			c.leaveAlone(order[n], errHangs)
			r.gone[n] = true
			if n == r.fetched-1 && !next() && behind > 0 && r.allGone() {
				return answer{}, append(failures, errHangs)
			}
		case <-ctx.Done():
			return answer{}, append(failures, ended(ctx, "wait for", ref))
		}
	}
}

// round is a blob being asked for in a group.
type round struct {
	chain   *Chain
	group   *group
	ref     Ref
	order   []*member
	answers chan memberAnswer // has room for all that may come
	failed  []bool            // by member; or others find out whether it still does
	gone    []bool            // by member; it hangs
	fetched int               // up to here they were asked to fetch it
	last    time.Time         // when the last of them was
	looked  int               // up to here they were asked for what they have
	open    int               // answers to come
}

// memberAnswer is what a member of a group answered.
type memberAnswer struct {
	answer
	member int
	here   bool // it was asked for what it has
}

// fetch has the next member that didn't fail fetch the blob; false if there is
// none left.
func (r *round) fetch(ctx context.Context) bool {
	for ; r.fetched < len(r.order); r.fetched++ {
		n := r.fetched
		if r.failed[n] {
			continue
		}
		first, other := r.order[n].try(time.Now())
		if other && n < len(r.order)-1 {
			r.failed[n] = true
			continue
		}
		r.fetched++
		r.last = time.Now()
		r.ask(ctx, n, false, first)
		return true
	}
	return false
}

// allGone tells whether no member can be expected to answer.
func (r *round) allGone() bool {
	for n := range r.order {
		if !r.failed[n] && !r.gone[n] {
			return false
		}
	}
	return true
}

// look asks the next member for what it has; false if there is none left.
func (r *round) look(ctx context.Context) bool {
	r.looked = max(r.looked, r.fetched)
	if r.looked == len(r.order) {
		return false
	}
	r.looked++
	r.ask(ctx, r.looked-1, true, false)
	return true
}

// passed leaves those alone that patience was lost with before the member was asked that
// has answered now. That their store is slow is no excuse: the other asked it as well,
// or had the blob.
func (r *round) passed(by int) {
	for i := range min(by, r.fetched-1) {
		if !r.failed[i] {
			r.chain.leaveAlone(r.order[i], errSlow)
		}
	}
}

// outrun takes note that a member gave what it had while another was to fetch the blob. If
// that one is outrun again and again it is asked for what it has, too: where it lacks much
// it says so quickly, and is to get it; where even that takes longer than nearly all
// answers do, it is left alone.
func (r *round) outrun(by int) {
	n := r.fetched - 1
	if n == by || r.failed[n] || !r.order[n].wasOutrun(r.last, time.Now()) {
		return
	}
	c, g, m, ref := r.chain, r.group, r.order[n], r.ref
	c.running.Go(func() {
		if !c.there(c.ctx, m, ref, g.slow.limit()) && c.ctx.Err() == nil {
			c.leaveAlone(m, errSlow)
		}
	})
}

// ask asks a member; first is what try says.
func (r *round) ask(ctx context.Context, member int, here, first bool) {
	ref := r.ref
	ref.Here = here
	r.open++
	r.chain.running.Go(func() {
		if first {
			defer r.order[member].triedOut()
		}
		r.answers <- memberAnswer{r.chain.askMember(ctx, r.group, r.order[member], ref), member, here}
	})
}

// answer is what a source gave.
type answer struct {
	plain, stored []byte
	from          string
	err           error
}

func (c *Chain) askMember(ctx context.Context, g *group, m *member, ref Ref) answer {
	began := time.Now()
	a := c.ask(ctx, m.Meter, ref)
	now := time.Now()
	if a.err == nil {
		g.slow.add(now.Sub(began))
	}
	// That it lacks something says nothing of how it fetches.
	lacks := ref.Here && errors.Is(a.err, ErrAbsent)
	if g.leaves && !lacks && (!g.only || a.err == nil) && !errors.Is(ctx.Err(), context.Canceled) {
		if pause := m.answered(a.err, now); pause > 0 {
			c.log.Warn("leaving a cache alone", "op", "fetch", "tier", m.Name(), "for", pause, "err", a.err)
		}
	}
	return a
}

// slowness is what counts as slow: longer than nineteen of twenty answers took.
type slowness struct {
	at atomic.Int64 // nanoseconds; 0 before anything is known

	mu   sync.Mutex
	last [64]time.Duration
	n    int
}

// Bounds of what counts as slow; with nothing known yet it is the upper one.
const (
	leastSlow = 20 * time.Millisecond
	mostSlow  = time.Second
)

func (s *slowness) limit() time.Duration {
	d := time.Duration(s.at.Load())
	if d == 0 {
		d = mostSlow
	}
	return min(max(d, leastSlow), mostSlow)
}

func (s *slowness) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[s.n%len(s.last)] = d
	if s.n++; s.n%16 == 0 && s.n >= len(s.last)/2 {
		known := slices.Clone(s.last[:min(s.n, len(s.last))])
		slices.Sort(known)
		s.at.Store(int64(known[len(known)*19/20]))
	}
}
