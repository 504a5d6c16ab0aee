package disk

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/tier"
)

// Ready is Range for what is in memory: it waits for no disk. What is on disk the
// disk begins to read. A blob that is yet to be verified is left to Range.
func (c *Cache) Ready(ref tier.Ref, off, n int64) (tier.Blob, tier.Nearness) {
	if c.closed.Load() {
		return tier.Blob{}, tier.Unknown
	}
	off, n = max(off, 0), max(n, 0)
	if b, ok := c.waiting(&ref, off, n); ok {
		c.count.hits.Add(1)
		return b, tier.InMemory
	}
	fp := fingerprint(&ref)
	e, _, ok := c.index.peek(fp)
	if !ok || !e.verified() {
		return tier.Blob{}, tier.Unknown
	}
	h := c.ifOpen(e)
	if h == nil {
		return tier.Blob{}, tier.Unknown
	}
	b, kept, near := c.readyFrom(h, &ref, off, n)
	if near == tier.InMemory {
		c.count.hits.Add(1)
		now := c.stamp()
		c.index.touch(fp, now, uint16(c.activeSlot.Load()))
		h.seg.lastUse.Store(now)
	}
	if !kept {
		c.unref(h)
	}
	return b, near
}

// readyFrom is readFrom for what is in memory.
func (c *Cache) readyFrom(h *handle, ref *tier.Ref, off, n int64) (b tier.Blob, kept bool, near tier.Nearness) {
	p, err := c.locate(h, ref.Domain, &ref.Digest, false)
	if err != nil {
		return b, false, tier.Unknown
	}
	off = min(off, p.size)
	n = min(n, p.size-off)
	switch {
	case p.off == 0:
		return inline(p, off, n, false), false, tier.InMemory
	case n == 0:
		return b, false, tier.InMemory
	case n <= maxCopied && !c.waits.Load() && c.buffers.held.Load()+n <= maxBuffered:
		b, near = c.begin(h, p.off+off, n)
		return b, false, near
	case h.resident(p.off+off, n):
		if n > maxCopied {
			return c.lend(h, p.off+off, n), true, tier.InMemory
		}
		if b, kept, err = c.readAt(h, p.off+off, n); err != nil {
			return b, kept, tier.Unknown
		}
		return b, kept, tier.InMemory
	case n > maxBegun || h.willNeed(p.off+off, n) != nil:
		return b, false, tier.Unknown
	}
	return b, false, tier.Coming
}

// begin reads n bytes at off into a buffer if they are in memory. If not, the disk begins
// to read them: one call does what resident, willNeed and pread do.
func (c *Cache) begin(h *handle, off, n int64) (tier.Blob, tier.Nearness) {
	b := c.buffers.blob(n)
	vec := unix.Iovec{Base: unsafe.SliceData(b.Data)}
	vec.SetLen(int(n))
	// The offset is in two halves where a register is.
	got, _, errno := syscall.Syscall6(unix.SYS_PREADV2, h.file.Fd(), uintptr(unsafe.Pointer(&vec)), 1,
		uintptr(off), uintptr(uint64(off)>>32), unix.RWF_NOWAIT)
	if errno == 0 && int64(got) == n {
		return b, tier.InMemory
	}
	b.Release()
	switch {
	case errno == unix.EAGAIN, errno == unix.EINTR, errno == 0 && got > 0:
		return tier.Blob{}, tier.Coming
	case errno == unix.EOPNOTSUPP, errno == unix.ENOSYS:
		c.waits.Store(true)
	}
	return tier.Blob{}, tier.Unknown
}

// maxBegun is how much of a blob Ready has the disk read, in bytes: to begin with
// more takes so long that it is for somebody else to do.
const maxBegun = 64 << 10

// willNeed has the disk begin to read n bytes at off. It does not wait for them.
func (h *handle) willNeed(off, n int64) error {
	return unix.Fadvise(int(h.file.Fd()), off, n, unix.FADV_WILLNEED)
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
	if c.isWaiting(&ref) {
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
