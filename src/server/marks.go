package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/aysfs/aysfs/src/object"
)

// marks is which stores are private, also those that the cache doesn't know just
// now: what was had from one is still there, and must not be anybody's because
// somebody tells of the store anew and says nothing of credentials.
type marks struct {
	mu  sync.Mutex
	ids map[storeID]bool // GUARDED_BY(mu); whether nobody else sees any of its trees any more

	// puts is held for reading while something is put where everybody sees it.
	puts sync.RWMutex
}

// marksTable has the ids of private stores, in hex, and their names. Without a name
// some of its trees may still be where others see them.
const marksTable = "private"

func (s *Server) loadMarks(ctx context.Context) error {
	rows, err := s.opts.Data.Values(ctx, marksTable)
	if err != nil {
		return fmt.Errorf("read which stores are private: %w", err)
	}
	s.marks.ids = make(map[storeID]bool)
	for key, name := range rows {
		if id, ok := parseStoreID(key); ok {
			s.marks.ids[id] = len(name) > 0
		}
	}
	return nil
}

func (m *marks) has(id storeID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.ids[id]
	return ok
}

// unlessPrivate puts something of a store's where everybody sees it, unless the store
// is private by now.
func (m *marks) unlessPrivate(id storeID, put func() error) error {
	m.puts.RLock()
	defer m.puts.RUnlock()
	if m.has(id) {
		return nil
	}
	return put()
}

// add marks a store, and tells whether nobody else sees any of its trees any more. What
// is being put has been put when it returns.
func (m *marks) add(id storeID) (hidden bool) {
	m.mu.Lock()
	hidden = m.ids[id]
	m.mu.Unlock()
	if hidden {
		return true
	}
	m.puts.Lock()
	defer m.puts.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	hidden = m.ids[id]
	m.ids[id] = hidden
	return hidden
}

// hide makes a store private, for good. What others see of its trees goes; where that
// fails, the next hide goes on with it.
func (s *Server) hide(ctx context.Context, st *stor) error {
	st.private.Store(true)
	if s.marks.add(st.id) {
		return nil
	}
	key := st.id.String()
	if err := s.opts.Data.PutValue(ctx, marksTable, key, []byte{}); err != nil {
		return fmt.Errorf("remember that store %s is private: %w", st.name, err)
	}
	if err := s.dropTrees(ctx, st); err != nil {
		return err
	}
	if err := s.opts.Data.PutValue(ctx, marksTable, key, []byte(st.name)); err != nil {
		return fmt.Errorf("remember that the trees of store %s are hidden: %w", st.name, err)
	}
	s.marks.mu.Lock()
	s.marks.ids[st.id] = true
	s.marks.mu.Unlock()
	return nil
}

// show makes a private store public if nobody has credentials for it any more and
// it answers without.
func (s *Server) show(ctx context.Context, st *stor) error {
	st.mu.Lock()
	grants := len(st.grants)
	st.mu.Unlock()
	if grants > 0 || !st.private.Load() {
		return nil
	}
	if err := s.try(ctx, st, "", ""); err != nil {
		return err
	}
	if err := s.opts.Data.DeleteValue(ctx, marksTable, st.id.String()); err != nil {
		return err
	}
	s.marks.mu.Lock()
	delete(s.marks.ids, st.id)
	s.marks.mu.Unlock()
	st.private.Store(false)
	s.log.Info("a store is private no longer: it answers without credentials, and nobody has any", "op", "rights", "store", st.name)
	return nil
}

// names are the trees whose heads were asked for.
func (h *heads) names() []object.TreeName {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.trees))
}
