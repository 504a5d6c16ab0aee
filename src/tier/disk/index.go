package disk

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/aysfs/aysfs/src/offheap"
	"github.com/aysfs/aysfs/src/tier"
)

// An entry says which segment has a blob. From the top: 47 bits of
// fingerprint, verified, used, 15 bits of slot. The zero entry is empty, so
// slots start at 1.
//
// The fingerprint is not the blob's whole name. Two blobs that share one push
// each other out; since the segment is always asked by the full name, that
// costs a hit and nothing else.
type entry uint64

const (
	slotBits      = 15
	maxSlot       = 1<<slotBits - 1
	usedFlag      = entry(1) << slotBits       // read since its segment was sealed
	verifiedFlag  = entry(1) << (slotBits + 1) // has its digest
	fpBits        = 64 - slotBits - 2
	fpShift       = 64 - fpBits
	fpMask        = entry(1<<fpBits-1) << fpShift
	minIndexSize  = 1 << 10
	fnvOffset     = uint64(14695981039346656037)
	fnvPrime      = uint64(1099511628211)
	entryOnDisk   = 12 // bytes of an entry and its age in the clean marker
	indexFullAt   = 75 // percent
	indexGrowthBy = 2  // grows by one half: len + len/2
)

func (e entry) slot() uint16   { return uint16(e & maxSlot) }
func (e entry) verified() bool { return e&verifiedFlag != 0 }

// fingerprint is the part of an entry that stands for ref. Digests are uniform
// as they are; the domain only moves them.
func fingerprint(ref *tier.Ref) entry {
	h := fnvOffset
	for i := range len(ref.Domain) {
		h = (h ^ uint64(ref.Domain[i])) * fnvPrime
	}
	return entry(h^binary.LittleEndian.Uint64(ref.Digest[:8])) & fpMask
}

// index is a table with open addressing, 12 bytes a place: small enough to
// have all of it in memory for a disk full of small blobs. It is out of the heap
// when it is larger than at first.
type index struct {
	mu      sync.RWMutex
	entries []uint64 // atomics under RLock, since readers set usedFlag
	stamps  []uint32 // when each was last used; atomics under RLock
	count   int
}

func newIndex() *index {
	return &index{entries: make([]uint64, minIndexSize), stamps: make([]uint32, minIndexSize)}
}

// home is where an entry would like to be. It follows from the fingerprint
// alone, in its order, so the table can have any size and grow by moving.
func home(e entry, size int) int {
	hi, _ := bits.Mul64(uint64(e&fpMask), uint64(size))
	return int(hi)
}

// place finds fp, or the empty place where it belongs. mu is held.
func (x *index) place(fp entry) (at int, e entry) {
	for at = home(fp, len(x.entries)); ; at++ {
		if at == len(x.entries) {
			at = 0
		}
		e = entry(atomic.LoadUint64(&x.entries[at]))
		if e == 0 || e&fpMask == fp {
			return at, e
		}
	}
}

// touch returns the entry of fp, and notes that it was used at stamp. What is
// read while its segment is the active one counts as one use with the writing
// of it: only a later one earns a second chance.
func (x *index) touch(fp entry, stamp uint32, active uint16) (entry, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	at, e := x.place(fp)
	if e == 0 {
		return 0, false
	}
	atomic.StoreUint32(&x.stamps[at], stamp)
	if e&usedFlag == 0 && e.slot() != active {
		atomic.OrUint64(&x.entries[at], uint64(usedFlag))
	}
	return e, true
}

// peek returns the entry of fp and when it was last used.
func (x *index) peek(fp entry) (e entry, stamp uint32, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	at, e := x.place(fp)
	return e, atomic.LoadUint32(&x.stamps[at]), e != 0
}

// put makes e the entry of its fingerprint.
func (x *index) put(e entry, stamp uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.putLocked(e, stamp)
}

func (x *index) putLocked(e entry, stamp uint32) {
	at, old := x.place(e & fpMask)
	if old == 0 {
		if (x.count+1)*100 > len(x.entries)*indexFullAt {
			if !x.grow() {
				return // it costs a hit
			}
			at, _ = x.place(e & fpMask)
		}
		x.count++
	}
	x.entries[at], x.stamps[at] = uint64(e), stamp
}

// move makes e the entry of its fingerprint if that is still at slot from.
func (x *index) move(e entry, from uint16, stamp uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	at, old := x.place(e & fpMask)
	if old != 0 && old.slot() == from {
		x.entries[at], x.stamps[at] = uint64(e), stamp
	}
}

func (x *index) grow() bool { return x.resize(len(x.entries) + len(x.entries)/indexGrowthBy) }

// expect makes space for n entries. Entries that come in the order of their
// fingerprints need it: a table that is too small for them gets one long run
// at its start.
func (x *index) expect(n int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if size := int(n * 100 / indexFullAt * 9 / 8); size > len(x.entries) {
		x.resize(size)
	}
}

// resize is false where there is no memory.
func (x *index) resize(size int) bool {
	entries, err := offheap.Make[uint64](size)
	if err != nil {
		return false
	}
	stamps, err := offheap.Make[uint32](size)
	if err != nil {
		offheap.Free(entries)
		return false
	}
	oldEntries, oldStamps := x.entries, x.stamps
	x.entries, x.stamps = entries, stamps
	for i, e := range oldEntries {
		if e != 0 {
			at, _ := x.place(entry(e) & fpMask)
			x.entries[at], x.stamps[at] = e, oldStamps[i]
		}
	}
	if len(oldEntries) > minIndexSize {
		offheap.Free(oldEntries)
		offheap.Free(oldStamps)
	}
	return true
}

// setVerified notes that the blob of fp at slot has its digest.
func (x *index) setVerified(fp entry, slot uint16) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if at, e := x.place(fp); e != 0 && e.slot() == slot {
		atomic.OrUint64(&x.entries[at], uint64(verifiedFlag))
	}
}

// distrust has every blob at slot verified again before it is served.
func (x *index) distrust(slot uint16) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, e := range x.entries {
		if entry(e).slot() == slot {
			x.entries[i] = e &^ uint64(verifiedFlag)
		}
	}
}

// remove forgets fp, if it is at slot; with slot 0, wherever it is.
func (x *index) remove(fp entry, slot uint16) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if at, e := x.place(fp); e != 0 && (slot == 0 || e.slot() == slot) {
		x.clear(at)
	}
}

// clear empties a place and moves up those behind it that had been pushed out
// of theirs, so that no search ends too early.
func (x *index) clear(at int) {
	x.count--
	size := len(x.entries)
	hole := at
	for i := (at + 1) % size; x.entries[i] != 0; i = (i + 1) % size {
		// The one at i may move to the hole if its home is not behind the hole.
		if (i-home(entry(x.entries[i]), size)+size)%size >= (i-hole+size)%size {
			x.entries[hole], x.stamps[hole] = x.entries[i], x.stamps[i]
			hole = i
		}
	}
	x.entries[hole], x.stamps[hole] = 0, 0
}

// dropSlot forgets every blob at slot.
func (x *index) dropSlot(slot uint16) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := 0; i < len(x.entries); {
		if entry(x.entries[i]).slot() == slot {
			x.clear(i) // which may have moved another one here: look again
			continue
		}
		i++
	}
}

// newest returns for each slot up to the highest when a blob at it was last
// used; 0 where there is none.
func (x *index) newest(highest uint16) []uint32 {
	last := make([]uint32, int(highest)+1)
	x.mu.RLock()
	defer x.mu.RUnlock()
	for i := range x.entries {
		slot := entry(atomic.LoadUint64(&x.entries[i])).slot()
		if slot != 0 && slot <= highest {
			last[slot] = max(last[slot], atomic.LoadUint32(&x.stamps[i]))
		}
	}
	return last
}

// each calls fn for every entry, under the lock: fn may only take its time when
// the cache is closed.
func (x *index) each(fn func(e entry, stamp uint32)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, e := range x.entries {
		if e != 0 {
			fn(entry(e), x.stamps[i])
		}
	}
}

// len is how many blobs there are.
func (x *index) len() int64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return int64(x.count)
}
