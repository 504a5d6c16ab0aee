package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
)

// Headers of requests to a cache: what it gave for credentials that it found to
// work, and which store the request is about. Without the latter it would answer
// for any store that it was told of by anybody.
const (
	tokenHeader = "Aysfs-Token"
	storHeader  = "Aysfs-Stor"
)

// gridCache is one cache of the grid: it is told who we are and what we mount,
// and told again when it was away or no longer knows our rights.
type gridCache struct {
	cfg  config.Grid
	name string
	http http.Client

	again chan struct{} // asks for another announcement; holds one
	gone  chan struct{} // closed once the config does not have it any more

	mu     sync.Mutex
	tokens map[string]string // by name of the store
}

func newGridCache(cfg config.Grid, timeout time.Duration) *gridCache {
	return &gridCache{
		cfg: cfg, name: cfg.URL.Host + cfg.URL.Path, again: make(chan struct{}, 1), gone: make(chan struct{}),
		http: http.Client{
			Timeout: min(timeout, 10*time.Second), CheckRedirect: notElsewhere,
			Transport: &http.Transport{Proxy: nil, IdleConnTimeout: time.Minute},
		},
		tokens: make(map[string]string),
	}
}

// notElsewhere follows no redirect: what a cache is told has the stores' credentials
// in it, and they go to the cache that the config names alone.
func notElsewhere(req *http.Request, _ []*http.Request) error {
	return fmt.Errorf("the cache redirects to %s://%s: set url to where it is", req.URL.Scheme, req.URL.Host)
}

// source asks the cache for the blobs of one store.
func (g *gridCache) source(stor config.Store, timeout time.Duration, version string) (*gridSource, error) {
	s, err := store.New(store.Config{
		Kind: "grid", Name: g.name, URL: g.cfg.URL, Login: g.cfg.Login, Secret: g.cfg.Passwd.Reveal(),
		Timeout: timeout, Version: version, Pipeline: true, Batches: true,
		Asking: func(h http.Header) {
			h.Set(storHeader, stor.URL.String())
			if t := g.token(stor.Name); t != "" {
				h.Set(tokenHeader, t)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return &gridSource{Store: s, cache: g}, nil
}

// gridSource notes when its cache should be told again.
type gridSource struct {
	store.Store
	cache *gridCache
}

// Get asks the cache, which asks the store where it must.
func (s *gridSource) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	b, err := s.Store.Get(ctx, ref)
	if errors.Is(err, tier.ErrUnavailable) || errors.Is(err, tier.ErrDenied) || errors.Is(err, tier.ErrAbsent) && !ref.Here {
		// Also a cache that could have fetched it, and says that there is no such
		// thing, may only have forgotten that we may read it.
		s.cache.askAgain()
	}
	return b, err
}

// askAgain has the cache told again soon.
func (g *gridCache) askAgain() {
	select {
	case g.again <- struct{}{}:
	default:
	}
}

// How often a cache is told: at the least, and between two tries.
const (
	announceEvery = time.Hour
	announceFirst = time.Second
	announceLast  = time.Minute
)

// introduce keeps a cache told until the client stops or the config no longer has
// it. first is called after the first try.
func (c *Client) introduce(g *gridCache, first func()) {
	life, end := context.WithCancel(c.life)
	defer end()
	defer g.http.CloseIdleConnections()
	go func() {
		select {
		case <-g.gone:
			end()
		case <-life.Done():
		}
	}()
	pause := announceFirst
	said := false // the log has that it can't be told
	for {
		ctx, cancel := context.WithTimeout(life, 3*g.http.Timeout)
		err := g.announce(ctx, c.config(), c.version)
		cancel()
		if first != nil {
			first()
			first = nil
		}
		if life.Err() != nil {
			return
		}
		level := slog.LevelDebug
		if err != nil {
			if !said {
				level = slog.LevelWarn
			}
			c.log.Log(life, level, "can't tell a grid cache what is mounted: it is told again until it listens, and done without meanwhile", "op", "announce", "tier", "grid "+g.name, "err", err, "again_in", pause)
		} else {
			if said {
				level = slog.LevelInfo
			}
			c.log.Log(life, level, "told a grid cache what is mounted", "op", "announce", "tier", "grid "+g.name)
		}
		said = err != nil
		// A cache that often fails is told again after growing pauses only.
		select {
		case <-time.After(pause):
		case <-life.Done():
			return
		}
		pause = min(2*pause, announceLast)
		if err != nil {
			continue
		}
		began := time.Now()
		select {
		case <-g.again:
		case <-time.After(announceEvery):
		case <-life.Done():
			return
		}
		if time.Since(began) > announceLast {
			pause = announceFirst
		}
	}
}

// announce tells a cache of the client, its stores and its mounts. A store that
// the cache can't take does not keep the others from it.
func (g *gridCache) announce(ctx context.Context, cfg *config.Client, version string) error {
	platform := ""
	if len(cfg.Mounts) > 0 {
		platform = cfg.Mounts[0].Platform
	}
	if _, err := g.post(ctx, []string{"ays", "client", cfg.Main.ID}, map[string]any{"id": cfg.Main.ID, "platform": platform, "version": version}); err != nil {
		return err
	}
	var errs []error
	tokens := make(map[string]string)
	for _, s := range cfg.Stores {
		if s.URL.Scheme == "file" {
			continue // it means another directory there
		}
		reply, err := g.post(ctx, []string{"ays", "stor", s.Name}, map[string]any{
			"url": s.URL.String(), "login": s.Login, "passwd": s.Secret.Reveal(), "expiration": int(s.Expiration.Hours()),
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("store %s: %w", s.Name, err))
			continue
		}
		if reply.Token != "" {
			tokens[s.Name] = reply.Token
		}
	}
	g.mu.Lock()
	maps.Copy(g.tokens, tokens)
	g.mu.Unlock()
	for _, m := range cfg.Mounts {
		if slices.ContainsFunc(cfg.Stores, func(s config.Store) bool { return s.Name == m.Store && s.URL.Scheme == "file" }) {
			continue
		}
		if _, err := g.post(ctx, []string{"ays", "mount", cfg.Main.ID, m.Name}, map[string]any{
			"path": m.Path, "ays.id": m.ID, "ays.repoid": m.RepoID, "platform": m.Platform, "stor.name": m.Store, "remote": m.Remote,
		}); err != nil {
			errs = append(errs, fmt.Errorf("mount %s: %w", m.Name, err))
		}
	}
	return errors.Join(errs...)
}

// announced is a cache's answer.
type announced struct {
	Token string `json:"token"`
}

const maxAnnounced = 64 << 10

func (g *gridCache) post(ctx context.Context, segments []string, values map[string]any) (announced, error) {
	var reply announced
	body, err := json.Marshal(values)
	if err != nil {
		return reply, fmt.Errorf("write an announcement: %w", err)
	}
	b, err := g.call(ctx, http.MethodPost, segments, "", "application/json", body, maxAnnounced)
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return reply, err
	}
	if err := json.Unmarshal(b, &reply); err != nil {
		return reply, fmt.Errorf("POST %s: the answer is not that of a cache: %w", strings.Join(segments, "/"), err)
	}
	return reply, nil
}

// call makes a request to the cache itself, with the rights to what a store has where
// stor names one, and returns up to limit bytes of the answer.
func (g *gridCache) call(ctx context.Context, method string, segments []string, stor, kind string, body []byte, limit int64) ([]byte, error) {
	u := *g.cfg.URL
	for _, s := range segments {
		u = *u.JoinPath(url.PathEscape(s))
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask a cache: %w", err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if g.cfg.Login != "" {
		req.SetBasicAuth(g.cfg.Login, g.cfg.Passwd.Reveal())
	}
	if token := g.token(stor); token != "" {
		req.Header.Set(tokenHeader, token)
	}
	resp, err := g.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s %s: %w", method, u.Redacted(), err)
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%s %s: %w: %s", method, u.Redacted(), tier.ErrAbsent, resp.Status)
	case resp.StatusCode/100 != 2:
		return nil, fmt.Errorf("%s %s: %s: %.200q", method, u.Redacted(), resp.Status, bytes.TrimSpace(b))
	}
	return b, nil
}

// token is what the cache gave for a store's credentials, or empty.
func (g *gridCache) token(stor string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tokens[stor]
}

// older tells whether a cache has not heard yet of the head that is known here.
// Who signed the two is for others to look at.
func older(note, since []byte) bool {
	got, err := object.OpenHead(note, nil)
	if err != nil {
		return false
	}
	known, err := object.OpenHead(since, nil)
	return err == nil && got.Serial < known.Serial
}

// headChain asks the grid's caches for heads before the store, so that a machine
// that only reaches them can mount, too, and the store is not asked by each.
type headChain struct {
	grid  []*gridSource
	store tier.HeadSource
}

// gridHeadWait is how long a cache may take for a head while others could answer.
const gridHeadWait = 3 * time.Second

// Head returns the first head that a cache or the store gives. What a cache says
// that it hasn't, the store may have; what the store says counts.
func (h headChain) Head(ctx context.Context, tree object.TreeName, since []byte) ([]byte, error) {
	var failed []error
	for _, g := range h.grid {
		gctx, cancel := context.WithTimeout(ctx, gridHeadWait)
		note, err := g.Head(gctx, tree, since)
		cancel()
		if err == nil && !older(note, since) {
			return note, nil
		}
		if err != nil && !errors.Is(err, tier.ErrAbsent) {
			failed = append(failed, err)
		}
	}
	note, err := h.store.Head(ctx, tree, since)
	if err == nil || errors.Is(err, tier.ErrAbsent) {
		return note, err
	}
	return nil, errors.Join(append(failed, err)...)
}
