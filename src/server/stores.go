package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/config"
)

// stores is the stores that the cache knows. Those of the config come first.
type stores struct {
	// changing is held while a store is made, changed or removed, which takes
	// longer than mu may be held.
	changing sync.Mutex
	now      atomic.Pointer[storeTable]
}

// storeTable is not changed but replaced.
type storeTable struct {
	ordered []*stor
	byName  map[string]*stor
	byID    map[storeID]*stor
	tokens  map[[32]byte]*grant
	basics  map[[32]byte][]*grant
}

// maxTold is how many stores clients may tell of.
const maxTold = 64

func newTable(all []*stor) *storeTable {
	t := &storeTable{
		ordered: slices.Clone(all), byName: make(map[string]*stor), byID: make(map[storeID]*stor),
		tokens: make(map[[32]byte]*grant), basics: make(map[[32]byte][]*grant),
	}
	slices.SortStableFunc(t.ordered, func(a, b *stor) int {
		if a.configured != b.configured {
			if a.configured {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.order, b.order)
	})
	for _, st := range t.ordered {
		t.byName[st.name], t.byID[st.id] = st, st
		st.mu.Lock()
		for _, g := range st.grants {
			t.tokens[g.tokenSum] = g
			t.basics[g.basicSum] = append(t.basics[g.basicSum], g)
		}
		st.mu.Unlock()
	}
	return t
}

// told is how many stores are from clients.
func (t *storeTable) told() int {
	n := 0
	for _, st := range t.ordered {
		if !st.configured {
			n++
		}
	}
	return n
}

func (t *storeTable) order() int {
	n := 0
	for _, st := range t.ordered {
		n = max(n, st.order+1)
	}
	return n
}

// put makes a table with st, or with what has changed in it.
func (s *stores) put(st *stor) {
	all := slices.DeleteFunc(slices.Clone(s.now.Load().ordered), func(o *stor) bool { return o.name == st.name })
	s.now.Store(newTable(append(all, st)))
}

// remove makes a table without st.
func (s *stores) remove(st *stor) {
	s.now.Store(newTable(slices.DeleteFunc(slices.Clone(s.now.Load().ordered), func(o *stor) bool { return o == st })))
}

// idlest is the store told by a client that was asked the longest ago.
func (t *storeTable) idlest() *stor {
	var idle *stor
	for _, st := range t.ordered {
		if !st.configured && (idle == nil || st.used.Load() < idle.used.Load()) {
			idle = st
		}
	}
	return idle
}

// savedStore is how a store that a client told of is remembered.
type savedStore struct {
	URL        string    `json:"url"`
	Expiration int       `json:"expiration"` // hours; 0: never
	Order      int       `json:"order"`
	Told       time.Time `json:"told"`
	// Sealed has savedGrant values, which only this cache can open.
	Sealed []byte `json:"sealed,omitempty"`
}

type savedGrant struct {
	Login   string    `json:"login"`
	Secret  string    `json:"secret"`
	Checked time.Time `json:"checked"`
}

// save remembers a store that a client told of.
func (s *Server) save(ctx context.Context, st *stor) error {
	if st.configured {
		return nil
	}
	rec := savedStore{URL: st.url.String(), Order: st.order, Told: time.Now().UTC()}
	st.mu.Lock()
	rec.Expiration = int(st.expiration / time.Hour)
	var grants []savedGrant
	for _, g := range st.grants {
		grants = append(grants, savedGrant{g.login, g.secret, time.Unix(g.checked.Load(), 0).UTC()})
	}
	st.mu.Unlock()
	if len(grants) > 0 {
		plain, err := json.Marshal(grants)
		if err != nil {
			return err
		}
		rec.Sealed = s.vault.seal(plain, "store "+st.name+" "+rec.URL)
	}
	row, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := s.opts.Data.PutValue(ctx, storesTable, st.name, row); err != nil {
		return fmt.Errorf("remember store %s: %w", st.name, err)
	}
	return nil
}

// loadStores makes the table of the config's stores and those remembered. What
// can't be made again is left out; its clients will tell of it anew.
func (s *Server) loadStores(ctx context.Context) error {
	all, err := s.configured(s.opts.Config, nil)
	if err != nil {
		return err
	}
	s.stores.now.Store(newTable(all))
	rows, err := s.opts.Data.Values(ctx, storesTable)
	if err != nil {
		return err
	}
	for name, row := range rows {
		t := s.stores.now.Load()
		if t.byName[name] != nil || t.told() >= maxTold {
			continue
		}
		st, err := s.remembered(name, row)
		if err != nil {
			s.log.Warn("can't remember a store", "op", "start", "store", name, "err", err)
			continue
		}
		s.stores.put(st)
	}
	return nil
}

func (s *Server) remembered(name string, row []byte) (*stor, error) {
	var rec savedStore
	if err := json.Unmarshal(row, &rec); err != nil {
		return nil, err
	}
	u, err := s.toldURL(rec.URL)
	if err != nil {
		return nil, err
	}
	st, err := s.newStor(name, u, "", nil, false)
	if err != nil {
		return nil, err
	}
	st.order, st.expiration = rec.Order, time.Duration(rec.Expiration)*time.Hour
	if rec.Sealed == nil {
		return st, nil
	}
	var grants []savedGrant
	plain, err := s.vault.open(rec.Sealed, "store "+name+" "+rec.URL)
	if err == nil {
		err = json.Unmarshal(plain, &grants)
	}
	for _, g := range grants {
		if _, e := st.add(s, g.Login, g.Secret, g.Checked); e != nil {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		s.log.Warn("a store's credentials are lost until they are told again", "op", "start", "store", name, "err", err)
	}
	return st, nil
}

// configured makes the stores of a config, with those of old that are the same.
func (s *Server) configured(cfg *config.Server, old *storeTable) ([]*stor, error) {
	cfgs := cfg.Stores
	if s.hasPublished(cfg) {
		if err := s.intake.Make(); err != nil {
			return nil, err
		}
		cfgs = append([]config.Store{s.publishedStore(cfg)}, cfgs...)
	}
	var all []*stor
	for i, c := range cfgs {
		st, err := s.fromConfig(c, old)
		if err != nil {
			return nil, err
		}
		st.order = i
		all = append(all, st)
	}
	return all, nil
}

func (s *Server) fromConfig(c config.Store, old *storeTable) (*stor, error) {
	var st *stor
	if old != nil {
		if st = old.byID[idOf(c.Name, c.URL)]; st != nil && (!st.configured || st.ca != c.CA || !slices.Equal(st.keyTexts, c.Keys)) {
			st = nil
		}
	}
	if st == nil {
		var err error
		if st, err = s.newStor(c.Name, c.URL, c.CA, c.Keys, true); err != nil {
			return nil, err
		}
	}
	st.mu.Lock()
	st.expiration = c.Expiration
	st.mu.Unlock()
	if c.Login == "" {
		s.work.Go(func() {
			if err := s.show(s.life, st); err != nil && s.life.Err() == nil {
				s.log.Warn("a store stays private: the config has no credentials for it now, but it wants some", "op", "rights", "store", st.name, "err", err)
			}
		})
		return st, nil
	}
	basic := s.vault.sum("basic", c.Login, c.Secret.Reveal())
	if g := st.held(basic); g != nil {
		return st, st.use(s, c.Login, c.Secret.Reveal())
	}
	// What the config had before is no longer to be used.
	st.mu.Lock()
	st.grants = nil
	st.mu.Unlock()
	_, err := st.add(s, c.Login, c.Secret.Reveal(), time.Time{})
	return st, err
}

// reloadStores takes the stores of a new config in place of the old ones. Those that
// clients told of stay, but for what the config now has itself.
func (s *Server) reloadStores(cfg *config.Server) error {
	s.stores.changing.Lock()
	defer s.stores.changing.Unlock()
	old := s.stores.now.Load()
	all, err := s.configured(cfg, old)
	if err != nil {
		return err
	}
	var gone []*stor
	for _, st := range old.ordered {
		same := slices.Contains(all, st)
		named := slices.ContainsFunc(all, func(o *stor) bool { return o.name == st.name })
		switch {
		case same:
		case st.configured || named:
			gone = append(gone, st)
		default:
			all = append(all, st)
		}
	}
	s.stores.now.Store(newTable(all))
	for _, st := range gone {
		time.AfterFunc(lingering, st.close)
	}
	return nil
}

// candidates are the stores to ask for a blob, the likeliest first: those that
// were seen to have the domain, and those that are down at the end.
func (t *storeTable) candidates(who rights, domain, hint string) []*stor {
	var list []*stor
	for _, st := range t.ordered {
		if who.may(st) {
			list = append(list, st)
		}
	}
	if len(list) < 2 {
		return list
	}
	rank := make(map[*stor]int, len(list))
	for _, st := range list {
		if !st.is(hint) {
			rank[st] += 2
		}
		if !st.has(domain) {
			rank[st]++
		}
		if st.down.Load() {
			rank[st] += 4
		}
	}
	slices.SortStableFunc(list, func(a, b *stor) int { return cmp.Compare(rank[a], rank[b]) })
	return list
}

// toldURL reads the URL of a store that a client tells of.
func (s *Server) toldURL(text string) (*url.URL, error) {
	u, err := config.ParseStoreURL(text)
	if err != nil {
		return nil, err
	}
	allow := s.current.Load().allow
	if !slices.ContainsFunc(allow, func(p config.Pattern) bool { return p.Match(u.String()) }) {
		return nil, errNotAllowed
	}
	return u, nil
}

var errNotAllowed = errors.New("this cache doesn't take stores with such a URL")
