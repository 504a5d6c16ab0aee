package disk

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/aysfs/aysfs/src/tier"
)

// minPooledRead is where a buffer is worth the keeping, in bytes.
const minPooledRead = 8 << 10

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
// buffer, since the map would fetch them from disk a page at a time.
func (c *Cache) readAt(h *handle, off, n int64) (b tier.Blob, kept bool, err error) {
	if n > 0 && h.resident(off, n) {
		x := &hold{c: c, h: h}
		return tier.NewBlob(h.view(off, n), x.release), true, nil
	}
	b, err = c.pread(h, off, n, false)
	return b, false, err
}

// pread reads n bytes at off into a buffer; with own, one that won't be reused.
func (c *Cache) pread(h *handle, off, n int64, own bool) (tier.Blob, error) {
	buf := c.pools.get(n, own)
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
		whole := b.data[:cap(b.data)]
		b.pool.Put(&whole)
	}
}
