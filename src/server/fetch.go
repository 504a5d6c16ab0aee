package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
)

// fetchMode is the fetch=N of a request.
type fetchMode int

const (
	fetchNever  fetchMode = iota // what is here, or nothing
	fetchKeep                    // wait for it and keep it
	fetchBehind                  // begin, and answer at once
	fetchPass                    // wait for it and don't keep it
)

// first is what of it is done before the answer.
func (m fetchMode) first() fetchMode {
	if m == fetchBehind {
		return fetchNever
	}
	return m
}

// asker is who asks for something.
type asker struct {
	rights
	via  string // caches that the request came through
	hint string // the store that it is about, see storHeader; empty: any
}

// find returns a blob that the cache has and who may read.
func (s *Server) find(ctx context.Context, who asker, domain string, d digest.Digest) (held, error) {
	t := s.stores.now.Load()
	return s.kept.get(ctx, domain, d, func(id storeID) (ok, public bool) {
		st := t.byID[id]
		if st == nil {
			return false, false
		}
		return who.may(st), !st.private.Load()
	})
}

// fetch gets a blob from the first store that has it, of those that who may read.
// f, which may be nil, passes it on meanwhile.
func (s *Server) fetch(ctx context.Context, who asker, domain string, d digest.Digest, keep bool, f *flow) (held, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Config.Stor.Timeout)
	defer cancel()
	list := s.stores.now.Load().candidates(who.rights, domain, who.hint)
	ask := func(ctx context.Context, st *stor) (held, error) {
		b, err := s.fetchFrom(ctx, st, who.via, tier.Ref{Domain: domain, Digest: d}, keep, f.from(st))
		if err != nil {
			return held{}, err
		}
		st.seen(domain)
		return fresh(d, b, !st.private.Load()), nil
	}
	return firstOf(ctx, list, hedgeAfter, ask, func(h held) { h.Release() })
}

// fetchFrom gets a blob in stored form from one store. All who want it at the
// time share one request. arriving, if not nil, is called when it begins to
// arrive.
func (s *Server) fetchFrom(ctx context.Context, st *stor, via string, ref tier.Ref, keep bool, arriving func(*tier.Arrival)) (tier.Blob, error) {
	st.used.Store(time.Now().Unix())
	if !st.source.static.Load() {
		// It may be a cache that asks us. Requests that came different ways
		// don't share: they might wait for each other.
		ref.Via = via
	}
	// Nearly all blobs are small, and memory is set aside for what they may have.
	if ref.Limit <= object.MaxBlob {
		ref.Limit = object.MaxBlob
		b, err := st.chain.Follow(ctx, ref, keep, arriving)
		if !errors.Is(err, object.ErrTooLarge) || s.limit <= object.MaxBlob {
			return b, err
		}
		ref.Limit = s.limit
	}
	ref.Limit = min(ref.Limit, s.limit)
	if arriving == nil {
		arriving = func(*tier.Arrival) {} // so that nothing small stands behind it on its connection
	}
	return st.large.Follow(ctx, ref, keep, arriving)
}

// hedgeAfter is how long a store may take before the next one is asked as well.
const hedgeAfter = time.Second

// firstOf asks stores one after the other, the next one when all before have
// failed or the last one takes longer than pause, and returns the first answer.
// Without one it is tier.ErrAbsent if all said so. drop gets what comes too late.
func firstOf[T any](ctx context.Context, list []*stor, pause time.Duration, ask func(context.Context, *stor) (T, error), drop func(T)) (T, error) {
	var none T
	switch len(list) {
	case 0:
		return none, tier.ErrAbsent
	case 1:
		v, err := ask(ctx, list[0])
		return v, worst(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		v   T
		err error
	}
	results := make(chan result, len(list)) // so that nobody is left waiting to tell
	var errs []error
	next, running := 0, 0
	defer func() {
		if running > 0 {
			go func() {
				for range running {
					if r := <-results; r.err == nil {
						drop(r.v)
					}
				}
			}()
		}
	}()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		if next < len(list) {
			st := list[next]
			next, running = next+1, running+1
			go func() {
				v, err := ask(ctx, st)
				results <- result{v, err}
			}()
			timer.Reset(pause)
		}
	wait:
		for {
			select {
			case r := <-results:
				running--
				if r.err == nil {
					return r.v, nil
				}
				errs = append(errs, r.err)
				if running == 0 {
					if next == len(list) || ctx.Err() != nil {
						return none, worst(errs...)
					}
					break wait
				}
			case <-timer.C:
				if next < len(list) {
					break wait
				}
			case <-ctx.Done():
				return none, tier.Unavailable(context.Cause(ctx))
			}
		}
	}
}

// worst is what several stores said together: absent only if all of them did. A
// cache that asks us on the same matter counts as one that did.
func worst(errs ...error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, tier.ErrAbsent) && !errors.Is(err, store.ErrLoop) {
			return err
		}
	}
	if len(errs) == 1 && errs[0] == nil {
		return nil
	}
	return fmt.Errorf("%w: no store has it", tier.ErrAbsent)
}

// behind is what is fetched with nobody waiting.
type behind struct {
	mu    sync.Mutex
	under map[behindKey]bool // GUARDED_BY(mu)
	slots chan struct{}      // of those that run
}

type behindKey struct {
	name string // of what is fetched
	who  string // with whose rights
}

const (
	maxBehind    = 4096 // that run or wait
	behindAtOnce = 32
)

// later has do run with nobody waiting, once for each key at a time. It is false
// where there is too much of it already.
func (s *Server) later(key behindKey, do func(context.Context)) bool {
	b := &s.behind
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.under[key] {
		return true
	}
	if len(b.under) >= maxBehind || s.life.Err() != nil {
		return false
	}
	b.under[key] = true
	s.work.Go(func() {
		defer func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.under, key)
		}()
		select {
		case b.slots <- struct{}{}:
			defer func() { <-b.slots }()
			do(s.life)
		case <-s.life.Done():
		}
	})
	return true
}

// fetchLater begins to fetch a blob to keep it.
func (s *Server) fetchLater(who asker, domain string, d digest.Digest) bool {
	return s.later(behindKey{domain + "/" + d.String(), who.key()}, func(ctx context.Context) {
		h, err := s.fetch(ctx, who, domain, d, true, nil)
		if err != nil {
			s.log.Debug("fetch behind", "op", "fetch", "domain", domain, "digest", d, "err", err)
			return
		}
		h.Release()
	})
}

// key tells askers apart whose requests may come out differently.
func (a asker) key() string {
	k := a.hint + "\x00" + a.via
	for _, id := range a.stores {
		k += "\x00" + string(id[:])
	}
	return k
}
