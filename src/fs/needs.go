package fs

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/object"
)

// Need is what a program asked for, for the first time since Record was called.
type Need struct {
	Path string // from the mount's root, which is empty
	Dir  bool   // its listing was asked for
	Size int64  // of the file, in bytes
	// Where a file is cut into chunks: the one asked for, and where it lies.
	Chunked bool
	Off, N  int64
}

const (
	// maxNeeds is how many needs are told apart: more than anybody takes down.
	maxNeeds = 1 << 15
	// probes is how many places of the table a need may be in.
	probes = 8
	// needsQueue is how many may wait to be told. What comes when it is full is
	// left out.
	needsQueue = 1 << 10
)

// What a need has for its offset where it isn't a chunk's.
const (
	needListing = -2
	needWhole   = -1
)

// needs notes what is asked for first. A request costs a look at one pointer while
// nobody records, and at a place of a table else.
type needs struct {
	recorder atomic.Pointer[recorder] // nil: nobody records
}

// recorder is one recording. It takes memory from the first need on.
type recorder struct {
	seen atomic.Pointer[[maxNeeds]atomic.Uint64] // hashes of needs; 0: free
	wake chan struct{}                           // tells that queue isn't empty; holds one

	mu    sync.Mutex
	queue []asked // GUARDED_BY(mu)
}

// asked is a need before its path is known.
type asked struct {
	id     uint64
	off, n int64
}

// note takes note of n bytes at off of inode id, or of all of it.
func (w *needs) note(id uint64, off, n int64) {
	if r := w.recorder.Load(); r != nil && r.first(mix(id^mix(uint64(off)))|1) {
		r.add(asked{id, off, n})
	}
}

// first tells whether a need was not noted before.
func (r *recorder) first(h uint64) bool {
	seen := r.seen.Load()
	if seen == nil {
		r.seen.CompareAndSwap(nil, new([maxNeeds]atomic.Uint64))
		seen = r.seen.Load()
	}
	for i := range uint64(probes) {
		place := &seen[(h>>16+i)%maxNeeds]
		switch place.Load() {
		case h:
			return false
		case 0:
			if place.CompareAndSwap(0, h) {
				return true
			}
			if place.Load() == h {
				return false
			}
		}
	}
	return false
}

func (r *recorder) add(a asked) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.queue == nil {
		r.queue = make([]asked, 0, needsQueue)
	}
	if len(r.queue) < needsQueue {
		r.queue = append(r.queue, a)
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// stopTime is how long a recording that is stopped may take to tell what it noted.
const stopTime = 5 * time.Second

// Record has tell called with what programs need from now on, in order, one at a
// time, each need once. That ends with the mount, or when stop is called, which returns
// when all that was needed before has been told. Another call of Record takes the place
// of the one before.
func (f *FS) Record(tell func(Need)) (stop func()) {
	r := &recorder{wake: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(f.life)
	quit, done := make(chan struct{}), make(chan struct{})
	stop = sync.OnceFunc(func() {
		f.needs.recorder.CompareAndSwap(r, nil)
		timer := time.AfterFunc(stopTime, cancel)
		close(quit)
		<-done
		timer.Stop()
		cancel()
	})
	f.mover.mu.Lock()
	defer f.mover.mu.Unlock()
	if f.mover.ended { // which waits for those in the background
		close(done)
		return stop
	}
	f.needs.recorder.Store(r)
	f.background.Go(func() {
		defer close(done)
		var spare []asked
		for last := false; !last; {
			select {
			case <-r.wake:
			case <-quit:
				last = true
			case <-ctx.Done():
				return
			}
			r.mu.Lock()
			spare, r.queue = r.queue, spare[:0]
			r.mu.Unlock()
			for _, a := range spare {
				if n, ok := f.needOf(ctx, a); ok && ctx.Err() == nil {
					tell(n)
				}
			}
		}
	})
	return stop
}

// needOf finds out what was asked for. What the kernel has let go of already is
// left out.
func (f *FS) needOf(ctx context.Context, a asked) (Need, bool) {
	r, ok := f.table.get(a.id)
	s := f.now.Load()
	if !ok || s.view == nil {
		return Need{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout())
	defer cancel()
	_, path, e, err := f.whereShown(ctx, s, r)
	if err != nil {
		return Need{}, false
	}
	n := Need{Path: path, Dir: e.Kind == object.Dir, Size: e.Size}
	if a.off >= 0 {
		n.Chunked, n.Off, n.N = true, a.off, a.n
	}
	return n, n.Dir == (a.off == needListing)
}
