package client

import (
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/watch"
)

// loaded is what became of the config's file.
type loaded struct {
	at      time.Time // when the config in force was read
	err     error     // why the file of now is not in force; nil if it is
	refused []string  // keys of it that need a restart
}

// follow reads the config again on each signal and when its files change, until
// the client stops.
func (c *Client) follow(signals <-chan os.Signal) {
	changed := watch.Files(c.life, c.files, c.log)
	c.Reload(false) // it may have changed since it was read
	for {
		select {
		case <-c.life.Done():
			return
		case <-signals:
		case <-changed:
		}
		if c.life.Err() != nil {
			return
		}
		c.Reload(true)
	}
}

// files are those that the config is made of.
func (c *Client) files() []string {
	all := []string{c.file}
	for _, s := range c.config().Stores {
		if s.CA != "" {
			all = append(all, s.CA)
		}
	}
	return all
}

// Reload reads the config again and brings about what differs. What can't be used
// changes nothing. say has it logged even where nothing differs.
func (c *Client) Reload(say bool) {
	cfg, err := config.LoadClient(c.file)
	if err != nil {
		c.unusable(err)
		return
	}
	was := c.config()
	cfg = fit(cfg, was.Main.Memory, c.log)
	cfg, refused := live(was, cfg)
	differs := !reflect.DeepEqual(was, cfg)
	if err := c.apply(was, cfg); err != nil {
		c.unusable(err)
		return
	}
	c.mu.Lock()
	news := !slices.Equal(refused, c.loaded.refused)
	mended := c.loaded.err != nil
	c.loaded.err, c.loaded.refused = nil, refused
	if say || differs {
		c.loaded.at = time.Now()
	}
	c.mu.Unlock()
	if len(refused) > 0 && news {
		c.log.Warn("some of the config can't change while aysfs runs, and stays as it was: restart it", "op", "reload", "keys", strings.Join(refused, ", "))
	}
	switch {
	case differs || mended:
		c.log.Info("config reloaded", "op", "reload")
	case say:
		c.log.Info("config read again: nothing differs", "op", "reload")
	}
	if say || differs {
		c.lookSoon()
	}
}

// unusable notes and logs, once, why the file can't be used.
func (c *Client) unusable(err error) {
	c.mu.Lock()
	level := slog.LevelError
	if c.loaded.err != nil && c.loaded.err.Error() == err.Error() {
		level = slog.LevelDebug
	}
	c.loaded.err = err
	c.mu.Unlock()
	c.log.Log(c.life, level, "the new config can't be used, the old one stays in force", "op", "reload", "err", err)
}

// live returns now with all that can't change while the client runs as it was, and
// the keys that this is about.
func live(was, now *config.Client) (*config.Client, []string) {
	cfg := *now
	var keys []string
	for _, k := range []struct {
		name    string
		differs bool
		keep    func()
	}{
		{"main.id", was.Main.ID != now.Main.ID, func() { cfg.Main.ID = was.Main.ID }},
		{"main.control", was.Main.Control != now.Main.Control, func() { cfg.Main.Control = was.Main.Control }},
		{"main.log", was.Main.Log != now.Main.Log, func() { cfg.Main.Log = was.Main.Log }},
		{"main.xattr", was.Main.Xattr != now.Main.Xattr, func() { cfg.Main.Xattr = was.Main.Xattr }},
		{"cache.disk.max_size", (was.Disk == nil) != (now.Disk == nil), func() { cfg.Disk = was.Disk }}, // on or off
		{"cache.disk.seed", was.Seed.Path != now.Seed.Path, func() { cfg.Seed = was.Seed }},
		{"cache.disk.path", was.Disk != nil && now.Disk != nil && was.Disk.Path != now.Disk.Path, func() {
			d := *now.Disk
			d.Path = was.Disk.Path
			cfg.Disk = &d
		}},
	} {
		if k.differs {
			k.keep()
			keys = append(keys, k.name)
		}
	}
	return &cfg, keys
}

// apply brings about what differs between two configs. Whatever may fail comes
// first: an error means that nothing has changed.
func (c *Client) apply(was, cfg *config.Client) error {
	c.mu.Lock()
	origins, before := c.origins, c.front
	c.mu.Unlock()
	next := newFront(cfg, before, was, c.log)
	chains, err := c.newChains(cfg, origins, next)
	if err == nil && c.cache != nil {
		err = c.cache.SetLimits(diskLimits(cfg))
	}
	if err != nil {
		for _, ch := range chains {
			ch.close()
		}
		c.closeFront(next, before, nil)
		return err
	}
	if c.level != nil {
		c.level.Set(cfg.Main.LogLevel)
	}
	if cfg.Main.Memory != was.Main.Memory {
		limitMemory(cfg.Main.Memory)
		c.metadata.SetLimit(share(cfg.Main.Memory, metadataShare))
	}
	c.metadata.SetStores(len(cfg.Stores))

	c.mu.Lock()
	p := rearrange(c.mounts, cfg.Mounts)
	c.cfg, c.front, c.mounts = cfg, next, p.all
	stores := make(map[string]*origin)
	var old []*chain
	for _, s := range cfg.Stores {
		o := origins[s.Name]
		switch ch := chains[s.Name]; {
		case o == nil:
			o = &origin{name: s.Name, now: ch}
		case ch != nil:
			old = append(old, o.turn(ch))
		}
		stores[s.Name] = o
	}
	c.origins = stores
	for _, m := range p.added {
		c.prepare(m)
	}
	c.mu.Unlock()

	c.pinKnown(p.added) // which may be what goes, mounted in another way
	c.remove(p.gone)
	for _, u := range p.kept {
		c.update(u, cfg)
	}
	for _, m := range p.added {
		c.begin(m)
	}
	for _, ch := range old {
		c.retire(ch)
	}
	for name, o := range origins {
		if stores[name] == nil {
			old = append(old, o.now)
			c.retireOrigin(o)
		}
	}
	c.closeFront(before, next, old)
	for _, g := range next.grid {
		if !slices.Contains(before.grid, g) {
			c.work.Go(func() { c.introduce(g, nil) })
		} else if !reflect.DeepEqual(was, cfg) {
			g.askAgain() // so that it knows of new mounts and stores
		}
	}
	return nil
}

// newChains makes those chains that the config changes, by name of the store.
func (c *Client) newChains(cfg *config.Client, origins map[string]*origin, f front) (map[string]*chain, error) {
	chains := make(map[string]*chain)
	for _, s := range cfg.Stores {
		made := chainConfigOf(cfg, s)
		if o := origins[s.Name]; o != nil {
			ch := o.use()
			same := ch.made.equal(made)
			ch.users.Done()
			if same {
				continue
			}
		}
		ch, err := c.newChain(made, f)
		if err != nil {
			return chains, err
		}
		chains[s.Name] = ch
	}
	return chains, nil
}

// retireOrigin ends a store that the config no longer has, when the last mount
// that reads from it has gone, or the client ends. Calls that still come, as of who
// looks for heads, find it closed.
func (c *Client) retireOrigin(o *origin) { c.whenIdle(&o.mounts, func() { o.now.close() }) }

// newFront is the shared tiers of a config: those of before where the config has
// them unchanged.
func newFront(cfg *config.Client, before front, was *config.Client, log *slog.Logger) front {
	var f front
	if reflect.DeepEqual(was.Local, cfg.Local) && was.Main.Memory == cfg.Main.Memory {
		f.local = before.local
	} else {
		f.local = openLocal(cfg, log)
	}
	for _, g := range cfg.Grid {
		i := slices.IndexFunc(before.grid, func(b *gridCache) bool { return reflect.DeepEqual(b.cfg, g) && !slices.Contains(f.grid, b) })
		if i >= 0 {
			f.grid = append(f.grid, before.grid[i])
		} else {
			f.grid = append(f.grid, newGridCache(g, cfg.Main.IOTimeout))
		}
	}
	return f
}

// closeFront ends what f has and other has not, once the chains that use it have
// been closed.
func (c *Client) closeFront(f, other front, chains []*chain) {
	for _, g := range f.grid {
		if !slices.Contains(other.grid, g) {
			close(g.gone)
		}
	}
	var local []localCache
	for _, l := range f.local {
		if !slices.Contains(other.local, l) {
			local = append(local, l)
		}
	}
	if len(local) == 0 {
		return
	}
	c.work.Go(func() {
		for _, ch := range chains {
			<-ch.closed
		}
		for _, l := range local {
			c.closeLocal(l)
		}
	})
}

// plan is what becomes of the mounts with another config.
type plan struct {
	all   []*mount // outer ones before those in them
	added []*mount
	kept  []update
	gone  []*mount
}

// update is what another config says of a mount that stays.
type update struct {
	mount  *mount
	cfg    config.Mount
	grafts []string
}

// rearrange keeps the mounts that are as they were, those that they lie in
// included, unless somebody else unmounted them, and tells what to do about the others.
func rearrange(before []*mount, cfgs []config.Mount) plan {
	var p plan
	now := make(map[*mount]*mount) // by the one that arrange made
	stays := make(map[*mount]bool)
	for _, m := range arrange(cfgs) {
		outer := now[m.outer]
		i := slices.IndexFunc(before, func(b *mount) bool {
			f, _ := b.showing()
			return sameMount(b.cfg, m.cfg) && b.outer == outer && (f == nil || !over(f) && !f.Gone())
		})
		if i < 0 {
			m.outer, now[m] = outer, m
			p.all, p.added = append(p.all, m), append(p.added, m)
			continue
		}
		now[m] = before[i]
		stays[before[i]] = true
		p.all = append(p.all, before[i])
		p.kept = append(p.kept, update{before[i], m.cfg, m.grafts})
	}
	for _, b := range before {
		if !stays[b] {
			p.gone = append(p.gone, b)
		}
	}
	return p
}

// sameMount tells whether a mount can go on under another config: all that may
// differ are keys that act on one that is there.
func sameMount(a, b config.Mount) bool {
	for _, m := range []*config.Mount{&a, &b} {
		m.DebugFilter, m.Prefetch, m.Wait, m.Config, m.Line = nil, 0, 0, false, 0
	}
	return reflect.DeepEqual(a, b)
}

// remove takes mounts away, inner ones first, and lets those that somebody is in go
// on until they have left.
func (c *Client) remove(gone []*mount) {
	for _, m := range gone {
		m.end()
	}
	for _, m := range slices.Backward(gone) {
		<-m.ended
		if c.detach(m, "reload") {
			c.work.Go(func() { c.await(m, "reload") })
		}
	}
}

// update gives a mount that stays its new config.
func (c *Client) update(u update, cfg *config.Client) {
	m := u.mount
	more := m.progress.full() // the cache may be larger now
	m.mu.Lock()
	more = more || u.cfg.Prefetch > m.cfg.Prefetch
	m.cfg, m.grafts = u.cfg, u.grafts
	m.mu.Unlock()
	m.mounting.Lock() // what is made of the config of before is there then
	if f, _ := m.showing(); f != nil {
		f.SetLimits(cfg.Main.IOTimeout, share(cfg.Main.Memory, windowShare))
		f.SetGuess(c.learns(m))
	}
	m.mounting.Unlock()
	c.refilter(m)
	// A directory that a mount in it needs is made by who mounts there, which
	// tries again; one that none needs any more may stay until the next move. A move
	// under way may wait for the store, which must not hold up a reload.
	if !m.grafted() {
		c.work.Go(func() {
			if err := c.regraft(m.life, m); err != nil && m.life.Err() == nil {
				c.log.Debug("directories for other mounts are not as they should be yet", "op", "reload", "mount", m.path, "err", err)
			}
		})
	}
	if more {
		select {
		case m.moved <- struct{}{}:
		default:
		}
	}
}
