package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"sync"

	"github.com/aysfs/aysfs/src/object"
)

// marks is which stores are private, also those that the cache doesn't know just
// now: what was had from one is still there, and must not be anybody's because
// somebody tells of the store anew and says nothing of credentials.
type marks struct {
	mu  sync.Mutex
	ids map[storeID]bool // GUARDED_BY(mu)
}

// marksTable has the ids of private stores, in hex.
const marksTable = "private"

func (s *Server) loadMarks(ctx context.Context) error {
	rows, err := s.opts.Data.Values(ctx, marksTable)
	if err != nil {
		return fmt.Errorf("read which stores are private: %w", err)
	}
	s.marks.ids = make(map[storeID]bool)
	for key := range rows {
		var id storeID
		if n, err := hex.Decode(id[:], []byte(key)[:min(len(key), 2*len(id))]); err == nil && n == len(id) {
			s.marks.ids[id] = true
		}
	}
	return nil
}

func (m *marks) has(id storeID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ids[id]
}

// hide makes a store private, for good. What others see of its trees goes.
func (s *Server) hide(ctx context.Context, st *stor) error {
	st.private.Store(true)
	s.marks.mu.Lock()
	known := s.marks.ids[st.id]
	s.marks.ids[st.id] = true
	s.marks.mu.Unlock()
	if known {
		return nil
	}
	if err := s.opts.Data.PutValue(ctx, marksTable, hex.EncodeToString(st.id[:]), []byte(st.name)); err != nil {
		s.marks.mu.Lock()
		delete(s.marks.ids, st.id)
		s.marks.mu.Unlock()
		return fmt.Errorf("remember that store %s is private: %w", st.name, err)
	}
	return s.dropTrees(ctx, st)
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
	if err := s.opts.Data.DeleteValue(ctx, marksTable, hex.EncodeToString(st.id[:])); err != nil {
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
	var list []object.TreeName
	for n := range h.trees {
		list = append(list, n)
	}
	return list
}
