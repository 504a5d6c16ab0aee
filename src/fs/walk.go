package fs

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/object"
)

// walks fetches small files ahead of who reads one after the other in the
// order of the listings, as tar, cp, grep and compilers do. A walk goes on into
// the directories below and beside, as its reader will.
type walks struct {
	fs  *FS
	ctx context.Context // ends with the mount

	mu     sync.Mutex
	seen   [64]place // the last file read in a directory, by hash of its id
	active []*walk
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
	// The window, in files, doubles from first to last.
	firstWindow = 16
	lastWindow  = 512
)

// walk is one reader's way through the tree.
type walk struct {
	window   int
	issued   int            // files asked for so far
	read     int            // of these, the last that was read
	hits     int            // how many were read
	expected map[uint64]int // files asked for and not read yet, by id; the value counts as issued does
	near     int            // how many of the last files were here already
	running  bool
	frames   []frame
	tree     *shown // what it goes through; a move ends it
}

// frame is a directory on the way, and the next entry in it.
type frame struct {
	id   uint64
	path string
	list *object.Listing
	next int
}

// read takes note that file r is read at off.
func (w *walks) read(r *inode, off int64) {
	if off != 0 || r.parent == 0 { // the latter are read alone, to be changed
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, a := range w.active {
		n, ok := a.expected[r.id]
		if !ok {
			continue
		}
		delete(a.expected, r.id)
		a.hits++
		if n > a.read {
			a.read = n
			a.fit()
		}
		w.active[0], w.active[i] = a, w.active[0]
		w.start(a)
		return
	}
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
	a := &walk{window: firstWindow, expected: make(map[uint64]int), tree: w.fs.now.Load(), frames: []frame{{id: r.parent, next: int(r.pos) + 1}}}
	if len(w.active) == maxWalks {
		w.active = w.active[:maxWalks-1]
	}
	w.active = append([]*walk{a}, w.active...)
	w.start(a)
}

// fit makes the window larger while at least half of what was asked for is read,
// and smaller for a reader that picks.
func (a *walk) fit() {
	if 2*a.hits >= a.read {
		a.window = min(2*a.window, lastWindow)
	} else {
		a.window = max(a.window/2, firstWindow)
	}
}

// start lets a goroutine fill the window of a, unless one does. w.mu is held.
func (w *walks) start(a *walk) {
	if a.running || a.issued >= a.read+a.window/2 {
		return
	}
	a.running = true
	w.fs.background.Go(func() { w.fill(a) })
}

// fill asks for files until the window is full, the tree ends, or all that
// comes is here already.
func (w *walks) fill(a *walk) {
	for {
		w.mu.Lock()
		if a.issued >= a.read+a.window || w.ctx.Err() != nil {
			a.running = false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		r, ok := w.next(a)
		if !ok {
			return // running stays set: the walk is over
		}
		near, ok := w.bring(a.tree, r)
		if !ok {
			return
		}
		w.mu.Lock()
		a.issued++
		a.expected[r.id] = a.issued
		if len(a.expected) > 4*lastWindow {
			for id, n := range a.expected {
				if n < a.read {
					delete(a.expected, id)
				}
			}
		}
		if !near {
			a.near = 0
		} else if a.near++; a.near >= lastWindow {
			// Nothing was missing for long: let the reader be, and look
			// again when a run of missing files shows.
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
	}
}

// bring fetches a file, or the start of a large one. It waits while there is no
// room, and tells whether the file was near already.
func (w *walks) bring(s *shown, r inode) (near, ok bool) {
	d, size := r.digest, r.size
	if r.chunked {
		ctx, cancel := context.WithTimeout(w.ctx, w.fs.timeout())
		defer cancel()
		list, err := s.chunks(ctx, d, size)
		if err != nil {
			return false, false
		}
		d, size = list.Chunks[0].Digest, list.Chunks[0].Size
	}
	ref := s.view.BlobRef(d, size)
	if s.blobs.Has(ref) {
		return !s.blobs.WillNeed(ref), true
	}
	for !s.blobs.Prefetch(ref) {
		select {
		case <-w.ctx.Done():
			return false, false
		case <-time.After(2 * time.Millisecond):
		}
	}
	return false, true
}

// next is the file that a reader in the order of the listings reads next.
func (w *walks) next(a *walk) (inode, bool) {
	if a.tree.over.Err() != nil {
		return inode{}, false
	}
	ctx, cancel := context.WithTimeout(a.tree.over, w.fs.timeout())
	defer cancel()
	if a.frames[0].list == nil {
		if !w.begin(ctx, a) {
			return inode{}, false
		}
	}
	for len(a.frames) > 0 {
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
			l, err := a.tree.view.Listing(ctx, path, e.Digest)
			if err != nil {
				return inode{}, false
			}
			a.frames = append(a.frames, frame{id: r.id, path: path, list: l})
		}
	}
	return inode{}, false
}

// begin makes the frames above a walk's first, so that it goes on after that
// directory.
func (w *walks) begin(ctx context.Context, a *walk) bool {
	first := a.frames[0]
	r, ok := w.fs.table.get(first.id)
	if !ok {
		return false
	}
	path, _, err := w.fs.where(ctx, a.tree.view, r)
	if err != nil {
		return false
	}
	a.frames = a.frames[:0]
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
		a.frames = append(a.frames, at)
		at = frame{id: idOf(at.id, hashName(e.Name), &e), path: object.Join(at.path, name)}
		if at.list, err = a.tree.view.Listing(ctx, at.path, e.Digest); err != nil {
			return false
		}
	}
	at.next = first.next
	a.frames = append(a.frames, at)
	return true
}
