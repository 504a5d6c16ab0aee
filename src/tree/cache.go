package tree

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// Cache keeps decoded metadata of all trees within a bound, and bounds what of it is
// on its way. Equal listings of different trees are kept once. What was used since the
// last sweep is spared by the next. Of the objects that are larger than half of the bound
// it has one at a time, on its way or kept, beside all others. It may be used by many goroutines at once; mu is
// never held over I/O; the intake's own lock is taken under it or alone.
type Cache struct {
	intake intake

	mu       sync.RWMutex
	limit    int64                      // GUARDED_BY(mu)
	stores   int64                      // GUARDED_BY(mu)
	listings map[digest.Digest]*listing // GUARDED_BY(mu)
	objects  map[digest.Digest]*unit    // GUARDED_BY(mu); by the object's digest
	units    []*unit                    // GUARDED_BY(mu); what is evicted at once, in the order of the sweep
	hand     int                        // GUARDED_BY(mu)
	size     int64                      // GUARDED_BY(mu); bytes of units
	large    *unit                      // GUARDED_BY(mu); one that is not among units, for its size; nil: none
	looked   time.Time                  // GUARDED_BY(mu); when it was last looked at whether large is used
	coming   int64                      // GUARDED_BY(mu); bytes that were admitted for small objects
	loads    map[loadKey]*load          // GUARDED_BY(mu)

	dense sync.Mutex // held by who decodes a catalog of very many directories
}

// unit is a catalog with its listings, an index, or a chunk list.
type unit struct {
	used   atomic.Bool
	size   int64 // bytes
	digest digest.Digest

	listings []listing       // of a catalog
	digests  []digest.Digest // of the listings
	index    *object.Index
	list     *object.ChunkList
}

// listing is one directory of a cached catalog, decoded when first needed.
type listing struct {
	unit   *unit
	raw    []byte
	parsed atomic.Pointer[object.Listing]
}

// listingOverhead is about what a listing costs in memory beside its bytes and
// the offsets that decoding adds.
const listingOverhead = 160

// denseOverhead is from where on catalogs are decoded one after the other, in bytes
// that their listings cost beside their own bytes: several times what a publisher makes.
const denseOverhead = 4 << 20

// idle is how long a large object stays that nobody uses, or twice as long.
const idle = 10 * time.Second

// NewCache returns a cache that holds up to limit bytes, what is on its way
// included, and one object of more than half of that.
func NewCache(limit int64) *Cache {
	c := &Cache{
		listings: make(map[digest.Digest]*listing),
		objects:  make(map[digest.Digest]*unit),
		loads:    make(map[loadKey]*load),
		limit:    limit,
	}
	c.SetStores(1)
	return c
}

// SetLimit changes the bound, in bytes. What is too much goes with what is added
// next.
func (c *Cache) SetLimit(limit int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = limit
	c.intake.limit(c.limit / 2 / c.stores)
}

// SetStores tells from how many stores the trees are: they share the half of the bound
// that may be on its way. Each has four ordinary catalogs' worth all the same.
func (c *Cache) SetStores(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stores = int64(max(n, 1))
	c.intake.limit(c.limit / 2 / c.stores)
}

// Listing returns a listing that is in memory.
func (c *Cache) Listing(d digest.Digest) (*object.Listing, error, bool) {
	c.mu.RLock()
	l := c.listings[d]
	c.mu.RUnlock()
	if l == nil {
		return nil, nil, false
	}
	p, err := l.get(d)
	return p, err, true
}

func (l *listing) get(d digest.Digest) (*object.Listing, error) {
	l.unit.use()
	if p := l.parsed.Load(); p != nil {
		return p, nil
	}
	p, err := object.ParseListing(l.raw)
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", d, err)
	}
	l.parsed.Store(p)
	return p, nil
}

// use notes that u is of use.
func (u *unit) use() {
	if !u.used.Load() {
		u.used.Store(true)
	}
}

// listing finds one of a catalog's listings, in memory or not any more. It takes time
// in proportion to how many there are.
func (u *unit) listing(d digest.Digest) *listing {
	for i := range u.digests {
		if u.digests[i] == d {
			return &u.listings[i]
		}
	}
	return nil
}

// AddCatalog takes the plain bytes of the catalog d and keeps its listings.
func (c *Cache) AddCatalog(d digest.Digest, raw []byte) error {
	u, err := c.readCatalog(d, raw)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(u)
	return nil
}

func (c *Cache) readCatalog(d digest.Digest, raw []byte) (*unit, error) {
	n, err := object.CatalogLen(raw)
	if err != nil {
		return nil, err
	}
	if n*listingOverhead > denseOverhead {
		c.dense.Lock()
		defer c.dense.Unlock()
	}
	u := &unit{size: int64(len(raw)) + listingOverhead, digest: d, listings: make([]listing, 0, n), digests: make([]digest.Digest, 0, n)}
	err = object.ParseCatalog(raw, func(_, l []byte) error {
		// An entry takes some 60 bytes encoded, and 4 for its offset.
		u.size += listingOverhead + int64(len(l))/12
		u.digests = append(u.digests, digest.Of(l))
		u.listings = append(u.listings, listing{unit: u, raw: l})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// ChunkList returns the chunk list of a file of size bytes that is in memory, or nil.
func (c *Cache) ChunkList(d digest.Digest, size int64) *object.ChunkList {
	if u := c.object(d); u != nil && u.list != nil && u.list.Size == size {
		return u.list
	}
	return nil
}

// object returns an object that is in memory, or nil.
func (c *Cache) object(d digest.Digest) *unit {
	c.mu.RLock()
	u := c.objects[d]
	c.mu.RUnlock()
	if u != nil {
		u.use()
	}
	return u
}

// add keeps u, or what is there in its place, and makes room for it. c.mu is held.
func (c *Cache) add(u *unit) *unit {
	u.used.Store(true)
	if had := c.objects[u.digest]; had != nil {
		return had
	}
	c.objects[u.digest] = u
	for i := range u.listings {
		c.listings[u.digests[i]] = &u.listings[i]
	}
	if u.size > c.limit/2 {
		c.dropLarge()
		c.large, c.looked = u, time.Now()
	} else {
		c.units = append(c.units, u)
		c.size += u.size
	}
	c.shrink()
	return u
}

// shrink drops units until the rest and what is on its way are within the bound: the
// sweep gives what was used since it last came by another round. c.mu is held.
func (c *Cache) shrink() {
	if c.large != nil && time.Since(c.looked) > idle {
		c.looked = time.Now()
		if !c.large.used.Swap(false) {
			c.dropLarge()
		}
	}
	for c.size+c.coming > c.limit && len(c.units) > 0 {
		if c.hand >= len(c.units) {
			c.hand = 0
		}
		v := c.units[c.hand]
		if v.used.Swap(false) {
			c.hand++
			continue
		}
		c.size -= v.size
		c.drop(v)
		c.units[c.hand] = c.units[len(c.units)-1]
		c.units[len(c.units)-1] = nil
		c.units = c.units[:len(c.units)-1]
	}
}

// dropLarge drops the large object, if there is one. c.mu is held.
func (c *Cache) dropLarge() {
	if c.large != nil {
		c.drop(c.large)
		c.large = nil
	}
}

// drop takes a unit out of the tables. c.mu is held.
func (c *Cache) drop(u *unit) {
	delete(c.objects, u.digest)
	for i, d := range u.digests {
		if c.listings[d] == &u.listings[i] {
			delete(c.listings, d)
		}
	}
}

// Size is what the cache holds now, in bytes.
func (c *Cache) Size() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.large != nil {
		return c.size + c.large.size
	}
	return c.size
}

// admit waits until so many bytes may come from a source, and makes room for them.
// Unless it fails, depart must be called with what it returns.
func (c *Cache) admit(ctx context.Context, from Blobs, bytes int64) (pass, error) {
	p, err := c.intake.admit(ctx, from, bytes)
	if err != nil {
		return p, err
	}
	c.mu.Lock()
	c.coming += p.small()
	c.shrink()
	if p.large() {
		c.dropLarge()
	}
	c.mu.Unlock()
	if p.large() {
		// What was there before is to be gone before the next is: the collector
		// would come only after that has taken as much again.
		runtime.GC()
	}
	return p, nil
}

// depart gives back what was admitted for u, which is kept in its place unless it is
// nil.
func (c *Cache) depart(p pass, u *unit) *unit {
	c.mu.Lock()
	c.coming -= p.small()
	if u != nil {
		u = c.add(u)
	}
	c.mu.Unlock()
	c.intake.release(p)
	return u
}

// load is the loading of one object from one source, for all who want it at the time.
type load struct {
	done chan struct{} // closed when what follows is set
	unit *unit
	err  error
	left bool // who did it gave up: that says nothing

	wanted chan struct{} // closed once somebody waits for it; nil: somebody did from the start
	told   bool          // GUARDED_BY(Cache.mu); wanted is closed
}

// join tells that there is one more who wants it. Cache.mu is held.
func (l *load) join(ctx context.Context) {
	if l.wanted != nil && !l.told && !tier.Background(ctx) {
		l.told = true
		close(l.wanted)
	}
}

// loadKey is all that may make one load end otherwise than another of the same object:
// who lies of a size is to fail alone.
type loadKey struct {
	from Blobs
	ref  tier.Ref
	size int64 // of the file of a chunk list
}

// once returns an object that is in memory, or has get get it, which may take bytes
// until it is decoded.
func (c *Cache) once(ctx context.Context, k loadKey, bytes int64, get func(context.Context) (*unit, error)) (*unit, error) {
	for {
		c.mu.Lock()
		if u := c.objects[k.ref.Digest]; u != nil {
			c.mu.Unlock()
			u.use()
			return u, nil
		}
		l := c.loads[k]
		if l == nil {
			l = &load{done: make(chan struct{})}
			if tier.Background(ctx) {
				l.wanted = make(chan struct{})
				ctx = tier.InBackgroundUntil(ctx, l.wanted)
			}
			c.loads[k] = l
			c.mu.Unlock()
			return c.lead(ctx, k, l, bytes, get)
		}
		l.join(ctx)
		c.mu.Unlock()
		select {
		case <-l.done:
			if !l.left {
				return l.unit, l.err
			}
		case <-ctx.Done():
			return nil, waitedInVain(ctx, fmt.Sprintf("for %v, which is on its way", k.ref))
		}
	}
}

// lead loads an object for all who want it.
func (c *Cache) lead(ctx context.Context, k loadKey, l *load, bytes int64, get func(context.Context) (*unit, error)) (u *unit, err error) {
	said := false
	defer func() {
		l.unit, l.err, l.left = u, err, !said || err != nil && ctx.Err() != nil
		c.mu.Lock()
		delete(c.loads, k)
		c.mu.Unlock()
		close(l.done)
	}()
	p, err := c.admit(ctx, k.from, bytes)
	if err != nil {
		return nil, err
	}
	defer func() { u = c.depart(p, u) }()
	u, err = get(ctx)
	said = true
	return u, err
}
