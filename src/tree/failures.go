package tree

import (
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/digest"
)

// failures remembers what could just not be had. Nobody waits for it again at once:
// who looks names up in a loop is not to storm a store that refuses, or that has
// something else there.
type failures struct {
	mu   sync.Mutex
	last map[digest.Digest]failure // GUARDED_BY(mu)
}

type failure struct {
	err  error
	when time.Time
}

const (
	// failureMemory is short: what failed a second ago may work now.
	failureMemory = 500 * time.Millisecond
	mostFailures  = 256
)

// of is why d could just not be had, or nil.
func (f *failures) of(d digest.Digest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, ok := f.last[d]
	if !ok || time.Since(v.when) < failureMemory {
		return v.err
	}
	delete(f.last, d)
	return nil
}

// add takes note of why d could not be had.
func (f *failures) add(d digest.Digest, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last == nil || len(f.last) >= mostFailures {
		f.last = make(map[digest.Digest]failure)
	}
	f.last[d] = failure{err, time.Now()}
}
