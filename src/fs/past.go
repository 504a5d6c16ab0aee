package fs

import (
	"context"
	"errors"
	"math"
	"sync"
	"syscall"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tree"
)

// where finds r in a view, by the names of the directories above it. Records
// hold hashes of names; the names are found in the listings on the way down.
func (f *FS) where(ctx context.Context, view *tree.View, r inode) (path string, e object.Entry, err error) {
	var up []inode
	for r.id != rootID {
		up = append(up, r)
		var ok bool
		if r, ok = f.table.get(r.parent); !ok {
			return "", e, syscall.ESTALE
		}
	}
	e = view.Root()
	for i := len(up) - 1; i >= 0; i-- {
		if e.Kind != object.Dir {
			return "", e, syscall.ESTALE
		}
		l, err := view.Listing(ctx, path, e.Digest)
		if err != nil {
			return "", e, err
		}
		n, ok := position(l, &up[i])
		if !ok {
			return "", e, syscall.ESTALE
		}
		e = l.At(n)
		path = object.Join(path, string(e.Name))
	}
	return path, e, nil
}

// whereShown finds r, with the content that it has, in what is shown or was
// shown before.
func (f *FS) whereShown(ctx context.Context, s *shown, r inode) (*tree.View, string, object.Entry, error) {
	path, e, err := f.where(ctx, s.view, r)
	if err == nil && content(&e) == r.digest {
		return s.view, path, e, nil
	}
	for _, p := range s.past {
		if path, e, err := f.where(ctx, p.view, r); err == nil && content(&e) == r.digest {
			return p.view, path, e, nil
		}
	}
	if err == nil {
		err = syscall.ESTALE
	}
	return nil, "", e, err
}

// cached returns a listing that is in memory, of the tree shown or of one before.
func (s *shown) cached(d digest.Digest) (*object.Listing, bool) {
	if l, ok := s.view.Cached(d); ok {
		return l, true
	}
	for _, p := range s.past {
		if l := p.view.Grafted(d); l != nil {
			return l, true
		}
	}
	return nil, false
}

// load fetches the listing of directory r. It gives up when a move gives the
// directory another one: whoever waits holds up the kernel, which can't
// drop names of a directory in which a lookup is under way.
func (f *FS) load(wait context.Context, s *shown, r inode) (*object.Listing, error) {
	ctx, cancel := context.WithCancel(wait)
	defer cancel()
	defer context.AfterFunc(s.over, func() {
		if now, ok := f.table.get(r.id); ok && now.digest != r.digest {
			cancel()
		}
	})()
	view, path, e, err := f.whereShown(ctx, s, r)
	if err != nil {
		return nil, err
	}
	return view.Listing(ctx, path, e.Digest)
}

// loadPast fetches a listing that directory r had before, or takes it from
// memory where wait is nil.
func (f *FS) loadPast(wait context.Context, s *shown, r inode, d digest.Digest) (*object.Listing, error) {
	if l, ok := s.cached(d); ok {
		return l, nil
	}
	if wait == nil {
		return nil, errWait
	}
	r.digest = d
	view, path, _, err := f.whereShown(wait, s, r)
	if err != nil {
		return nil, err
	}
	return view.Listing(wait, path, d)
}

// listAt is the listing that directory r had when the tree of that number was shown.
func (s *shown) listAt(number uint64, r *inode) digest.Digest {
	for i := len(s.past) - 1; i >= 0; i-- {
		if p := s.past[i]; p.number >= number {
			if d, ok := p.lists[r.id]; ok {
				return d
			}
		}
	}
	return r.digest
}

// changed tells whether a move that is still remembered changed a directory.
func (s *shown) changed(id uint64) bool {
	for _, p := range s.past {
		if _, ok := p.lists[id]; ok {
			return true
		}
	}
	return false
}

// get fetches a blob. A file that is held open from before may have been
// published in another dedupe domain.
func (s *shown) get(ctx context.Context, ref tier.Ref) (tier.Blob, error) {
	b, err := s.blobs.Get(ctx, ref)
	for _, p := range s.past {
		if !errors.Is(err, tier.ErrAbsent) {
			break
		}
		if d := p.view.Head().Domain; d != ref.Domain {
			ref.Domain = d
			b, err = s.blobs.Get(ctx, ref)
		}
	}
	return b, err
}

// chunks is get for a chunk list.
func (s *shown) chunks(ctx context.Context, d digest.Digest, size int64) (*object.ChunkList, error) {
	list, err := s.view.Chunks(ctx, d, size)
	domain := s.view.Head().Domain
	for _, p := range s.past {
		if !errors.Is(err, tier.ErrAbsent) {
			break
		}
		if p.view.Head().Domain != domain {
			domain = p.view.Head().Domain
			list, err = p.view.Chunks(ctx, d, size)
		}
	}
	return list, err
}

const (
	// A thread walks while it reads directories no further apart than this: longer
	// than a busy machine keeps one waiting.
	walkPause = 5 * time.Second
	// A name that left the tree is found by those who walk for this long.
	walkGrace = 30 * time.Second
)

// walkers remembers which threads are reading directories one after the other,
// and since which tree. One may have listed names that are gone when it comes to look
// them up, and takes it badly if a name that it was just told isn't there.
type walkers struct {
	mu      sync.Mutex
	threads [128]walker
	lists   [512]listed // by hash of thread and directory
}

type walker struct {
	pid    uint32
	number uint64 // the tree shown when it began
	last   time.Time
}

// listed is a directory that a move changed, and that a thread began to read
// after that.
type listed struct {
	pid    uint32
	dir    uint64
	number uint64
}

// thread returns a thread's walker, or the one that was longest idle. w.mu is held.
func (w *walkers) thread(pid uint32) *walker {
	old := &w.threads[0]
	for i := range w.threads {
		t := &w.threads[i]
		if t.pid == pid {
			return t
		}
		if t.last.Before(old.last) {
			old = t
		}
	}
	return old
}

func (w *walkers) list(pid uint32, dir uint64) *listed {
	return &w.lists[mix(dir^uint64(pid)<<idBits)%uint64(len(w.lists))]
}

// read takes note that a thread reads a directory as it was in the tree of that
// number. Only of those that a move changed is it noted which one.
func (w *walkers) read(pid uint32, dir, number uint64, changed bool) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.thread(pid)
	if t.pid != pid || now.Sub(t.last) > walkPause {
		t.pid, t.number = pid, number
	}
	t.last = now
	if changed {
		*w.list(pid, dir) = listed{pid, dir, number}
	}
}

// since is the number of the tree in which a thread was seen to begin to walk; more
// than that of any tree if it was not. It is sure if that is the tree in which the
// thread has read the directory: what the kernel answers out of its own pages is
// not seen here.
func (w *walkers) since(pid uint32, dir uint64) (number uint64, sure bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.thread(pid)
	if t.pid != pid || time.Since(t.last) > walkPause {
		return math.MaxUint64, false
	}
	if l := w.list(pid, dir); l.pid == pid && l.dir == dir && l.number >= t.number {
		return l.number, true
	}
	return t.number, false
}
