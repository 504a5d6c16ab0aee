package fs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jacobsa/fuse/fuseops"
	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tree"
)

// ErrEnded says that a mount can't show another tree, because it is no longer
// there.
var ErrEnded = errors.New("the mount has ended")

// errPending answers what takes a tree, while there is none yet.
var errPending = errors.New("no tree has been found for this mount yet")

const (
	// Past trees are kept for those who still read in them: this many, for as
	// long as this, and with no more than this many directories remembered in all.
	maxPast     = 100
	pastAge     = 10 * time.Minute
	maxPastDirs = 1 << 16
)

// shown is what a mount shows from one move to the next. It does not change.
type shown struct {
	view   *tree.View // nil while there is no tree
	blobs  Blobs
	number uint64          // how many moves came before
	over   context.Context // ends with the next move
	end    context.CancelFunc
	past   []*past // newest first
}

// past is a tree that was shown before.
type past struct {
	view   *tree.View
	number uint64
	ended  time.Time
	// lists has the listings of those directories, held by the kernel, that
	// the move away from this tree changed.
	lists map[uint64]digest.Digest
}

// Moves tells of a mount's moves from tree to tree.
type Moves struct {
	Count    int64     // moves since the mount was made
	Last     time.Time // when the last one was done; zero before the first
	Took     time.Duration
	Notified int // entries and directories that the kernel was told to drop in the last one
	Fetched  int // listings that were not in memory when the last one compared the trees
}

// mover is what moves of a mount need beside what it shows.
type mover struct {
	one sync.Mutex // held by the one that moves
	// turn is held for reading from when an answer that the kernel remembers is
	// made until it is given, and for writing while the tree changes: what was
	// answered from the old tree has then reached the kernel before it is told
	// what to drop.
	turn sync.RWMutex

	serving atomic.Bool
	before  chan struct{} // closed when the kernel was told of the last move
	told    atomic.Uint64 // number of the last tree of which the kernel was told all

	mu    sync.Mutex
	ended bool
	moves Moves
}

// Show has the mount show view from now on, with the content of files from
// blobs. It compares the two trees first, fetching the listings that differ,
// of directories that the kernel holds, and returns when lookups see the new
// tree and the kernel was told what to drop. An error means that the old tree is
// still shown, unless ctx ended while the kernel was being told, which goes on
// all the same. A view equal to what is shown, of the same head, tells the kernel
// nothing; the new view and blobs take the old ones' place.
//
// The first view of a mount made without one makes it live. Old listings that are
// still being read come from the old view, so what that takes them from should
// stay usable. A directory that is a mount point of another mount must not
// leave the view before that mount has been unmounted: the kernel would take it
// away.
func (f *FS) Show(ctx context.Context, view *tree.View, blobs Blobs) error {
	f.mover.one.Lock()
	defer f.mover.one.Unlock()
	if f.life.Err() != nil {
		return fmt.Errorf("show another tree at %s: %w", f.cfg.Path, ErrEnded)
	}
	began := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(f.life, cancel)()

	was := f.now.Load()
	if was.view != nil && same(was.view, view) {
		next := *was
		next.view, next.blobs = view, blobs
		f.now.Store(&next)
		return nil
	}
	d, told, err := f.move(ctx, was, view, blobs)
	if err != nil {
		return err
	}
	select {
	case <-told:
	case <-ctx.Done():
		if f.life.Err() == nil {
			return fmt.Errorf("%s shows serial %d of %v; the kernel is still being told: %w", f.cfg.Path, view.Head().Serial, view.Head().Tree, ctx.Err())
		}
	}
	m := &f.mover
	m.mu.Lock()
	m.moves = Moves{
		Count: m.moves.Count + 1, Last: time.Now(), Took: time.Since(began), Fetched: d.fetched, Notified: d.notices(),
	}
	moves := m.moves
	m.mu.Unlock()
	f.log.Info("moved to another tree", "op", "move", "tree", view.Head().Tree.String(), "serial", view.Head().Serial,
		"fetched", moves.Fetched, "notified", moves.Notified, "ms", moves.Took.Milliseconds())
	return nil
}

// move compares the trees and turns to the new one. The channel is closed when the
// kernel was told. f.mover.one is held.
func (f *FS) move(ctx context.Context, was *shown, view *tree.View, blobs Blobs) (*difference, <-chan struct{}, error) {
	d := &difference{fs: f, was: was, view: view}
	root := view.Root()
	if was.view == nil {
		d.roots = []change{{parent: rootID, is: root}}
	} else if old := was.view.Root(); old.Digest != root.Digest || !sameAttributes(old, root) {
		d.roots = []change{{parent: rootID, was: old, is: root}}
	}
	for {
		if err := d.walk(ctx); err != nil {
			f.kept.stays(was.number)
			if f.life.Err() != nil {
				err = ErrEnded
			}
			return nil, nil, fmt.Errorf("move %s to serial %d of %v: %w", f.cfg.Path, view.Head().Serial, view.Head().Tree, err)
		}
		f.kept.moves(was.number, view)
		if f.turnTo(d, view, blobs) {
			break
		}
	}
	was.end()
	return d, f.tell(d), nil
}

// Moves tells of the mount's moves so far.
func (f *FS) Moves() Moves {
	f.mover.mu.Lock()
	defer f.mover.mu.Unlock()
	return f.mover.moves
}

// same tells whether two views show the same of the same head.
func same(a, b *tree.View) bool {
	return sameAttributes(a.Root(), b.Root()) && a.Root().Digest == b.Root().Digest && a.Head().Text() == b.Head().Text()
}

func sameAttributes(a, b object.Entry) bool {
	return a.Mode == b.Mode && a.Mtime == b.Mtime && a.Size == b.Size
}

// turnTo makes view what is shown. It is false where the kernel holds
// directories by now that d has not looked into; these are d's roots then.
func (f *FS) turnTo(d *difference, view *tree.View, blobs Blobs) bool {
	f.mover.turn.Lock()
	defer f.mover.turn.Unlock()
	if d.roots, d.skipped = f.table.awaited(d.skipped); len(d.roots) > 0 {
		return false
	}
	was := f.now.Load()
	next := &shown{view: view, blobs: blobs, number: was.number + 1}
	next.over, next.end = context.WithCancel(f.life)
	if was.view != nil {
		p := &past{view: was.view, number: was.number, ended: time.Now(), lists: make(map[uint64]digest.Digest)}
		f.table.turn(d, p.lists)
		next.past = append(next.past, p)
		dirs := len(p.lists)
		for _, p := range was.past {
			if dirs += len(p.lists); len(next.past) == maxPast || dirs > maxPastDirs || time.Since(p.ended) > pastAge {
				break
			}
			next.past = append(next.past, p)
		}
	} else {
		f.table.turn(d, nil)
	}
	f.now.Store(next)
	return true
}

// tell has the kernel drop what differs, after what it was told before, from a
// goroutine that holds no lock: the kernel waits for its own requests under way
// in a directory before it takes a notice of it. The channel is closed when all
// is told.
func (f *FS) tell(d *difference) <-chan struct{} {
	m := &f.mover
	number := f.now.Load().number
	before, told := m.before, make(chan struct{})
	m.before = told
	m.mu.Lock()
	defer m.mu.Unlock()
	// What was asked before serving began was answered nothing; and the
	// library's notifier blocks for good once serving has ended. Until then,
	// ended waits for this goroutine.
	if m.ended || !m.serving.Load() {
		m.told.Store(number)
		f.kept.told(number)
		close(told)
		return told
	}
	f.background.Go(func() {
		defer close(told)
		if before != nil {
			<-before
		}
		for _, c := range d.changes {
			for _, name := range c.names {
				if f.leaves() {
					return
				}
				f.notice(f.notifier.InvalidateEntry(fuseops.InodeID(c.id), name))
			}
			if f.leaves() {
				return
			}
			// Of a directory these are its attributes, and the pages in which
			// the kernel keeps its listing.
			f.notice(f.notifier.InvalidateInode(fuseops.InodeID(c.id), 0, 0))
		}
		if f.leaves() {
			return
		}
		m.told.Store(number)
		f.kept.told(number)
	})
	return told
}

// notice looks at what came of a notice. That the kernel does not have what it
// should drop is as well.
func (f *FS) notice(err error) {
	if err != nil && !errors.Is(err, unix.ENOENT) && !f.leaves() {
		f.log.Warn("the kernel could not be told of a change", "op", "move", "err", err)
	}
}

// turn is a request's hold on what is shown.
type turn struct{ of *sync.RWMutex }

// begin keeps the tree from changing until end.
func (t *turn) begin(of *sync.RWMutex) {
	if t.of == nil {
		of.RLock()
		t.of = of
	}
}

func (t *turn) end() {
	if t.of != nil {
		t.of.RUnlock()
		t.of = nil
	}
}
