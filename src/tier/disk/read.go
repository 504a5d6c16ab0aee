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

const (
	// minPooledRead is where a buffer is worth the keeping, in bytes.
	minPooledRead = 8 << 10
	// maxBuffered is how many bytes are read into buffers at a time, by however many
	// readers of a slow disk.
	maxBuffered = 16 << 20
)

// errShort says that a file ends before it should.
var errShort = errors.New("segment was cut short")

// hold is what a blob that lies in a map has to give back, once.
type hold struct {
	c    *Cache
	h    *handle
	done atomic.Bool
}

func (x *hold) release() {
	if !x.done.Swap(true) {
		x.c.unref(x.h)
	}
}

// readAt returns n bytes at off in the segment's file: out of the map if they
// are in memory, and then h is kept until they are released; else read into a
// buffer, since the map would fetch them from disk a page at a time. That is
// what they get where too much is in buffers already.
func (c *Cache) readAt(h *handle, off, n int64) (b tier.Blob, kept bool, err error) {
	if n > 0 && (h.resident(off, n) || c.buffered.Load()+n > maxBuffered) {
		c.viewed(n)
		x := &hold{c: c, h: h}
		return tier.NewBlob(h.view(off, n), x.release), true, nil
	}
	b, err = c.pread(h, off, n, false)
	return b, false, err
}

// maxViewed is how many bytes are given out of maps before these are taken out of
// the process's own memory again, where the kernel put them when it read there.
// They stay in its page cache. Reading one page has the kernel put all of aroundFault
// there that it has.
const (
	maxViewed   = 24 << 20
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
		// pages stay.
		snap := h.borrow()
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, h.addr, uintptr(snap.tx.Size()/pageSize*pageSize), unix.MADV_DONTNEED)
		snap.refs.Add(-1)
		c.unref(h)
	}
}

// pread reads n bytes at off into a buffer; with own, one that won't be reused.
func (c *Cache) pread(h *handle, off, n int64, own bool) (tier.Blob, error) {
	buf := c.pools.get(n, own)
	if buf.pool != nil {
		buf.held = &c.buffered
		c.buffered.Add(n)
	}
	if m, err := h.file.ReadAt(buf.data, off); int64(m) < n {
		buf.release()
		if errors.Is(err, io.EOF) {
			return tier.Blob{}, fmt.Errorf("%w: %d of %d bytes at %d", errShort, m, n, off)
		}
		return tier.Blob{}, fmt.Errorf("read segment: %w", err)
	}
	if buf.pool == nil {
		return tier.NewBlob(buf.data, nil), nil
	}
	return tier.NewBlob(buf.data, buf.release), nil
}

// bufferPools keeps buffers for reuse, by powers of two of their size.
type bufferPools [23]sync.Pool

const minPooled, maxPooled = 14, 22 // bits: 16 KiB to 4 MiB

type buffer struct {
	data []byte
	pool *sync.Pool
	held *atomic.Int64 // counts data until it is released
	done atomic.Bool
}

func (p *bufferPools) get(n int64, own bool) *buffer {
	class := bits.Len64(uint64(max(n, 1) - 1))
	if own || n < minPooledRead || class > maxPooled {
		return &buffer{data: make([]byte, n)}
	}
	pool := &p[max(class, minPooled)]
	whole, _ := pool.Get().(*[]byte)
	if whole == nil {
		b := make([]byte, 1<<max(class, minPooled))
		whole = &b
	}
	return &buffer{data: (*whole)[:n], pool: pool}
}

// release lets others have the buffer, once.
func (b *buffer) release() {
	if b.pool != nil && !b.done.Swap(true) {
		b.held.Add(-int64(len(b.data)))
		whole := b.data[:cap(b.data)]
		b.pool.Put(&whole)
	}
}
