package fs

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// crowds fetches files ahead of who picks small ones of one kind out of a directory,
// as a program that starts picks modules: each of them would cost a round trip, all
// of them together hardly more than one. What is of one kind has the same in its
// name from the first dot on.
//
// It begins with a few files that were missing in a directory, and goes on in rounds
// that get larger as more are. Where there are very many files of a kind, so that the
// reader may be one that reads at random, it goes on only while those that were brought
// are asked for. Where it was right before it begins sooner.
type crowds struct {
	fs *FS

	any atomic.Bool // something was brought lately

	mu      sync.Mutex
	dirs    [64]crowd         // GUARDED_BY(mu); by hash of directory and kind
	brought map[uint64]*crowd // GUARDED_BY(mu); files not asked for yet, by id
	issued  int64             // GUARDED_BY(mu); bytes brought, of all
	used    int64             // GUARDED_BY(mu); and asked for afterwards
	rest    *time.Timer       // GUARDED_BY(mu); ends any
}

// crowd is the files of a kind in a directory.
type crowd struct {
	dir, kind uint64
	misses    int
	total     int64 // bytes of all files of the kind; 0: not known yet
	asked     int64 // bytes of the files that were missing
	issued    int64 // bytes brought
	used      int64 // of these, what was asked for afterwards
	next      int   // entry of the listing to go on with
	running   bool
	done      bool
}

const (
	// crowdAfter is how many files must have been missing, and crowdTrusted how
	// many where crowds have been right.
	crowdAfter   = 3
	crowdTrusted = 1
	// firstRound is how many bytes are brought at first, mostRound at most at once.
	firstRound = 512 << 10
	mostRound  = 4 << 20
	// fewBytes is what a kind may have in all to be brought whole, as long as that
	// is no more than so many times what was asked for, and a round.
	fewBytes  = 8 << 20
	mostTimes = 16
	// crowdMemory is how long what was brought is watched.
	crowdMemory = 10 * time.Second
)

// hit takes note that file r is read.
func (w *crowds) hit(r *inode) {
	if !w.any.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if c, ok := w.brought[r.id]; ok {
		delete(w.brought, r.id)
		w.used += r.size
		if c.dir == r.parent {
			c.used += r.size
		}
	}
}

// missed takes note that file r has to be fetched for somebody who waits.
func (w *crowds) missed(s *shown, r *inode) {
	dir, ok := w.fs.table.get(r.parent)
	if !ok || r.parent == 0 {
		return
	}
	l, ok := s.cached(dir.digest)
	if !ok {
		return
	}
	i, ok := position(l, r)
	if !ok {
		return
	}
	name := kindOf(l.At(i).Name)
	if name == nil {
		return
	}
	kind := hashName(name)
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &w.dirs[mix(r.parent^kind)%uint64(len(w.dirs))]
	if c.dir != r.parent || c.kind != kind {
		if c.running {
			return
		}
		*c = crowd{dir: r.parent, kind: kind}
	}
	c.misses++
	c.asked += r.size
	if !w.goesOn(c) {
		return
	}
	c.running = true
	w.fs.background.Go(func() { w.round(s, c, l, name) })
}

// kindOf is what a name has in common with others of its kind; nil for one without.
func kindOf(name []byte) []byte {
	if i := bytes.IndexByte(name, '.'); i >= 0 {
		return name[i:]
	}
	return nil
}

// goesOn tells whether another round is worth it. w.mu is held.
func (w *crowds) goesOn(c *crowd) bool {
	after := crowdAfter
	if w.issued >= firstRound/2 && 8*w.used >= w.issued {
		after = crowdTrusted
	}
	if c.running || c.done || c.misses < after {
		return false
	}
	if c.total > fewBytes {
		return 4*c.used >= c.issued
	}
	return c.issued <= mostTimes*c.asked+firstRound
}

// round brings more of a crowd's files.
func (w *crowds) round(s *shown, c *crowd, l *object.Listing, kind []byte) {
	isOne := func(e *object.Entry) bool {
		return e.Kind == object.File && !e.Chunked && e.Size > 0 && bytes.Equal(kindOf(e.Name), kind)
	}
	var refs []tier.Ref
	var size, total int64
	if c.total == 0 {
		for i := range l.Len() {
			if e := l.At(i); isOne(&e) {
				total += e.Size
			}
		}
	}
	w.mu.Lock()
	c.total = max(c.total, total)
	most := int64(firstRound)
	if c.total <= fewBytes {
		most = min(max(most, 2*c.issued), mostRound, max(w.fs.window.Load(), firstRound))
	}
	if w.brought == nil || !w.any.Load() {
		w.brought = make(map[uint64]*crowd)
	}
	for ; c.next < l.Len() && size < most; c.next++ {
		e := l.At(c.next)
		if !isOne(&e) {
			continue
		}
		if ref := s.view.BlobRef(e.Digest, e.Size); !s.blobs.Has(ref) {
			refs = append(refs, ref)
			size += e.Size
			w.brought[idOf(c.dir, hashName(e.Name), &e)] = c
		}
	}
	c.done = c.next == l.Len()
	c.issued += size
	w.issued += size
	w.any.Store(true)
	if w.rest == nil {
		w.rest = time.AfterFunc(crowdMemory, func() { w.any.Store(false) })
	} else {
		w.rest.Reset(crowdMemory)
	}
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.over, w.fs.timeout())
	defer cancel()
	// What doesn't come now does when it is asked for.
	_ = s.blobs.Bring(ctx, tier.Guess, slices.Values(refs), nil)
	w.mu.Lock()
	c.running = false
	w.mu.Unlock()
}

// end forgets what was brought.
func (w *crowds) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rest != nil {
		w.rest.Stop()
	}
}
