package tier

import (
	"context"
	"fmt"
	"time"
)

// errHangs is what becomes of an answer that nobody waits for any more.
var errHangs = fmt.Errorf("%w: it does not answer, not even what it has", ErrUnavailable)

// askOnly asks the only member of a group that others come after. One that takes long
// may be fetching the blob, so it is asked for what it has, which it answers at once:
// if that fails to come, it hangs, and is left alone.
func (c *Chain) askOnly(ctx context.Context, g *group, m *member, ref Ref) answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, 1)
	c.running.Go(func() { answers <- c.askMember(ctx, g, m, ref) })
	late := time.NewTimer(hangs)
	defer late.Stop()
	select {
	case a := <-answers:
		return a
	case <-late.C:
	}
	there := make(chan bool, 1)
	c.running.Go(func() { there <- c.there(ctx, m, ref, probeTime) })
	for {
		select {
		case a := <-answers:
			return a
		case ok := <-there:
			if !ok && ctx.Err() == nil {
				c.leaveAlone(m, errHangs)
				return answer{err: errHangs}
			}
			there = nil
		}
	}
}

// leaveAlone takes note of how a member failed.
func (c *Chain) leaveAlone(m *member, err error) {
	if pause := m.answered(err, time.Now()); pause > 0 {
		c.log.Warn("leaving a cache alone", "op", "fetch", "tier", m.Name(), "for", pause, "err", err)
	}
}

// there tells whether a member answers within that time what it has, whatever that is.
func (c *Chain) there(ctx context.Context, m *member, ref Ref, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	ref.Here = true
	a := c.ask(ctx, m.Meter, ref)
	return a.err == nil || ctx.Err() == nil
}

// findOut finds out, behind whoever reads, whether an only member that was left alone is
// back.
func (c *Chain) findOut(m *member, ref Ref) {
	c.running.Go(func() {
		err := errHangs
		if c.there(c.ctx, m, ref, probeTime) {
			err = nil
			c.log.Info("a cache answers again", "op", "fetch", "tier", m.Name())
		}
		m.answered(err, time.Now())
		m.mu.Lock()
		defer m.mu.Unlock()
		m.probed = false
	})
}
