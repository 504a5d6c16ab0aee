package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// postClient answers POST /ays/client/<client>: platform and version.
func (s *Server) postClient(c *call) {
	v, ok := c.values()
	if !ok {
		return
	}
	cl := Client{Platform: v["platform"], Version: oneLine(v["version"]), Told: time.Now().UTC()}
	if err := (object.TreeName{ID: "any|any!any", Platform: cl.Platform}).Validate(); err != nil {
		c.wrong(http.StatusBadRequest, err.Error())
		return
	}
	if err := s.announced.putClient(c.r.Context(), c.client, cl); err != nil {
		s.forgot(c, err)
		return
	}
	s.log.Info("a client told of itself", "op", "announce", "client", c.client, "platform", cl.Platform, "version", cl.Version)
	c.reply(map[string]any{"client": c.client})
}

// forgot answers where something could not be remembered.
func (s *Server) forgot(c *call, err error) {
	if errors.Is(err, errTooManyMounts) {
		c.wrong(http.StatusInsufficientStorage, err.Error())
		return
	}
	if c.r.Context().Err() != nil {
		c.nothing(context.Canceled)
		return
	}
	s.log.Error("can't remember what was told", "op", "announce", "route", c.route.String(), "err", err)
	c.wrong(http.StatusInternalServerError, "this can't be remembered now")
}

// reply answers with JSON.
func (c *call) reply(v any) {
	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	c.send(mustJSON(v), "")
}

// postMount answers POST /ays/mount/<client>/<mount>: the keys of the mount's
// config, of which those are remembered that say what is mounted.
func (s *Server) postMount(c *call) {
	v, ok := c.values()
	if !ok {
		return
	}
	m, err := parseMount(v)
	if err != nil {
		c.wrong(http.StatusBadRequest, err.Error())
		return
	}
	if err := s.announced.putMount(c.r.Context(), c.client, c.mount, m); err != nil {
		s.forgot(c, err)
		return
	}
	c.reply(map[string]any{"client": c.client, "mount": c.mount})
}

func parseMount(v map[string]string) (Mount, error) {
	m := Mount{
		Tree:   object.TreeName{ID: v["ays.id"], RepoID: v["ays.repoid"], Platform: v["platform"]},
		Store:  v["stor.name"],
		Remote: v["remote"],
		Path:   oneLine(v["path"]),
		Told:   time.Now().UTC(),
	}
	if err := m.Tree.Validate(); err != nil {
		return m, err
	}
	if err := config.CheckName(m.Store); err != nil {
		return m, fmt.Errorf("stor.name: %w", err)
	}
	if m.Remote != strings.Trim(path.Clean("/"+m.Remote), "/") || strings.Contains(m.Remote, "\x00") || len(m.Remote) > 1024 {
		return m, fmt.Errorf("remote: %.80q is not a path inside the tree", m.Remote)
	}
	return m, nil
}

// toldStor is what a client tells of a store.
type toldStor struct {
	url           string
	login, secret string
	expiration    time.Duration
}

const maxHours = 100 * 365 * 24

func parseStor(v map[string]string) (toldStor, error) {
	t := toldStor{url: v["url"], login: v["login"], secret: cmp.Or(v["passwd"], v["secret"])}
	hours := cmp.Or(v["expiration"], v["cache.expiration"], "0")
	n, err := strconv.Atoi(hours)
	if err != nil || n < 0 || n > maxHours {
		return t, fmt.Errorf("expiration: %.20q is not a number of hours: write 0 for never, to %d", hours, maxHours)
	}
	t.expiration = time.Duration(n) * time.Hour
	if t.url == "" {
		return t, errors.New("url: there is none")
	}
	if t.login == "" && t.secret != "" {
		return t, errors.New("login: there is none, but a password")
	}
	return t, nil
}

// longer returns the longer of two expirations; 0 is never.
func longer(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// Errors that postStor answers with a status of their own.
var (
	errOtherURL  = errors.New("a store of this name has another URL here: tell of it under another name, or have [[ays.stor]] of this cache's config say which")
	errTooMany   = errors.New("this cache knows too many stores already")
	errUnchecked = errors.New("the store can't be asked now whether these credentials work")
)

// postStor answers POST /ays/stor/<name>.
func (s *Server) postStor(c *call) {
	v, ok := c.values()
	if !ok {
		return
	}
	told, err := parseStor(v)
	if err != nil {
		c.wrong(http.StatusBadRequest, err.Error())
		return
	}
	// While one store is changed others wait: for no longer than a check takes.
	ctx, cancel := context.WithTimeout(c.r.Context(), s.opts.Config.Stor.Timeout)
	defer cancel()
	st, g, err := s.learn(ctx, c.name, told)
	switch {
	case errors.Is(err, errOtherURL):
		c.wrong(http.StatusConflict, err.Error())
	case errors.Is(err, errNotAllowed), errors.Is(err, errRefused):
		c.wrong(http.StatusForbidden, err.Error())
	case errors.Is(err, errTooMany):
		c.wrong(http.StatusInsufficientStorage, err.Error())
	case errors.Is(err, tier.ErrUnavailable):
		s.log.Warn("a store's credentials can't be checked", "op", "announce", "store", c.name, "err", err)
		c.wrong(http.StatusServiceUnavailable, errUnchecked.Error())
	case errors.Is(err, errBadURL):
		c.wrong(http.StatusBadRequest, err.Error())
	case err != nil:
		s.forgot(c, err)
	default:
		s.log.Info("a client told of a store", "op", "announce", "store", st.name, "private", st.private.Load(), "shown", g != nil)
		reply := map[string]any{"stor": st.name, "private": st.private.Load()}
		if g != nil {
			c.w.Header().Set(tokenHeader, g.token)
			reply["token"] = g.token
		}
		c.reply(reply)
	}
}

var errBadURL = errors.New("url")

// learn takes what was told of a store. The grant is nil unless credentials were
// told that work there and are needed.
func (s *Server) learn(ctx context.Context, name string, told toldStor) (*stor, *grant, error) {
	u, err := config.ParseStoreURL(told.url)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errBadURL, err)
	}
	if st := s.stores.now.Load().byName[name]; st != nil {
		if st.url.String() != u.String() {
			return nil, nil, errOtherURL
		}
		return s.learnMore(ctx, st, told)
	}
	if u, err = s.toldURL(told.url); err != nil {
		return nil, nil, err
	}
	st, err := s.newStor(name, u, "", nil, false)
	if err != nil {
		return nil, nil, err
	}
	st.expiration = told.expiration
	var g *grant
	if told.login != "" {
		if err := s.try(ctx, st, told.login, told.secret); err != nil {
			st.close()
			return nil, nil, err
		}
		if g, err = st.add(s, told.login, told.secret, time.Now()); err != nil {
			st.close()
			return nil, nil, err
		}
	}
	if err := s.addStor(st); err != nil {
		st.close()
		if errors.Is(err, errKnown) { // somebody was faster
			return s.learn(ctx, name, told)
		}
		return nil, nil, err
	}
	return st, g, s.save(ctx, st)
}

var errKnown = errors.New("there is a store of this name already")

// addStor takes a new store into the table. Where that is full, it is in place of
// the one that was of no use for the longest.
func (s *Server) addStor(st *stor) error {
	s.stores.changing.Lock()
	defer s.stores.changing.Unlock()
	t := s.stores.now.Load()
	if t.byName[st.name] != nil {
		return errKnown
	}
	if t.told() >= maxTold {
		idle := t.idlest()
		if time.Since(time.Unix(idle.used.Load(), 0)) < time.Hour {
			return errTooMany
		}
		s.stores.remove(idle)
		time.AfterFunc(lingering, idle.close)
		if err := s.opts.Data.DeleteValue(s.life, storesTable, idle.name); err != nil {
			s.log.Warn("forget a store", "op", "announce", "store", idle.name, "err", err)
		}
	}
	st.order = s.stores.now.Load().order()
	st.used.Store(time.Now().Unix())
	s.stores.put(st)
	return nil
}

// learnMore takes what was told of a store that is known.
func (s *Server) learnMore(ctx context.Context, st *stor, told toldStor) (*stor, *grant, error) {
	if told.login == "" {
		if err := s.show(ctx, st); err != nil && !errors.Is(err, errRefused) {
			return nil, nil, err
		}
		if st.private.Load() {
			return st, nil, nil // who may not read it has no say in how long it is kept
		}
		return st, nil, s.extend(ctx, st, told.expiration)
	}
	if g := st.held(s.vault.sum("basic", told.login, told.secret)); g != nil {
		if !s.usable(ctx, g) {
			return nil, nil, errRefused
		}
		return st, g, s.extend(ctx, st, told.expiration)
	}
	if !st.private.Load() {
		// A store that everybody can read stays so, whatever credentials some
		// have for it.
		switch err := s.try(ctx, st, "", ""); {
		case err == nil:
			return st, nil, s.extend(ctx, st, told.expiration)
		case !errors.Is(err, errRefused):
			return nil, nil, err
		}
	}
	switch err := s.prove(ctx, st, told.login, told.secret); {
	case errors.Is(err, errGullible):
		// Then only who has the credentials that are held already is believed.
		return nil, nil, errRefused
	case err != nil:
		return nil, nil, err
	}
	s.stores.changing.Lock()
	defer s.stores.changing.Unlock()
	if s.stores.now.Load().byName[st.name] != st {
		return nil, nil, fmt.Errorf("%w: it was removed meanwhile", tier.ErrUnavailable)
	}
	g, err := st.add(s, told.login, told.secret, time.Now())
	if err != nil {
		return nil, nil, err
	}
	s.stores.put(st)
	return st, g, s.extend(ctx, st, told.expiration)
}

// extend keeps what is from a store for longer, if that is longer, and remembers
// the store.
func (s *Server) extend(ctx context.Context, st *stor, expiration time.Duration) error {
	if !st.configured {
		st.mu.Lock()
		st.expiration = longer(st.expiration, expiration)
		st.mu.Unlock()
	}
	return s.save(ctx, st)
}
