package fs

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/offheap"
)

// rootID is the id that the kernel gives the root of every mount.
const rootID = 1

// maxLookups is where the count of an inode's lookups stops: it is then never
// forgotten.
const maxLookups = 1<<32 - 1

// idBits keeps ids, which people see as inode numbers, within what every
// language can hold exactly.
const idBits = 52

// record is what is known of an inode that the kernel holds. It lies in shared
// memory, outside Go's heap: no pointers. A process that is killed leaves it to a
// successor (adopt.go), so at any moment it must be whole: its id is written last,
// and taken away first.
type record struct {
	id      uint64 // 0: there is none in the slot
	parent  uint64
	name    uint64 // hash of the name in the parent
	size    int64
	mtime   int64
	digest  digest.Digest
	lookups uint32 // how often the kernel was told of it, less what it forgot
	pos     uint32 // entry in the parent's listing when it was looked up
	next    uint32 // slot+1 of the next in the same bucket
	mode    uint16
	kind    object.Kind
	chunked bool
}

// inode is a record's value, for use outside the table's lock.
type inode = record

const (
	recordSize = int(unsafe.Sizeof(record{}))
	// segmentSlots records are mapped at a time.
	segmentSlots = 1 << 14
	segmentBytes = segmentSlots * recordSize

	minBuckets = 1 << 10
)

// inodes is the table of all inodes that the kernel holds: 88 bytes for each, and 2 to 4
// of buckets, none of them in Go's heap, whose collector would have to run for
// them. The records fill the slots of a memory file without a hole: the last one takes the
// place of one that goes, so that the file is as short as it can be, whichever
// inodes the kernel forgets. A record with an id is whole at any moment, and for
// a moment there may be two of one that moves: who maps the file after a crash
// finds all that were there.
type inodes struct {
	fd int

	mu       sync.RWMutex
	segments [][]record // of the file, in order
	buckets  []uint32   // slot+1 of each chain's first record; out of the heap when there are more than minBuckets
	count    int        // records; those of the first slots

	displaced map[spot]uint64 // ids of directories that could not have their own
}

// newInodes makes a table that holds the root.
func newInodes(root object.Entry) (*inodes, error) {
	fd, err := unix.MemfdCreate("aysfs-inodes", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make the inode table: %w", err)
	}
	t := &inodes{fd: fd, buckets: make([]uint32, minBuckets), displaced: make(map[spot]uint64)}
	r := record{id: rootID, parent: rootID, lookups: 1}
	r.set(&root)
	if err := t.insert(&r); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *inodes) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.segments {
		offheap.Free(s)
	}
	t.setBuckets(make([]uint32, minBuckets))
	t.segments, t.count = nil, 0
	unix.Close(t.fd)
	t.fd = -1
}

// put makes r a copy of v, whose id comes last.
func (r *record) put(v *record) {
	id, rest := v.id, *v
	rest.id = 0
	atomic.StoreUint64(&r.id, 0)
	*r = rest
	atomic.StoreUint64(&r.id, id)
}

// gone is set in the mode of a directory that left the tree. Should one of its
// name come back, that is another inode: what the kernel remembers below this one
// would show through else.
const gone = 1 << 15

func (r *record) set(e *object.Entry) {
	r.size, r.mtime, r.digest = e.Size, e.Mtime, content(e)
	r.mode, r.kind, r.chunked = e.Mode|r.mode&gone, e.Kind, e.Chunked
}

// content is a digest of all that an entry shows: a symlink's is its target's.
func content(e *object.Entry) digest.Digest {
	if e.Kind == object.Symlink {
		return digest.Of(e.Target)
	}
	return e.Digest
}

// shows tells whether r is the inode of entry e, named name, in parent. A
// directory stays itself when what is in it changes, for as long as it is in the
// tree, which state tells (gone, or 0). A file whose content changes is another
// one, so that who has it open keeps its bytes.
func (r *record) shows(parent, name uint64, e *object.Entry, state uint16) bool {
	if r.parent != parent || r.name != name || r.kind != e.Kind {
		return false
	}
	if e.Kind == object.Dir {
		return r.mode&gone == state
	}
	return r.digest == content(e) && r.size == e.Size && r.mtime == e.Mtime && r.mode == e.Mode
}

// mix spreads a hash over all its bits (the finalizer of MurmurHash3).
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

func hashName(name []byte) uint64 {
	h := fnv.New64a()
	h.Write(name)
	return mix(h.Sum64())
}

// idOf is the id that an entry has unless another inode has it already.
func idOf(parent, name uint64, e *object.Entry) uint64 {
	h := mix(parent) ^ name
	if e.Kind != object.Dir {
		h ^= uint64(e.Mode)<<48 ^ mix(uint64(e.Mtime)+uint64(e.Size))
		d := content(e)
		for i := 0; i < digest.Size; i += 8 {
			h ^= binary.NativeEndian.Uint64(d[i:])
		}
	}
	return max(mix(h)&(1<<idBits-1), rootID+1)
}

// at returns the record of a slot. t.mu is held.
func (t *inodes) at(slot uint32) *record {
	return &t.segments[slot/segmentSlots][slot%segmentSlots]
}

// find returns the slot of an id. t.mu is held.
func (t *inodes) find(id uint64) (uint32, *record) {
	for s := t.buckets[t.bucket(id)]; s != 0; {
		r := t.at(s - 1)
		if r.id == id {
			return s - 1, r
		}
		s = r.next
	}
	return 0, nil
}

func (t *inodes) bucket(id uint64) int { return int(mix(id) & uint64(len(t.buckets)-1)) }

// get returns what is known of an inode that the kernel holds.
func (t *inodes) get(id uint64) (inode, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if _, r := t.find(id); r != nil {
		return *r, true
	}
	return inode{}, false
}

// acquire returns the inode of entry e, which is number pos in parent's
// listing, and counts one more lookup of it.
func (t *inodes) acquire(parent uint64, pos int, e *object.Entry) (uint64, error) {
	return t.acquireAs(parent, pos, e, 0)
}

// acquireGone is acquire for an entry that is no longer in the tree.
func (t *inodes) acquireGone(parent uint64, pos int, e *object.Entry) (uint64, error) {
	if e.Kind == object.Dir {
		return t.acquireAs(parent, pos, e, gone)
	}
	return t.acquireAs(parent, pos, e, 0)
}

func (t *inodes) acquireAs(parent uint64, pos int, e *object.Entry, state uint16) (uint64, error) {
	name := hashName(e.Name)
	id := idOf(parent, name, e)
	t.mu.Lock()
	defer t.mu.Unlock()
	again := func(r *record) uint64 {
		r.set(e)
		r.pos = uint32(pos)
		if r.lookups < maxLookups {
			r.lookups++
		}
		return r.id
	}
	here := e.Kind == object.Dir && state == 0
	if here {
		if r := t.displacedLocked(parent, name); r != nil {
			return again(r), nil
		}
	}
	first := id
	for ; ; id = max((id+1)&(1<<idBits-1), rootID+1) {
		_, r := t.find(id)
		if r == nil {
			break
		}
		if r.shows(parent, name, e, state) {
			return again(r), nil
		}
	}
	if here && id != first {
		t.displaced[spot{parent, name}] = id
	}
	r := record{id: id, parent: parent, name: name, pos: uint32(pos), lookups: 1, mode: state}
	r.set(e)
	return id, t.insert(&r)
}

// directory returns the id of a directory that is in the tree, or 0 where the
// kernel does not hold it. The root is its own parent, and has no name.
func (t *inodes) directory(parent, name uint64) uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if r := t.directoryLocked(parent, name); r != nil {
		return r.id
	}
	return 0
}

// directoryLocked is directory's record. t.mu is held.
func (t *inodes) directoryLocked(parent, name uint64) *record {
	if parent == rootID && name == 0 {
		_, r := t.find(rootID)
		return r
	}
	if r := t.displacedLocked(parent, name); r != nil {
		return r
	}
	e := object.Entry{Kind: object.Dir}
	for id := idOf(parent, name, &e); ; id = max((id+1)&(1<<idBits-1), rootID+1) {
		_, r := t.find(id)
		if r == nil || r.shows(parent, name, &e, 0) {
			return r
		}
	}
}

// spot is where a directory is in the tree.
type spot struct{ parent, name uint64 }

// displacedLocked is the record of a directory in the tree that does not have
// the id that its place gives it; nil if it has, or is not held. What had the id may
// be forgotten before it: then nothing leads from the one to the other. t.mu is held.
func (t *inodes) displacedLocked(parent, name uint64) *record {
	if len(t.displaced) == 0 {
		return nil
	}
	_, r := t.find(t.displaced[spot{parent, name}])
	if r == nil || !r.shows(parent, name, &object.Entry{Kind: object.Dir}, 0) {
		return nil
	}
	return r
}

// awaited takes those of the skipped directories that stay, and that the kernel
// has come to hold, out of skipped.
func (t *inodes) awaited(skipped []change) (held, rest []change) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, c := range skipped {
		if !c.gone && t.directoryLocked(c.parent, c.name) != nil {
			held = append(held, c)
		} else {
			rest = append(rest, c)
		}
	}
	return held, rest
}

// turn moves the records of directories to what d says of them, and puts the
// listings that they had in lists.
func (t *inodes) turn(d *difference, lists map[uint64]digest.Digest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range d.changes {
		c := &d.changes[i]
		if _, r := t.find(c.id); r != nil {
			if lists != nil && c.was.Digest != c.is.Digest {
				lists[c.id] = c.was.Digest // the record may be half turned, by a process that died of it
			}
			r.set(&c.is)
		}
	}
	for _, c := range d.skipped {
		if c.gone {
			if r := t.directoryLocked(c.parent, c.name); r != nil {
				r.mode |= gone
			}
		}
	}
}

// forget takes n lookups back, and the inode with the last.
func (t *inodes) forget(id, n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	slot, r := t.find(id)
	if r == nil || id == rootID {
		return
	}
	switch {
	case r.lookups == maxLookups:
		return
	case uint64(r.lookups) > n:
		r.lookups -= uint32(n)
		return
	}
	t.remove(slot, r)
}

func (t *inodes) insert(r *record) error {
	if t.count == len(t.segments)*segmentSlots {
		if err := t.grow(); err != nil {
			return err
		}
	}
	if t.count >= 2*len(t.buckets) {
		t.rehash()
	}
	slot := uint32(t.count)
	first := &t.buckets[t.bucket(r.id)]
	r.next = *first
	t.at(slot).put(r)
	*first = slot + 1
	t.count++
	return nil
}

func (t *inodes) remove(slot uint32, r *record) {
	if at := (spot{r.parent, r.name}); r.kind == object.Dir && len(t.displaced) > 0 && t.displaced[at] == r.id {
		delete(t.displaced, at)
	}
	*t.link(slot, r.id) = r.next
	t.count--
	last := uint32(t.count)
	l := t.at(last)
	if last != slot {
		r.put(l)
		*t.link(last, l.id) = slot + 1
	}
	l.put(&record{})
	// One empty segment stays, for those that come next.
	if n := len(t.segments); t.count <= (n-2)*segmentSlots {
		offheap.Free(t.segments[n-1])
		t.segments[n-1] = nil
		t.segments = t.segments[:n-1]
		unix.Ftruncate(t.fd, int64(n-1)*int64(segmentBytes))
	}
	if t.count < len(t.buckets)/4 && len(t.buckets) > minBuckets {
		t.rehash()
	}
}

// link is what leads to a slot, in the chain of the id that is in it.
func (t *inodes) link(slot uint32, id uint64) *uint32 {
	p := &t.buckets[t.bucket(id)]
	for *p != slot+1 {
		p = &t.at(*p - 1).next
	}
	return p
}

func (t *inodes) grow() error {
	n := len(t.segments)
	if err := unix.Ftruncate(t.fd, int64(n+1)*int64(segmentBytes)); err != nil {
		return fmt.Errorf("grow the inode table: %w", err)
	}
	return t.mapNext()
}

// mapNext maps the file's next segment.
func (t *inodes) mapNext() error {
	off := int64(len(t.segments)) * int64(segmentBytes)
	mem, err := unix.Mmap(t.fd, off, segmentBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the inode table: %w", err)
	}
	t.segments = append(t.segments, unsafe.Slice((*record)(unsafe.Pointer(&mem[0])), segmentSlots))
	return nil
}

// rehash makes as many buckets as there are records, to a power of two. Without the
// memory for that the chains get longer.
func (t *inodes) rehash() {
	if err := t.makeBuckets(t.count); err != nil {
		return
	}
	for slot := range uint32(t.count) {
		r := t.at(slot)
		first := &t.buckets[t.bucket(r.id)]
		r.next, *first = *first, slot+1
	}
}

// makeBuckets makes room for n records, in empty buckets.
func (t *inodes) makeBuckets(n int) error {
	size := minBuckets
	for size < n {
		size *= 2
	}
	if size == minBuckets {
		t.setBuckets(make([]uint32, size))
		return nil
	}
	b, err := offheap.Make[uint32](size)
	if err != nil {
		return err
	}
	t.setBuckets(b)
	return nil
}

func (t *inodes) setBuckets(b []uint32) {
	if len(t.buckets) > minBuckets {
		offheap.Free(t.buckets)
	}
	t.buckets = b
}

// held is the number of inodes that the kernel holds, the root included.
func (t *inodes) held() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.count
}
