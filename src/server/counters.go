package server

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// counters is what the server counts, since it started and minute by minute.
type counters struct {
	hits, misses counter // of blobs
	sent         counter // bytes of bodies
	asked        counter // requests
	failed       counter // answers from 500 on

	loops  atomic.Int64
	under  atomic.Int64                  // requests under way
	routes [routes][classes]atomic.Int64 // answers by route and class of status
	nanos  [routes]atomic.Int64          // time that they took
}

// classes of a status: 0 for none, else its first digit.
const classes = 6

func (c *counters) start(t time.Time) {
	for _, n := range []*counter{&c.hits, &c.misses, &c.sent, &c.asked, &c.failed} {
		n.minute = t.Unix() / 60
	}
}

// counter counts, and remembers the last hour by minutes.
type counter struct {
	total atomic.Int64

	mu      sync.Mutex
	minute  int64       // GUARDED_BY(mu); since 1970, of the last slot written
	minutes [hour]int64 // GUARDED_BY(mu); by minute modulo hour
}

// hour is how many minutes are remembered.
const hour = 60

func (c *counter) add(n int64) {
	if n == 0 {
		return
	}
	c.total.Add(n)
	now := time.Now().Unix() / 60
	c.mu.Lock()
	c.turn(now)
	c.minutes[now%hour] += n
	c.mu.Unlock()
}

// turn clears what is older than an hour. c.mu is held.
func (c *counter) turn(now int64) {
	for range min(now-c.minute, hour) {
		c.minute++
		c.minutes[c.minute%hour] = 0
	}
	if now > c.minute { // more than an hour went by: all is clear
		c.minute = now
	}
}

// past returns the last hour, the oldest minute first.
func (c *counter) past() [hour]int64 {
	now := time.Now().Unix() / 60
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn(now)
	var p [hour]int64
	for i := range p {
		p[i] = c.minutes[(now+1+int64(i))%hour]
	}
	return p
}

// account counts a request from now until what it returns is called, which also
// sees to it that nothing a request does ends the process.
func (s *Server) account(c *call) (done func()) {
	began := time.Now()
	s.asked.add(1)
	s.under.Add(1)
	return func() {
		r := recover()
		s.under.Add(-1)
		if err, ok := r.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			status := http.StatusBadGateway
			if c.r.Context().Err() != nil {
				status = statusLeft
			}
			s.tally(c, status, began)
			panic(r) // the server's own way to cut a connection
		}
		if r != nil {
			s.log.Error("panic", "op", "http", "route", c.route.String(), "err", r, "stack", string(debug.Stack()))
			if c.w.status != 0 {
				s.tally(c, http.StatusInternalServerError, began)
				panic(http.ErrAbortHandler)
			}
			c.empty(http.StatusInternalServerError)
		}
		s.tally(c, c.w.status, began)
	}
}

func (s *Server) tally(c *call, status int, began time.Time) {
	took := time.Since(began)
	s.sent.add(c.w.bytes)
	s.routes[c.route][min(max(status/100, 0), classes-1)].Add(1)
	s.nanos[c.route].Add(int64(took))
	if status >= 500 {
		s.failed.add(1)
	}
}

// sweepEvery is how often what expired is let go, and what is known of blobs that
// are gone.
const sweepEvery = time.Hour

// sweep cleans up now and then.
func (s *Server) sweep(ctx context.Context) {
	for {
		select {
		case <-time.After(sweepEvery):
		case <-ctx.Done():
			return
		}
		s.expire(ctx)
		s.profiles.expire(ctx, time.Now().Add(-profileLife))
		if err := s.kept.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("forget blobs that are gone", "op", "sweep", "err", err)
		}
	}
}
