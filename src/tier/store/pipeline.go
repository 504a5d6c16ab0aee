package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/tier"
)

// pipeline asks a server for blobs over a few connections of its own, on each of
// which many requests are on their way: HTTP/1.1 has the answers come in their
// order (RFC 9112, 9.3.2). Against one request for each connection that spares a
// server, this machine and the way between them most of what a small blob costs,
// and connections that never rest carry a large one at once.
//
// Over TLS it has HTTP/1.1, too, though most servers have HTTP/2 there: that takes twice the
// processor for a small blob, and where a server ends its one connection, as they do after
// some requests, all that is asked for waits for the next.
//
// It understands blobs as static servers give them, and nothing else. Whatever
// it meets besides, it leaves to the ordinary way, which knows what to make of
// it: see errOrdinary. A server that answers slowly, one request after the
// other, gets more connections instead, each with one request.
type pipeline struct {
	dial   func(ctx context.Context) (conn net.Conn, trip time.Duration, err error)
	limits limits
	base   string            // path of the store, escaped, without a slash at the end
	query  string            // of every request, after a question mark; or empty
	fixed  string            // header lines of every request
	asking func(http.Header) // adds more; may be nil
	cache  bool              // the server is one that may have to fetch what it is asked for
	others *http.Transport   // asks in the ordinary way

	ctx   context.Context // done once closed
	tasks sync.WaitGroup

	mu       sync.Mutex
	pipes    []*pipe       // GUARDED_BY(mu); those that live, oldest first
	dialing  int           // GUARDED_BY(mu)
	dialed   time.Time     // GUARDED_BY(mu); when the last of these began
	queue    []*ask        // GUARDED_BY(mu); have no connection yet; demand comes first
	urgent   int           // GUARDED_BY(mu); how many of queue are demand
	gaps     float64       // GUARDED_BY(mu); part of the answers that a server began to think of after the one before
	measured int           // GUARDED_BY(mu); answers since gaps began
	trip     time.Duration // GUARDED_BY(mu); the shortest that TCP took to connect: one round trip
	making   time.Duration // GUARDED_BY(mu); how long that took with TLS, if there is any
	manner   manner        // GUARDED_BY(mu); how the server is asked
	quick    int           // GUARDED_BY(mu); answers that came within a round trip and a little, since manner was last looked at
	slow     int           // GUARDED_BY(mu); and those that did not
	off      time.Time     // GUARDED_BY(mu); until then nothing goes this way
	pause    time.Duration // GUARDED_BY(mu); for how long that was the last time; 0: long ago
	good     int           // GUARDED_BY(mu); answers since
	troubles int           // GUARDED_BY(mu); connections that ended badly, less good answers
	doubts   int           // GUARDED_BY(mu); connections that were given up for a wrong answer since doubted
	doubted  time.Time     // GUARDED_BY(mu)
	most     int           // GUARDED_BY(mu); answers that the server gives on one connection
	endedAt  int           // GUARDED_BY(mu); how many it gave on the last one that it ended

	came atomic.Int64 // bytes that came on all connections

	wrong map[digest.Digest]struct{} // GUARDED_BY(mu); blobs that came wrong this way, and are asked for in the ordinary one
}

// manner is how a server is asked.
type manner int

const (
	unknown manner = iota // over few connections, one request each, until an answer shows which it is
	deep                  // over few connections, many requests each
	shallow               // over many connections, one request each
)

// ask is one request and its answer.
type ask struct {
	p          *pipeline
	ref        tier.Ref
	background bool      // GUARDED_BY(pipeline.mu); nobody waits for it
	sent       time.Time // GUARDED_BY(pipeline.mu); when it went out, or zero where others were before it
	beside     bool      // GUARDED_BY(pipeline.mu); so much was on its way then that its answer may have stood behind that
	weight     int64     // about how many bytes it puts on a connection
	tries      int       // GUARDED_BY(pipeline.mu); connections that it has been sent on
	left       bool      // GUARDED_BY(pipeline.mu); nobody wants it any more
	behind     bool      // GUARDED_BY(pipeline.mu); it was on its way when the one before was answered

	// What becomes of the answer. Where nobody waits, it is handed on by the reader.
	answered func(data []byte, ok bool)
	handed   bool // GUARDED_BY(pipeline.mu); it is, or was, called
	watched  bool // GUARDED_BY(pipeline.mu); see watch

	room        func(size int64) error // waits for memory; nil: there is enough
	done        chan struct{}          // else closed once what follows is set
	data        []byte
	contentType string
	err         error // nil, tier.ErrAbsent or errOrdinary
}

const (
	// deepConns is how many connections of many requests there are, and
	// spareConns how many more for what somebody waits for.
	deepConns  = 6
	spareConns = 2
	// readyConns is how many connections there are at least once somebody waits: they
	// begin slowly, and more is likely to be asked for.
	readyConns = 4
	// mostOnPipe is how many requests are on their way on one of them, and lightly
	// how many bytes don't ask for another one beside it.
	mostOnPipe = 512
	lightly    = 32 << 10
	// mostTries is how often a request is sent again where a connection ended
	// before its answer began, as servers end them after a number of requests.
	mostTries = 3

	// standstill is for how long nothing must have come on a connection for it to be
	// given no more requests. Those that somebody waits for, behind others, go another way
	// after halt, or haltTrips round trips if that is longer; the first one, where the
	// server is a quick one, when nothing has come for standstill or as many round trips,
	// and where it is a cache, which may be fetching the blob, for fetchTimes that. This is
	// looked at every lookEvery.
	standstill = time.Second
	fetchTimes = 3
	halt       = 250 * time.Millisecond
	haltTrips  = 4
	lookEvery  = 100 * time.Millisecond

	// usualMost is how many answers a server is thought to give on one connection
	// until it is known: the default of nginx. What is asked for beyond that has to be
	// asked for again, so another connection is made when no more than soon are left.
	// Ends after less than leastMost are taken for chance.
	usualMost = 1000
	leastMost = 16
	soon      = 32

	// A server is slow if of gapSamples answers this part came only some time after
	// the one before, in which other connections did not bring fullWay, in bytes a second;
	// or if answers to requests with none before them take that much
	// longer than a round trip: slowFirst of the first ones, slowLater of later ones;
	// and it is not, if of sampled ones half came sooner.
	gapSamples = 32
	gapPart    = 0.75
	longGap    = 1500 * time.Microsecond
	longThink  = 5 * time.Millisecond
	fullWay    = 32 << 20
	slowFirst  = 3
	slowLater  = 8
	sampled    = 16

	// After so many troubles, or as many doubts within doubtsWithin, or where the server
	// is no such server at all, nothing goes this way for a while: for twice as long each
	// time, unless there were calmAfter good answers between.
	mostTroubles = 3
	mostDoubts   = 8
	doubtsWithin = time.Minute
	firstOff     = 10 * time.Second
	lastOff      = time.Hour
	calmAfter    = 1000

	// mostWrong bounds pipeline.wrong, and lastAnswers is how many answers of a connection
	// are known to have been its.
	mostWrong   = 1024
	lastAnswers = 128
)

// errOrdinary says that a request is to be made in the ordinary way.
var errOrdinary = errors.New("not a plain answer")

// newPipeline returns the pipeline for a store's URL, with connections as tr has them, by
// which it is asked in the ordinary way; cache tells that the store is one.
func newPipeline(ctx context.Context, h *HTTP, tr *http.Transport, cache bool) *pipeline {
	header := http.Header{"User-Agent": {h.agent}, "Accept-Encoding": {"zstd"}}
	if h.login != "" {
		r := http.Request{Header: header}
		r.SetBasicAuth(h.login, h.secret)
	}
	var fixed bytes.Buffer
	fmt.Fprintf(&fixed, "Host: %s\r\n", h.base.Host)
	_ = header.Write(&fixed) // to memory
	query := ""
	if h.base.RawQuery != "" {
		query = "?" + strings.Trim(h.base.RawQuery, "&")
	}
	return &pipeline{
		dial:   dialerFor(&h.base, tr),
		limits: h.limits, base: h.base.EscapedPath(), query: query, fixed: fixed.String(), asking: h.asking, cache: cache, others: tr,
		ctx: ctx, most: usualMost,
		wrong: make(map[digest.Digest]struct{}),
	}
}

func (p *pipeline) newAsk(ref tier.Ref, background bool) *ask {
	return &ask{p: p, ref: ref, background: background, weight: ref.Max()/2 + 512}
}

// ask asks for a blob that nobody waits for; see tier.AskFunc. It is nil where nothing
// goes this way.
func (p *pipeline) ask(ref tier.Ref, answered func(data []byte, ok bool)) *ask {
	a := p.newAsk(ref, true)
	a.answered = answered
	if !p.submit(a) {
		return nil
	}
	return a
}

// get asks for a blob. It returns errOrdinary where that is to be asked for in the
// ordinary way, tier.ErrAbsent where there is nothing, and ctx's error.
func (p *pipeline) get(ctx context.Context, ref tier.Ref) (data []byte, contentType string, err error) {
	waits, wanted := !tier.Background(ctx), tier.Wanted(ctx)
	select {
	case <-wanted:
		waits, wanted = true, nil
	default:
	}
	a := p.newAsk(ref, !waits)
	a.done = make(chan struct{})
	if arrival := tier.ArrivalOf(ctx); arrival != nil {
		a.room = func(size int64) error { return arrival.Room(ctx, size) }
	}
	if !p.submit(a) {
		return nil, "", errOrdinary
	}
	began := time.Now()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-a.done:
			return a.data, a.contentType, a.err
		case <-wanted:
			waits, wanted = true, nil
			a.Raise()
		case <-look.C:
			if waits && p.stuck(a, time.Since(began)) {
				a.Leave()
				return nil, "", errOrdinary
			}
		case <-ctx.Done():
			a.Leave()
			return nil, "", context.Cause(ctx)
		case <-p.ctx.Done():
			return nil, "", errOrdinary
		}
	}
}

// stuck tells whether a request that was made so long ago stands behind others for too
// long: what comes before it comes to a halt, or drips; or whether it is on a connection
// that seems to be dead.
func (p *pipeline) stuck(a *ask, waited time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.isStuck(a, waited)
}

// isStuck is stuck with p.mu held.
func (p *pipeline) isStuck(a *ask, waited time.Duration) bool {
	late := waited >= p.limits.header
	for _, c := range p.pipes {
		switch i := slices.Index(c.asks, a); {
		case i > 0:
			return late || c.still(p.halts())
		case i == 0 && p.manner == deep && c.still(p.silence()):
			p.dropIdle()
			return true
		case i == 0:
			return false
		}
	}
	moves := slices.ContainsFunc(p.pipes, func(c *pipe) bool { return !c.still(standstill) })
	return slices.Contains(p.queue, a) && (late || len(p.pipes) > 0 && !moves)
}

// halts is how long nothing must have come for it to have come to a halt. p.mu is held.
func (p *pipeline) halts() time.Duration { return min(max(halt, haltTrips*p.trip), standstill) }

// silence is how long nothing must have come on a connection for a quick server's answer
// to be asked for elsewhere. p.mu is held.
func (p *pipeline) silence() time.Duration {
	long := max(standstill, haltTrips*p.trip)
	if p.cache {
		long *= fetchTimes
	}
	return long
}

// dropIdle ends the connections that idle, where one has fallen silent: what silenced
// that, a machine that slept, a network that changed, may have silenced them, too. p.mu
// is held.
func (p *pipeline) dropIdle() {
	for _, c := range p.pipes {
		if len(c.asks) == 0 && !c.ends {
			c.ends = true
			c.conn.Close()
		}
	}
	p.others.CloseIdleConnections()
}

// submit puts a request on a connection, or has it wait for one. It is false
// where nothing goes this way.
func (p *pipeline) submit(a *ask) bool {
	p.mu.Lock()
	_, wrong := p.wrong[a.ref.Digest]
	if wrong || p.ctx.Err() != nil || time.Now().Before(p.off) {
		p.mu.Unlock()
		return false
	}
	c := p.choose(a)
	p.mu.Unlock()
	if c != nil {
		c.send(a.background)
	}
	return true
}

// depth is how many requests may be on their way on one connection, and conns how
// many connections there may be, of them spare ones for what somebody waits for. p.mu
// is held.
func (p *pipeline) depth() (depth, conns, spare int) {
	switch p.manner {
	case shallow:
		return 1, maxConns, maxConns / 8
	case unknown:
		return 1, deepConns + spareConns, spareConns
	}
	return mostOnPipe, deepConns + spareConns, spareConns
}

// choose gives a to the connection with the least to do, which is returned, or
// has it wait. It has another one made where all have much to do. p.mu is held.
func (p *pipeline) choose(a *ask) *pipe {
	depth, conns, spare := p.depth()
	if a.background {
		conns -= spare
	}
	var best *pipe
	for _, c := range p.pipes {
		if len(c.asks) < depth && p.room(c) > 0 && !c.still(standstill) && (best == nil || c.load < best.load) && (!a.background || p.mayCarry(c)) {
			best = c
		}
	}
	busy := best == nil || best.load > lightly || best.behind > 0 && !a.background
	few := !a.background && p.manner == deep && p.lasting()+p.dialing < readyConns
	if (busy || best.load > 0 && !a.background || few) && p.lasting()+p.dialing < conns {
		p.makeOne()
		if busy && !a.background {
			best = nil // rather than stand behind what nobody waits for
		}
	}
	if best != nil {
		best.push(a)
		if a.background {
			p.keepFree()
		}
		return best
	}
	at := len(p.queue)
	if !a.background {
		at = p.urgent
		p.urgent++
	}
	p.queue = slices.Insert(p.queue, at, a)
	return nil
}

// keepFree has a connection made where what nobody waits for leaves too few: what somebody
// waits for is to find one with nothing before it. p.mu is held.
func (p *pipeline) keepFree() {
	if p.manner != deep || p.dialing > 0 {
		return
	}
	_, conns, free := p.depth()
	for _, c := range p.pipes {
		if c.behind == 0 && p.room(c) > 0 {
			free--
		}
	}
	if free > 0 && p.lasting() < conns {
		p.makeOne()
	}
}

// mayCarry tells whether a connection may be given what nobody waits for: some are
// kept free of it. p.mu is held.
func (p *pipeline) mayCarry(c *pipe) bool {
	if c.behind > 0 {
		return true
	}
	_, conns, spare := p.depth()
	for _, o := range p.pipes {
		if o.behind > 0 && p.room(o) > 0 {
			conns--
		}
	}
	return conns > spare
}

// take has a connection take what waits, n requests at most. What somebody waits for
// has come to wait rather than stand behind much that nobody waits for, so it does not do
// that now, as long as another connection may be there any moment. p.mu is held.
func (p *pipeline) take(c *pipe, n int) {
	depth, _, _ := p.depth()
	soonFree := p.dialing > 0 && time.Since(p.dialed) < 2*p.making
	for n = min(n, len(p.queue), depth-len(c.asks), p.room(c)); n > 0; n-- {
		a := p.queue[0]
		if a.background && !p.mayCarry(c) || !a.background && c.behind > 0 && c.load > lightly && soonFree {
			break
		}
		c.push(a)
		p.queue[0] = nil
		p.queue = p.queue[1:]
		p.urgent = max(p.urgent-1, 0)
	}
}

// room is how many more requests a connection may be given before the server ends it.
// p.mu is held.
func (p *pipeline) room(c *pipe) int {
	if c.ends {
		return 0
	}
	return p.most - c.answered - len(c.asks)
}

// lasting is how many connections there are that won't end soon. p.mu is held.
func (p *pipeline) lasting() (n int) {
	for _, c := range p.pipes {
		if p.room(c) > min(soon, p.most/4) {
			n++
		}
	}
	return n
}

// usable is a connection that may be given more requests; nil if there is none. p.mu
// is held.
func (p *pipeline) usable() *pipe {
	for _, c := range p.pipes {
		if p.room(c) > 0 {
			return c
		}
	}
	return nil
}

// renew has a connection made where what waits has none to wait for. p.mu is held.
func (p *pipeline) renew() {
	if len(p.queue) > 0 && p.dialing == 0 && p.usable() == nil && p.ctx.Err() == nil {
		p.makeOne()
	}
}

// lasted takes note of how many answers a server gave on a connection that it ended.
// It is taken for its custom the second time. p.mu is held.
func (p *pipeline) lasted(answers int) {
	if answers == p.endedAt && answers >= leastMost {
		p.most = min(p.most, answers)
	}
	p.endedAt = answers
}

// goesOn takes note of how many answers a server has given on a connection that it
// does not end. p.mu is held.
func (p *pipeline) goesOn(answers int) {
	if answers >= p.most {
		p.most = math.MaxInt
	}
}

// warm has a connection made where there is none, since one will be needed.
func (p *pipeline) warm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pipes)+p.dialing == 0 && p.ctx.Err() == nil && !time.Now().Before(p.off) {
		p.makeOne()
	}
}

// makeOne has a connection made. p.mu is held.
func (p *pipeline) makeOne() {
	p.dialing++
	p.dialed = time.Now()
	p.tasks.Go(p.connect)
}

// connect makes a connection. Those that are being made share what waits.
func (p *pipeline) connect() {
	began := time.Now()
	conn, trip, err := p.dial(p.ctx)
	made := time.Since(began)
	p.mu.Lock()
	p.dialing--
	if err == nil && (p.trip == 0 || trip < p.trip) {
		p.trip, p.making = trip, made
	}
	if err != nil || p.ctx.Err() != nil {
		var c *pipe
		switch {
		case p.dialing > 0:
		case p.usable() != nil:
			c = p.usable()
			p.take(c, len(p.queue))
		default:
			p.troubled()
			p.refuse(p.queue)
			p.queue, p.urgent = nil, 0
		}
		p.mu.Unlock()
		if c != nil {
			c.send(true)
		}
		if err == nil {
			conn.Close()
		}
		return
	}
	c := &pipe{p: p, conn: conn, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	p.pipes = append(p.pipes, c)
	p.share(c)
	p.tasks.Go(c.write)
	p.tasks.Go(c.read)
	p.mu.Unlock()
	c.send(true)
}

// refuse leaves requests to the ordinary way. p.mu is held.
func (p *pipeline) refuse(asks []*ask) {
	for _, a := range asks {
		if !a.left {
			a.refuse(errOrdinary)
		}
	}
}

// refuse says that there is no blob for a request. p.mu is held.
func (a *ask) refuse(why error) {
	if a.answered == nil {
		a.err = why
		close(a.done)
	} else if !a.handed {
		a.handed = true
		a.answered(nil, false) // at once, and in another goroutine if there is more to do
	}
}

// hand tells whether the answer is to be handed on, as it will be then.
func (a *ask) hand() bool {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	if a.left || a.handed {
		return false
	}
	a.handed = true
	return true
}

// Leave says that nobody wants the answer any more. It is false where that is being
// handed on already, or was.
func (a *ask) Leave() bool {
	p := a.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.left || a.handed {
		return false
	}
	a.left = true
	p.unqueue(a)
	return true
}

// unqueue takes a request out of the queue, if it is there. p.mu is held.
func (p *pipeline) unqueue(a *ask) {
	if i := slices.Index(p.queue, a); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
		if i < p.urgent {
			p.urgent--
		}
	}
}

// watch looks now and then whether a request is stuck whose answer is handed on, and that
// somebody has waited for since then. It is left to the ordinary way in that case.
func (a *ask) watch(since time.Time) {
	time.AfterFunc(lookEvery, func() {
		p := a.p
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case a.left || a.handed:
		case p.isStuck(a, time.Since(since)):
			p.unqueue(a)
			a.refuse(errOrdinary)
		default:
			a.watch(since)
		}
	})
}

// Raise has a request that waits for a connection go with those that somebody waits
// for. What has been sent stays where it is: answers come in the order of the requests.
func (a *ask) Raise() {
	p := a.p
	p.mu.Lock()
	i := slices.Index(p.queue, a)
	if !a.watched && a.answered != nil {
		a.watched = true
		a.watch(time.Now())
	}
	if i < p.urgent { // it is there already, or not there
		p.mu.Unlock()
		return
	}
	p.queue = slices.Delete(p.queue, i, i+1)
	a.background = false
	c := p.choose(a)
	p.mu.Unlock()
	if c != nil {
		c.send(false)
	}
}

// standBack has nothing go this way for a while, nor what waits; answers to what is on its
// way already make that no longer. p.mu is held.
func (p *pipeline) standBack() {
	if time.Now().Before(p.off) {
		return
	}
	p.refuse(p.queue)
	p.queue, p.urgent = nil, 0
	p.pause = min(max(2*p.pause, firstOff), lastOff)
	p.off, p.good, p.troubles, p.doubts = time.Now().Add(p.pause), 0, 0, 0
}

// answeredWell takes note of a good answer. p.mu is held.
func (p *pipeline) answeredWell() {
	p.troubles = 0
	if p.good++; p.good >= calmAfter {
		p.pause = 0
	}
}

// troubled takes note of a connection that ended badly. p.mu is held.
func (p *pipeline) troubled() {
	if p.troubles++; p.troubles >= mostTroubles {
		p.standBack()
	}
}

// doubt is told that an answer was not what had been asked for. It may be the server's
// blob that is wrong: that is found out in the ordinary way. But where a server, or who is
// between, sent one answer more or less than it was asked for, all behind it on that
// connection are others', too. So that one is given up.
func (p *pipeline) doubt(ref tier.Ref) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.wrong[ref.Digest]; known {
		return
	}
	if len(p.wrong) >= mostWrong {
		clear(p.wrong) // costs one request each
	}
	p.wrong[ref.Digest] = struct{}{}
	for _, c := range p.pipes {
		if !c.gaveUp && slices.Contains(c.last[:], ref.Digest) {
			c.gaveUp = true
			c.conn.Close()
			p.doubtful()
		}
	}
}

// doubtful takes note of a connection that is given up for a wrong answer. p.mu is held.
func (p *pipeline) doubtful() {
	if now := time.Now(); now.Sub(p.doubted) > doubtsWithin {
		p.doubts, p.doubted = 0, now
	}
	if p.doubts++; p.doubts >= mostDoubts {
		p.standBack()
	}
}

// followed takes note of how long after the end of one answer the next one began
// whose request had been sent before. p.mu is held.
func (p *pipeline) followed(gap time.Duration) {
	long := 0.0
	if gap > longGap {
		long = 1
	}
	p.measured++
	p.gaps += (long - p.gaps) / float64(min(p.measured, gapSamples))
	if p.measured >= gapSamples && p.gaps > gapPart {
		p.turn(shallow)
	}
}

// thought takes note of how long after its request an answer began that had nothing
// before it on its connection; beside tells that other connections had much. Where they
// carry many requests that says little: all connections share one way, and one that is
// full keeps answers for longer than a server thinks. A server that is slow then shows
// by gaps. p.mu is held.
func (p *pipeline) thought(d time.Duration, beside bool) {
	switch {
	case d-p.trip <= longThink:
		p.quick++
	case beside && p.manner == deep:
		return
	default:
		p.slow++
	}
	switch {
	case p.manner == unknown && p.quick > 0:
		p.turn(deep)
	case p.manner == unknown && p.slow >= slowFirst, p.manner == deep && p.quick == 0 && p.slow >= slowLater:
		p.turn(shallow)
	case p.quick+p.slow < sampled:
	case p.manner == shallow && 2*p.quick >= sampled:
		p.turn(deep)
	default:
		p.quick, p.slow = 0, 0
	}
}

// turn has the server asked in another manner, what waits included. p.mu is held.
func (p *pipeline) turn(to manner) {
	p.manner, p.quick, p.slow, p.measured, p.gaps = to, 0, 0, 0, 0
	p.shareAll()
	_, conns, _ := p.depth()
	for n := min(len(p.queue), conns) - p.lasting() - p.dialing; n > 0; n-- {
		p.makeOne()
	}
}

// busyBeside tells whether other connections than c have much on their way. p.mu is held.
func (p *pipeline) busyBeside(c *pipe) bool {
	load := -c.load
	for _, o := range p.pipes {
		load += o.load
	}
	return load > lightly
}

// share has a connection take its share of what waits. p.mu is held.
func (p *pipeline) share(c *pipe) {
	n := len(p.pipes) + p.dialing
	p.take(c, (len(p.queue)+n-1)/max(n, 1))
}

// shareAll has each connection take its share of what waits. p.mu is held.
func (p *pipeline) shareAll() {
	for _, c := range p.pipes {
		if p.share(c); len(c.out) > 0 {
			c.send(true)
		}
	}
}

// close ends all connections, once ctx is done.
func (p *pipeline) close() {
	p.mu.Lock()
	for _, c := range p.pipes {
		c.conn.Close()
	}
	p.mu.Unlock()
	p.tasks.Wait()
}
