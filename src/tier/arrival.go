package tier

import (
	"context"
	"fmt"
	"sync"
)

// Arrival is a blob on its way from a source: what has come so far, for those who
// pass it on before it is complete. Nothing of it is verified. A source tells it
// by ArrivalOf; a nil Arrival takes no notice.
type Arrival struct {
	mu    sync.Mutex
	size  int64         // GUARDED_BY(mu); of all of it, as the source says; 0: not to be passed on
	data  []byte        // GUARDED_BY(mu); what has come. Those bytes are not changed any more
	over  bool          // GUARDED_BY(mu); no more will come
	more  chan struct{} // GUARDED_BY(mu); closed when that changes; nil: nobody waits
	known bool          // GUARDED_BY(mu); begun is closed

	passed bool // somebody waits for it to be passed on

	begun chan struct{} // closed when so much has come that it may be passed on
	room  *room         // nil: it has all that it may take
}

// A blob is worth to be passed on while it arrives if it has as many bytes, and
// from its first ones on. Smaller ones are complete before anybody is told.
const (
	flowSize  = 64 << 10
	flowFirst = 4 << 10
)

type arrivalKey struct{}

func withArrival(ctx context.Context, a *Arrival) context.Context {
	return context.WithValue(ctx, arrivalKey{}, a)
}

// ArrivalOf is where a source tells of the blob that it gets with this ctx; nil
// where nobody is interested.
func ArrivalOf(ctx context.Context) *Arrival {
	a, _ := ctx.Value(arrivalKey{}).(*Arrival)
	return a
}

// Passed tells whether somebody is interested in what comes before the blob is complete.
func (a *Arrival) Passed() bool { return a != nil && a.passed }

// Begin says that a blob of size bytes is going to arrive, or that it isn't known
// how many: -1. Said again, what came before does not count.
func (a *Arrival) Begin(size int64) {
	if a == nil {
		return
	}
	if size < flowSize {
		size = 0 // nobody is told
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.size, a.data = size, nil
}

// Room waits until there is memory for size bytes, or, of -1, for as many as the blob
// may have. It is to be called before there is so much of it in memory.
func (a *Arrival) Room(ctx context.Context, size int64) error {
	if a == nil || a.room == nil {
		return nil
	}
	if err := a.room.take(ctx, size); err != nil {
		return fmt.Errorf("wait for memory: %w: %w", ErrUnavailable, err)
	}
	return nil
}

// Add says what has come since Begin, all of it. The bytes must not be changed
// afterwards.
func (a *Arrival) Add(data []byte) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.size == 0 || int64(len(data)) > a.size {
		return
	}
	a.data = data
	a.wake()
	if len(data) >= flowFirst && !a.known {
		a.known = true
		close(a.begun)
	}
}

// end says that no more will come.
func (a *Arrival) end() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	a.wake()
}

// wake has those look again who wait. a.mu is held.
func (a *Arrival) wake() {
	if a.more != nil {
		close(a.more)
		a.more = nil
	}
}

// Next waits until more than have bytes of the blob are there, and returns them,
// from its first one on, with the size of the whole. ok is false once there will
// be no more, or ctx is done. A source that begins again may give other bytes
// than before.
func (a *Arrival) Next(ctx context.Context, have int) (data []byte, size int64, ok bool) {
	for {
		a.mu.Lock()
		data, size, over := a.data, a.size, a.over
		if len(data) <= have && !over && a.more == nil {
			a.more = make(chan struct{})
		}
		more := a.more
		a.mu.Unlock()
		switch {
		case len(data) > have:
			return data, size, true
		case over:
			return nil, 0, false
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, 0, false
		}
	}
}
