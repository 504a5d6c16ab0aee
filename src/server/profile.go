package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/profile"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
)

const (
	// maxProfiles is how many trees' profiles are kept, profileLife how long from when
	// one was last asked for or put.
	maxProfiles = 1000
	profileLife = 30 * 24 * time.Hour
	// mergeEvery is how often a run of a tree counts. Machines that start at the same
	// time mostly say the same.
	mergeEvery = time.Second
	// publishedEvery is how often a store is asked for the profile that was published
	// with a tree, publishedAgain how soon where it did not answer, and publishedWait how
	// long it may take.
	publishedEvery = 10 * time.Minute
	publishedAgain = 10 * time.Second
	publishedWait  = 3 * time.Second
	// maxReading is how many profiles are unpacked for clients at a time: each may
	// take 15 MB meanwhile, and all machines of a grid may start at once.
	maxReading = 2
)

// profiles is what programs need of the stores' trees.
type profiles struct {
	server  *Server
	reading *semaphore.Weighted // maxReading, taken before any lock of a profile

	mu    sync.Mutex
	known map[string]*profileState // GUARDED_BY(mu); at most maxProfiles, by heads.keptKey
}

// profileState is what is known of a tree's profile. The profile is in the data.
type profileState struct {
	used      time.Time // GUARDED_BY(profiles.mu)
	kept      bool      // GUARDED_BY(profiles.mu); there is a row of it in profileTimes
	published time.Time // GUARDED_BY(profiles.mu); of the store's profile that is in this one

	turn   sync.Mutex // held by who changes the profile
	merged time.Time  // GUARDED_BY(turn); when a run last counted

	asking sync.Mutex // held while the store is asked, before turn
	asked  time.Time  // GUARDED_BY(asking); when the store was last asked
	failed error      // GUARDED_BY(asking); why it did not answer then; nil if it did
}

// row is what profileTimes has of a profile. profiles.mu is held.
func (st *profileState) row() []byte {
	b := strconv.AppendInt(nil, st.used.Unix(), 10)
	if st.published.IsZero() {
		return b
	}
	return strconv.AppendInt(append(b, ' '), st.published.Unix(), 10)
}

// fromRow is the state of what row made.
func fromRow(row []byte) *profileState {
	used, published, more := strings.Cut(string(row), " ")
	st := &profileState{kept: true}
	seconds, _ := strconv.ParseInt(used, 10, 64)
	st.used = time.Unix(seconds, 0)
	if seconds, err := strconv.ParseInt(published, 10, 64); more && err == nil {
		st.published = time.Unix(seconds, 0)
	}
	return st
}

// load reads which profiles there are.
func (p *profiles) load(ctx context.Context) error {
	rows, err := p.server.opts.Data.Values(ctx, profileTimes)
	if err != nil {
		return fmt.Errorf("read which profiles there are: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known = make(map[string]*profileState, len(rows))
	for key, row := range rows {
		p.known[key] = fromRow(row)
	}
	return nil
}

// state returns what is known of a profile, which counts as asked for.
func (p *profiles) state(ctx context.Context, key string) *profileState {
	p.mu.Lock()
	st, ok := p.known[key]
	if !ok {
		st = &profileState{}
		p.known[key] = st
	}
	now := time.Now()
	stale := st.kept && now.Sub(st.used) > profileLife/30
	st.used = now
	gone := ""
	if len(p.known) > maxProfiles {
		for k, s := range p.known {
			if k != key && (gone == "" || s.used.Before(p.known[gone].used)) {
				gone = k
			}
		}
		delete(p.known, gone)
	}
	p.mu.Unlock()
	if gone != "" {
		p.drop(ctx, gone)
	}
	if stale {
		p.note(ctx, key, st)
	}
	return st
}

// note remembers when a profile was last asked for, and what of its store's is in it.
func (p *profiles) note(ctx context.Context, key string, st *profileState) {
	p.mu.Lock()
	row := st.row()
	p.mu.Unlock()
	if err := p.server.opts.Data.PutValue(ctx, profileTimes, key, row); err != nil && ctx.Err() == nil {
		p.server.log.Warn("can't remember when a profile was asked for", "op", "profile", "err", err)
	}
}

// drop removes a profile from the data.
func (p *profiles) drop(ctx context.Context, key string) {
	data := p.server.opts.Data
	if err := errors.Join(data.DeleteValue(ctx, profilesTable, key), data.DeleteValue(ctx, profileTimes, key)); err != nil && ctx.Err() == nil {
		p.server.log.Warn("can't forget a profile", "op", "profile", "err", err)
	}
}

// expire forgets the profiles that were last asked for before a time.
func (p *profiles) expire(ctx context.Context, before time.Time) {
	var gone []string
	p.mu.Lock()
	for key, st := range p.known {
		if st.used.Before(before) {
			gone = append(gone, key)
			delete(p.known, key)
		}
	}
	p.mu.Unlock()
	for _, key := range gone {
		p.drop(ctx, key)
	}
}

// here returns the profile that is in the data, or tier.ErrAbsent.
func (p *profiles) here(ctx context.Context, key string) (*profile.Profile, []byte, error) {
	b, err := p.server.opts.Data.Value(ctx, profilesTable, key)
	if err != nil {
		return nil, nil, fmt.Errorf("read a profile: %w", err)
	}
	prof, err := profile.Parse(b)
	if err != nil {
		return nil, nil, fmt.Errorf("read a profile: %w: %w", tier.ErrAbsent, err)
	}
	return prof, b, nil
}

// inTurn waits until a profile may be unpacked. Who is told so calls over.
func (p *profiles) inTurn(ctx context.Context) (over func(), err error) {
	if err := p.reading.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("wait to read a profile: %w", err)
	}
	return func() { p.reading.Release(1) }, nil
}

// put keeps a profile. The state's turn is held.
func (p *profiles) put(ctx context.Context, key string, st *profileState, prof *profile.Profile) ([]byte, error) {
	b, err := prof.Encode()
	if err != nil {
		return nil, err
	}
	if err := p.server.opts.Data.PutValue(ctx, profilesTable, key, b); err != nil {
		return nil, fmt.Errorf("keep a profile: %w", err)
	}
	p.mu.Lock()
	st.used, st.kept = time.Now(), true
	p.mu.Unlock()
	p.note(ctx, key, st)
	return b, nil
}

// get returns the profile of a store's tree. Unless it is fetchNever the store is
// asked for the one that it has, now and then.
func (p *profiles) get(ctx context.Context, from *stor, tree object.TreeName, mode fetchMode, via string) ([]byte, error) {
	key := from.heads.keptKey(tree)
	st := p.state(ctx, key)
	over, err := p.inTurn(ctx)
	if err != nil {
		return nil, err
	}
	prof, b, err := p.here(ctx, key)
	over()
	if err != nil && !errors.Is(err, tier.ErrAbsent) || mode == fetchNever {
		return b, err
	}
	if prof != nil {
		p.server.later(behindKey{"profile " + key, via}, func(ctx context.Context) {
			_, _ = p.published(ctx, from, tree, via, key, st)
		})
		return b, nil
	}
	return p.published(ctx, from, tree, via, key, st)
}

// published asks a store for the profile of its tree, unless it was asked not long
// ago, and returns what is here then.
func (p *profiles) published(ctx context.Context, from *stor, tree object.TreeName, via, key string, st *profileState) ([]byte, error) {
	st.asking.Lock()
	defer st.asking.Unlock()
	every := publishedEvery
	switch {
	case st.failed != nil:
		every = publishedAgain
	case from.name == object.PublishedStore:
		every = 0
	}
	if time.Since(st.asked) >= every {
		theirs, err := p.ask(ctx, from, tree, via)
		if err != nil && ctx.Err() != nil {
			return nil, worst(err) // nobody waits for it any more
		}
		st.asked, st.failed = time.Now(), nil
		if err == nil {
			return p.mergePublished(ctx, from, tree, key, st, theirs)
		}
		if !errors.Is(err, tier.ErrAbsent) && !errors.Is(err, store.ErrLoop) {
			st.failed = worst(err)
		}
	}
	_, b, err := p.here(ctx, key)
	if err != nil && st.failed != nil {
		return nil, st.failed
	}
	return b, err
}

// ask asks a store for the profile of its tree.
func (p *profiles) ask(ctx context.Context, from *stor, tree object.TreeName, via string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, publishedWait)
	defer cancel()
	return from.source.profile(ctx, tree, via)
}

// mergePublished merges what a store has for a profile into the one that is here,
// unless that was done before, and returns what is here then.
func (p *profiles) mergePublished(ctx context.Context, from *stor, tree object.TreeName, key string, st *profileState, theirs []byte) ([]byte, error) {
	st.turn.Lock()
	defer st.turn.Unlock()
	prof, b, hereErr := p.here(ctx, key)
	other, err := profile.Parse(theirs)
	now := time.Now()
	p.mu.Lock()
	news := other != nil && other.Time.After(st.published) && !other.Time.After(now)
	p.mu.Unlock()
	switch {
	case err != nil:
		p.server.log.Warn("a store has something else for a profile", "op", "profile", "store", from.name, "tree", tree.String(), "err", err)
		return b, hereErr
	case prof == nil:
	case !news:
		return b, nil
	}
	other = other.NotAfter(now)
	published := func(at time.Time) (before time.Time) {
		p.mu.Lock()
		defer p.mu.Unlock()
		before, st.published = st.published, at
		return before
	}
	before := published(other.Time) // put notes it, too
	if prof != nil {
		other = profile.Merge(prof, other)
	}
	if b, err = p.put(ctx, key, st, other); err != nil {
		published(before)
	}
	return b, err
}

// take merges a run into the profile of a store's tree. It is joined with the last one
// if that was only just taken, and does not count then.
func (p *profiles) take(ctx context.Context, from *stor, tree object.TreeName, run *profile.Profile) (counts bool, err error) {
	key := from.heads.keptKey(tree)
	st := p.state(ctx, key)
	st.turn.Lock()
	defer st.turn.Unlock()
	before, _, err := p.here(ctx, key)
	if err != nil && !errors.Is(err, tier.ErrAbsent) {
		return false, err
	}
	if before != nil && time.Since(st.merged) < mergeEvery {
		if joined := profile.Join(before, run); joined != before {
			_, err = p.put(ctx, key, st, joined)
		}
		return false, err
	}
	if _, err := p.put(ctx, key, st, profile.Merge(before, run).NotAfter(time.Now())); err != nil {
		return false, err
	}
	st.merged = time.Now()
	return true, nil
}

// profileOf finds the tree that a request about a mount's profile is about, for who may read
// its store.
func (s *Server) profileOf(c *call) (*stor, object.TreeName, error) {
	st, m, err := s.mountOf(c)
	if err != nil {
		return nil, m.Tree, err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), s.opts.Config.Stor.Timeout)
	defer cancel()
	v, err := st.heads.newest(ctx, m.Tree, c.fetch.first(), s.opts.Config.Stor.Refresh)
	if err != nil {
		return nil, m.Tree, err
	}
	return st, v.head.Tree, nil
}

// getProfile answers GET /ays/profile/<client>/<mount>.
func (s *Server) getProfile(c *call) {
	st, tree, err := s.profileOf(c)
	if err != nil {
		c.nothing(err)
		return
	}
	b, err := s.profiles.get(c.r.Context(), st, tree, c.fetch.first(), c.via)
	if err != nil {
		c.nothing(err)
		return
	}
	c.sendNewest("application/octet-stream", b)
}

// postProfile answers POST /ays/profile/<client>/<mount>: what one run needed.
func (s *Server) postProfile(c *call) {
	b, ok := c.body()
	if !ok {
		return
	}
	st, tree, err := s.profileOf(c)
	if err != nil {
		c.nothing(err)
		return
	}
	over, err := s.profiles.inTurn(c.r.Context())
	if err != nil {
		c.nothing(err)
		return
	}
	defer over()
	run, err := profile.Parse(b)
	if err != nil {
		c.wrong(http.StatusBadRequest, err.Error())
		return
	}
	counts, err := s.profiles.take(c.r.Context(), st, tree, run)
	if err != nil {
		s.forgot(c, err)
		return
	}
	c.reply(map[string]any{"tree": tree.String(), "needs": len(run.Needs), "counts": counts})
}

// getTreeProfile answers GET /md/<tree>/profile.
func (s *Server) getTreeProfile(c *call) {
	err := fmt.Errorf("profile of %v: %w", c.tree, tier.ErrAbsent)
	for _, st := range s.stores.now.Load().ordered {
		if !c.asker.may(st) || !st.is(c.hint) {
			continue
		}
		if _, err := st.heads.exact(c.r.Context(), c.tree, fetchNever, c.via, 0); err != nil && st.name != object.PublishedStore {
			continue // nobody who may read it asked for such a tree
		}
		b, e := s.profiles.get(c.r.Context(), st, c.tree, c.fetch, c.via)
		if e == nil {
			c.sendNewest("application/octet-stream", b)
			return
		}
		if !errors.Is(e, tier.ErrAbsent) {
			err = e
		}
	}
	c.nothing(err)
}
