package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
)

// askedAnew is how old a head may be for a request that says no-cache, as other
// caches and clients do that look for a newer one.
const askedAnew = time.Second

// getHead answers GET /md/<tree>/head as a store would, with the head of the
// first store that has the tree. One that can't be asked stands in the way of
// those behind it if the operator put it before them: what has a tree's name
// there must not be taken for it.
func (s *Server) getHead(c *call) {
	age := s.opts.Config.Stor.Refresh
	if strings.Contains(c.r.Header.Get("Cache-Control"), "no-cache") {
		age = min(age, askedAnew)
	}
	v, err := s.head(c.r.Context(), c.asker, c.tree, c.fetch.first(), age)
	if err != nil && c.fetch == fetchBehind {
		c.started(s.later(behindKey{c.tree.Dir(), c.asker.key()}, func(ctx context.Context) {
			_, _ = s.head(ctx, c.asker, c.tree, fetchKeep, age)
		}))
		return
	}
	if err != nil {
		c.nothing(err)
		return
	}
	c.sendNewest("text/plain; charset=utf-8", v.note)
}

func (s *Server) head(ctx context.Context, who asker, n object.TreeName, mode fetchMode, age time.Duration) (*version, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Config.Stor.Timeout)
	defer cancel()
	var failed error
	for _, st := range s.stores.now.Load().ordered {
		if !who.may(st) || !st.is(who.hint) {
			continue
		}
		old := age
		if st.name == object.PublishedStore {
			old = 0 // a look at a file, which somebody may have replaced here
		}
		v, err := st.heads.exact(ctx, n, mode, who.via, old)
		switch {
		case err == nil:
			return v, nil
		case errors.Is(err, tier.ErrAbsent), errors.Is(err, store.ErrLoop):
		case st.configured:
			return nil, err
		default:
			failed = err
		}
	}
	if failed != nil {
		return nil, failed
	}
	return nil, fmt.Errorf("head of %v: %w: no store has it", n, tier.ErrAbsent)
}

// treeList is the trees of one store.
type treeList struct {
	turn  *semaphore.Weighted // 1: one caller asks, others wait for it
	mu    sync.Mutex
	trees []object.TreeName // GUARDED_BY(mu)
	asked time.Time         // GUARDED_BY(mu)
}

func (l *treeList) now() ([]object.TreeName, time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trees, l.asked
}

// get returns the trees, asked for anew if they are older than age.
func (l *treeList) get(ctx context.Context, st *stor, age time.Duration, via string) ([]object.TreeName, error) {
	if trees, asked := l.now(); time.Since(asked) < age {
		return trees, nil
	}
	if via != "" && !st.source.static.Load() {
		// Whoever has the turn may be waiting for this answer.
		if !l.turn.TryAcquire(1) {
			trees, _ := l.now()
			return trees, nil
		}
	} else if err := l.turn.Acquire(ctx, 1); err != nil {
		return nil, tier.Unavailable(err)
	}
	defer l.turn.Release(1)
	old, asked := l.now()
	if time.Since(asked) < age {
		return old, nil
	}
	trees, err := st.source.trees(ctx, via)
	if err != nil && !errors.Is(err, tier.ErrAbsent) {
		return old, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trees, l.asked = trees, time.Now()
	return trees, nil
}

// getTrees answers GET /md/trees as a store would, with the trees of all stores
// that may be read. It fails only if none could be asked.
func (s *Server) getTrees(c *call) {
	ctx, cancel := context.WithTimeout(c.r.Context(), s.opts.Config.Stor.Timeout)
	defer cancel()
	names := make(map[string]bool)
	answered := false
	var failed error
	for _, st := range s.stores.now.Load().ordered {
		if !c.asker.may(st) || !st.is(c.hint) || c.fetch == fetchNever {
			continue
		}
		trees, err := st.trees.get(ctx, st, s.opts.Config.Stor.Refresh, c.via)
		if err != nil && !errors.Is(err, store.ErrLoop) {
			failed = err
		} else {
			answered = true
		}
		for _, n := range trees {
			names[n.Dir()] = true
		}
	}
	if failed != nil && !answered && len(names) == 0 {
		c.nothing(failed)
		return
	}
	var body bytes.Buffer
	for _, dir := range slices.Sorted(maps.Keys(names)) {
		body.WriteString(dir + "\n")
	}
	c.sendNewest("text/plain; charset=utf-8", body.Bytes())
}
