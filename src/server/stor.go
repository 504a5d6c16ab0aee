package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tree"
)

// storeID stands for a store's name and URL together. What was had from a store
// stays its own when another one gets its name.
type storeID [8]byte

func (id storeID) String() string { return hex.EncodeToString(id[:]) }

// parseStoreID reads what String made.
func parseStoreID(text string) (id storeID, ok bool) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(id) {
		return id, false
	}
	return storeID(b), true
}

func idOf(name string, u *url.URL) storeID {
	sum := sha256.Sum256([]byte(name + "\x00" + u.String()))
	return storeID(sum[:])
}

// stor is a store that the cache knows.
type stor struct {
	id         storeID
	name       string
	url        *url.URL
	configured bool
	order      int // those with a lower one are asked first
	keys       object.Keys
	keyTexts   []string // what keys were read from
	ca         string

	source   *credentialed // whoever asks, it is with the credentials in use
	chain    *tier.Chain
	large    *tier.Chain // for what is larger than a blob of a file
	heads    *heads
	metadata *tree.Cache
	trouble  *trouble
	trees    treeList

	private atomic.Bool
	used    atomic.Int64 // Unix seconds
	down    atomic.Bool  // the last answer was none

	mu         sync.Mutex
	expiration time.Duration        // GUARDED_BY(mu); 0: never
	grants     []*grant             // GUARDED_BY(mu); at most maxGrants, the last one shown at the end
	domains    map[string]time.Time // GUARDED_BY(mu); seen there, and when; at most maxDomains
}

const (
	maxGrants  = 16
	maxDomains = 256
)

// grant is credentials that work at a store.
type grant struct {
	stor          *stor
	login, secret string
	token         string
	tokenSum      [sha256.Size]byte // of token, to find it by
	basicSum      [sha256.Size]byte // of login and secret

	checked  atomic.Int64 // Unix seconds; 0: never
	refused  atomic.Bool  // at the last check
	checking sync.Mutex
}

// credentialed is a store with the credentials in use, which may change. Requests
// to it say which way they came, this cache included, but those for blobs of a plain web
// server, which sends them nowhere.
type credentialed struct {
	server *Server
	static atomic.Bool // it answered, and not as a cache does
	now    atomic.Pointer[dialled]
}

// dialled is a store with the credentials that it was dialled with.
type dialled struct {
	store.Store
	login, secret string
}

// Name tells the store apart.
func (c *credentialed) Name() string { return c.now.Load().Name() }

// Get asks the store for a blob.
func (c *credentialed) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	if !c.static.Load() {
		ctx = store.WithVia(ctx, c.server.viaWith(ref.Via))
	}
	return c.now.Load().Get(ctx, ref)
}

// Purge tells that a blob was wrong. The store stays as it is.
func (c *credentialed) Purge(ctx context.Context, ref tier.Ref) error {
	return c.now.Load().Purge(ctx, ref)
}

// head asks the store for a head.
func (c *credentialed) head(ctx context.Context, n object.TreeName, since []byte, via string) ([]byte, error) {
	return c.now.Load().Head(store.WithVia(ctx, c.server.viaWith(via)), n, since)
}

// profile asks the store for what programs need of a tree.
func (c *credentialed) profile(ctx context.Context, n object.TreeName, via string) ([]byte, error) {
	return c.now.Load().Profile(store.WithVia(ctx, c.server.viaWith(via)), n)
}

// trees asks the store for its trees.
func (c *credentialed) trees(ctx context.Context, via string) ([]object.TreeName, error) {
	return c.now.Load().Trees(store.WithVia(ctx, c.server.viaWith(via)))
}

// lingering is how long calls that began with other credentials may go on.
const lingering = time.Minute

// use has the store asked with other credentials from now on.
func (st *stor) use(s *Server, login, secret string) error {
	if now := st.source.now.Load(); now != nil && now.login == login && now.secret == secret {
		return nil
	}
	src, err := s.dial(st, login, secret)
	if err != nil {
		return err
	}
	if old := st.source.now.Swap(&dialled{src, login, secret}); old != nil {
		time.AfterFunc(lingering, func() { old.Close() })
	}
	return nil
}

// dial makes the store with these credentials.
func (s *Server) dial(st *stor, login, secret string) (store.Store, error) {
	return store.New(store.Config{
		Name: st.name, URL: st.url, Login: login, Secret: secret, CA: st.ca,
		Timeout: s.opts.Config.Stor.Timeout, Version: s.opts.Version,
		MaxTrees: st.maxTrees(),
		Pipeline: true,
		Answered: func(h http.Header) { st.source.static.Store(h.Get(cacheHeader) == "") },
	})
}

// maxToldTrees bounds the list of trees of a store that a client told of, in bytes.
const maxToldTrees = 1 << 20

func (st *stor) maxTrees() int64 {
	if st.configured {
		return 0
	}
	return maxToldTrees
}

// newStor makes a store that is not in the table yet.
func (s *Server) newStor(name string, u *url.URL, ca string, keys []string, configured bool) (*stor, error) {
	st := &stor{
		id: idOf(name, u), name: name, url: u, ca: ca, configured: configured,
		keyTexts: keys,
		source:   &credentialed{server: s}, domains: make(map[string]time.Time),
		trees: treeList{turn: semaphore.NewWeighted(1)},
	}
	var err error
	if st.keys, err = object.ParseKeys(keys); err != nil {
		return nil, fmt.Errorf("key of store %s: %w", name, err)
	}
	if err := st.use(s, "", ""); err != nil {
		return nil, err
	}
	st.trouble = &trouble{Source: st.source, stor: st, events: s.events, log: s.log.With("store", name)}
	timeout := s.opts.Config.Stor.Timeout
	source := tier.Retry(st.trouble, tier.RetryPolicy{Tries: 3, PerTry: timeout * 2 / 3, Longest: 2 * time.Second, Patience: 10 * time.Second})
	chain := func(p pool, timeout time.Duration) *tier.Chain {
		return tier.NewChain(tier.ChainConfig{
			Cache: shelf{s.kept, st.id}, Groups: []tier.Group{{Sources: []tier.Source{source}}}, Codec: s.codec, Timeout: timeout,
			Log: s.log.With("store", name), Stored: true, Budget: p.bytes, Memory: p.memory, Asking: p.asking,
		})
	}
	pool, metadata := s.pools.told, s.pools.metadata/toldPart
	if configured {
		pool, metadata = s.pools.configured, s.pools.metadata
	}
	st.chain = chain(pool, timeout)
	// A chain gives what is larger as many times as long.
	st.large = chain(s.pools.large, max(timeout/time.Duration(max(s.limit/object.MaxBlob, 1)), time.Millisecond))
	st.heads = newHeads(s, st)
	// Listings of a store that not everybody may read are not to be found by
	// their digest in a tree of another store, so each has a cache of its own.
	st.metadata = tree.NewCache(metadata)
	st.private.Store(s.marks.has(st.id))
	return st, nil
}

// close ends what goes on with the store.
func (st *stor) close() {
	st.chain.Close()
	st.large.Close()
	st.source.now.Load().Close()
}

// is tells whether the store is the one that a request names.
func (st *stor) is(hint string) bool { return hint == "" || hint == st.name || hint == st.url.String() }

// seen notes that the store has a domain.
func (st *stor) seen(domain string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if _, ok := st.domains[domain]; !ok && len(st.domains) >= maxDomains {
		for other := range st.domains {
			delete(st.domains, other)
			break
		}
	}
	st.domains[domain] = time.Now()
}

func (st *stor) has(domain string) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	_, ok := st.domains[domain]
	return ok
}

// held returns the grant with these credentials, or nil.
func (st *stor) held(basic [sha256.Size]byte) *grant {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, g := range st.grants {
		if g.basicSum == basic {
			return g
		}
	}
	return nil
}

// Errors of a check of credentials.
var (
	errRefused  = errors.New("the store refuses these credentials")
	errGullible = errors.New("the store takes any credentials")
)

// try asks the store whether credentials work there: nil, errRefused, or
// tier.ErrUnavailable if it could not be asked.
func (s *Server) try(ctx context.Context, st *stor, login, secret string) error {
	src, err := s.dial(st, login, secret)
	if err != nil {
		return fmt.Errorf("check credentials: %w: %w", tier.ErrUnavailable, err)
	}
	defer src.Close()
	select {
	case s.checks <- struct{}{}:
		defer func() { <-s.checks }()
	case <-ctx.Done():
		return fmt.Errorf("check credentials: %w", tier.Unavailable(context.Cause(ctx)))
	}
	// A head that nobody has: who may look for it is told so.
	ctx = store.WithVia(ctx, s.viaWith(""))
	_, err = src.Head(ctx, object.TreeName{ID: "aysfs|credentials(check)"}, nil)
	if errors.Is(err, tier.ErrDenied) {
		// Object stores say the same of what is not there, so it has to be
		// something that is.
		_, err = src.Trees(ctx)
	}
	switch {
	case err == nil, errors.Is(err, tier.ErrAbsent), errors.Is(err, tier.ErrCorrupt):
		return nil
	case errors.Is(err, tier.ErrDenied):
		return errRefused
	}
	return fmt.Errorf("check credentials: %w", tier.Unavailable(err))
}

// prove is try for a store that may take anything: it is errGullible then.
func (s *Server) prove(ctx context.Context, st *stor, login, secret string) error {
	if err := s.try(ctx, st, login, secret); err != nil {
		return err
	}
	err := s.try(ctx, st, login, digest.Of([]byte(secret+st.name)).String())
	switch {
	case err == nil:
		return errGullible
	case errors.Is(err, errRefused):
		return nil
	}
	return err
}

// checkEvery is how old the check of credentials may get before it is made anew.
const checkEvery = 5 * time.Minute

// usable tells whether what a grant gives may be read now. A store that can't be
// asked doesn't take it away.
func (s *Server) usable(ctx context.Context, g *grant) bool {
	checked := time.Unix(g.checked.Load(), 0)
	switch {
	case g.checked.Load() == 0 || g.refused.Load():
		if time.Since(checked) > checkEvery/10 {
			s.recheck(ctx, g)
		}
	case time.Since(checked) > checkEvery:
		if g.checking.TryLock() {
			g.checking.Unlock()
			s.work.Go(func() { s.recheck(s.life, g) })
		}
	}
	return !g.refused.Load()
}

// recheck asks the store whether a grant's credentials still work.
func (s *Server) recheck(ctx context.Context, g *grant) {
	g.checking.Lock()
	defer g.checking.Unlock()
	if time.Since(time.Unix(g.checked.Load(), 0)) < checkEvery/10 {
		return // somebody did meanwhile
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Config.Stor.Timeout)
	defer cancel()
	err := s.try(ctx, g.stor, g.login, g.secret)
	if err != nil && !errors.Is(err, errRefused) {
		s.log.Warn("can't check credentials anew", "op", "rights", "store", g.stor.name, "err", err)
		if g.checked.Load() != 0 {
			return
		}
	}
	if refused := errors.Is(err, errRefused); refused != g.refused.Swap(refused) {
		s.log.Warn("credentials were checked anew", "op", "rights", "store", g.stor.name, "refused", refused)
	}
	g.checked.Store(time.Now().Unix())
}

// add makes a grant of credentials that work, and has the store asked with them.
func (st *stor) add(s *Server, login, secret string, checked time.Time) (*grant, error) {
	g := &grant{
		stor: st, login: login, secret: secret,
		token: s.tokenFor(st, login, secret), basicSum: s.vault.sum("basic", login, secret),
	}
	g.tokenSum = sha256.Sum256([]byte(g.token))
	if !checked.IsZero() {
		g.checked.Store(checked.Unix())
	}
	if err := st.use(s, login, secret); err != nil {
		return nil, err
	}
	if err := s.hide(s.life, st); err != nil {
		return nil, err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.grants = append(slices.DeleteFunc(st.grants, func(o *grant) bool { return o.basicSum == g.basicSum }), g)
	if len(st.grants) > maxGrants {
		st.grants = slices.Delete(st.grants, 0, 1)
	}
	return g, nil
}
