package tree

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// Cache keeps decoded metadata of all trees within a bound. Equal listings of
// different trees are kept once. What was used since the last sweep is spared
// by the next.
type Cache struct {
	limit int64

	mu       sync.RWMutex
	listings map[digest.Digest]*listing
	chunks   map[digest.Digest]*unit
	units    []*unit // what is evicted at once, in the order of the sweep
	hand     int
	size     int64
}

// unit is a catalog with its listings, or a chunk list.
type unit struct {
	used     atomic.Bool
	size     int64
	listings []digest.Digest
	list     *object.ChunkList
	digest   digest.Digest // of the chunk list
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

// NewCache returns a cache that holds up to limit bytes, or one catalog where
// that is more.
func NewCache(limit int64) *Cache {
	return &Cache{
		limit:    limit,
		listings: make(map[digest.Digest]*listing),
		chunks:   make(map[digest.Digest]*unit),
	}
}

// Listing returns a listing that is in memory.
func (c *Cache) Listing(d digest.Digest) (*object.Listing, error, bool) {
	c.mu.RLock()
	l := c.listings[d]
	c.mu.RUnlock()
	if l == nil {
		return nil, nil, false
	}
	if !l.unit.used.Load() {
		l.unit.used.Store(true)
	}
	if p := l.parsed.Load(); p != nil {
		return p, nil, true
	}
	p, err := object.ParseListing(l.raw)
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", d, err), true
	}
	l.parsed.Store(p)
	return p, nil, true
}

// AddCatalog takes the plain bytes of a catalog and keeps its listings.
func (c *Cache) AddCatalog(raw []byte) error {
	u := &unit{size: int64(len(raw)) + listingOverhead}
	u.used.Store(true)
	var raws [][]byte
	err := object.ParseCatalog(raw, func(_, l []byte) error {
		// An entry takes some 60 bytes encoded, and 4 for its offset.
		u.size += listingOverhead + int64(len(l))/12
		u.listings = append(u.listings, digest.Of(l))
		raws = append(raws, l)
		return nil
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, d := range u.listings {
		c.listings[d] = &listing{unit: u, raw: raws[i]}
	}
	c.add(u)
	return nil
}

// ChunkList returns a chunk list that is in memory, or nil.
func (c *Cache) ChunkList(d digest.Digest) *object.ChunkList {
	c.mu.RLock()
	u := c.chunks[d]
	c.mu.RUnlock()
	if u == nil {
		return nil
	}
	if !u.used.Load() {
		u.used.Store(true)
	}
	return u.list
}

// AddChunkList keeps a chunk list.
func (c *Cache) AddChunkList(d digest.Digest, list *object.ChunkList) {
	u := &unit{size: list.Footprint() + listingOverhead, list: list, digest: d}
	u.used.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.chunks[d] != nil {
		return
	}
	c.chunks[d] = u
	c.add(u)
}

// add appends u and makes room for it: the sweep gives what was used since it
// last came by another round. c.mu is held.
func (c *Cache) add(u *unit) {
	c.units = append(c.units, u)
	c.size += u.size
	for c.size > c.limit && len(c.units) > 1 {
		if c.hand >= len(c.units) {
			c.hand = 0
		}
		v := c.units[c.hand]
		if v == u || v.used.Swap(false) {
			c.hand++
			continue
		}
		c.drop(v)
		c.units[c.hand] = c.units[len(c.units)-1]
		c.units = c.units[:len(c.units)-1]
	}
}

func (c *Cache) drop(u *unit) {
	c.size -= u.size
	if u.list != nil {
		delete(c.chunks, u.digest)
	}
	for _, d := range u.listings {
		if l := c.listings[d]; l != nil && l.unit == u {
			delete(c.listings, d)
		}
	}
}

// Size is what the cache holds now, in bytes.
func (c *Cache) Size() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.size
}

// SetLimit changes the bound, in bytes. What is too much goes with what is added
// next.
func (c *Cache) SetLimit(limit int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = limit
}
