package tier

import (
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// small is how large most blobs are at the most, in bytes.
const small = 32 << 10

// room is the memory of a flight whose blob is of any size until its source says of which:
// it is given what a small one takes, and has the rest taken when that is not enough. The rest
// comes out of other memory, so that who holds some of it waits for nobody.
type room struct {
	memory *semaphore.Weighted
	rest   int64         // bytes
	taken  *atomic.Int64 // bytes, of all

	mu   sync.Mutex
	has  bool // GUARDED_BY(mu); the rest
	over bool // GUARDED_BY(mu); the flight is
}

// take waits until there is memory for size bytes of a blob; of -1 for as many as it may have.
func (r *room) take(ctx context.Context, size int64) error {
	if size >= 0 && size <= small || r.enough() {
		return nil
	}
	if err := r.memory.Acquire(ctx, r.rest); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.has || r.over { // a source may go on that nobody waits for
		r.memory.Release(r.rest)
		return nil
	}
	r.has = true
	r.taken.Add(r.rest)
	return nil
}

func (r *room) enough() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.has || r.over
}

// giveBack gives back the rest.
func (r *room) giveBack() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.has && !r.over {
		r.memory.Release(r.rest)
		r.taken.Add(-r.rest)
	}
	r.over = true
}
