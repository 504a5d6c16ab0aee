package tier

import (
	"math/bits"
	"slices"
	"sync"
)

// Shared is memory for one blob at a time, which several hold: who waits for it, what
// was fetched last, the cache until it is on disk, the kernel's answers. When the last
// loan has been returned the bytes are used for another blob. A loan that is never
// returned costs that, and nothing else: the collector takes the memory then.
type Shared struct {
	of    *memory
	class int
	whole []byte

	mu    sync.Mutex
	loans []uint64 // GUARDED_BY(mu); those that were not returned
	last  uint64   // GUARDED_BY(mu); of all loans so far, other blobs' included
}

// memory is what blobs are unpacked to, and that they give back.
type memory struct {
	pools [maxShared + 1][4]sync.Pool // of *Shared, by size
}

// Buffers are shared from 1 KiB to 112 KiB: larger ones are few, and would lie idle. In
// bits.
const minShared, maxShared = 10, 16

// take returns a buffer for n bytes and a loan of it; nil where such are not shared.
func (m *memory) take(n int) (s *Shared, loan uint64) {
	class, size := classOf(n)
	if class < 0 {
		return nil, 0
	}
	pool := &m.pools[class/4][class%4]
	s, _ = pool.Get().(*Shared)
	if s == nil {
		s = &Shared{of: m, class: class, whole: make([]byte, size)}
	}
	loan, _ = s.lend(true)
	return s, loan
}

// classOf is the class of buffers that n bytes fit into, and their size: a power of two
// and up to three quarters more. It is negative where n is too few or too many.
func classOf(n int) (class, size int) {
	if n < 1<<minShared || n > 7<<(maxShared-2) {
		return -1, 0
	}
	b := bits.Len(uint(n-1)) - 1 // 1<<b < n ≤ 2<<b
	if n == 1<<minShared {
		b = minShared
	}
	quarters := (n - 1<<b + 1<<(b-2) - 1) >> (b - 2)
	if quarters == 4 {
		b, quarters = b+1, 0
	}
	return 4*b + quarters, 1<<b + quarters<<(b-2)
}

// lend returns one more loan; not so, unless it is the first one, where all have been
// returned.
func (s *Shared) lend(first bool) (loan uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first != (len(s.loans) == 0) {
		return 0, false
	}
	s.last++
	s.loans = append(s.loans, s.last)
	return s.last, true
}

// Return implements Lender.
func (s *Shared) Return(loan uint64) {
	s.mu.Lock()
	i := slices.Index(s.loans, loan)
	if i < 0 {
		s.mu.Unlock()
		return
	}
	s.loans = slices.Delete(s.loans, i, i+1)
	over := len(s.loans) == 0
	s.mu.Unlock()
	if over {
		spoil(s.whole)
		s.of.pools[s.class/4][s.class%4].Put(s)
	}
}

// Again returns a blob for somebody else to release, too. b must not have been
// released yet. It is false where the bytes can't be lent twice.
func (b Blob) Again() (Blob, bool) {
	switch l := b.lender.(type) {
	case nil:
		return b, true
	case *Shared:
		loan, ok := l.lend(false)
		return Blob{b.Data, l, loan}, ok
	}
	return Blob{}, false
}
