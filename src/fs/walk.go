package fs

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// walks fetches files ahead of who reads one after the other in the order of the
// listings, as tar, cp, grep and compilers do. A walk goes on into the
// directories below and beside, as its reader will. For who picks files out of a
// directory in another order see crowds.
type walks struct {
	fs *FS

	any atomic.Bool // there is an active walk

	mu     sync.Mutex
	seen   [64]place // the last file read in a directory, by hash of its id
	active []*walk   // most lately used first
}

// place is where in a directory files were read last.
type place struct {
	dir uint64
	pos uint32
	run int // how many were read in order up to here
}

const (
	// A walk begins with the third file read in order; skips of up to
	// skipped entries are still in order.
	walkAfter = 2
	skipped   = 4
	maxWalks  = 8
	// firstAhead is how many bytes a walk is ahead of its reader at first. That
	// doubles, up to what a large file may have, while its reader follows.
	firstAhead = 256 << 10
	// step is the part of what it may be ahead that a walk waits for room for, once it
	// is so far: to wake it for each file would cost more than to ask for that.
	step = 8
	// maxExpected bounds the files that a walk is ahead.
	maxExpected = 4096
	// maxPassed is how many entries without content a walk passes by to find a file.
	maxPassed = 1 << 15
	// A walk ends that found so many files here already, or whose reader rests.
	nearFiles = 512
	walkRest  = 15 * time.Second
)

// walk is one reader's way through the tree. What it has is guarded by walks.mu, but
// for frames, which are its goroutine's.
type walk struct {
	ahead    int64               // bytes that may be issued and not read
	grown    int64               // issued or read, when ahead last grew
	issued   int64               // bytes of the files asked for so far
	read     int64               // of these, up to where its reader has come
	hits     int64               // bytes of these that were read
	files    int                 // how many files were asked for so far
	come     int                 // to which of these its reader has come
	expected map[uint64]expected // files asked for and not read yet, by id
	near     int                 // how many of the last files were here already
	waits    bool                // for room, that more tells of
	more     chan struct{}       // holds one
	end      context.CancelFunc

	frames []frame
	tree   *shown // what it goes through; a move ends it
}

// expected is where in what a walk asked for a file is.
type expected struct {
	begins int64 // in issued
	number int   // among files, from 1 on
}

// frame is a directory on the way, and the next entry in it.
type frame struct {
	id   uint64
	path string
	list *object.Listing
	next int
}

// progress takes note that n bytes at off of file r are read.
func (w *walks) progress(r *inode, off, n int64) {
	if !w.any.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, a := range w.active {
		e, ok := a.expected[r.id]
		if !ok {
			continue
		}
		if off+n >= r.size {
			delete(a.expected, r.id)
		}
		a.hits += n
		a.come = max(a.come, e.number)
		if at := e.begins + off + n; at > a.read {
			a.read = at
			a.fit(w.fs.window.Load())
		}
		w.active[0], w.active[i] = a, w.active[0]
		return
	}
}

// leads tells whether a walk comes to a file by itself.
func (w *walks) leads(id uint64) bool {
	if !w.any.Load() {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.active {
		if _, ok := a.expected[id]; ok {
			return true
		}
	}
	return false
}

// fit lets a walk be further ahead while at least half of what was asked for is
// read, and less for a reader that picks.
func (a *walk) fit(most int64) {
	switch {
	case 2*a.hits < a.read:
		a.ahead = max(a.ahead/2, firstAhead)
	case a.read-a.grown >= a.ahead/2:
		a.ahead, a.grown = min(2*a.ahead, max(most, firstAhead)), a.read
	}
	if a.waits && a.room() >= a.ahead/step && a.files-a.come <= maxExpected-maxExpected/step {
		a.waits = false
		signal(a.more)
	}
}

// room is how many bytes more may be issued.
func (a *walk) room() int64 { return a.read + a.ahead - a.issued }

// look takes note that file r is read from its start, and isn't in memory.
func (w *walks) look(r *inode) {
	if r.parent == 0 { // they are read alone, to be changed
		return
	}
	if w.leads(r.id) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p := &w.seen[mix(r.parent)%uint64(len(w.seen))]
	if p.dir == r.parent && r.pos > p.pos && r.pos <= p.pos+skipped {
		p.run++
	} else if p.dir != r.parent || r.pos != p.pos {
		p.run = 0
	}
	p.dir, p.pos = r.parent, r.pos
	if p.run < walkAfter {
		return
	}
	p.run = 0
	a := &walk{
		ahead: firstAhead, expected: make(map[uint64]expected), more: make(chan struct{}, 1),
		tree: w.fs.now.Load(), frames: []frame{{id: r.parent, next: int(r.pos) + 1}},
	}
	for len(w.active) >= maxWalks {
		w.drop(w.active[len(w.active)-1])
	}
	w.active = append([]*walk{a}, w.active...)
	w.any.Store(true)
	var ctx context.Context
	ctx, a.end = context.WithCancel(a.tree.over)
	w.fs.background.Go(func() { w.run(ctx, a) })
}

// drop ends a walk. w.mu is held.
func (w *walks) drop(a *walk) {
	for i, o := range w.active {
		if o == a {
			w.active = append(w.active[:i:i], w.active[i+1:]...)
			break
		}
	}
	w.any.Store(len(w.active) > 0)
	a.end()
}

// run goes through the tree until it ends, the reader rests, or all that comes is
// here already.
func (w *walks) run(ctx context.Context, a *walk) {
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.drop(a)
	}()
	// What the mount can't get ahead, its reader will be told of.
	_ = a.tree.blobs.Bring(ctx, tier.ReadAhead, func(yield func(tier.Ref) bool) {
		for {
			r, ok := w.next(a)
			if !ok || !w.issue(ctx, a, r, yield) {
				return
			}
		}
	}, nil)
}

// issue asks for a file, as its reader comes near; it is false where the walk is
// over.
func (w *walks) issue(ctx context.Context, a *walk, r inode, yield func(tier.Ref) bool) bool {
	w.mu.Lock()
	a.files++
	a.expected[r.id] = expected{a.issued, a.files}
	if len(a.expected) > 2*maxExpected { // most of them are those that its reader left out
		for id, e := range a.expected {
			if e.number < a.come {
				delete(a.expected, id)
			}
		}
	}
	w.mu.Unlock()
	pieces := []object.Chunk{{Digest: r.digest, Size: r.size}}
	if r.chunked {
		lctx, cancel := context.WithTimeout(ctx, w.fs.timeout())
		list, err := a.tree.chunks(tier.InBackground(lctx), r.digest, r.size)
		cancel()
		if err != nil {
			return false
		}
		pieces = list.Chunks
	}
	for _, c := range pieces {
		if !w.await(ctx, a) {
			return false
		}
		ref := a.tree.view.BlobRef(c.Digest, c.Size)
		near := a.tree.blobs.Has(ref)
		if near {
			near = !a.tree.blobs.WillNeed(ref)
		} else if !yield(ref) {
			return false
		}
		w.mu.Lock()
		a.issued += c.Size
		if a.near++; !near {
			a.near = 0
		}
		over := a.near >= nearFiles // nothing was missing for long: let the reader be
		w.mu.Unlock()
		if over {
			return false
		}
	}
	return true
}

// await waits until the reader comes near; it is false if that takes too long.
func (w *walks) await(ctx context.Context, a *walk) bool {
	for {
		w.mu.Lock()
		a.waits = a.room() <= 0 || a.files-a.come >= maxExpected
		wait := a.waits
		w.mu.Unlock()
		if !wait {
			return ctx.Err() == nil
		}
		rest := time.NewTimer(walkRest)
		select {
		case <-a.more:
			rest.Stop()
		case <-ctx.Done():
			rest.Stop()
			return false
		case <-rest.C:
			return false
		}
	}
}

// next is the file that a reader in the order of the listings reads next. It may be asked
// again when there was none: after a reload.
func (w *walks) next(a *walk) (inode, bool) {
	if a.tree.over.Err() != nil {
		return inode{}, false
	}
	if len(a.frames) > 0 && a.frames[0].list == nil && !w.begin(a) {
		return inode{}, false
	}
	for passed := 0; len(a.frames) > 0 && passed < maxPassed; passed++ {
		f := &a.frames[len(a.frames)-1]
		if f.next >= f.list.Len() {
			a.frames = a.frames[:len(a.frames)-1]
			continue
		}
		e := f.list.At(f.next)
		f.next++
		r := inode{id: idOf(f.id, hashName(e.Name), &e), parent: f.id}
		r.set(&e)
		switch {
		case e.Kind == object.File && e.Size > 0:
			return r, true
		case e.Kind == object.Dir:
			path := object.Join(f.path, string(e.Name))
			l, err := w.listing(a, path, e.Digest)
			if err != nil {
				return inode{}, false
			}
			a.frames = append(a.frames, frame{id: r.id, path: path, list: l})
		}
	}
	return inode{}, false
}

// listing is a directory on the way.
func (w *walks) listing(a *walk, path string, d digest.Digest) (*object.Listing, error) {
	if l, ok := a.tree.view.Cached(d); ok {
		return l, nil
	}
	ctx, cancel := context.WithTimeout(a.tree.over, w.fs.timeout())
	defer cancel()
	return a.tree.view.Listing(ctx, path, d)
}

// begin makes the frames above a walk's first, so that it goes on after that
// directory. Where it can't, the walk is as it was.
func (w *walks) begin(a *walk) bool {
	ctx, cancel := context.WithTimeout(a.tree.over, w.fs.timeout())
	defer cancel()
	first := a.frames[0]
	r, ok := w.fs.table.get(first.id)
	if !ok {
		return false
	}
	path, _, err := w.fs.where(ctx, a.tree.view, r)
	if err != nil {
		return false
	}
	var frames []frame
	at := frame{id: rootID}
	root := a.tree.view.Root()
	if at.list, err = a.tree.view.Listing(ctx, "", root.Digest); err != nil {
		return false
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		i, ok := at.list.Find([]byte(name))
		if !ok {
			return false
		}
		e := at.list.At(i)
		at.next = i + 1
		frames = append(frames, at)
		at = frame{id: idOf(at.id, hashName(e.Name), &e), path: object.Join(at.path, name)}
		if at.list, err = a.tree.view.Listing(ctx, at.path, e.Digest); err != nil {
			return false
		}
	}
	at.next = first.next
	a.frames = append(frames, at)
	return true
}
