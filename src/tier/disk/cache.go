package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/tier"
)

// Options says where a cache is and what it may take.
type Options struct {
	Path    string // directory of its own; made if missing
	MaxSize int64  // bytes on disk, never passed
	// MinFree tells how many bytes to leave free on a file system of total
	// bytes; nil for none.
	MinFree    func(total int64) int64
	Expiration time.Duration    // since a blob was last used; 0 is never
	Queue      int64            // most bytes that wait to be written; 0 is 16 MiB
	Log        *slog.Logger     // nil for none
	Now        func() time.Time // nil for time.Now

	segment int64 // bytes that a segment may have; 0 for what suits MaxSize
}

// Errors of Open. With each of them the caller goes on without a cache.
var (
	ErrInUse   = errors.New("used by another aysfs")
	ErrForeign = errors.New("not empty, and not a cache of aysfs")
)

// Cache is a tier.Cache on disk. All methods may be called at any time, from
// any goroutine, even after Close.
type Cache struct {
	opt    Options
	log    *slog.Logger
	bounds atomic.Pointer[bounds]
	dir    *directory

	opened   time.Time // where stamps are counted from
	index    *index
	buffers  buffers
	holds    sync.Pool    // of *hold
	views    atomic.Int64 // bytes given out of maps since unmapPages
	waits    atomic.Bool  // reading a file that isn't in memory can't but wait here
	heads    *heads
	profiles *profiles
	pinned   atomic.Pointer[func(tier.Ref) bool]
	count    counters

	segMu  sync.RWMutex
	segs   []*segment // in the order in which they will be evicted; the active one last
	slots  []*segment // by slot
	lastID uint32

	active     *segment // the writer's; others only compare its slot
	activeH    *handle
	activeSlot atomic.Uint32

	openMu    sync.Mutex
	open      int   // handles
	mapped    int64 // bytes, over all handles
	lingering int64 // bytes on disk that are unlinked, but that a reader still holds
	maxOpen   int
	maxMapped int64

	pendMu   sync.RWMutex
	pending  map[pendingKey]*item // queued, or being written
	queue    []*item
	queued   int64         // bytes of pending, with what goes with each blob
	gathered int64         // bytes of queue, blobs alone
	space    chan struct{} // closed, and replaced, when queued has decreased
	closing  bool

	wake    chan struct{}
	calls   chan func() // to run in the writer
	quit    chan struct{}
	written chan struct{} // closed when the writer has ended
	synced  chan struct{} // and when the syncer has

	dirtyMu sync.Mutex
	dirty   map[*segment]struct{}
	syncNow chan struct{}

	troubleMu sync.Mutex
	trouble   trouble

	// patient has reads wait for a segment that can't be opened for the moment,
	// where what is missed can't be had anywhere else.
	patient bool

	closed  atomic.Bool
	closeMu sync.Mutex // one Close at a time
	ended   bool       // GUARDED_BY closeMu
	endErr  error
}

var _ tier.Cache = (*Cache)(nil)

// Open opens the cache at opt.Path, making or rebuilding it if need be. Where
// that cannot be done for a reason that lies in the disk (read-only, full,
// failing), the cache that it returns keeps nothing, which it logs once. An
// error is for what a person has to put right: no such place for a directory,
// one that is not ours, or that another process uses.
func Open(opt Options) (*Cache, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	c := newCache(opt, opt.Log.With("tier", "disk", "path", opt.Path))
	if err := opt.limits().check(); err != nil {
		return nil, fmt.Errorf("disk cache %s: %w", opt.Path, err)
	}
	dir, err := openDirectory(opt.Path)
	if err != nil {
		return nil, fmt.Errorf("disk cache %s: %w", opt.Path, err)
	}
	c.dir = dir
	c.bound(opt.limits())
	for _, note := range dir.notes {
		c.log.Warn("disk cache: " + note)
	}
	if dir.unusable != nil {
		c.log.Warn("disk cache is bypassed", "err", dir.unusable)
		c.trouble.forever(dir.unusable)
		c.closed.Store(true)
		close(c.written)
		close(c.synced)
		return c, nil
	}
	c.heads = openHeads(dir, c.log)
	c.profiles = openProfiles(dir, func() int64 { return c.bounds.Load().MaxSize / profilesShare })
	c.load()
	if dir.readOnly {
		c.log.Warn("disk cache is read-only: nothing will be added", "err", dir.readOnlyWhy)
		c.trouble.forever(dir.readOnlyWhy)
		close(c.written)
		close(c.synced)
		return c, nil
	}
	go c.write()
	go c.syncer()
	return c, nil
}

// newCache has nothing in it, and no goroutines.
func newCache(opt Options, log *slog.Logger) *Cache {
	c := &Cache{
		opt: opt, log: log, opened: opt.Now(),
		index: newIndex(), slots: make([]*segment, 1),
		maxOpen: maxOpen, maxMapped: 1 << 20 * int64(1<<20),
		pending: map[pendingKey]*item{}, space: make(chan struct{}),
		wake: make(chan struct{}, 1), calls: make(chan func()),
		quit: make(chan struct{}), written: make(chan struct{}), synced: make(chan struct{}),
		dirty: map[*segment]struct{}{}, syncNow: make(chan struct{}, 1),
	}
	if is32Bit {
		c.maxMapped = maxMapped32
	}
	return c
}

// A stamp is a time in quarters of a second, with Open in the middle: it lasts
// for seventeen years both ways.
const (
	stampUnit   = time.Second / 4
	stampOrigin = 1 << 31
)

func (c *Cache) stampAt(t time.Time) uint32 {
	n := int64(stampOrigin) + int64(t.Sub(c.opened)/stampUnit)
	return uint32(min(max(n, 1), 1<<32-1))
}

func (c *Cache) stamp() uint32 { return c.stampAt(c.opt.Now()) }

// whole is more than any blob has.
const whole = 1 << 62

// Get answers with a whole blob. Nothing is read from disk under a lock, and
// nothing waits for the writer.
//
// The bytes may lie in a file's map: hand them to the kernel, which has errors
// for a file that is cut short under it. A program that looks at them itself
// gets a fault then. Copy is for those.
func (c *Cache) Get(ref tier.Ref) (tier.Blob, error) { return c.Range(ref, 0, whole) }

// Copy answers with a whole blob in memory that stays, and must not be changed.
func (c *Cache) Copy(ref tier.Ref) ([]byte, error) {
	b, err := c.answer(&ref, 0, whole, true)
	return b.Data, err
}

// Range answers with up to n bytes of a blob from offset off, fewer where it
// ends before. A blob that is yet to be verified is read whole for it; else
// only those bytes are.
func (c *Cache) Range(ref tier.Ref, off, n int64) (tier.Blob, error) {
	return c.answer(&ref, max(off, 0), max(n, 0), false)
}

func (c *Cache) answer(ref *tier.Ref, off, n int64, own bool) (tier.Blob, error) {
	b, ok := c.read(ref, off, n, own)
	if !ok {
		c.count.misses.Add(1)
		return tier.Blob{}, tier.ErrAbsent
	}
	c.count.hits.Add(1)
	return b, nil
}

// Has tells whether the blob is there, without looking at it or counting as a
// use of it. It may prove to be damaged all the same.
func (c *Cache) Has(ref tier.Ref) bool {
	if c.closed.Load() {
		return false
	}
	if c.isWaiting(&ref) {
		return true
	}
	_, _, ok := c.index.peek(fingerprint(&ref))
	return ok
}

// read finds a blob. With own, its bytes lie in memory that stays.
func (c *Cache) read(ref *tier.Ref, off, n int64, own bool) (tier.Blob, bool) {
	if c.closed.Load() {
		return tier.Blob{}, false
	}
	if b, ok := c.waiting(ref, off, n); ok {
		if own {
			defer b.Release()
			return tier.NewBlob(bytes.Clone(b.Data), nil), true
		}
		return b, true
	}
	fp := fingerprint(ref)
	for {
		now := c.stamp()
		e, ok := c.index.touch(fp, now, uint16(c.activeSlot.Load()))
		if !ok {
			return tier.Blob{}, false
		}
		if s := c.segmentAt(e.slot()); s != nil {
			s.lastUse.Store(now)
			b, err := c.readIn(s, ref, e, off, n, own)
			if err == nil {
				return b, true
			}
			c.failed(s, ref, fp, err)
		}
		// An eviction may have copied it to another segment meanwhile.
		if moved, _, ok := c.index.peek(fp); !ok || moved.slot() == e.slot() {
			return tier.Blob{}, false
		}
	}
}

// readIn reads the blob of an entry from the segment that this says.
func (c *Cache) readIn(s *segment, ref *tier.Ref, e entry, off, n int64, own bool) (tier.Blob, error) {
	h, err := c.acquire(s)
	if c.patient && errors.Is(err, errBusy) {
		h, err = c.acquireSoon(s)
	}
	if err != nil {
		return tier.Blob{}, err
	}
	b, kept, err := c.readFrom(h, ref, e, off, n, own)
	if !kept {
		c.unref(h)
	}
	return b, err
}

// readFrom reads from a segment. If it keeps h, the blob's release gives it back.
func (c *Cache) readFrom(h *handle, ref *tier.Ref, e entry, off, n int64, own bool) (b tier.Blob, kept bool, err error) {
	p, err := c.locate(h, ref.Domain, &ref.Digest, true)
	if err != nil {
		return b, false, err
	}
	off = min(off, p.size)
	n = min(n, p.size-off)
	switch {
	case !e.verified():
		if b, err = c.readWhole(h, p, own); err != nil {
			return b, false, err
		}
		if err := ref.Digest.Check(b.Data); err != nil {
			b.Release()
			return tier.Blob{}, false, err
		}
		c.count.verified.Add(1)
		c.index.setVerified(e&fpMask, e.slot())
		b.Data = b.Data[off : off+n]
		return b, false, nil
	case p.off == 0:
		return inline(p, off, n, own), false, nil
	case own:
		b, err = c.pread(h, p.off+off, n, true)
		return b, false, err
	}
	return c.readAt(h, p.off+off, n)
}

// readWhole reads all of a blob out of its file.
func (c *Cache) readWhole(h *handle, p place, own bool) (tier.Blob, error) {
	if p.off == 0 {
		return inline(p, 0, p.size, own), nil
	}
	return c.pread(h, p.off, p.size, own)
}

// inline is a part of what locate copied.
func inline(p place, off, n int64, own bool) tier.Blob {
	b := p.inline
	b.Data = b.Data[off : off+n]
	if own {
		b = tier.NewBlob(bytes.Clone(b.Data), nil)
		p.inline.Release()
	}
	return b
}

// failed does what a failed read of a blob in s asks for. It logs, since the
// reader is told nothing but that the blob is absent.
func (c *Cache) failed(s *segment, ref *tier.Ref, fp entry, err error) {
	var d *damage
	switch {
	case errors.Is(err, errDead), errors.Is(err, errBusy):
		// Gone in the meantime, or to be tried again.
	case errors.Is(err, errNotFound):
		c.index.remove(fp, s.slot)
	case errors.Is(err, digest.ErrMismatch):
		c.count.corrupt.Add(1)
		c.index.remove(fp, s.slot)
		if !s.complained.Swap(true) {
			c.log.Warn("disk cache: corrupt blob dropped; others in this segment won't be logged",
				"segment", segmentName(s.id), "domain", ref.Domain, "digest", ref.Digest.Short())
		}
	case errors.As(err, &d), errors.Is(err, errShort), errors.Is(err, os.ErrNotExist), isInvalid(err):
		c.condemn(s, err)
	default:
		// A bad sector, say: the rest of the segment may be well.
		c.index.remove(fp, s.slot)
		if !s.complained.Swap(true) {
			c.log.Warn("disk cache: blob cannot be read; others in this segment won't be logged",
				"segment", segmentName(s.id), "domain", ref.Domain, "digest", ref.Digest.Short(), "err", err)
		}
	}
}

// condemn gives a damaged segment up.
func (c *Cache) condemn(s *segment, why error) {
	if !c.drop(s) {
		return
	}
	c.count.condemned.Add(1)
	c.log.Warn("disk cache: damaged segment given up", "segment", segmentName(s.id), "err", why)
}

// Put keeps a blob. plain has been verified by whoever fetched it and must not
// change any more; it is not hashed again here, since that would double the
// cost of a fetch on small machines.
//
// The blob can be got at once, and is on disk a little later. Where more waits
// to be written than the queue may hold, Put waits for up to a second, and no
// longer than ctx; then the blob is dropped. One that is larger than the whole queue is
// waited for as long, so that whoever bounds what is in memory counts it; one of more
// than four times as much is not kept.
func (c *Cache) Put(ctx context.Context, ref tier.Ref, plain []byte) {
	it := c.toKeep(ref, tier.NewBlob(plain, nil))
	if it == nil {
		return
	}
	if !c.enqueue(ctx, it) {
		c.count.dropped.Add(1)
	} else if int64(len(plain)) > c.bounds.Load().Queue {
		c.awaitWritten(ctx, it)
	}
}

// Offer is Put that waits for nothing: it is false where it would have to. The blob is
// released when it is on disk, or dropped.
func (c *Cache) Offer(ref tier.Ref, plain tier.Blob) bool {
	if int64(len(plain.Data)) > c.bounds.Load().Queue {
		return false
	}
	it := c.toKeep(ref, plain)
	if it == nil {
		plain.Release()
		return true
	}
	taken, space := c.tryEnqueue(it)
	if !taken && space == nil {
		plain.Release()
		c.count.dropped.Add(1)
	}
	return space == nil
}

// toKeep is a blob for the queue; nil if it isn't to be kept, or is already.
func (c *Cache) toKeep(ref tier.Ref, plain tier.Blob) *item {
	if c.closed.Load() {
		return nil
	}
	if int64(len(plain.Data)) > min(c.largest(), mostQueues*c.bounds.Load().Queue) || c.paused() {
		c.count.dropped.Add(1)
		return nil
	}
	fp := fingerprint(&ref)
	if _, _, ok := c.index.peek(fp); ok {
		return nil
	}
	return &item{ref: ref, fp: fp, data: plain.Data, blob: plain}
}

// mostQueues is how many times the queue a blob may be that is kept: it lies in memory
// twice while it is written.
const mostQueues = 4

// largest is the most bytes that a blob may have to be kept.
func (c *Cache) largest() int64 { return c.bounds.Load().segment - 64<<10 }

// Purge forgets a blob.
func (c *Cache) Purge(ref tier.Ref) {
	c.pendMu.Lock()
	if it := c.pending[keyOf(&ref)]; it != nil {
		it.purged = true
	}
	c.pendMu.Unlock()
	c.index.remove(fingerprint(&ref), 0)
}

// SetPinned gives the test for blobs that are to outlast all others: the
// metadata of mounted trees. It is called from the writer's goroutine, for
// blobs that are about to be evicted, with refs that have no limit, and must be
// quick. nil pins nothing. Whoever gives it right after Open, and puts nothing before,
// loses nothing that is pinned.
func (c *Cache) SetPinned(pinned func(tier.Ref) bool) {
	if pinned == nil {
		c.pinned.Store(nil)
		return
	}
	c.pinned.Store(&pinned)
}

func (c *Cache) isPinned(ref tier.Ref) bool {
	f := c.pinned.Load()
	return f != nil && (*f)(ref)
}

// PutHead keeps the note of a tree's head. It is on disk when PutHead returns
// without an error.
func (c *Cache) PutHead(tree string, note []byte) error {
	return c.heads.put(bucketHeads, tree, note)
}

// Head returns the note that was last kept for a tree, or tier.ErrAbsent.
func (c *Cache) Head(tree string) ([]byte, error) { return c.heads.get(bucketHeads, tree) }

// PutValue keeps a small value for the client's own use, as PutHead does; nil
// removes it.
func (c *Cache) PutValue(key string, value []byte) error {
	return c.heads.put(bucketValues, key, value)
}

// Value returns what PutValue kept, or tier.ErrAbsent.
func (c *Cache) Value(key string) ([]byte, error) { return c.heads.get(bucketValues, key) }

// Close writes what is queued, syncs, and leaves the mark of a clean shutdown.
// If ctx ends sooner, it returns without: then the next Open verifies what it
// serves. Blobs that were got stay valid until they are released.
func (c *Cache) Close(ctx context.Context) error {
	c.closeMu.Lock()
	defer c.closeMu.Unlock()
	if c.ended {
		return c.endErr
	}
	c.ended = true
	c.endErr = c.close(ctx)
	return c.endErr
}

func (c *Cache) close(ctx context.Context) error {
	c.pendMu.Lock()
	c.closing = true // the queue takes no more, but its blobs can still be got
	c.pendMu.Unlock()
	close(c.quit)
	ended := make(chan struct{})
	go func() {
		<-c.written
		<-c.synced
		close(ended)
	}()
	var err error
	select {
	case <-ended:
	case <-ctx.Done():
		err = fmt.Errorf("close disk cache %s: %w", c.opt.Path, ctx.Err())
	}
	if !c.closed.Swap(true) {
		if err == nil && !c.dir.readOnly {
			err = c.saveClean()
		}
		for _, s := range c.segments() {
			c.detach(s)
		}
		err = errors.Join(err, c.heads.close())
	}
	select {
	case <-ended:
		c.dir.close()
	default: // nobody else may have the directory while something is written
		go func() {
			<-ended
			c.dir.close()
		}()
	}
	return err
}

// waiting returns up to n bytes at off of a blob that is not on disk yet.
func (c *Cache) waiting(ref *tier.Ref, off, n int64) (tier.Blob, bool) {
	c.pendMu.RLock()
	defer c.pendMu.RUnlock()
	it := c.pending[keyOf(ref)]
	if it == nil || it.purged {
		return tier.Blob{}, false
	}
	b, ok := it.blob.Again() // it is released only when it is not pending any more
	b.Data = cut(b.Data, off, n)
	return b, ok
}

// isWaiting tells whether a blob is not on disk yet.
func (c *Cache) isWaiting(ref *tier.Ref) bool {
	c.pendMu.RLock()
	defer c.pendMu.RUnlock()
	it := c.pending[keyOf(ref)]
	return it != nil && !it.purged
}

func cut(b []byte, off, n int64) []byte {
	size := int64(len(b))
	off = min(off, size)
	return b[off : off+min(n, size-off)]
}

// segments returns all segments, in the order of eviction.
func (c *Cache) segments() []*segment {
	c.segMu.RLock()
	defer c.segMu.RUnlock()
	return slices.Clone(c.segs)
}

func (c *Cache) segmentAt(slot uint16) *segment {
	c.segMu.RLock()
	defer c.segMu.RUnlock()
	if int(slot) >= len(c.slots) {
		return nil
	}
	return c.slots[slot]
}

// add gives s a slot and puts it last in the order of eviction. It returns
// false when there are no slots left.
func (c *Cache) add(s *segment) bool {
	c.segMu.Lock()
	defer c.segMu.Unlock()
	slot := 1
	for slot < len(c.slots) && c.slots[slot] != nil {
		slot++
	}
	if slot > maxSlot {
		return false
	}
	if slot == len(c.slots) {
		c.slots = append(c.slots, nil)
	}
	s.slot = uint16(slot)
	c.slots[slot] = s
	c.segs = append(c.segs, s)
	c.lastID = max(c.lastID, s.id)
	return true
}

// drop forgets a segment and unlinks its file. It returns false if that has
// been done before.
func (c *Cache) drop(s *segment) bool {
	if s.dead.Swap(true) {
		return false
	}
	s.spoilt.Store(true)
	c.index.dropSlot(s.slot)
	c.segMu.Lock()
	c.segs = slices.DeleteFunc(c.segs, func(o *segment) bool { return o == s })
	c.segMu.Unlock()
	if !c.dir.readOnly {
		if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			c.log.Warn("disk cache: segment cannot be removed", "segment", segmentName(s.id), "err", err)
		}
	}
	c.openMu.Lock()
	if s.handles > 0 {
		s.lingering = s.size.Load()
		c.lingering += s.lingering
		s.gone = make(chan struct{})
	}
	c.openMu.Unlock()
	c.detach(s)
	// Only now: whoever was given the slot sooner would share the entries that
	// a reader may still have put its mark on.
	c.segMu.Lock()
	c.slots[s.slot] = nil
	c.segMu.Unlock()
	return true
}

// detach gives up the segment's own reference to its handle.
func (c *Cache) detach(s *segment) {
	s.mu.Lock()
	h := s.handle.Swap(nil)
	s.mu.Unlock()
	if h != nil {
		c.unref(h)
	}
}
