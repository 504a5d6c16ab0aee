package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"os"
	"reflect"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/disk"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tree"
)

// origin is where the bytes of one store's trees come from, for as long as a
// mount uses it. A reload of the config puts another chain behind it, for the next
// call; those under way end with the chain that they began with.
type origin struct {
	name   string
	mounts sync.WaitGroup // that read from it

	mu  sync.RWMutex
	now *chain // GUARDED_BY(mu)
}

// chain is one store and the tiers before it, as one config has them.
type chain struct {
	made   chainConfig
	source store.Store
	grid   []*gridSource
	blobs  *tier.Chain
	seeded *disk.Seeded // nil: there is no seed
	heads  *tree.Heads
	users  sync.WaitGroup // calls under way
	closed chan struct{}

	replaced context.Context // ends when another one is put in its place
	replace  context.CancelFunc
}

// chainConfig is all that makes one chain another.
type chainConfig struct {
	Store          config.Store
	CA             [sha256.Size]byte // digest of the file that Store.CA names
	Local          []config.Local
	Grid           []config.Grid
	IOTimeout      time.Duration
	Memory, Stores int64
}

func chainConfigOf(cfg *config.Client, s config.Store) chainConfig {
	made := chainConfig{
		Store: s, Local: cfg.Local, Grid: cfg.Grid, IOTimeout: cfg.Main.IOTimeout,
		Memory: cfg.Main.Memory, Stores: int64(len(cfg.Stores)),
	}
	if s.CA != "" {
		if pem, err := os.ReadFile(s.CA); err == nil { // who can't read it says so
			made.CA = sha256.Sum256(pem)
		}
	}
	return made
}

func (m chainConfig) equal(o chainConfig) bool { return reflect.DeepEqual(m, o) }

// newChain makes a chain of the tiers in f.
func (c *Client) newChain(made chainConfig, f front) (*chain, error) {
	s := made.Store
	keys, err := object.ParseKeys(s.Keys)
	if err != nil {
		return nil, fmt.Errorf("key of store %s: %w", s.Name, err)
	}
	src, err := store.New(store.Config{
		Name: s.Name, URL: s.URL, Login: s.Login, Secret: s.Secret.Reveal(), CA: s.CA,
		Timeout: made.IOTimeout, Version: c.version, Pipeline: true,
	})
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", s.Name, err)
	}
	ch := &chain{made: made, source: src, closed: make(chan struct{})}
	ch.replaced, ch.replace = context.WithCancel(context.Background())
	grid, err := c.gridFor(ch, f.grid)
	if err != nil {
		src.Close()
		return nil, err
	}
	caches, local := localFor(s, f.local, c.log)
	cfg := tier.ChainConfig{
		Groups: append(append(local, grid...), groupOf(src, made.IOTimeout)),
		Codec:  c.codec, Timeout: made.IOTimeout, Log: c.log.With("store", s.Name),
		Budget: max(share(made.Memory, fetchShare)/made.Stores, 4<<20),
		Recent: max(share(made.Memory, recentShare)/made.Stores, 2<<20),
	}
	heads := &tree.Heads{Store: s.Name, Source: headChain{ch.grid, src}, Kept: c.heads, Keys: keys, Log: c.log}
	switch {
	case c.seed != nil:
		ch.seeded = &disk.Seeded{Cache: c.cache, Seed: c.seed}
		cfg.Cache, heads.Seed = ch.seeded, c.seed
	case c.cache != nil:
		cfg.Cache = c.cache
	}
	if c.cache != nil {
		cfg.Room = c.cache.Room
	}
	if len(caches) > 0 && len(keys) > 0 {
		heads.Near = localHeads{caches: caches, store: s.URL.String(), life: c.life, log: c.log}
	}
	ch.blobs, ch.heads = tier.NewChain(cfg), heads
	return ch, nil
}

// gridFor is the group of grid caches that a store's blobs are asked from. A
// directory on this machine needs none.
func (c *Client) gridFor(ch *chain, caches []*gridCache) ([]tier.Group, error) {
	if len(caches) == 0 || ch.made.Store.URL.Scheme == "file" {
		return nil, nil
	}
	var group tier.Group
	for _, g := range caches {
		src, err := g.source(ch.made.Store, ch.made.IOTimeout, c.version)
		if err != nil {
			return nil, fmt.Errorf("grid cache %s: %w", g.name, err)
		}
		ch.grid = append(ch.grid, src)
		group.Sources = append(group.Sources, src)
	}
	return []tier.Group{group}, nil
}

// groupOf is the group of the store itself.
func groupOf(src store.Store, patience time.Duration) tier.Group {
	retry := tier.Retry(src, tier.RetryPolicy{Patience: patience})
	return tier.Group{Sources: []tier.Source{retry}, Ask: retry.Asking(src.Ask)}
}

func (ch *chain) close() {
	ch.replace()
	ch.blobs.Close()
	ch.source.Close()
	for _, g := range ch.grid {
		g.Close()
	}
	close(ch.closed)
}

// retire closes a chain when the calls under way have ended, or the client ends.
func (c *Client) retire(ch *chain) { c.whenIdle(&ch.users, ch.close) }

// whenIdle calls do when there are no users any more, or the client ends.
func (c *Client) whenIdle(users *sync.WaitGroup, do func()) {
	c.work.Go(func() {
		idle := make(chan struct{})
		go func() {
			users.Wait()
			close(idle)
		}()
		select {
		case <-idle:
		case <-c.life.Done():
		}
		do()
	})
}

// turn puts another chain behind the origin, and returns the one that was there.
func (o *origin) turn(ch *chain) *chain {
	o.mu.Lock()
	defer o.mu.Unlock()
	was := o.now
	o.now = ch
	was.replace()
	return was
}

// use returns the chain of now; users must be told when the call has ended.
func (o *origin) use() *chain {
	o.mu.RLock()
	defer o.mu.RUnlock()
	o.now.users.Add(1)
	return o.now
}

// look looks for the newest head of a tree.
func (o *origin) look(ctx context.Context, name object.TreeName) tree.Found {
	ch := o.use()
	defer ch.users.Done()
	return ch.heads.Look(ctx, name)
}

// Get returns a blob, from wherever it is nearest.
func (o *origin) Get(ctx context.Context, ref tier.Ref) (tier.Blob, error) {
	ch := o.use()
	defer ch.users.Done()
	return ch.blobs.Get(ctx, ref)
}

// Copy is Get for callers that look at the bytes themselves, and don't change them.
func (o *origin) Copy(ctx context.Context, ref tier.Ref) ([]byte, error) {
	ch := o.use()
	defer ch.users.Done()
	return ch.blobs.Copy(ctx, ref)
}

// Local returns n bytes at off of a blob that is on this machine.
func (o *origin) Local(ref tier.Ref, off, n int64) (tier.Blob, bool) {
	ch := o.use()
	defer ch.users.Done()
	return ch.blobs.Local(ref, off, n)
}

// Ready is Local for what is in memory.
func (o *origin) Ready(ref tier.Ref, off, n int64) (tier.Blob, tier.Nearness) {
	ch := o.use()
	defer ch.users.Done()
	return ch.blobs.Ready(ref, off, n)
}

// WillNeed has the disk begin to read a blob that is on this machine.
func (o *origin) WillNeed(ref tier.Ref) bool {
	ch := o.use()
	defer ch.users.Done()
	return ch.blobs.WillNeed(ref)
}

// Has tells whether a blob is on this machine.
func (o *origin) Has(ref tier.Ref) bool {
	ch := o.use()
	defer ch.users.Done()
	return ch.blobs.Has(ref)
}

// Prefetch begins to bring a blob near.
func (o *origin) Prefetch(ref tier.Ref) bool {
	ch := o.use()
	defer ch.users.Done()
	return ch.blobs.Prefetch(ref)
}

// Bring brings blobs near in their order, see tier.Chain. Where the chain is replaced
// meanwhile, the next one goes through refs from the start.
func (o *origin) Bring(ctx context.Context, p tier.Priority, refs iter.Seq[tier.Ref], each func(tier.Ref, error)) error {
	for {
		again, err := o.bringOnce(ctx, p, refs, each)
		if !again || ctx.Err() != nil {
			return err
		}
	}
}

func (o *origin) bringOnce(ctx context.Context, p tier.Priority, refs iter.Seq[tier.Ref], each func(tier.Ref, error)) (again bool, err error) {
	ch := o.use()
	defer ch.users.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ch.replaced, cancel)()
	err = ch.blobs.Bring(ctx, p, refs, each)
	return err != nil && ch.replaced.Err() != nil && !errors.Is(err, tier.ErrClosed), err
}

// Arrived tells whether anything was brought here since then.
func (o *origin) Arrived(since time.Time) bool {
	ch := o.use()
	defer ch.users.Done()
	return ch.blobs.Arrived(since)
}

// Origin names the tier that last gave the blob, or would give it now.
func (o *origin) Origin(ref tier.Ref) string {
	ch := o.use()
	defer ch.users.Done()
	name := ch.blobs.Origin(ref)
	if name == "disk" && ch.seeded != nil {
		return ch.seeded.Name(ref)
	}
	return name
}

// keptHeads keeps the last good head of each tree in memory, and on disk where
// there is a cache: an older one is refused whether or not it could be written.
type keptHeads struct {
	disk tree.HeadStore // nil: without

	mu    sync.Mutex
	notes map[string][]byte // GUARDED_BY(mu)
}

// Head returns what was kept under key, or tier.ErrAbsent.
func (k *keptHeads) Head(key string) ([]byte, error) {
	k.mu.Lock()
	n, ok := k.notes[key]
	k.mu.Unlock()
	switch {
	case ok:
		return n, nil
	case k.disk != nil:
		return k.disk.Head(key)
	}
	return nil, tier.ErrAbsent
}

// PutHead keeps a head.
func (k *keptHeads) PutHead(key string, note []byte) error {
	k.mu.Lock()
	if k.notes == nil {
		k.notes = make(map[string][]byte)
	}
	k.notes[key] = note
	k.mu.Unlock()
	if k.disk == nil {
		return nil
	}
	return k.disk.PutHead(key, note)
}
