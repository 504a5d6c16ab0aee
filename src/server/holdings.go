package server

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// holdings is which stores' blobs there may be in a domain. Over RESP nobody can
// show credentials for a store, so what counts there is whether any of them is
// private. A domain and a store stay together for good: most of what evicts blobs
// doesn't tell.
type holdings struct {
	data Data

	mu      sync.RWMutex
	domains map[string]map[storeID]bool // GUARDED_BY(mu)
}

// holdingsTable has the id of a store in hex, a blank, and a domain.
const holdingsTable = "holdings"

func (h *holdings) load(ctx context.Context) error {
	rows, err := h.data.Values(ctx, holdingsTable)
	if err != nil {
		return fmt.Errorf("read which stores have which domains: %w", err)
	}
	h.domains = make(map[string]map[storeID]bool)
	for key := range rows {
		text, domain, _ := strings.Cut(key, " ")
		if id, ok := parseStoreID(text); ok {
			h.note(domain, id)
		}
	}
	return nil
}

func (h *holdings) note(domain string, id storeID) {
	if h.domains[domain] == nil {
		h.domains[domain] = make(map[storeID]bool)
	}
	h.domains[domain][id] = true
}

// add is called before a store's blob is put into a domain. It is on disk when it
// returns.
func (h *holdings) add(ctx context.Context, domain string, id storeID) error {
	h.mu.RLock()
	known := h.domains[domain][id]
	h.mu.RUnlock()
	if known {
		return nil
	}
	if err := h.data.PutValue(ctx, holdingsTable, id.String()+" "+domain, nil); err != nil {
		return fmt.Errorf("note that a store has domain %s: %w", domain, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note(domain, id)
	return nil
}

// any tells whether there may be blobs in a domain of a store that is.
func (h *holdings) any(domain string, is func(storeID) bool) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for id := range h.domains[domain] {
		if is(id) {
			return true
		}
	}
	return false
}

// Closed tells whether a domain has, or had, anything from a private store.
func (s *Server) Closed(domain string) bool { return s.kept.holdings.any(domain, s.marks.has) }

// maxTaken bounds the plain bytes of a blob that others put into the data: nobody
// told how much memory that may take.
const maxTaken = 4 * object.MaxBlob

// Check tells what is wrong with a blob in stored form that somebody wants to put
// into a domain.
func (s *Server) Check(domain, hash string, stored []byte) error {
	if err := object.ValidateDomain(domain); err != nil {
		return err
	}
	d, err := digest.Parse(hash)
	if err != nil {
		return fmt.Errorf("the field must be a digest: %w", err)
	}
	s.checking.Lock() // one at a time, for memory's sake
	defer s.checking.Unlock()
	if _, err := s.codec.Unpack(d, stored, maxTaken); err != nil {
		return fmt.Errorf("the value is not what its digest says: %w", err)
	}
	return nil
}

// dropTrees takes a store's trees out of what others see of the data.
func (s *Server) dropTrees(ctx context.Context, st *stor) error {
	kept, err := s.opts.Data.Values(ctx, headsTable)
	if err != nil {
		return fmt.Errorf("read which trees store %s has: %w", st.name, err)
	}
	names := st.heads.names()
	for key := range kept {
		id, dir, _ := strings.Cut(key, " ")
		if n, err := object.ParseTreeDir(dir); err == nil && id == st.id.String() {
			names = append(names, n)
		}
	}
	for _, n := range names {
		if err := s.opts.Data.DropTree(ctx, n); err != nil {
			return fmt.Errorf("drop the tree %v of a private store: %w", n, err)
		}
	}
	return nil
}
