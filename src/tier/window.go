package tier

import (
	"sync"
	"time"
)

// window is how many prefetches may run at once. It grows with every fetch that
// comes quickly, and shrinks when fetches take a good part of the time that a
// reader has: then there are more of them than the way to the store can carry,
// and what somebody waits for is stuck among what nobody asked for.
type window struct {
	patience time.Duration // that a reader has

	mu     sync.Mutex
	size   int
	shrunk time.Time // when it last did
}

// Bounds of a window. It begins low, and on a way of 10 ms is at its height
// within 50.
const (
	leastPrefetch = 2
	firstPrefetch = 4
	maxPrefetch   = 64
)

func newWindow(patience time.Duration) *window {
	return &window{patience: patience, size: firstPrefetch}
}

// now is the window's size.
func (w *window) now() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.size
}

// took takes note of a fetch that began then, and whether it brought its blob.
func (w *window) took(began time.Time, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	switch d := now.Sub(began); {
	case ok && d < w.patience/8:
		w.size = min(w.size+1, maxPrefetch)
	case began.After(w.shrunk) && (!ok || d > w.patience/4):
		// Those that began before it shrank tell nothing new.
		w.size, w.shrunk = max(w.size/2, leastPrefetch), now
	}
}
