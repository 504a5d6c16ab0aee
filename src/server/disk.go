package server

import (
	"context"
	"slices"
	"strings"
	"time"
)

// privateDomains is what those domains are called together that no store has
// which the asker may read.
const privateDomains = "(private)"

// usage is what domains take on disk, as far as who may know their names.
func (s *Server) usage(who rights) []Usage {
	if s.opts.Disk == nil {
		return nil
	}
	list := s.stores.now.Load().ordered
	var shown []Usage
	hidden := Usage{Domain: privateDomains}
	for _, u := range s.opts.Disk.Usage() {
		if who.all || slices.ContainsFunc(list, func(st *stor) bool { return who.may(st) && st.has(u.Domain) }) {
			shown = append(shown, u)
			continue
		}
		hidden.Blobs += u.Blobs
		hidden.Bytes += u.Bytes
	}
	slices.SortFunc(shown, func(a, b Usage) int { return strings.Compare(a.Domain, b.Domain) })
	if hidden.Blobs > 0 || hidden.Bytes > 0 {
		shown = append(shown, hidden)
	}
	return shown
}

// expiration is how long blobs of a domain are kept after they were last fetched:
// the longest that any store with the domain wants; 0 is for ever. Where no store
// is known to have it nobody said that they may go.
func (s *Server) expiration(domain string) time.Duration {
	var longest time.Duration
	found := false
	for _, st := range s.stores.now.Load().ordered {
		if !st.has(domain) {
			continue
		}
		st.mu.Lock()
		e := st.expiration
		st.mu.Unlock()
		if !found {
			longest = e
		}
		found, longest = true, longer(longest, e)
	}
	return longest
}

// expire lets go of blobs that nobody asked for in their time.
func (s *Server) expire(ctx context.Context) {
	if s.opts.Disk == nil {
		return
	}
	for _, u := range s.opts.Disk.Usage() {
		e := s.expiration(u.Domain)
		if e == 0 {
			continue
		}
		freed, err := s.opts.Disk.Expire(ctx, u.Domain, time.Now().Add(-e))
		if err != nil && ctx.Err() == nil {
			s.log.Warn("let go of what expired", "op", "expire", "domain", u.Domain, "err", err)
		} else if freed > 0 {
			s.log.Info("let go of what expired", "op", "expire", "domain", u.Domain, "bytes", freed)
		}
	}
}
