package bake

import (
	"fmt"
	"net/url"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/rootfs"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/disk"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tree"
)

// fetchMemory is what fetches from one store may hold, in bytes.
const fetchMemory = 64 << 20

// source is a store of the image's config, with what the seed has before it.
type source struct {
	name  string
	store store.Store
	chain *tier.Chain
	heads *tree.Heads
	kept  *keptHeads
}

// openStores opens those stores that a mount is from.
func (b *baker) openStores() error {
	codec, err := object.NewCodec(workers())
	if err != nil {
		return err
	}
	used := make(map[string]bool)
	for _, m := range b.cfg.Mounts {
		used[m.Store] = true
	}
	b.stores = make(map[string]*source)
	for _, s := range b.cfg.Stores {
		if !used[s.Name] {
			continue
		}
		src, err := b.openStore(s, codec)
		if err != nil {
			return fmt.Errorf("store %s: %w", s.Name, err)
		}
		b.stores[s.Name] = src
	}
	return nil
}

func (b *baker) openStore(s config.Store, codec *object.Codec) (*source, error) {
	keys, err := object.ParseKeys(s.Keys)
	if err != nil {
		return nil, err
	}
	cfg := store.Config{
		Name: s.Name, URL: s.URL, Login: s.Login, Secret: s.Secret.Reveal(),
		Timeout: b.cfg.Main.IOTimeout, Version: b.opt.Version,
	}
	if s.CA != "" {
		if cfg.CA, err = rootfs.Path(b.opt.Root, s.CA); err != nil {
			return nil, err
		}
	}
	if s.URL.Scheme == "file" {
		dir, err := rootfs.Path(b.opt.Root, s.URL.Path)
		if err != nil {
			return nil, err
		}
		cfg.URL = &url.URL{Scheme: "file", Path: dir}
	}
	st, err := store.New(cfg)
	if err != nil {
		return nil, err
	}
	kept := &keptHeads{seed: b.seed, notes: make(map[string][]byte)}
	return &source{
		name: s.Name, store: st, kept: kept,
		chain: tier.NewChain(tier.ChainConfig{
			Cache: b.seed, Codec: codec, Timeout: cfg.Timeout, Budget: fetchMemory, Recent: fetchMemory / 4, Log: b.opt.Log.With("store", s.Name),
			Groups: []tier.Group{tier.One(tier.Retry(st, tier.RetryPolicy{Patience: cfg.Timeout}))},
		}),
		heads: &tree.Heads{Store: s.Name, Source: st, Kept: kept, Keys: keys, Log: b.opt.Log},
	}, nil
}

func (s *source) close() {
	s.chain.Close()
	s.store.Close()
}

// note is the head of a tree that was found, and the key that a client looks for it under.
func (s *source) note(name object.TreeName) (key string, note []byte) {
	key = s.heads.Key(name)
	note, _ = s.kept.Head(key)
	return key, note
}

// keptHeads is the heads that were found, and before that those of the last bake.
type keptHeads struct {
	seed  *disk.SeedBuilder
	notes map[string][]byte
}

// Head returns what was found, or what the seed has.
func (k *keptHeads) Head(key string) ([]byte, error) {
	if note, ok := k.notes[key]; ok {
		return note, nil
	}
	return k.seed.Head(key)
}

// PutHead remembers what was found.
func (k *keptHeads) PutHead(key string, note []byte) error {
	k.notes[key] = note
	return nil
}
