package disk

import (
	"fmt"
	"time"
)

// Limits are those of Options that may change while the cache is open.
type Limits struct {
	MaxSize    int64
	MinFree    func(total int64) int64
	Expiration time.Duration
	Queue      int64
}

func (o Options) limits() Limits { return Limits{o.MaxSize, o.MinFree, o.Expiration, o.Queue} }

const (
	minSegment   = 4 << 20
	maxSegment   = 512 << 20
	maxSegment32 = 64 << 20 // so that 1 GiB of map is sixteen of them
	segmentsMax  = 16       // of MaxSize, at the least

	defaultQueue = 16 << 20
	minMaxSize   = 1 << 20 // less than this keeps nothing worth the while
)

func (l Limits) check() error {
	if l.MaxSize < minMaxSize {
		return fmt.Errorf("max_size %d is less than %d", l.MaxSize, minMaxSize)
	}
	return nil
}

// bounds is Limits with what follows from them. It does not change.
type bounds struct {
	Limits
	segment  int64 // bytes that a segment may have
	headroom int64 // bytes kept free below MaxSize, to copy survivors into
}

// bound has the cache keep to l from now on.
func (c *Cache) bound(l Limits) {
	if l.Queue <= 0 {
		l.Queue = defaultQueue
	}
	b := &bounds{Limits: l, segment: c.opt.segment}
	if b.segment == 0 {
		_, total := c.fileSystem()
		b.segment = segmentLimit(min(l.MaxSize, total))
	}
	b.headroom = b.segment/2 + b.segment/8
	c.bounds.Store(b)
}

// SetLimits replaces the limits. What is too much then goes within seconds.
func (c *Cache) SetLimits(l Limits) error {
	if err := l.check(); err != nil {
		return fmt.Errorf("disk cache %s: %w", c.opt.Path, err)
	}
	if c.closed.Load() || c.dir.readOnly {
		c.bound(l) // there is no writer
		return nil
	}
	c.call(func() {
		was := c.bounds.Load().segment
		c.bound(l)
		if c.bounds.Load().segment != was {
			c.seal(true) // its map is as large as a segment could be before
		}
	})
	return nil
}

// segmentLimit is how large segments get where the cache can have most bytes.
// Three of them always fit, so that there is something to evict.
func segmentLimit(most int64) int64 {
	top := int64(maxSegment)
	if is32Bit {
		top = maxSegment32
	}
	limit := min(max(most/segmentsMax, minSegment), top)
	return min(limit, most/3) / pageSize * pageSize
}
