package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/tier"
)

// pipeline asks a server for blobs over a few connections of its own, on each of
// which many requests are on their way: HTTP/1.1 has the answers come in their
// order (RFC 9112, 9.3.2). Against one request for each connection that spares a
// server, this machine and the way between them most of what a small blob costs,
// and connections that never rest carry a large one at once.
//
// It understands blobs as static servers give them, and nothing else. Whatever
// it meets besides, it leaves to the ordinary way, which knows what to make of
// it: see errOrdinary. A server that answers slowly, one request after the
// other, gets more connections instead, each with one request.
type pipeline struct {
	dial   func(ctx context.Context) (net.Conn, error)
	limits limits
	base   string            // path of the store, escaped, without a slash at the end
	fixed  string            // header lines of every request
	asking func(http.Header) // adds more; may be nil

	ctx   context.Context // done once closed
	tasks sync.WaitGroup

	mu       sync.Mutex
	pipes    []*pipe   // GUARDED_BY(mu); those that live, oldest first
	dialing  int       // GUARDED_BY(mu)
	queue    []*ask    // GUARDED_BY(mu); have no connection yet; demand comes first
	urgent   int       // GUARDED_BY(mu); how many of queue are demand
	gaps     float64   // GUARDED_BY(mu); part of the answers that a server began to think of after the one before
	measured int       // GUARDED_BY(mu); answers since gaps began
	shallow  time.Time // GUARDED_BY(mu); until then one request for each connection
	off      time.Time // GUARDED_BY(mu); until then nothing goes this way
	troubles int       // GUARDED_BY(mu); connections that ended badly, less good answers
}

// ask is one request and its answer.
type ask struct {
	path       string // below the store's, escaped, with its query
	limit      int64  // bytes that the answer may have
	background bool   // nobody waits for it
	weight     int64  // about how many bytes it puts on a connection
	tries      int    // GUARDED_BY(pipeline.mu); connections that it has been sent on
	left       bool   // GUARDED_BY(pipeline.mu); nobody wants it any more
	behind     bool   // GUARDED_BY(pipeline.mu); it was on its way when the one before was answered

	done        chan struct{} // closed once what follows is set
	data        []byte
	contentType string
	err         error // nil, tier.ErrAbsent or errOrdinary
}

const (
	// deepConns is how many connections of many requests there are, and
	// spareConns how many more for what somebody waits for.
	deepConns  = 6
	spareConns = 2
	// mostOnPipe is how many requests are on their way on one of them, and lightly
	// how many bytes don't ask for another one beside it.
	mostOnPipe = 512
	lightly    = 32 << 10
	// mostTries is how often a request is sent again where a connection ended
	// before its answer began, as servers end them after a number of requests.
	mostTries = 3

	// A server is slow, for shallowFor, if of gapSamples answers this part came
	// only some time after the one before.
	gapSamples = 64
	gapPart    = 0.75
	longGap    = 1500 * time.Microsecond
	shallowFor = time.Minute

	// After so many troubles nothing goes this way for troubledFor; where the
	// server is no such server at all, for unfitFor.
	mostTroubles = 3
	troubledFor  = time.Minute
	unfitFor     = time.Hour
)

// errOrdinary says that a request is to be made in the ordinary way.
var errOrdinary = errors.New("not a plain answer")

// newPipeline returns the pipeline for a store's URL.
func newPipeline(ctx context.Context, dialer dialFunc, h *HTTP) *pipeline {
	header := http.Header{"User-Agent": {h.agent}, "Accept-Encoding": {"zstd"}}
	if h.login != "" {
		r := http.Request{Header: header}
		r.SetBasicAuth(h.login, h.secret)
	}
	var fixed bytes.Buffer
	fmt.Fprintf(&fixed, "Host: %s\r\n", h.base.Host)
	_ = header.Write(&fixed) // to memory
	addr := h.base.Host
	if h.base.Port() == "" {
		addr = net.JoinHostPort(h.base.Hostname(), "80")
	}
	return &pipeline{
		dial:   func(ctx context.Context) (net.Conn, error) { return dialer(ctx, "tcp", addr) },
		limits: h.limits, base: h.base.EscapedPath(), fixed: fixed.String(), asking: h.asking, ctx: ctx,
	}
}

// get asks for path. It returns errOrdinary where that is to be asked for in the
// ordinary way, tier.ErrAbsent where there is nothing, and ctx's error.
func (p *pipeline) get(ctx context.Context, path string, limit int64) (data []byte, contentType string, err error) {
	a := &ask{path: path, limit: limit, background: tier.Background(ctx), weight: limit/2 + 512, done: make(chan struct{})}
	if !p.submit(a) {
		return nil, "", errOrdinary
	}
	select {
	case <-a.done:
		return a.data, a.contentType, a.err
	case <-ctx.Done():
		p.leave(a)
		return nil, "", context.Cause(ctx)
	case <-p.ctx.Done():
		return nil, "", errOrdinary
	}
}

// submit puts a request on a connection, or has it wait for one. It is false
// where nothing goes this way.
func (p *pipeline) submit(a *ask) bool {
	p.mu.Lock()
	if p.ctx.Err() != nil || time.Now().Before(p.off) {
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
// many connections there may be for a. p.mu is held.
func (p *pipeline) depth() (depth, conns, spare int) {
	if time.Now().Before(p.shallow) {
		return 1, maxConns, maxConns / 8
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
	for _, c := range p.pipes[:min(len(p.pipes), conns)] {
		if len(c.asks) < depth && (best == nil || c.load < best.load) {
			best = c
		}
	}
	if (best == nil || best.load > lightly) && len(p.pipes)+p.dialing < conns {
		p.dialing++
		p.tasks.Go(p.connect)
		if !a.background {
			best = nil // rather than stand behind what nobody waits for
		}
	}
	if best != nil {
		best.push(a)
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

// take has a connection take what waits, n requests at most. p.mu is held.
func (p *pipeline) take(c *pipe, n int) {
	depth, _, _ := p.depth()
	for n = min(n, len(p.queue), depth-len(c.asks)); n > 0; n-- {
		c.push(p.queue[0])
		p.queue[0] = nil
		p.queue = p.queue[1:]
		p.urgent = max(p.urgent-1, 0)
	}
}

// warm has a connection made where there is none, since one will be needed.
func (p *pipeline) warm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pipes)+p.dialing == 0 && p.ctx.Err() == nil && !time.Now().Before(p.off) {
		p.dialing++
		p.tasks.Go(p.connect)
	}
}

// connect makes a connection. Those that are being made share what waits.
func (p *pipeline) connect() {
	conn, err := p.dial(p.ctx)
	p.mu.Lock()
	p.dialing--
	if err != nil || p.ctx.Err() != nil {
		var c *pipe
		switch {
		case p.dialing > 0:
		case len(p.pipes) > 0:
			c = p.pipes[0]
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
	p.take(c, (len(p.queue)+p.dialing)/(p.dialing+1))
	p.tasks.Go(c.write)
	p.tasks.Go(c.read)
	p.mu.Unlock()
	c.send(true)
}

// refuse leaves requests to the ordinary way. p.mu is held.
func (p *pipeline) refuse(asks []*ask) {
	for _, a := range asks {
		a.err = errOrdinary
		close(a.done)
	}
}

// leave is told that nobody wants an answer any more.
func (p *pipeline) leave(a *ask) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a.left = true
	if i := slices.Index(p.queue, a); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
		if i < p.urgent {
			p.urgent--
		}
	}
}

// troubled takes note of a connection that ended badly. p.mu is held.
func (p *pipeline) troubled() {
	if p.troubles++; p.troubles >= mostTroubles {
		p.troubles, p.off = 0, time.Now().Add(troubledFor)
	}
}

// unfit takes note of a server that doesn't do what this takes. p.mu is held.
func (p *pipeline) unfit() { p.off = time.Now().Add(unfitFor) }

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
		p.shallow, p.measured, p.gaps = time.Now().Add(shallowFor), 0, 0
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
