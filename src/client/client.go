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
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/fs"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/disk"
	"github.com/aysfs/aysfs/src/tree"
)

// Options are what a client is made of.
type Options struct {
	Config  *config.Client
	File    string // of the config, to be read again
	Version string
	Log     *slog.Logger
	Level   *slog.LevelVar // of Log

	Predecessor *Predecessor // nil: nothing outlives this process
}

// Client is a running client.
type Client struct {
	file    string // of the config
	version string
	log     *slog.Logger
	level   *slog.LevelVar
	since   time.Time
	left    *Predecessor // nil: nothing outlives this process

	cache    *disk.Cache // nil: without
	noCache  string      // why without, if it should be with
	seed     *disk.Seed  // what came with the machine; nil: nothing did
	heads    *keptHeads
	metadata *tree.Cache
	codec    *object.Codec
	pins     pins
	control  *control.Server
	merging  sync.Mutex    // held by who changes a profile in the disk cache
	looks    chan struct{} // asks for a look at the heads; holds one

	explaining sync.Mutex // held by who explains a path: one at a time

	// What follows from the config. Only a reload changes it, one at a time.
	mu      sync.Mutex
	cfg     *config.Client     // GUARDED_BY(mu); in force
	loaded  loaded             // GUARDED_BY(mu)
	origins map[string]*origin // GUARDED_BY(mu); by name of the store
	front   front              // GUARDED_BY(mu)
	mounts  []*mount           // GUARDED_BY(mu); outer ones before those in them

	detached []*fs.FS // GUARDED_BY(mu); taken away from their paths, and still in use

	life context.Context // ends when the client stops
	end  context.CancelFunc
	work sync.WaitGroup
}

// front is the tiers before the stores that all of them share.
type front struct {
	local []localCache
	grid  []*gridCache
}

// Shares of [main] memory, in percent.
const (
	metadataShare = 25 // listings, indexes and chunk lists, decoded or about to be
	fetchShare    = 40 // fetches under way, over all stores
	recentShare   = 10 // blobs fetched last, over all stores
	queueShare    = 20 // blobs on their way to the disk cache
	localShare    = 5  // blobs on their way to the local caches, or 2 MiB to each where that is more
	windowShare   = 20 // most that is fetched ahead in one large file
)

// New makes what a client needs and touches nothing but the disk cache.
func New(opts Options) (*Client, error) {
	cfg := fit(opts.Config, 0, opts.Log)
	c := &Client{
		cfg: cfg, loaded: loaded{at: time.Now()}, file: opts.File, version: opts.Version, log: opts.Log, level: opts.Level, since: time.Now(), left: opts.Predecessor,
		heads: &keptHeads{}, looks: make(chan struct{}, 1), origins: make(map[string]*origin),
	}
	c.life, c.end = context.WithCancel(context.Background())
	limitMemory(cfg.Main.Memory)
	c.metadata = tree.NewCache(share(cfg.Main.Memory, metadataShare))
	c.metadata.SetStores(len(cfg.Stores))
	c.openCache()
	c.openSeed()
	var err error
	if c.codec, err = object.NewCodec(max(2, runtime.NumCPU())); err != nil {
		return nil, err
	}
	c.front = newFront(cfg, front{}, &config.Client{}, c.log)
	for _, s := range cfg.Stores {
		ch, err := c.newChain(chainConfigOf(cfg, s), c.front)
		if err != nil {
			c.Stop()
			return nil, err
		}
		c.origins[s.Name] = &origin{name: s.Name, now: ch}
	}
	c.mounts = arrange(cfg.Mounts)
	for _, m := range c.mounts {
		c.prepare(m)
	}
	c.pinKnown(c.mounts)
	return c, nil
}

// config is the config in force.
func (c *Client) config() *config.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg
}

func share(memory int64, percent int64) int64 { return memory * percent / 100 }

// limitMemory has the collector keep the heap to what the config allows and the
// runtime itself needs. Within that the heap may become twice what
// is live: with less a cold walk takes a tenth more of the processor, more saves
// nothing. What grows with what the kernel holds or the disk has cached is not in the
// heap: else the collector would run for it all the time.
func limitMemory(memory int64) {
	const runtimeNeeds = 12 << 20
	debug.SetMemoryLimit(memory + runtimeNeeds)
	debug.SetGCPercent(100)
}

// openCache opens the disk cache. Without one the client serves all the same.
func (c *Client) openCache() {
	if c.cfg.Disk == nil {
		return
	}
	l := diskLimits(c.cfg)
	cache, err := disk.Open(disk.Options{
		Path: c.cfg.Disk.Path, MaxSize: l.MaxSize, MinFree: l.MinFree, Expiration: l.Expiration, Queue: l.Queue, Log: c.log,
	})
	if err != nil {
		c.noCache = err.Error()
		c.log.Warn("going on without the disk cache", "op", "start", "err", err)
		return
	}
	cache.SetPinned(c.pins.has)
	c.cache, c.heads.disk = cache, cache
}

// openSeed opens what came with the machine's image. Where the config doesn't ask
// for it, there need not be any.
func (c *Client) openSeed() {
	cfg := c.cfg.Seed
	if cfg.Path == "" {
		return
	}
	seed, err := disk.OpenSeed(cfg.Path, c.log)
	switch {
	case err == nil:
		c.seed = seed
	case cfg.Named || !errors.Is(err, disk.ErrNoSeed):
		c.log.Warn("going on without the seed", "op", "start", "err", err)
	}
}

func diskLimits(cfg *config.Client) disk.Limits {
	d := cfg.Disk
	return disk.Limits{MaxSize: d.MaxSize, MinFree: d.MinFree.Of, Expiration: d.Expiration, Queue: share(cfg.Main.Memory, queueShare)}
}

// Start mounts everything, and keeps to the config from then on: a signal on
// reload, or a change of its file, has it read again. It returns when each mount is
// there or has waited for as long as its config says; what is missing then is
// tried again in the background. The error is that of the first round if no mount
// came up and waiting won't help.
func (c *Client) Start(ctx context.Context, reload <-chan os.Signal) error {
	c.takeOver(ctx)
	srv, err := control.Listen(c.cfg.Main.Control, c.Status, c.Explain, c.log)
	if err != nil {
		c.log.Warn("going on without the control socket", "op", "start", "err", err)
	} else {
		c.control = srv
	}
	c.serving()
	c.introduceAll(ctx)
	var errs []error
	up := 0
	first := slices.Clone(c.mounts)
	for _, m := range first {
		if m.resumed() {
			c.goOn(m)
		} else {
			c.begin(m)
		}
	}
	c.work.Go(func() { c.follow(reload) })
	c.work.Go(c.refresh)
	for _, m := range first {
		select {
		case err := <-m.first:
			switch {
			case err == nil:
				up++
			case m.life.Err() != nil: // another config doesn't have it
			case !errors.Is(err, tier.ErrUnavailable):
				errs = append(errs, err)
			}
		case <-ctx.Done():
			return nil
		}
	}
	if up == 0 && len(errs) == len(first) {
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
	for _, g := range c.front.grid {
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
		if c.detach(m, "stop") {
			c.await(m, "stop")
		}
	}
	if c.control != nil {
		c.control.Close()
	}
	for _, o := range c.origins {
		o.now.close()
	}
	for _, l := range c.front.local {
		c.closeLocal(l)
	}
	if c.cache != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := c.cache.Close(ctx); err != nil {
			c.log.Warn("close the disk cache", "op", "stop", "err", err)
		}
	}
	if c.seed != nil {
		if err := c.seed.Close(); err != nil {
			c.log.Warn("close the seed", "op", "stop", "err", err)
		}
	}
}

func (c *Client) closeLocal(l localCache) {
	if err := l.Close(); err != nil {
		c.log.Debug("close a local cache", "op", "stop", "tier", l.Name(), "err", err)
	}
}

// pins are the blobs that the disk cache keeps before all others: what a start
// without network needs.
type pins struct {
	mu   sync.RWMutex
	refs map[tier.Ref]int // GUARDED_BY(mu); by how many mounts
	all  int              // GUARDED_BY(mu); the sum of these
}

// mostPins is how many blobs all mounts together pin at most: the metadata of hundreds
// of trees of millions of files. What is beyond is kept as other blobs are.
const mostPins = 32 << 10

// add has one more mount pin blobs, and returns how many of them there was room for.
func (p *pins) add(refs []tier.Ref) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refs == nil {
		p.refs = make(map[tier.Ref]int)
	}
	n := min(len(refs), mostPins-p.all)
	for _, ref := range refs[:n] {
		p.refs[pinOf(ref)]++
	}
	p.all += n
	return n
}

// drop has one mount less pin blobs.
func (p *pins) drop(refs []tier.Ref) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ref := range refs {
		if k := pinOf(ref); p.refs[k] > 1 {
			p.refs[k]--
		} else {
			delete(p.refs, k)
		}
	}
	p.all -= len(refs)
}

func pinOf(ref tier.Ref) tier.Ref {
	ref.Limit = 0
	return ref
}

func (p *pins) has(ref tier.Ref) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.refs[pinOf(ref)] > 0
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
