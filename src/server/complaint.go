package server

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// complaint tells of what fails over and over, such as writing to a full disk, when
// that begins and when it is over, rather than each time.
type complaint struct {
	log       *slog.Logger
	op        string
	bad, good string // what the log says

	failing atomic.Bool // since is not zero

	mu    sync.Mutex
	since time.Time // zero: all is well
	last  time.Time // failure
	times int
}

// calm is how long nothing may have failed for a success to end it: what one domain
// can do while another can't is no end.
const calm = 5 * time.Second

// note takes the outcome of one more try. With err nil, and nothing wrong before, it
// takes no lock.
func (c *complaint) note(err error, args ...any) {
	if err == nil && !c.failing.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	switch {
	case err != nil && c.since.IsZero():
		c.since, c.last, c.times = now, now, 1
		c.failing.Store(true)
		c.log.Warn(c.bad, append([]any{"op", c.op, "err", err}, args...)...)
	case err != nil:
		c.last = now
		c.times++
	case !c.since.IsZero() && now.Sub(c.last) > calm:
		c.log.Info(c.good, "op", c.op, "failed", c.times, "seconds", int(c.last.Sub(c.since).Seconds()))
		c.since = time.Time{}
		c.failing.Store(false)
	}
}
