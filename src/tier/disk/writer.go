package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/tier"
)

// A batch is written when it has this much, or when its first blob has waited
// this long. bolt copies every value once more, so a batch is twice in memory.
const (
	batchBytes = 8 << 20
	batchBlobs = 1024
	batchDelay = 50 * time.Millisecond

	putPatience  = time.Second // that a Put waits for room in the queue
	busyPatience = time.Second // that the writer waits for room in the address space
	tickEvery    = 5 * time.Second
	syncEvery    = 2 * time.Second

	// itemOverhead is what a queued blob takes besides its bytes, roughly.
	itemOverhead = 256
)

type pendingKey struct {
	domain string
	digest digest.Digest
}

func keyOf(ref *tier.Ref) pendingKey { return pendingKey{ref.Domain, ref.Digest} }

// item is a blob on its way to the active segment.
type item struct {
	ref    tier.Ref
	fp     entry
	data   []byte
	blob   tier.Blob // data, released when it is not pending any more
	purged bool      // GUARDED_BY Cache.pendMu

	// Of a survivor of an eviction:
	from  *segment
	stamp uint32
}

// enqueue hands a blob to the writer, and returns false if there was no room.
func (c *Cache) enqueue(ctx context.Context, it *item) bool {
	var patience *time.Timer
	for {
		taken, space := c.tryEnqueue(it)
		if space == nil {
			return taken
		}
		if patience == nil {
			patience = time.NewTimer(putPatience)
			defer patience.Stop()
		}
		select {
		case <-space:
		case <-ctx.Done():
			return false
		case <-patience.C:
			return false
		}
	}
}

// tryEnqueue is enqueue that waits for nothing: where there is no room now, it returns
// what is closed when there is more.
func (c *Cache) tryEnqueue(it *item) (taken bool, space <-chan struct{}) {
	cost := int64(len(it.data)) + itemOverhead
	key := keyOf(&it.ref)
	c.pendMu.Lock()
	defer c.pendMu.Unlock()
	if c.closing {
		return false, nil
	}
	if old := c.pending[key]; old != nil && !old.purged {
		it.blob.Release()
		return true, nil
	}
	// One that is larger than the whole queue may have it for itself.
	if c.queued == 0 || c.queued+cost <= c.bounds.Load().Queue {
		c.queued += cost
		c.pending[key] = it
		c.queue = append(c.queue, it)
		c.gathered += int64(len(it.data))
		poke(c.wake)
		return true, nil
	}
	return false, c.space
}

// awaitWritten waits until a blob is on disk, or was dropped, as long as enqueue does.
func (c *Cache) awaitWritten(ctx context.Context, it *item) {
	patience := time.NewTimer(putPatience)
	defer patience.Stop()
	for {
		c.pendMu.RLock()
		waits, space := c.pending[keyOf(&it.ref)] == it, c.space
		c.pendMu.RUnlock()
		if !waits {
			return
		}
		select {
		case <-space:
		case <-ctx.Done():
			return
		case <-patience.C:
			return
		}
	}
}

// poke wakes whoever listens, if that has not been done already.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// write is the writer: the one goroutine that changes segments.
func (c *Cache) write() {
	defer close(c.written)
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	var late *time.Timer // when the batch that gathers is written at the latest
	var due <-chan time.Time
	if err := c.dir.sync(); err != nil {
		// The mark of a clean shutdown may come back: then the segment that it
		// has must stay as it says.
		c.log.Warn("disk cache: directory cannot be synced", "err", err)
		c.seal(false)
	}
	// Not before the first tick does anything give way because others have filled the
	// file system, or less is allowed now: what is pinned is known by then.
	for {
		select {
		case <-c.wake:
			if !c.batchIsFull() {
				if due == nil {
					late = time.NewTimer(batchDelay)
					due = late.C
				}
				continue
			}
		case <-due:
		case fn := <-c.calls:
			fn()
			continue
		case <-tick.C:
			c.keepWithin()
			c.sweepInTime()
			continue
		case <-c.quit:
			c.writeQueue()
			c.seal(false)
			return
		}
		if late != nil {
			late.Stop()
			late, due = nil, nil
		}
		c.writeQueue()
	}
}

// batchIsFull tells whether waiting for more is no use.
func (c *Cache) batchIsFull() bool {
	c.pendMu.RLock()
	defer c.pendMu.RUnlock()
	return len(c.queue) >= batchBlobs || c.gathered >= min(batchBytes, c.bounds.Load().Queue/2)
}

// writeQueue writes what is queued, a batch at a time.
func (c *Cache) writeQueue() {
	for {
		c.pendMu.Lock()
		var batch []*item
		var size int64
		for _, it := range c.queue {
			if len(batch) == batchBlobs || size > 0 && size+int64(len(it.data)) > min(batchBytes, c.bounds.Load().segment/4) {
				break
			}
			batch, size = append(batch, it), size+int64(len(it.data))
		}
		c.gathered -= size
		c.queue = slices.Delete(c.queue, 0, len(batch))
		if len(c.queue) == 0 {
			c.queue = nil
		}
		c.pendMu.Unlock()
		if len(batch) == 0 {
			return
		}
		if c.paused() {
			c.count.dropped.Add(int64(len(batch)))
		} else {
			c.writeBatch(batch)
		}
		c.forget(batch)
	}
}

// forget lets go of blobs that are on disk now, or dropped.
func (c *Cache) forget(batch []*item) {
	defer func() {
		for _, it := range batch {
			it.blob.Release()
		}
	}()
	c.pendMu.Lock()
	defer c.pendMu.Unlock()
	for _, it := range batch {
		c.queued -= int64(len(it.data)) + itemOverhead
		if key := keyOf(&it.ref); c.pending[key] == it {
			delete(c.pending, key)
		}
	}
	close(c.space)
	c.space = make(chan struct{})
}

// writeBatch makes room for a batch and writes it, or drops it and notes why.
func (c *Cache) writeBatch(batch []*item) {
	for len(batch) > 0 {
		if err := c.makeRoom(cost(batch)); err != nil {
			c.count.dropped.Add(int64(len(batch)))
			c.troubled(err)
			return
		}
		n, err := c.writeSome(batch)
		batch = batch[n:]
		if err != nil {
			c.count.dropped.Add(int64(len(batch)))
			c.troubled(err)
			return
		}
	}
	c.recovered()
}

// cost is about how many bytes a batch will add to a segment.
func cost(batch []*item) int64 {
	n := int64(16+min(len(batch), 256)) * pageSize // of the tree that are written anew
	for _, it := range batch {
		n += costOf(int64(len(it.data)))
	}
	return n
}

// costOf is about what one blob takes: pages of its own, or half of a page's
// share in the tree, which is how full bolt leaves pages when it splits them.
func costOf(size int64) int64 {
	const inTree = 32 + 32 + 48
	if size <= maxInline {
		return 2 * (size + inTree)
	}
	return (valueOffset+size+pageSize-1)/pageSize*pageSize + inTree
}

// writeSome writes the first blobs of a batch, as many as there is space for in
// the active segment, and returns how many it is done with. There is room.
func (c *Cache) writeSome(batch []*item) (int, error) {
	if c.active != nil && c.active.spoilt.Load() {
		c.seal(true)
	}
	n := len(batch)
	if c.active != nil {
		for n > 0 && c.active.size.Load()+cost(batch[:n]) > c.bounds.Load().segment {
			n /= 2
		}
		if n == 0 {
			c.seal(true)
			n = len(batch)
		}
	}
	fresh := false
	for {
		if c.active == nil {
			if err := c.newActive(); err != nil {
				return 0, err
			}
			fresh = true
		}
		again, err := c.commit(batch[:n])
		switch {
		case err == nil && len(again) == 0:
			return n, nil
		case err == nil:
			// They are in this segment, but had been purged: a new copy goes
			// to another one, since nothing in a segment is ever replaced.
			c.seal(true)
			for len(again) > 0 {
				k, err := c.writeSome(again)
				if err != nil {
					return n - len(again), err
				}
				again = again[k:]
			}
			return n, nil
		case errors.Is(err, bolterrors.ErrMaxSizeReached) && !fresh:
			c.seal(true)
		case errors.Is(err, bolterrors.ErrMaxSizeReached) && n > 1:
			n /= 2
		case errors.Is(err, bolterrors.ErrMaxSizeReached):
			c.count.dropped.Add(1)
			return 1, nil
		default:
			// What a failed commit has left is not built upon.
			c.active.spoilt.Store(true)
			s := c.active
			c.seal(true)
			if d := (*damage)(nil); errors.As(err, &d) {
				c.condemn(s, err)
			}
			return 0, err
		}
	}
}

// newActive starts a segment.
func (c *Cache) newActive() error {
	c.segMu.RLock()
	id := c.lastID + 1
	c.segMu.RUnlock()
	s := newSegment(c.dir.path, id)
	if !c.add(s) {
		return fmt.Errorf("new segment: more than %d segments", maxSlot)
	}
	err := c.openActive(s)
	for start := time.Now(); errors.Is(err, errBusy) && time.Since(start) < busyPatience; {
		time.Sleep(busyPatience / 100) // readers will be done with some segment
		err = c.openActive(s)
	}
	if err != nil {
		c.drop(s)
		return fmt.Errorf("new segment: %w", err)
	}
	if err := c.dir.sync(); err != nil {
		c.log.Warn("disk cache: directory cannot be synced", "err", err)
	}
	return nil
}

// openActive makes s, which is in the list already, the active segment.
func (c *Cache) openActive(s *segment) error {
	s.mu.Lock()
	h, err := c.openHandle(s, true)
	if err == nil {
		h.refs.Store(2) // the segment's and the writer's
		c.warm(h)
		s.handle.Store(h)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := s.measure(); err != nil {
		c.unref(h)
		return err
	}
	c.active, c.activeH = s, h
	c.activeSlot.Store(uint32(s.slot))
	return nil
}

// seal ends writing to the active segment. It is synced soon, or, when the
// cache is closed, by the caller.
func (c *Cache) seal(soon bool) {
	s, h := c.active, c.activeH
	if s == nil {
		return
	}
	c.active, c.activeH = nil, nil
	c.activeSlot.Store(0)
	c.markDirty(s)
	if soon {
		poke(c.syncNow)
	}
	c.unref(h)
}

// commit writes a batch to the active segment in one transaction and lets
// readers see it. What the segment has already is returned. The file never
// grows beyond the segment's limit nor the cache beyond its own: the error is
// then ErrMaxSizeReached, and nothing was written.
func (c *Cache) commit(batch []*item) (again []*item, err error) {
	s, h := c.active, c.activeH
	batch = slices.Clone(batch)
	slices.SortFunc(batch, func(a, b *item) int { // the way the tree is sorted
		if d := strings.Compare(a.ref.Domain, b.ref.Domain); d != 0 {
			return d
		}
		return bytes.Compare(a.ref.Digest[:], b.ref.Digest[:])
	})
	size := s.size.Load()
	// bolt counts a page more than the file will have. With that, it must stay
	// below the size of the map, or it would map the file anew, and wait for
	// all readers to do so.
	bounds := c.bounds.Load()
	top := min(bounds.segment-2*pageSize, size+bounds.MaxSize-c.used())
	if top <= size {
		return nil, bolterrors.ErrMaxSizeReached
	}
	// What is compared with MaxSize has that page, and AllocSize on top.
	h.db.MaxSize = int(top) + 2*pageSize
	var plain int64
	err = guard(func() error {
		h.stuck.Store(true) // stays so if bolt panics and can't be rolled back
		tx, err := h.db.Begin(true)
		if err != nil {
			h.stuck.Store(false)
			return err
		}
		defer func() {
			_ = tx.Rollback() // an error says only that it has been committed
			h.stuck.Store(false)
		}()
		again, plain, err = fill(tx, batch)
		if err != nil {
			return err
		}
		return tx.Commit()
	})
	if err != nil {
		_ = s.measure()
		return nil, fmt.Errorf("write to segment: %w", err)
	}
	if err := errors.Join(h.renew(), s.measure()); err != nil {
		return nil, err
	}
	s.bytes.Add(plain)
	c.viewed(min(int64(len(batch))*aroundFault, size)) // where bolt looked for their places
	c.markDirty(s)
	c.enter(s, batch, again)
	return again, nil
}

// fill puts a batch into a transaction. What is there already is returned.
func fill(tx *bolt.Tx, batch []*item) (again []*item, plain int64, err error) {
	for _, it := range batch {
		domain, err := tx.CreateBucketIfNotExists([]byte(it.ref.Domain))
		if err != nil {
			return nil, 0, err
		}
		b, err := domain.CreateBucket(it.ref.Digest[:])
		if errors.Is(err, bolterrors.ErrBucketExists) {
			again = append(again, it)
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		size := uint64(len(it.data))
		if err := b.SetSequence(size); err != nil {
			return nil, 0, err
		}
		if err := b.Put(valueKey, it.data); err != nil {
			return nil, 0, err
		}
		if err := domain.SetSequence(domain.Sequence() + size); err != nil {
			return nil, 0, err
		}
		plain += int64(size)
	}
	return again, plain, nil
}

// enter lets the index know what was written to s.
func (c *Cache) enter(s *segment, batch, but []*item) {
	now := c.stamp()
	for _, it := range batch {
		if slices.Contains(but, it) || s.dead.Load() {
			continue
		}
		e := it.fp | verifiedFlag | entry(s.slot)
		if it.from != nil {
			c.count.survived.Add(1)
			c.index.move(e, it.from.slot, it.stamp)
			continue
		}
		c.count.puts.Add(1)
		// Under the lock, so that a Purge either finds the blob in the index or
		// is found here.
		c.pendMu.RLock()
		if !it.purged {
			c.index.put(e, now)
		}
		c.pendMu.RUnlock()
	}
}

// call runs fn in the writer and waits for it.
func (c *Cache) call(fn func()) {
	done := make(chan struct{})
	select {
	case c.calls <- func() { fn(); close(done) }:
		<-done
	case <-c.written:
	}
}

// markDirty has a segment synced at the next round.
func (c *Cache) markDirty(s *segment) {
	c.dirtyMu.Lock()
	defer c.dirtyMu.Unlock()
	c.dirty[s] = struct{}{}
}

// syncer syncs what was written every now and then, so that little is in danger
// and no commit waits for it.
func (c *Cache) syncer() {
	defer close(c.synced)
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.syncNow:
		case <-c.written:
			c.syncDirty()
			return
		}
		c.syncDirty()
	}
}

func (c *Cache) syncDirty() {
	c.dirtyMu.Lock()
	dirty := c.dirty
	c.dirty = map[*segment]struct{}{}
	c.dirtyMu.Unlock()
	for s := range dirty {
		if s.dead.Load() {
			continue
		}
		switch err := syncFile(s.path); {
		case err == nil || s.dead.Load():
		case isPassing(err):
			c.markDirty(s)
		default:
			// Pages that could not be written may be gone from memory too.
			s.spoilt.Store(true)
			c.index.distrust(s.slot)
			c.log.Warn("disk cache: segment cannot be synced, its blobs will be verified again",
				"segment", segmentName(s.id), "err", err)
		}
	}
}

// syncFile makes a file's content durable. Any descriptor of the file will do
// for that, so no handle is kept open, and its map with it, to sync it later.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return fmt.Errorf("fdatasync: %w", err)
	}
	return nil
}
