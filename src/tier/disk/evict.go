package disk

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/tier"
)

// otherFiles is set aside for what is not a segment, besides heads.db, profiles and
// the index's share of the clean marker.
const otherFiles = 64 << 10

var errFull = errors.New("no room")

// used is what the cache takes on disk, with what it will take when it is
// closed.
func (c *Cache) used() int64 {
	n := int64(otherFiles) + c.index.len()*entryOnDisk + c.heads.size() + c.profiles.size()
	for _, s := range c.segments() {
		n += s.size.Load()
	}
	c.openMu.Lock()
	defer c.openMu.Unlock()
	return n + c.lingering
}

// spare is how much may still be written without leaving the file system less
// than it is to be left, and what is free at all. In bytes; where that can't be
// told, writing will.
func (c *Cache) spare() (spare, free int64) {
	free, total := c.fileSystem()
	spare = free
	if minFree := c.bounds.Load().MinFree; minFree != nil && total != whole {
		spare -= minFree(total)
	}
	return spare, free
}

// fileSystem is what is free, and what there is, where the cache lies.
func (c *Cache) fileSystem() (free, total int64) {
	var st unix.Statfs_t
	if err := unix.Statfs(c.dir.path, &st); err != nil {
		return whole, whole
	}
	return int64(st.Bavail) * int64(st.Bsize), int64(st.Blocks) * int64(st.Bsize)
}

// Room is how many bytes the cache can still take before it has to drop something;
// 0 or less: none, or it takes nothing for now, which Trouble tells.
func (c *Cache) Room() int64 {
	if c.paused() {
		return 0
	}
	b := c.bounds.Load()
	c.pendMu.RLock()
	queued := c.queued
	c.pendMu.RUnlock()
	spare, _ := c.spare()
	// Room is made for a batch at a time.
	return min(b.MaxSize-c.used(), spare) - b.headroom - queued - min(batchBytes, b.segment/4) - (16+256)*pageSize
}

// Capacity is how many bytes the cache can have in all: less than MaxSize where the file
// system hasn't got that.
func (c *Cache) Capacity() int64 {
	b := c.bounds.Load()
	spare, _ := c.spare()
	return max(min(b.MaxSize, c.used()+spare)-b.headroom, 0)
}

// makeRoom evicts until need more bytes may be written, with something left to
// copy the next survivors into. Where there is nothing to evict any more, it
// will do without that.
func (c *Cache) makeRoom(need int64) error {
	for {
		b := c.bounds.Load()
		over := c.used() + need + b.headroom - b.MaxSize
		spare, _ := c.spare()
		if over <= 0 && spare >= need+b.headroom {
			return nil
		}
		if c.evictOne() {
			continue
		}
		switch {
		case over > b.headroom:
			return fmt.Errorf("%w: %d of %d bytes are taken, %d more are wanted",
				errFull, c.used(), b.MaxSize, need)
		case spare < need:
			return fmt.Errorf("%w: %d bytes too few are free on the file system", errFull, need-spare)
		}
		return nil
	}
}

// keepWithin gives way where others fill the file system, and where the cache
// was larger before it was opened this time.
func (c *Cache) keepWithin() {
	for {
		spare, _ := c.spare()
		if c.used() <= c.bounds.Load().MaxSize && spare >= 0 || !c.evictOne() {
			return
		}
	}
}

// evictOne removes the oldest sealed segment; the active one, when there is no
// other. It returns false if there is none at all.
//
// A segment is passed over, and is then the youngest, if what is pinned in it can't be
// copied: for want of room, or because it is most of the segment, and to copy it would
// only write that again. When all are like that, pins no longer help. One that can't be
// opened for the moment is passed over in any case.
func (c *Cache) evictOne() bool {
	segs := c.sealed()
	if len(segs) == 0 {
		if c.active == nil || c.active.bytes.Load() == 0 {
			return false
		}
		c.seal(true)
		segs = c.sealed()
	}
	var pinnedIn *segment // the first that is passed over for its pins
	for _, s := range segs {
		keep, pinned, ok := c.survivors(s, false)
		if ok {
			if _, room := c.roomForCopies(s); pinned <= room && c.evict(s, keep, false) {
				return true
			}
			if pinnedIn == nil {
				pinnedIn = s
			}
		}
		c.renewSegment(s)
	}
	if pinnedIn == nil {
		return false
	}
	keep, _, ok := c.survivors(pinnedIn, false)
	return ok && c.evict(pinnedIn, keep, true)
}

// sealed returns the segments that may be evicted, oldest first.
func (c *Cache) sealed() []*segment {
	return slices.DeleteFunc(c.segments(), func(s *segment) bool { return s == c.active })
}

// renewSegment makes s the youngest but for the active one.
func (c *Cache) renewSegment(s *segment) {
	c.segMu.Lock()
	defer c.segMu.Unlock()
	i := slices.Index(c.segs, s)
	if i < 0 {
		return
	}
	c.segs = slices.Delete(c.segs, i, i+1)
	at := len(c.segs)
	if at > 0 && c.segs[at-1] == c.active {
		at--
	}
	c.segs = slices.Insert(c.segs, at, s)
}

// survivor is a blob to be copied before its segment is removed.
type survivor struct {
	ref      tier.Ref
	fp       entry
	verified bool
	pinned   bool
	stamp    uint32
}

// survivors returns the blobs of s that deserve to outlast it, those first that
// deserve it most, and what the pinned ones take. It is false where that can't be told
// now.
func (c *Cache) survivors(s *segment, pinnedOnly bool) (keep []survivor, pinned int64, ok bool) {
	h, err := c.acquire(s)
	if errors.Is(err, errBusy) {
		return nil, 0, false
	}
	if err != nil {
		c.condemn(s, err)
		return nil, 0, true
	}
	defer c.unref(h)
	oldest := c.expiredBefore()
	err = h.eachKey(func(domain string, d *digest.Digest) error {
		ref := tier.Ref{Domain: domain, Digest: *d}
		fp := fingerprint(&ref)
		e, stamp, ok := c.index.peek(fp)
		if !ok || e.slot() != s.slot {
			return nil
		}
		v := survivor{ref: ref, fp: fp, verified: e.verified(), stamp: stamp, pinned: c.isPinned(ref)}
		if v.pinned || !pinnedOnly && e&usedFlag != 0 && stamp >= oldest {
			keep = append(keep, v)
		}
		return nil
	})
	if err != nil {
		c.condemn(s, err)
		return nil, 0, true
	}
	for _, v := range keep {
		if v.pinned {
			if p, err := c.locate(h, v.ref.Domain, &v.ref.Digest, true); err == nil {
				p.inline.Release()
				pinned += costOf(p.size)
			}
		}
	}
	slices.SortFunc(keep, func(a, b survivor) int {
		switch {
		case a.pinned == b.pinned:
			return cmp.Compare(b.stamp, a.stamp)
		case a.pinned:
			return -1
		}
		return 1
	})
	return keep, pinned, true
}

// evict copies survivors of s to the active segment, half a segment of them at
// most, and removes it. Where something pinned could not be copied it is false, and s
// stays, unless it must go.
func (c *Cache) evict(s *segment, keep []survivor, must bool) bool {
	size := s.size.Load()
	if !c.copyForward(s, keep) && !must {
		return false
	}
	if !c.drop(s) {
		return true
	}
	c.count.evicted.Add(1)
	c.count.evictedBytes.Add(size)
	c.awaitGone(s)
	return true
}

// awaitGone gives readers a moment to let go of an unlinked segment, so that
// its space is back before another one is evicted for it.
func (c *Cache) awaitGone(s *segment) {
	c.openMu.Lock()
	gone := s.gone
	c.openMu.Unlock()
	if gone == nil {
		return
	}
	select {
	case <-gone:
	case <-time.After(200 * time.Millisecond):
	}
}

// roomForCopies is how many bytes of what is in s may be copied to another segment: of
// what was used and what is pinned together, and of what is pinned alone. That may take
// a share of what is to be left free, for a moment.
func (c *Cache) roomForCopies(s *segment) (used, pinned int64) {
	spare, free := c.spare()
	b := c.bounds.Load()
	most := max(min(s.size.Load()/2, b.headroom, b.MaxSize-c.used()), 0)
	return min(most, spare), min(most, free/2)
}

// copyForward copies survivors of s to the active segment, as far as there is room. It
// is false where there is something pinned left in s that could be copied another time.
func (c *Cache) copyForward(s *segment, keep []survivor) bool {
	if len(keep) == 0 || s.dead.Load() {
		return true
	}
	h, err := c.acquire(s)
	if err != nil {
		return !keep[0].pinned // these come first
	}
	defer c.unref(h)
	used, pinned := c.roomForCopies(s)
	atOnce := min(batchBytes, c.bounds.Load().segment/4)
	var batch []*item
	var blobs []tier.Blob
	var size int64
	left := false // something pinned
	flush := func() bool {
		defer func() {
			for _, b := range blobs {
				b.Release()
			}
			batch, blobs, size = nil, nil, 0
		}()
		for len(batch) > 0 {
			n, err := c.writeSome(batch)
			if err != nil { // the batch that this makes room for will tell
				left = left || slices.ContainsFunc(batch, func(it *item) bool { return c.isPinned(it.ref) })
				return false
			}
			batch = batch[n:]
		}
		return true
	}
	for _, v := range keep {
		p, err := c.locate(h, v.ref.Domain, &v.ref.Digest, true)
		if err != nil {
			c.failed(s, &v.ref, v.fp, err)
			if s.dead.Load() {
				break
			}
			continue
		}
		room := used
		if v.pinned {
			room = pinned
		}
		need := costOf(p.size)
		if need > room {
			p.inline.Release()
			left = left || v.pinned
			continue
		}
		used, pinned = used-need, pinned-need
		blob, err := c.readWhole(h, p, false)
		if err != nil {
			c.failed(s, &v.ref, v.fp, err)
			continue
		}
		if !v.verified {
			if err := v.ref.Digest.Check(blob.Data); err != nil {
				blob.Release()
				c.failed(s, &v.ref, v.fp, err)
				continue
			}
			c.count.verified.Add(1)
		}
		stamp := v.stamp
		if v.pinned {
			stamp = c.stamp() // a pin is a use
		}
		batch = append(batch, &item{ref: v.ref, fp: v.fp, data: blob.Data, from: s, stamp: stamp})
		blobs, size = append(blobs, blob), size+p.size
		if len(batch) == batchBlobs || size >= atOnce {
			if !flush() {
				return !left
			}
		}
	}
	flush()
	return !left
}

// expiredBefore is the stamp of the oldest use that still counts.
func (c *Cache) expiredBefore() uint32 {
	expiration := c.bounds.Load().Expiration
	if expiration <= 0 {
		return 0
	}
	return c.stampAt(c.opt.Now().Add(-expiration))
}

// sweepRest is how long after Open nothing expires. What a machine that was off for days
// needs to start can be used again by then, and what its mounts pin is known.
const sweepRest = 10 * time.Minute

func (c *Cache) sweepInTime() {
	if c.opt.Now().Sub(c.opened) >= sweepRest {
		c.sweep()
	}
}

// sweep removes segments in which all has expired, but for what is pinned: that is
// copied, or its segment stays.
func (c *Cache) sweep() {
	oldest := c.expiredBefore()
	if oldest == 0 {
		return
	}
	segs := c.segments()
	var highest uint16
	for _, s := range segs {
		highest = max(highest, s.slot)
	}
	last := c.index.newest(highest)
	for _, s := range segs {
		if last[s.slot] >= oldest || s.bytes.Load() == 0 {
			continue
		}
		keep, pinned, ok := c.survivors(s, true)
		if !ok {
			continue
		}
		if _, room := c.roomForCopies(s); pinned <= room {
			if s == c.active {
				c.seal(true)
			}
			if c.evict(s, keep, false) {
				continue
			}
		}
		for _, v := range keep { // a pin is a use, but not one that has it copied
			c.index.touch(v.fp, c.stamp(), s.slot)
		}
	}
}
