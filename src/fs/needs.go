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
	needsQueue = 1 << 12
	// tellAfter is how long a need waits for others, to be told together with them.
	// What the kernel lets go of before is left out.
	tellAfter = 100 * time.Millisecond
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
	some chan struct{}                           // tells that queue isn't empty; holds one
	many chan struct{}                           // tells that it is half full; holds one

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
	if r.queue == nil {
		r.queue = make([]asked, 0, needsQueue)
	}
	if len(r.queue) < needsQueue {
		r.queue = append(r.queue, a)
	}
	n := len(r.queue)
	r.mu.Unlock()
	switch n {
	case 1:
		signal(r.some)
	case needsQueue / 2:
		signal(r.many)
	}
}

// take takes all that wait, and leaves an empty queue instead.
func (r *recorder) take(empty []asked) []asked {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.queue
	r.queue = empty
	select {
	case <-r.many:
	default:
	}
	return all
}

// signal tells that something is so, unless it was told.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
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
	r := &recorder{some: make(chan struct{}, 1), many: make(chan struct{}, 1)}
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
		f.tellNeeds(ctx, r, quit, tell)
	})
	return stop
}

// tellNeeds tells what is noted until quit is closed, and what was noted before. When ctx
// ends it tells what it can without waiting.
func (f *FS) tellNeeds(ctx context.Context, r *recorder, quit <-chan struct{}, tell func(Need)) {
	var spare []asked
	for last := false; !last; {
		select {
		case <-r.some:
			rest := time.NewTimer(tellAfter)
			select {
			case <-rest.C:
			case <-r.many:
			case <-quit: // and so next time
			case <-ctx.Done():
			}
			rest.Stop()
		case <-quit:
			last = true
		case <-ctx.Done():
			last = true
		}
		spare = r.take(spare[:0])
		var near nearby
		for _, a := range spare {
			if n, ok := f.needOf(ctx, &near, a); ok {
				tell(n)
			}
		}
	}
}

// nearby is the directory that was last needed something of, and its listing in the tree
// that was shown: the next need is mostly there, too.
type nearby struct {
	tree *shown
	id   uint64
	path string
	list *object.Listing
}

// needOf finds out what was asked for. What the kernel has let go of already is
// left out.
func (f *FS) needOf(ctx context.Context, near *nearby, a asked) (Need, bool) {
	r, ok := f.table.get(a.id)
	s := f.now.Load()
	if !ok || s.view == nil {
		return Need{}, false
	}
	path, e, ok := near.find(s, &r)
	if !ok {
		wait, cancel := context.WithTimeout(ctx, f.timeout())
		defer cancel()
		var err error
		if _, path, e, err = f.whereShown(wait, s, r); err != nil {
			return Need{}, false
		}
		near.become(f, s, &r, path)
	}
	n := Need{Path: path, Dir: e.Kind == object.Dir, Size: e.Size}
	if a.off >= 0 {
		n.Chunked, n.Off, n.N = true, a.off, a.n
	}
	return n, n.Dir == (a.off == needListing)
}

// find finds r there; it is false where it must be looked for from the root.
func (d *nearby) find(s *shown, r *inode) (path string, e object.Entry, ok bool) {
	if d.list == nil || d.tree != s || d.id != r.parent || r.id == rootID {
		return "", e, false
	}
	n, ok := position(d.list, r)
	if !ok {
		return "", e, false
	}
	if e = d.list.At(n); content(&e) != r.digest {
		return "", e, false
	}
	return object.Join(d.path, string(e.Name)), e, true
}

// become goes to the directory of r, whose path is known.
func (d *nearby) become(f *FS, s *shown, r *inode, path string) {
	dir, ok := f.table.get(r.parent)
	if !ok || r.id == rootID {
		return
	}
	if l, ok := s.cached(dir.digest); ok {
		*d = nearby{tree: s, id: dir.id, path: object.Parent(path), list: l}
	}
}
