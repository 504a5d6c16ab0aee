package disk

import (
	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/tier"
)

// Ready is Range for what is in memory: it waits for no disk, and for nobody who
// does. A blob that is yet to be verified is left to Range.
func (c *Cache) Ready(ref tier.Ref, off, n int64) (tier.Blob, bool) {
	if c.closed.Load() {
		return tier.Blob{}, false
	}
	off, n = max(off, 0), max(n, 0)
	b, ok := tier.Blob{}, false
	if b.Data, ok = c.waiting(&ref); ok {
		b.Data = cut(b.Data, off, n)
	} else {
		b, ok = c.readReady(&ref, off, n)
	}
	if ok {
		c.count.hits.Add(1)
	}
	return b, ok
}

func (c *Cache) readReady(ref *tier.Ref, off, n int64) (tier.Blob, bool) {
	fp := fingerprint(ref)
	e, _, ok := c.index.peek(fp)
	if !ok || !e.verified() {
		return tier.Blob{}, false
	}
	h := c.ifOpen(e)
	if h == nil {
		return tier.Blob{}, false
	}
	p, err := c.locate(h, ref.Domain, &ref.Digest, false)
	if err != nil {
		c.unref(h)
		return tier.Blob{}, false
	}
	off = min(off, p.size)
	n = min(n, p.size-off)
	b, kept := p.inline, false
	switch {
	case p.off == 0:
		b.Data = b.Data[off : off+n]
	case n > 0 && h.resident(p.off+off, n):
		b, kept = c.lend(h, p.off+off, n), true
	case n > 0:
		c.unref(h)
		return tier.Blob{}, false
	}
	now := c.stamp()
	c.index.touch(fp, now, uint16(c.activeSlot.Load()))
	h.seg.lastUse.Store(now)
	if !kept {
		c.unref(h)
	}
	return b, true
}

// ifOpen returns the handle of an entry's segment, with a reference for the caller,
// if that is open.
func (c *Cache) ifOpen(e entry) *handle {
	s := c.segmentAt(e.slot())
	if s == nil {
		return nil
	}
	if h := s.handle.Load(); h != nil && h.ref() {
		return h
	}
	return nil
}

// readAhead is how much of a segment the disk is asked for at a time, in bytes.
// The blobs of a tree lie there in the order in which they were fetched.
const readAhead = 512 << 10

// WillNeed has the disk begin to read a blob, and what lies behind it. It waits
// for the disk where the pages that tell where the blob is are not in memory.
func (c *Cache) WillNeed(ref tier.Ref) bool {
	if c.closed.Load() {
		return false
	}
	if _, ok := c.waiting(&ref); ok {
		return false
	}
	e, _, ok := c.index.peek(fingerprint(&ref))
	if !ok {
		return false
	}
	s := c.segmentAt(e.slot())
	if s == nil {
		return false
	}
	h, err := c.acquire(s)
	if err != nil {
		return false // who reads the blob will tell
	}
	defer c.unref(h)
	p, err := c.locate(h, ref.Domain, &ref.Digest, true)
	if err != nil {
		return false
	}
	if p.off == 0 {
		p.inline.Release()
		return false
	}
	asked := h.asked.Load()
	if p.off >= asked-readAhead && p.off+p.size <= asked {
		return true
	}
	if h.resident(p.off, p.size) {
		return false
	}
	n := max(p.size, readAhead)
	h.asked.Store(p.off + n)
	return h.willNeed(p.off, n) == nil
}

// willNeed has the disk begin to read n bytes at off. It does not wait for them.
func (h *handle) willNeed(off, n int64) error {
	return unix.Fadvise(int(h.file.Fd()), off, n, unix.FADV_WILLNEED)
}
