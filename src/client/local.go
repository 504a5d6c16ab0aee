package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/ledis"
)

// localCache is a ledis on this host.
type localCache struct {
	*ledis.Tier

	passwd bool // nobody gets at it without
}

// openLocal makes the tiers of [[cache.local]]. They connect when they are asked.
func openLocal(cfg *config.Client, log *slog.Logger) (all []localCache) {
	n := int64(len(cfg.Local))
	for _, l := range cfg.Local {
		t := ledis.Config{
			Name: "local", Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Port)), Passwd: l.Passwd.Reveal(),
			Expiration: l.Expiration, Queue: max(share(cfg.Main.Memory, localShare)/n, 2*object.MaxBlob), Log: log,
		}
		if n > 1 {
			t.Name += fmt.Sprintf(" %d", l.Port)
		}
		all = append(all, localCache{ledis.New(t), l.Passwd.Reveal() != ""})
	}
	return all
}

// localFor are the local caches that hold blobs of a store, each in a group of
// its own. A directory on this machine needs none, and what a store gives for
// credentials only doesn't lie where anybody can read it.
func localFor(s config.Store, all []localCache, log *slog.Logger) (caches []localCache, groups []tier.Group) {
	if s.URL.Scheme == "file" {
		return nil, nil
	}
	for _, l := range all {
		if s.Login != "" && !l.passwd {
			log.Info("not used for a store with a login: it has no passwd", "op", "start", "tier", l.Name(), "store", s.Name)
			continue
		}
		caches = append(caches, l)
		groups = append(groups, tier.Group{Sources: []tier.Source{l}, Fill: l.Fill})
	}
	return caches, groups
}

// localHeads keeps the heads of one store in local caches.
type localHeads struct {
	caches []localCache
	store  string // its URL
	life   context.Context
	log    *slog.Logger
}

// Head returns the first there is. Each cache bounds how long it takes.
func (h localHeads) Head(tree object.TreeName) ([]byte, error) {
	var failed []error
	for _, l := range h.caches {
		note, err := l.Head(h.life, h.store, tree)
		if err == nil {
			return note, nil
		}
		if !errors.Is(err, tier.ErrAbsent) {
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return nil, errors.Join(failed...)
	}
	return nil, fmt.Errorf("head of %v in the local caches: %w", tree, tier.ErrAbsent)
}

// PutHead gives the head to all.
func (h localHeads) PutHead(tree object.TreeName, note []byte) {
	for _, l := range h.caches {
		if err := l.PutHead(h.store, tree, note); err != nil {
			h.log.Debug("can't keep a head", "op", "fill", "tier", l.Name(), "tree", tree.String(), "err", err)
		}
	}
}
