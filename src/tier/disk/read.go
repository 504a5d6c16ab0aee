package disk

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/tier"
)

// maxBuffered is how many bytes are read into buffers at a time, by however many
// readers of a slow disk.
const maxBuffered = 16 << 20

// errShort says that a file ends before it should.
var errShort = errors.New("segment was cut short")

// hold is what a blob that lies in a map has to give back. It is used again for
// another one: loan tells them apart.
type hold struct {
	c    *Cache
	h    *handle
	loan atomic.Uint64
}

// Return implements tier.Lender.
func (x *hold) Return(loan uint64) {
	if x.loan.CompareAndSwap(loan, loan+1) {
		c, h := x.c, x.h
		x.h = nil
		c.holds.Put(x)
		c.unref(h)
	}
}

// lend gives n bytes of the map out. h is kept until they are released.
func (c *Cache) lend(h *handle, off, n int64) tier.Blob {
	c.viewed(n)
	x, _ := c.holds.Get().(*hold)
	if x == nil {
		x = &hold{c: c}
	}
	x.h = h
	return tier.Lent(h.view(off, n), x, x.loan.Load())
}

// maxCopied is up to where copying costs less than having pages of the map put into
// the process's memory, and taken out again, in bytes.
const maxCopied = 8 << 10

// readAt returns n bytes at off in the segment's file: out of the map if they
// are in memory and many, and then h is kept until they are released; else read into
// a buffer, since the map would fetch them from disk a page at a time. Out of the map is
// what they get where too much is in buffers already.
func (c *Cache) readAt(h *handle, off, n int64) (b tier.Blob, kept bool, err error) {
	full := c.buffers.held.Load()+n > maxBuffered
	if n > 0 && (full || n > maxCopied && h.resident(off, n)) {
		return c.lend(h, off, n), true, nil
	}
	b, err = c.pread(h, off, n, false)
	return b, false, err
}

// maxViewed is how many bytes are given out of maps before these are taken out of
// the process's own memory again, where the kernel put them when it read there.
// They stay in its page cache. Reading one page has the kernel put all of aroundFault
// there that it has.
const (
	maxViewed   = 6 << 20
	aroundFault = 64 << 10
)

// viewed takes note that n bytes are given out of a map.
func (c *Cache) viewed(n int64) {
	if seen := c.views.Add(max(n, aroundFault)); seen >= maxViewed && c.views.CompareAndSwap(seen, 0) {
		go c.unmapPages()
	}
}

// unmapPages lets go of all pages of all maps. Whoever reads there finds them
// again in the page cache.
func (c *Cache) unmapPages() {
	for _, s := range c.segments() {
		h := s.handle.Load()
		if h == nil || !h.ref() {
			continue
		}
		// What the last commit left lies in the map for certain; behind it
		// may be somebody else's memory. An error would only mean that the
		// pages stay. No snapshot is borrowed: pages of the file would be used
		// again later or sooner, and a seed's bytes depend on when.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, h.addr, uintptr(h.end.Load()/pageSize*pageSize), unix.MADV_DONTNEED)
		c.unref(h)
	}
}

// pread reads n bytes at off into a buffer; with own, one that won't be reused.
func (c *Cache) pread(h *handle, off, n int64, own bool) (tier.Blob, error) {
	var b tier.Blob
	if own {
		b.Data = make([]byte, n)
	} else {
		b = c.buffers.blob(n)
	}
	if m, err := h.file.ReadAt(b.Data, off); int64(m) < n {
		b.Release()
		if errors.Is(err, io.EOF) {
			return tier.Blob{}, fmt.Errorf("%w: %d of %d bytes at %d", errShort, m, n, off)
		}
		return tier.Blob{}, fmt.Errorf("read segment: %w", err)
	}
	return b, nil
}

// buffers keeps buffers for reuse, by powers of two of their size.
type buffers struct {
	pools [maxPooled + 1]sync.Pool
	held  atomic.Int64 // bytes that are lent
}

const minPooled, maxPooled = 10, 22 // bits: 1 KiB to 4 MiB

// buffer is lent again and again: loan tells the times apart.
type buffer struct {
	whole []byte
	of    *buffers
	class int
	lent  int64
	loan  atomic.Uint64
}

// blob returns n bytes to be filled.
func (p *buffers) blob(n int64) tier.Blob {
	class := max(bits.Len64(uint64(max(n, 1)-1)), minPooled)
	if class > maxPooled {
		return tier.NewBlob(make([]byte, n), nil)
	}
	b, _ := p.pools[class].Get().(*buffer)
	if b == nil {
		b = &buffer{whole: make([]byte, 1<<class), of: p, class: class}
	}
	b.lent = n
	p.held.Add(n)
	return tier.Lent(b.whole[:n], b, b.loan.Load())
}

// Return implements tier.Lender.
func (b *buffer) Return(loan uint64) {
	if b.loan.CompareAndSwap(loan, loan+1) {
		b.of.held.Add(-b.lent)
		b.of.pools[b.class].Put(b)
	}
}
