package disk

import (
	"sync/atomic"
	"time"
)

// trouble says why nothing can be written for now. The pauses between tries
// grow; it is logged when it begins and when it ends.
type trouble struct {
	why   error
	until time.Time
	pause time.Duration
	// flag tells that there is any, without the lock.
	flag atomic.Bool
}

const (
	firstPause = time.Second
	lastPause  = time.Minute
)

// forever is for trouble that won't pass while the cache is open.
func (t *trouble) forever(why error) {
	t.why, t.until = why, time.Unix(1<<40, 0)
	t.flag.Store(true)
}

// paused tells whether it is too early to try to write again.
func (c *Cache) paused() bool {
	if !c.trouble.flag.Load() {
		return false
	}
	c.troubleMu.Lock()
	defer c.troubleMu.Unlock()
	return c.opt.Now().Before(c.trouble.until)
}

// Trouble is why the cache keeps nothing for now; nil where it does, or may again.
func (c *Cache) Trouble() error {
	if !c.paused() {
		return nil
	}
	c.troubleMu.Lock()
	defer c.troubleMu.Unlock()
	return c.trouble.why
}

// troubled notes that writing failed.
func (c *Cache) troubled(why error) {
	c.troubleMu.Lock()
	t := &c.trouble
	first := t.why == nil
	t.why = why
	t.pause = min(max(2*t.pause, firstPause), lastPause)
	t.until = c.opt.Now().Add(t.pause)
	t.flag.Store(true)
	c.troubleMu.Unlock()
	if first {
		c.log.Warn("disk cache keeps nothing for now", "err", why)
	}
}

// recovered notes that writing went well.
func (c *Cache) recovered() {
	if !c.trouble.flag.Load() {
		return
	}
	c.troubleMu.Lock()
	c.trouble.why, c.trouble.pause, c.trouble.until = nil, 0, time.Time{}
	c.trouble.flag.Store(false)
	c.troubleMu.Unlock()
	c.log.Info("disk cache keeps blobs again")
}
