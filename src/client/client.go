package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/disk"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tree"
)

// Client is a running client.
type Client struct {
	cfg     *config.Client
	file    string // of the config
	version string
	log     *slog.Logger
	since   time.Time

	cache    *disk.Cache // nil: without
	noCache  string      // why without, if it should be with
	metadata *tree.Cache
	stores   map[string]*chain
	local    []localCache
	grid     []*gridCache
	pins     pins
	control  *control.Server
	mounts   []*mount // outer ones before those in them

	life context.Context // ends when the client stops
	end  context.CancelFunc
	work sync.WaitGroup
}

// chain is one store and the tiers before it.
type chain struct {
	cfg    config.Store
	source store.Store
	grid   []*gridSource
	blobs  *tier.Chain
	heads  *tree.Heads
}

// Shares of [main] memory, in percent.
const (
	metadataShare = 25 // decoded listings and chunk lists
	fetchShare    = 40 // fetches under way, over all stores
	recentShare   = 10 // blobs fetched last, over all stores
	queueShare    = 20 // blobs on their way to the disk cache
	localShare    = 5  // blobs on their way to the local caches, or 2 MiB to each where that is more
	windowShare   = 20 // most that is fetched ahead in one large file
)

// New makes what a client needs and touches nothing but the disk cache.
func New(cfg *config.Client, file, version string, log *slog.Logger) (*Client, error) {
	c := &Client{cfg: cfg, file: file, version: version, log: log, since: time.Now(), stores: make(map[string]*chain)}
	c.life, c.end = context.WithCancel(context.Background())
	limitMemory(cfg.Main.Memory)
	c.metadata = tree.NewCache(share(cfg.Main.Memory, metadataShare))
	c.openCache()
	codec, err := object.NewCodec(max(2, runtime.NumCPU()))
	if err != nil {
		return nil, err
	}
	c.openLocal()
	for _, g := range cfg.Grid {
		c.grid = append(c.grid, newGridCache(g, cfg.Main.IOTimeout))
	}
	for _, s := range cfg.Stores {
		if err := c.addStore(s, codec); err != nil {
			c.Stop()
			return nil, err
		}
	}
	c.unusedKeys()
	c.mounts = arrange(cfg.Mounts)
	return c, nil
}

func share(memory int64, percent int64) int64 { return memory * percent / 100 }

// limitMemory makes the collector work harder rather than let the process grow
// past its bound and what the runtime itself needs.
func limitMemory(memory int64) {
	const runtimeNeeds = 12 << 20
	debug.SetMemoryLimit(memory + runtimeNeeds)
	debug.SetGCPercent(50)
}

// openCache opens the disk cache. Without one the client serves all the same.
func (c *Client) openCache() {
	d := c.cfg.Disk
	if d == nil {
		return
	}
	cache, err := disk.Open(disk.Options{
		Path: d.Path, MaxSize: d.MaxSize, MinFree: d.MinFree.Of, Expiration: d.Expiration,
		Queue: share(c.cfg.Main.Memory, queueShare), Log: c.log,
	})
	if err != nil {
		c.noCache = err.Error()
		c.log.Warn("going on without the disk cache", "op", "start", "err", err)
		return
	}
	cache.SetPinned(c.pins.has)
	c.cache = cache
}

func (c *Client) addStore(s config.Store, codec *object.Codec) error {
	keys, err := object.ParseKeys(s.Keys)
	if err != nil {
		return fmt.Errorf("key of store %s: %w", s.Name, err)
	}
	src, err := store.New(store.Config{
		Name: s.Name, URL: s.URL, Login: s.Login, Secret: s.Secret.Reveal(), CA: s.CA,
		Timeout: c.cfg.Main.IOTimeout, Version: c.version,
	})
	if err != nil {
		return fmt.Errorf("store %s: %w", s.Name, err)
	}
	st := &chain{cfg: s, source: src}
	grid, err := c.gridFor(st)
	if err != nil {
		return err
	}
	caches, local := c.localFor(s)
	n := int64(len(c.cfg.Stores))
	cfg := tier.ChainConfig{
		Groups: append(append(local, grid...), tier.One(tier.Retry(src, tier.RetryPolicy{Patience: c.cfg.Main.IOTimeout}))),
		Codec:  codec, Timeout: c.cfg.Main.IOTimeout, Log: c.log.With("store", s.Name),
		Budget: max(share(c.cfg.Main.Memory, fetchShare)/n, 4<<20),
		Recent: max(share(c.cfg.Main.Memory, recentShare)/n, 2<<20),
	}
	heads := &tree.Heads{Store: s.Name, Source: headChain{st.grid, src}, Keys: keys, Log: c.log}
	if c.cache != nil {
		cfg.Cache, heads.Kept = c.cache, c.cache
	}
	if len(caches) > 0 && len(keys) > 0 {
		heads.Near = localHeads{caches: caches, store: s.URL.String(), life: c.life, log: c.log}
	}
	st.blobs, st.heads = tier.NewChain(cfg), heads
	c.stores[s.Name] = st
	return nil
}

// gridFor is the group of grid caches that a store's blobs are asked from. A
// directory on this machine needs none.
func (c *Client) gridFor(st *chain) ([]tier.Group, error) {
	if len(c.grid) == 0 || st.cfg.URL.Scheme == "file" {
		return nil, nil
	}
	var group tier.Group
	for _, g := range c.grid {
		src, err := g.source(st.cfg, c.cfg.Main.IOTimeout, c.version)
		if err != nil {
			return nil, fmt.Errorf("grid cache %s: %w", g.name, err)
		}
		st.grid = append(st.grid, src)
		group.Sources = append(group.Sources, src)
	}
	return []tier.Group{group}, nil
}

// unusedKeys says plainly which parts of the config this version does not act on.
func (c *Client) unusedKeys() {
	var parts []string
	if slices.ContainsFunc(c.cfg.Mounts, func(m config.Mount) bool { return m.Debug != "" }) {
		parts = append(parts, "debug (its mounts are read-only)")
	}
	if len(parts) > 0 {
		c.log.Warn("this version does not act on some of the config", "op", "start", "keys", strings.Join(parts, ", "))
	}
}

// Start mounts everything. A mount that can't be made is tried again in the
// background; the error is that of the first round if no mount came up and
// waiting won't help.
func (c *Client) Start(ctx context.Context) error {
	srv, err := control.Listen(c.cfg.Main.Control, c.Status, c.log)
	if err != nil {
		c.log.Warn("going on without the control socket", "op", "start", "err", err)
	} else {
		c.control = srv
	}
	c.introduceAll(ctx)
	var wg sync.WaitGroup
	for _, m := range c.mounts {
		first := make(chan error, 1)
		m.first = first
		c.work.Go(func() { c.keep(m) })
		wg.Go(func() {
			select {
			case err := <-first:
				m.firstErr = err
			case <-ctx.Done():
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	var errs []error
	up := 0
	for _, m := range c.mounts {
		switch {
		case m.firstErr == nil:
			up++
		case !errors.Is(m.firstErr, tier.ErrUnavailable):
			errs = append(errs, m.firstErr)
		}
	}
	if up == 0 && len(errs) == len(c.mounts) {
		return errors.Join(errs...)
	}
	return nil
}

// introduceWait is how long the mounts wait for the grid caches to know of them.
const introduceWait = 2 * time.Second

// introduceAll tells all grid caches of this client, so that the first fetches
// find them ready; one that is slow or away is not waited for.
func (c *Client) introduceAll(ctx context.Context) {
	var wg sync.WaitGroup
	for _, g := range c.grid {
		wg.Add(1)
		c.work.Go(func() { c.introduce(g, wg.Done) })
	}
	told := make(chan struct{})
	go func() {
		wg.Wait()
		close(told)
	}()
	select {
	case <-told:
	case <-ctx.Done():
	case <-time.After(introduceWait):
	}
}

// Stop takes all mounts away, inner ones first, and ends everything. What is
// still open in a mount ends with the process.
func (c *Client) Stop() {
	c.end()
	c.work.Wait()
	for _, m := range slices.Backward(c.mounts) {
		m.unmount(c.log)
	}
	if c.control != nil {
		c.control.Close()
	}
	for _, s := range c.stores {
		s.blobs.Close()
		s.source.Close()
		for _, g := range s.grid {
			g.Close()
		}
	}
	for _, l := range c.local {
		if err := l.Close(); err != nil {
			c.log.Debug("close a local cache", "op", "stop", "tier", l.Name(), "err", err)
		}
	}
	if c.cache != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := c.cache.Close(ctx); err != nil {
			c.log.Warn("close the disk cache", "op", "stop", "err", err)
		}
	}
}

// pins are the blobs that the disk cache keeps before all others: what a start
// without network needs.
type pins struct {
	mu   sync.RWMutex
	refs map[tier.Ref]bool
}

func (p *pins) add(ref tier.Ref) {
	ref.Limit = 0
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refs == nil {
		p.refs = make(map[tier.Ref]bool)
	}
	p.refs[ref] = true
}

func (p *pins) has(ref tier.Ref) bool {
	ref.Limit = 0
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.refs[ref]
}

// resident is the process's resident memory, by proc(5), or 0.
func resident() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int64
	fmt.Sscan(string(b), &size, &pages)
	return pages * int64(os.Getpagesize())
}
