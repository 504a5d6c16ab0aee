package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tree"
)

// heads is the heads of one store's trees, as far as anybody asked for them.
type heads struct {
	server *Server
	stor   *stor

	mu    sync.Mutex
	trees map[object.TreeName]*headState // GUARDED_BY(mu); at most maxHeads
}

// maxHeads is how many trees of a store are followed.
const maxHeads = 4096

// stale is how many times as old as when it should be looked at anew a head may
// be while that is done behind the answer.
const stale = 6

// kindness is how long a store may take to answer before the head that is here
// has to do.
const kindness = 3 * time.Second

// headState is what is known of one tree's head.
type headState struct {
	name object.TreeName

	mu     sync.Mutex
	now    *version    // GUARDED_BY(mu); nil: none
	asked  time.Time   // GUARDED_BY(mu); when the store last answered or failed to
	err    error       // GUARDED_BY(mu); of the last time; tier.ErrAbsent: it has no such tree
	flight *headFlight // GUARDED_BY(mu); nil: nobody asks just now
}

// headFlight is one request for a head, and what came of it.
type headFlight struct {
	keep bool // GUARDED_BY(headState.mu)
	done chan struct{}
	v    *version
	err  error
}

// version is a tree at one head.
type version struct {
	head *object.Head
	note []byte
	mu   sync.Mutex
	put  map[string]bool // GUARDED_BY(mu); directories whose listings were put into the data

	trees *treePair // GUARDED_BY(openTrees.mu); nil: not open
}

func newHeads(s *Server, st *stor) *heads {
	return &heads{server: s, stor: st, trees: make(map[object.TreeName]*headState)}
}

// keptKey is where a head is kept: another store's tree may have the same name.
func (h *heads) keptKey(n object.TreeName) string {
	return h.stor.id.String() + " " + n.Dir()
}

func (h *heads) version(head *object.Head, note []byte) *version {
	h.stor.seen(head.Domain)
	return &version{head: head, note: note, put: make(map[string]bool)}
}

// state returns what is known of a tree, with the head kept from before.
func (h *heads) state(ctx context.Context, n object.TreeName) *headState {
	h.mu.Lock()
	s, ok := h.trees[n]
	h.mu.Unlock()
	if ok {
		return s
	}
	s = &headState{name: n}
	if note, err := h.server.opts.Data.Value(ctx, headsTable, h.keptKey(n)); err == nil {
		if head, err := h.open(n, note); err == nil {
			s.now = h.version(head, note)
		} else {
			h.server.log.Warn("dropping a head kept from before", "op", "head", "store", h.stor.name, "tree", n.String(), "err", err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if other, ok := h.trees[n]; ok {
		return other
	}
	if len(h.trees) >= maxHeads {
		for other := range h.trees {
			delete(h.trees, other)
			break
		}
	}
	h.trees[n] = s
	return s
}

// open reads a note that should be the head of the tree n.
func (h *heads) open(n object.TreeName, note []byte) (*object.Head, error) {
	head, err := object.OpenHeadOf(n, note, h.stor.keys)
	if err != nil {
		return nil, fmt.Errorf("head of %v: %w", n, err)
	}
	return head, nil
}

// newest returns a tree at its newest head, for its platform or, where there is
// none, for any.
func (h *heads) newest(ctx context.Context, n object.TreeName, mode fetchMode, age time.Duration) (*version, error) {
	v, err := h.exact(ctx, n, mode, "", age)
	if err == nil || n.Platform == "" {
		return v, err
	}
	anywhere := n
	anywhere.Platform = ""
	if errors.Is(err, tier.ErrAbsent) {
		return h.exact(ctx, anywhere, mode, "", age)
	}
	// Without the store, which of the two there is, is known from before.
	if v, e := h.exact(ctx, anywhere, fetchNever, "", age); e == nil {
		return v, nil
	}
	return nil, err
}

// exact returns one tree at its newest head. One older than age is looked at
// anew: behind the answer at first, before it if it is stale. Where the store
// can't be asked the head that is here has to do.
func (h *heads) exact(ctx context.Context, n object.TreeName, mode fetchMode, via string, age time.Duration) (*version, error) {
	s := h.state(ctx, n)
	s.mu.Lock()
	now, since := s.now, time.Since(s.asked)
	absent := errors.Is(s.err, tier.ErrAbsent)
	switch {
	case mode == fetchNever && now != nil, !s.asked.IsZero() && since < age && (now != nil || absent):
		err := s.err
		s.mu.Unlock()
		if now == nil {
			return nil, err
		}
		return now, nil
	case mode == fetchNever:
		s.mu.Unlock()
		return nil, fmt.Errorf("head of %v: %w: it is not here", n, tier.ErrAbsent)
	}
	f := h.join(s, mode != fetchPass, via)
	s.mu.Unlock()
	if now != nil && since < stale*age {
		return now, nil
	}
	var enough <-chan time.Time
	if now != nil {
		enough = time.After(kindness)
	}
	select {
	case <-f.done:
	case <-enough:
		return now, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("head of %v: %w", n, tier.Unavailable(context.Cause(ctx)))
	}
	if f.err != nil && now != nil && !errors.Is(f.err, tier.ErrAbsent) {
		return now, nil
	}
	return f.v, f.err
}

// join takes part in the request for a head, or begins it. s.mu is held.
func (h *heads) join(s *headState, keep bool, via string) *headFlight {
	f, since := s.flight, s.now
	// As for blobs, but those that came through a cache share with nobody.
	alone := via != "" && !h.stor.source.static.Load()
	if f == nil || alone {
		f = &headFlight{done: make(chan struct{})}
		if !alone {
			s.flight = f
		}
		h.server.work.Go(func() { h.ask(s, f, since, via) })
	}
	f.keep = f.keep || keep
	return f
}

// ask asks the store for a head and ends the flight.
func (h *heads) ask(s *headState, f *headFlight, since *version, via string) {
	ctx, cancel := context.WithTimeout(h.server.life, h.server.opts.Config.Stor.Timeout)
	defer cancel()
	h.stor.used.Store(time.Now().Unix())
	began := time.Now()
	v, err := h.get(ctx, s.name, since, via)
	h.stor.trouble.note(classify(ctx, err), "head of "+s.name.String(), time.Since(began), err)

	s.mu.Lock()
	if s.flight == f {
		s.flight = nil
	}
	f.v, f.err = v, err
	close(f.done)
	keep := f.keep
	if keep {
		s.asked, s.err = time.Now(), err
	}
	switch {
	case keep && err == nil:
		s.now = v
	case keep && errors.Is(err, tier.ErrAbsent):
		s.now = nil // it was taken away
	}
	s.mu.Unlock()
	if keep && err == nil && v != since {
		h.keepNote(v, since)
	}
}

// get asks for a head newer than since, which is returned if there is none.
func (h *heads) get(ctx context.Context, n object.TreeName, since *version, via string) (*version, error) {
	var had []byte
	if since != nil {
		had = since.note
	}
	note, err := h.stor.source.head(ctx, n, had, via)
	if err != nil {
		return nil, err
	}
	if since != nil && bytes.Equal(note, had) {
		return since, nil
	}
	head, err := h.open(n, note)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tier.ErrCorrupt, err)
	}
	if since != nil && head.Serial < since.head.Serial {
		return nil, fmt.Errorf("head of %v: %w: serial %d, had %d: %w", n, tier.ErrCorrupt, head.Serial, since.head.Serial, tree.ErrOlder)
	}
	if len(h.stor.keys) > 0 && since != nil && head.Serial == since.head.Serial && head.Text() != since.head.Text() {
		return nil, fmt.Errorf("head of %v: %w: serial %d: %w", n, tier.ErrCorrupt, head.Serial, tree.ErrAnother)
	}
	return h.version(head, note), nil
}

// keepNote keeps a new head for the next start and, where everybody may read it,
// puts it where others look. The listings of the one before go from there: they
// would pile up.
func (h *heads) keepNote(v, before *version) {
	ctx, data, n := h.server.life, h.server.opts.Data, v.head.Tree
	err := data.PutValue(ctx, headsTable, h.keptKey(n), v.note)
	err = errors.Join(err, h.server.marks.unlessPrivate(h.stor.id, func() (err error) {
		if before != nil && before.head.Root != v.head.Root {
			err = data.DropTree(ctx, n)
		}
		return errors.Join(err, data.PutHead(ctx, n, v.note))
	}))
	if err != nil && ctx.Err() == nil {
		h.server.log.Warn("can't keep a head", "op", "head", "store", h.stor.name, "tree", n.String(), "err", err)
	}
}

// maxPut bounds version.put.
const maxPut = 1 << 16

// first tells whether a directory's listing was not put into the data yet. It is
// taken to be from now on.
func (v *version) first(dir string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.put[dir] || len(v.put) >= maxPut {
		return false
	}
	v.put[dir] = true
	return true
}

// blobsHere is the objects of a store's trees that the cache has.
type blobsHere struct {
	server *Server
	stor   *stor
}

// Copy returns a blob, plain.
func (b blobsHere) Copy(ctx context.Context, ref tier.Ref) ([]byte, error) {
	h, err := b.server.kept.get(ctx, ref.Domain, ref.Digest, shelf{id: b.stor.id}.mine)
	if err != nil {
		return nil, fmt.Errorf("get %v: %w", ref, err)
	}
	return b.server.unpack(ref, h.Blob)
}

// blobsFrom is the objects of a store's trees, fetched where they are not here.
type blobsFrom struct {
	server *Server
	stor   *stor
	keep   bool
}

// Copy returns a blob, plain.
func (b blobsFrom) Copy(ctx context.Context, ref tier.Ref) ([]byte, error) {
	stored, err := b.server.fetchFrom(ctx, b.stor, "", ref, b.keep, nil)
	if err != nil {
		return nil, err
	}
	return b.server.unpack(ref, stored)
}

// unpack makes a blob plain, in memory of its own, and releases it.
func (s *Server) unpack(ref tier.Ref, b tier.Blob) ([]byte, error) {
	defer b.Release()
	plain, err := s.codec.Unpack(ref.Digest, b.Data, s.limit)
	if err != nil {
		return nil, fmt.Errorf("unpack %v: %w", ref, err)
	}
	if len(plain) > 0 && &plain[0] == &b.Data[0] {
		return bytes.Clone(plain), nil
	}
	return plain, nil
}
