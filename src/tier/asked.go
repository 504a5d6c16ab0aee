package tier

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"
)

// AskFunc begins to get from a source a blob that nobody waits for, and returns at
// once; nil where that takes a Get. No goroutine stands by meanwhile: there are
// hundreds on their way at a time.
//
// answered is called once, by another goroutine, unless Leave comes first: with ok and
// what Get would have returned, in bytes that are the source's again afterwards, or
// without, at once, where it takes a Get to find out. With ok it may take as long as
// unpacking does, and waits for nothing else.
type AskFunc func(ref Ref, answered func(stored []byte, ok bool)) Asked

// Asked is a request whose answer is to come.
type Asked interface {
	// Leave says that nobody wants the answer any more. It is true if answered
	// will not be called now; else that has begun.
	Leave() bool
	// Raise says that somebody waits for the answer now: where the request has not been
	// sent yet, it goes before those that nobody waits for.
	Raise()
}

// mostAsked is the most bytes that a blob may have to be asked for so, which others wait
// behind while it is unpacked: nearly all are smaller.
const mostAsked = 4 * maxBlob

// asks tells whether there is one source only, and that it takes requests that
// nobody waits for.
func (c *Chain) asks() bool {
	return len(c.groups) == 1 && c.groups[0].ask != nil && !c.stored
}

// askFor has the only source bring the blob of a prefetch, and tells whether that
// can be. c.mu is held.
func (c *Chain) askFor(f *flight) bool {
	if f.ref.Max() > mostAsked || c.has(f.ref) { // it has come meanwhile, see fly
		return false
	}
	g := c.groups[0]
	c.running.Add(1)
	f.asked = g.ask(f.ref, func(stored []byte, ok bool) { c.answered(f, stored, ok) })
	if f.asked == nil {
		c.running.Done()
		return false
	}
	m := g.members[0].Meter
	m.asked()
	giveUp := func(why error) bool {
		if !f.asked.Leave() {
			return false
		}
		m.left(time.Since(f.since))
		c.running.Go(func() { c.leftBehind(f, why) })
		return true
	}
	f.late = time.AfterFunc(c.timeoutFor(f.ref), func() {
		if giveUp(fmt.Errorf("wait for %v: %w: %w", f.ref, ErrUnavailable, context.DeadlineExceeded)) {
			c.took(f, f.since, 0, 0)
		}
	})
	f.cancel = func() {
		giveUp(fmt.Errorf("wait for %v: %w", f.ref, context.Canceled))
	}
	return true
}

// leftBehind ends a flight whose answer nobody waits for any more.
func (c *Chain) leftBehind(f *flight, why error) {
	c.settle(f, Blob{}, &FetchError{Ref: f.ref, Failures: []error{why}})
	c.ended(f)
}

// answered is called by the source with the answer to askFor. What is no good is asked
// for in the ordinary way, which knows what to do about it.
func (c *Chain) answered(f *flight, stored []byte, ok bool) {
	m := c.groups[0].members[0].Meter
	if !ok {
		m.unasked()
		c.running.Go(func() { c.flyAfterAll(f) })
		return
	}
	m.gave(int64(len(stored)), time.Since(f.since))
	blob, err := c.unpackShared(m, f.ref, stored)
	if err != nil {
		c.complain(m, f.ref, err)
		c.running.Go(func() {
			c.purge(c.ctx, m, f.ref)
			c.flyAfterAll(f)
		})
		return
	}
	c.origins.add(f.ref, m.Name())
	c.arrived.Store(time.Now().UnixNano())
	c.took(f, f.since, len(blob.Data), len(stored))
	if c.settle(f, blob, nil) {
		again, _ := blob.Again()
		if !c.cache.Offer(f.ref, again) {
			c.running.Go(func() {
				c.cache.Put(c.ctx, f.ref, again.Data) // which is the cache's for good
				c.ended(f)
			})
			return
		}
	}
	c.ended(f)
}

// ended is the end of a flight that was asked for.
func (c *Chain) ended(f *flight) {
	f.late.Stop() // it is there: settle had to wait for begin
	c.landed(f)
	c.release(f)
	c.running.Done()
}

// unpack is what a source gave, checked. What is unpacked may come from anyone:
// whatever it does to a decoder, it costs one read, not the mounts.
func (c *Chain) unpack(s *Meter, ref Ref, stored []byte, room func(n int) []byte) (plain []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			c.log.Error("panic while fetching", "op", "fetch", "tier", s.Name(), "digest", ref.Digest, "err", r, "stack", string(debug.Stack()))
			plain, err = nil, fmt.Errorf("panic: %v", r)
		}
	}()
	return c.codec.UnpackTo(ref.Digest, stored, ref.Max(), room)
}

// unpackShared is unpack to shared memory, also of what is not compressed: the bytes of
// stored are its source's.
func (c *Chain) unpackShared(s *Meter, ref Ref, stored []byte) (Blob, error) {
	var memory *Shared
	var loan uint64
	room := func(n int) []byte {
		if memory, loan = c.buffers.take(n); memory != nil {
			return memory.whole
		}
		return make([]byte, 0, n)
	}
	plain, err := c.unpack(s, ref, stored, room)
	if err == nil && len(plain) > 0 && &plain[0] == &stored[0] {
		if memory != nil { // it only looked compressed
			memory.Return(loan)
		}
		plain = append(room(len(plain))[:0], plain...)
	}
	switch {
	case memory == nil:
		return Blob{Data: plain}, err
	case err != nil:
		memory.Return(loan)
		return Blob{}, err
	}
	return Lent(plain, memory, loan), nil
}

// awaited has a flight go before those that nobody waits for, since somebody waits for
// it now, and tells when that has been for so long that it is to hurry; nil: never.
func (c *Chain) awaited(f *flight) <-chan time.Time {
	if f.prefetch {
		c.mu.Lock()
		f.want()
		c.mu.Unlock()
	}
	if f.asked == nil {
		return nil
	}
	f.asked.Raise()
	return time.After(c.window.unusual())
}

// hurry has a flight that was asked for, and that somebody has waited for, go the
// ordinary way as what somebody waits for does: where its request is may be one that
// hangs.
func (c *Chain) hurry(f *flight) {
	if f.asked.Leave() {
		c.groups[0].members[0].unasked()
		c.running.Go(func() { c.flyAfterAll(f) })
	}
}

// flyAfterAll has a flight go the ordinary way, in the time that is left.
func (c *Chain) flyAfterAll(f *flight) {
	defer c.running.Done()
	ctx, cancel := context.WithDeadline(c.ctx, f.since.Add(c.timeoutFor(f.ref)))
	c.mu.Lock()
	ctx = f.standingBehind(ctx)
	f.late.Stop()
	f.cancel = cancel
	if f.abandoned {
		cancel()
	}
	c.mu.Unlock()
	c.fly(ctx, f)
}
