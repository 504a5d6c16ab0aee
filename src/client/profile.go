package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/fs"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/profile"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tree"
)

// A recording of a mount's needs begins with the first file that is read. It ends
// when nothing new was needed for recordIdle, or recordMost after it began; with it
// the start of what runs there is over.
const (
	recordIdle = 10 * time.Second
	recordMost = 5 * time.Minute
	recordLook = time.Second // how often that is looked at
)

const (
	// ownLife is for how long a profile that this machine made is all that it asks
	// for, unless another version of the tree was published since.
	ownLife = 24 * time.Hour
	// askAgain is how long those who know of no newer profile are left in peace.
	askAgain = time.Minute
	// profileWait bounds the search for a profile, and each grid cache's part of
	// it; partingWait how long one that is told of a run may take when the mount goes.
	profileWait     = 10 * time.Second
	profileGridWait = 3 * time.Second
	partingWait     = time.Second
)

// needs is what is known, and found out, of what programs need of a mount's tree. The
// profile itself lies in the disk cache.
type needs struct {
	found chan struct{} // closed when a profile was looked for

	mu    sync.Mutex
	known control.Profile    // GUARDED_BY(mu); zero: there is none
	run   *profile.Recording // GUARDED_BY(mu); nil: not recorded
	asked time.Time          // GUARDED_BY(mu); when others were last asked for the profile
}

// mayBeOld tells whether others may know more of what was published at that time than
// the profile that is kept, and were not asked just now. A publisher who tells of needs
// does so for each new version.
func (n *needs) mayBeOld(p *profile.Profile, published time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return (p == nil || p.Time.Before(published)) && time.Since(n.asked) > askAgain
}

// status is what is told of them; nil if there is nothing.
func (n *needs) status() *control.Profile {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.known
	if n.run != nil {
		s.Recording, s.Recorded = true, n.run.Len()
	}
	if s == (control.Profile{}) {
		return nil
	}
	return &s
}

// learned takes note of which profile there is.
func (n *needs) learned(p *profile.Profile, from string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known = control.Profile{From: from, Needs: len(p.Needs), Runs: p.Runs, Time: p.Time}
}

// learns tells whether a mount's needs are recorded and fetched ahead of need. Without
// a disk cache there is no place for either.
func (c *Client) learns(m *mount) bool {
	cfg, _ := m.config()
	return c.cache != nil && cfg.Prefetch >= prefetchKnown
}

// profileKey is where the disk cache has the profile of a mount's tree.
func (m *mount) profileKey() string {
	cfg, _ := m.config()
	ch := m.origin.use()
	defer ch.users.Done()
	return ch.made.Store.URL.String() + " " + treeName(cfg).Dir()
}

// findProfile looks for what programs need of a mount's tree: here, in the grid's
// caches, at the store. It holds up nobody.
func (c *Client) findProfile(m *mount) {
	defer close(m.needs.found)
	if !c.learns(m) {
		return
	}
	if own := c.profile(m); own != nil {
		m.needs.learned(own, "this machine")
		if time.Since(own.Time) < ownLife {
			return
		}
	}
	c.findElsewhere(m)
}

// findElsewhere has what the grid's caches, or the store, know of a mount's needs kept with
// what is known here.
func (c *Client) findElsewhere(m *mount) {
	m.needs.mu.Lock()
	m.needs.asked = time.Now()
	m.needs.mu.Unlock()
	ctx, cancel := context.WithTimeout(m.life, profileWait)
	defer cancel()
	other, from, err := c.askForProfile(ctx, m)
	if err != nil {
		if !errors.Is(err, tier.ErrAbsent) && m.life.Err() == nil {
			c.log.Debug("no profile could be asked for", "op", "profile", "mount", m.path, "err", err)
		}
		return
	}
	c.mergeProfile(m, from, func(own *profile.Profile) *profile.Profile {
		switch now := time.Now(); {
		case own == nil:
			return other.NotAfter(now)
		case other.Newer(own, now):
			return profile.Merge(own, other)
		}
		return nil
	})
}

// profile is what the disk cache has of what programs need of a mount's tree; nil if
// there is nothing.
func (c *Client) profile(m *mount) *profile.Profile {
	b, err := c.cache.Profile(m.profileKey())
	if err != nil {
		return nil
	}
	p, err := profile.Parse(b)
	if err != nil {
		c.log.Warn("a profile in the disk cache can't be read, and is made anew", "op", "profile", "mount", m.path, "err", err)
		return nil
	}
	return p.NotAfter(time.Now())
}

// mergeProfile keeps what merge makes of the profile that is kept, which may be nil;
// nil changes nothing. Mounts of one tree have one profile.
func (c *Client) mergeProfile(m *mount, from string, merge func(own *profile.Profile) *profile.Profile) {
	c.merging.Lock()
	defer c.merging.Unlock()
	own := c.profile(m)
	p := merge(own)
	if p == nil {
		if own != nil { // another mount of the tree was quicker
			m.needs.learned(own, "this machine")
		}
		return
	}
	b, err := p.Encode()
	if err == nil {
		err = c.cache.PutProfile(m.profileKey(), b)
	}
	if err != nil {
		c.log.Debug("a profile is not kept", "op", "profile", "mount", m.path, "err", err)
		return
	}
	m.needs.learned(p, from)
}

// askForProfile asks the grid's caches, or else the store. What is no profile
// counts as absent.
func (c *Client) askForProfile(ctx context.Context, m *mount) (*profile.Profile, string, error) {
	cfg, _ := m.config()
	ch := m.origin.use()
	defer ch.users.Done()
	read := func(from string, b []byte, err error) (*profile.Profile, string, error) {
		if err != nil {
			return nil, "", err
		}
		p, err := profile.Parse(b)
		if err != nil {
			c.log.Warn("what should be a profile can't be read: ays profile record makes another", "op", "profile", "mount", m.path, "tier", from, "err", err)
			return nil, "", fmt.Errorf("%w: %w", tier.ErrAbsent, err)
		}
		return p, from, nil
	}
	for _, g := range ch.grid {
		gctx, cancel := context.WithTimeout(ctx, profileGridWait)
		b, err := g.cache.profile(gctx, c.config().Main.ID, cfg)
		cancel()
		// A cache that has none has asked the store.
		if p, from, err := read(g.Name(), b, err); err == nil || errors.Is(err, tier.ErrAbsent) {
			return p, from, err
		}
	}
	var b []byte
	var err error
	for _, n := range tree.Candidates(treeName(cfg)) {
		if b, err = ch.source.Profile(ctx, n); !errors.Is(err, tier.ErrAbsent) {
			break
		}
	}
	return read(ch.source.Name(), b, err)
}

// bringProfile fetches what programs will need, in the order in which they will.
func (c *Client) bringProfile(m *mount, v *tree.View) error {
	select {
	case <-m.needs.found:
	case <-m.life.Done():
		return nil
	}
	p := c.profile(m)
	if m.needs.mayBeOld(p, v.Head().Time) {
		c.findElsewhere(m)
		p = c.profile(m)
	}
	if p == nil {
		return nil
	}
	// What is needed last is not to drive out what is needed first.
	most := c.cache.Capacity() / 2
	return m.bring(stageProfile, profile.Resolve(tier.InBackground(m.life), p, v.Tree, most), 0, 0)
}

// record takes down what programs need of a mount, and has it kept and told when that
// is known.
func (c *Client) record(m *mount) {
	if !c.learns(m) {
		return
	}
	f, _ := m.showing()
	cfg, _ := m.config()
	began := make(chan struct{})
	m.needs.mu.Lock()
	run := profile.NewRecording()
	m.needs.run = run
	m.needs.mu.Unlock()
	files := 0
	stop := f.Record(func(n fs.Need) {
		m.needs.mu.Lock()
		defer m.needs.mu.Unlock()
		path := cfg.Remote
		if n.Path != "" {
			path = object.Join(path, n.Path)
		}
		switch {
		case n.Dir:
			run.Listing(path)
			return
		case n.Chunked:
			run.Chunk(path, n.Off, n.N)
		default:
			run.File(path, n.Size)
		}
		if files++; files == 1 {
			close(began)
		}
	})
	select {
	case <-began:
		c.awaitIdle(m, run)
	case <-m.life.Done():
	}
	stop()
	m.needs.mu.Lock()
	var p *profile.Profile
	if files > 0 {
		p = run.Profile()
	}
	m.needs.mu.Unlock()
	c.recorded(m, p)
}

// awaitIdle returns when nothing new is needed any more, or the mount is to go.
func (c *Client) awaitIdle(m *mount, run *profile.Recording) {
	start := time.Now()
	look := time.NewTicker(recordLook)
	defer look.Stop()
	for {
		select {
		case <-look.C:
		case <-m.life.Done():
			return
		}
		m.needs.mu.Lock()
		over := run.Full() || time.Since(run.Last()) > recordIdle || time.Since(start) > recordMost
		m.needs.mu.Unlock()
		if over {
			return
		}
	}
}

// recorded keeps what a run needed, with what was known before, and tells the grid's
// caches.
func (c *Client) recorded(m *mount, run *profile.Profile) {
	m.needs.mu.Lock()
	m.needs.run = nil
	m.needs.mu.Unlock()
	if run == nil || !c.learns(m) {
		return
	}
	<-m.needs.found // which ends in time, at the latest with the mount
	c.mergeProfile(m, "this machine", func(own *profile.Profile) *profile.Profile { return profile.Merge(own, run) })
	c.log.Debug("recorded what is needed", "op", "profile", "mount", m.path, "needs", len(run.Needs))
	b, err := run.Encode()
	if err != nil {
		c.log.Warn("a profile can't be told", "op", "profile", "mount", m.path, "err", err)
		return
	}
	cfg, _ := m.config()
	wait := profileWait
	if m.life.Err() != nil {
		wait = partingWait
	}
	ch := m.origin.use()
	defer ch.users.Done()
	var told sync.WaitGroup
	for _, g := range ch.grid {
		told.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), wait)
			defer cancel()
			if err := g.cache.putProfile(ctx, c.config().Main.ID, cfg, b); err != nil {
				c.log.Debug("a grid cache was not told what is needed", "op", "profile", "tier", g.Name(), "mount", m.path, "err", err)
			}
		})
	}
	told.Wait()
}

// profile asks a cache for what programs need of a mount's tree.
func (g *gridCache) profile(ctx context.Context, client string, cfg config.Mount) ([]byte, error) {
	return g.call(ctx, "GET", []string{"ays", "profile", client, cfg.Name}, cfg.Store, "", nil, profile.MaxBytes)
}

// putProfile tells a cache what one run needed of it.
func (g *gridCache) putProfile(ctx context.Context, client string, cfg config.Mount, run []byte) error {
	_, err := g.call(ctx, "POST", []string{"ays", "profile", client, cfg.Name}, cfg.Store, "application/octet-stream", run, maxAnnounced)
	return err
}
