package ledisbolt

import (
	"math"
	"math/bits"
	"sync/atomic"
)

// An entry says which segment has a field. From the top: 48 bits of
// fingerprint, whether the value has been checked, 15 bits of slot. The zero
// entry is an empty place, so slots start at 1.
//
// The fingerprint is not the whole field. Several fields may share one: then
// there are several entries, and the segments say which is meant.
type entry uint64

const (
	slotBits    = 15
	maxSlot     = 1<<slotBits - 1
	checkedFlag = entry(1) << slotBits
	fpMask      = entry(math.MaxUint64 &^ (1<<(slotBits+1) - 1))

	minIndex = 1 << 8
)

func (e entry) slot() int     { return int(e & maxSlot) }
func (e entry) checked() bool { return e&checkedFlag != 0 }

// fingerprint is FNV-1a with its bits mixed once more: the low ones decide
// nothing, and the high ones decide where an entry goes.
func fingerprint[T string | []byte](field T) entry {
	h := uint64(14695981039346656037)
	for i := range len(field) {
		h = (h ^ uint64(field[i])) * 1099511628211
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	return entry(h) & fpMask
}

// index is a table with open addressing, 12 bytes a place, of which half to three
// quarters are taken. Whoever calls it holds Store.mu; for
// reading, shared is enough, which is why marks are set with atomics.
type index struct {
	entries []uint64
	stamps  []uint32 // seconds since 1970 at which each was last fetched or written
	count   int
	live    []int // by slot: how many entries it has
}

func newIndex() *index {
	return &index{entries: make([]uint64, minIndex), stamps: make([]uint32, minIndex)}
}

// home is where an entry would like to be, in the order of fingerprints.
func (x *index) home(e entry) int {
	hi, _ := bits.Mul64(uint64(e&fpMask), uint64(len(x.entries)))
	return int(hi)
}

func (x *index) next(at int) int {
	if at++; at == len(x.entries) {
		return 0
	}
	return at
}

// find calls fn for every entry with the fingerprint fp until it returns false.
func (x *index) find(fp entry, fn func(at int, e entry) bool) {
	for at := x.home(fp); ; at = x.next(at) {
		e := entry(atomic.LoadUint64(&x.entries[at]))
		if e == 0 || e&fpMask == fp && !fn(at, e) {
			return
		}
	}
}

// slots appends the slots at which fp may be.
func (x *index) slots(buf []int, fp entry) []int {
	x.find(fp, func(_ int, e entry) bool {
		buf = append(buf, e.slot())
		return true
	})
	return buf
}

// has tells whether there is an entry with the fingerprint fp.
func (x *index) has(fp entry) (found bool) {
	x.find(fp, func(int, entry) bool {
		found = true
		return false
	})
	return found
}

// mark notes that the value of fp at slot was fetched, and checked if so. It
// returns whether it had been checked before.
func (x *index) mark(fp entry, slot int, stamp uint32, checked bool) (was bool) {
	x.find(fp, func(at int, e entry) bool {
		if e.slot() != slot {
			return true
		}
		if was = e.checked(); checked && !was {
			atomic.OrUint64(&x.entries[at], uint64(checkedFlag))
		}
		if stamp != 0 {
			atomic.StoreUint32(&x.stamps[at], stamp)
		}
		return false
	})
	return was
}

// stamp is when fp at slot was last fetched; 0 if it is not there.
func (x *index) stamp(fp entry, slot int) (stamp uint32) {
	x.find(fp, func(at int, e entry) bool {
		if e.slot() != slot {
			return true
		}
		stamp = atomic.LoadUint32(&x.stamps[at])
		return false
	})
	return stamp
}

func (x *index) add(fp entry, slot int, stamp uint32) {
	if (x.count+1)*4 > len(x.entries)*3 {
		x.grow()
	}
	at := x.home(fp)
	for x.entries[at] != 0 {
		at = x.next(at)
	}
	x.entries[at], x.stamps[at] = uint64(fp)|uint64(slot), stamp
	x.count++
	for len(x.live) <= slot {
		x.live = append(x.live, 0)
	}
	x.live[slot]++
}

func (x *index) grow() {
	entries, stamps := x.entries, x.stamps
	size := len(entries) + len(entries)/2
	x.entries, x.stamps = make([]uint64, size), make([]uint32, size)
	for i, e := range entries {
		if e != 0 {
			at := x.home(entry(e))
			for x.entries[at] != 0 {
				at = x.next(at)
			}
			x.entries[at], x.stamps[at] = e, stamps[i]
		}
	}
}

// remove forgets fp at slot, if it is there.
func (x *index) remove(fp entry, slot int) {
	x.find(fp, func(at int, e entry) bool {
		if e.slot() != slot {
			return true
		}
		x.clear(at)
		return false
	})
}

// clear empties a place and moves up those behind it that had been pushed out
// of theirs, so that no search ends too early.
func (x *index) clear(hole int) {
	x.count--
	x.live[entry(x.entries[hole]).slot()]--
	size := len(x.entries)
	for i := x.next(hole); x.entries[i] != 0; i = x.next(i) {
		// The one at i may move to the hole if its home is not behind the hole.
		if (i-x.home(entry(x.entries[i]))+size)%size >= (i-hole+size)%size {
			x.entries[hole], x.stamps[hole] = x.entries[i], x.stamps[i]
			hole = i
		}
	}
	x.entries[hole], x.stamps[hole] = 0, 0
}

// dropSlot forgets every field at slot.
func (x *index) dropSlot(slot int) {
	for i := 0; i < len(x.entries); {
		if e := entry(x.entries[i]); e != 0 && e.slot() == slot {
			x.clear(i) // which may have moved another one here: look again
			continue
		}
		i++
	}
}

// at is how many fields are at slot.
func (x *index) at(slot int) int {
	if slot >= len(x.live) {
		return 0
	}
	return x.live[slot]
}

func (x *index) load(i int) entry { return entry(atomic.LoadUint64(&x.entries[i])) }

func (x *index) loadStamp(i int) uint32 { return atomic.LoadUint32(&x.stamps[i]) }
