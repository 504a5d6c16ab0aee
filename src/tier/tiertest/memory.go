package tiertest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/tier"
)

// Random returns n bytes that don't compress, always the same for a seed.
func Random(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// RefOf names plain content in the domain "default", with its size as limit.
func RefOf(plain []byte) tier.Ref {
	return tier.Ref{Domain: "default", Digest: digest.Of(plain), Limit: int64(len(plain))}
}

// named is what a blob goes by: a limit doesn't make it another.
type named struct {
	domain string
	digest digest.Digest
}

func nameOf(ref tier.Ref) named { return named{ref.Domain, ref.Digest} }

// Memory is a source in memory.
type Memory struct {
	name string

	mu     sync.Mutex
	blobs  map[named][]byte
	gets   int
	purges []tier.Ref
}

// NewMemory returns an empty source.
func NewMemory(name string) *Memory { return &Memory{name: name, blobs: make(map[named][]byte)} }

// Name tells the source apart.
func (m *Memory) Name() string { return m.name }

// Put has the source answer with stored from now on.
func (m *Memory) Put(ref tier.Ref, stored []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[nameOf(ref)] = stored
}

// Get returns what Put was given.
func (m *Memory) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets++
	b, ok := m.blobs[nameOf(ref)]
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: get %v: %w", m.name, ref, tier.Unavailable(context.Cause(ctx)))
	case !ok:
		return nil, fmt.Errorf("%s: %v: %w", m.name, ref, tier.ErrAbsent)
	case int64(len(b)) > ref.Max():
		return nil, tier.Corrupt(m.name, ref, fmt.Errorf("too large: %d bytes, at most %d", len(b), ref.Max()))
	}
	return b, nil
}

// Purge drops a blob.
func (m *Memory) Purge(_ context.Context, ref tier.Ref) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.purges = append(m.purges, ref)
	delete(m.blobs, nameOf(ref))
	return nil
}

// Gets is how often Get was called.
func (m *Memory) Gets() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gets
}

// Purged returns what Purge was called with.
func (m *Memory) Purged() []tier.Ref {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]tier.Ref(nil), m.purges...)
}

// Cache is a tier.Cache in memory that keeps everything.
type Cache struct {
	mu    sync.Mutex
	blobs map[named][]byte
	fails error
	lent  int
}

// NewCache returns an empty cache.
func NewCache() *Cache { return &Cache{blobs: make(map[named][]byte)} }

// Get returns what Put was given.
func (c *Cache) Get(ref tier.Ref) (tier.Blob, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.blobs[nameOf(ref)]
	switch {
	case c.fails != nil:
		return tier.Blob{}, c.fails
	case !ok:
		return tier.Blob{}, tier.ErrAbsent
	}
	c.lent++
	return tier.NewBlob(b, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.lent--
	}), nil
}

// Range returns a part of what Put was given.
func (c *Cache) Range(ref tier.Ref, off, n int64) (tier.Blob, error) {
	b, err := c.Get(ref)
	if err != nil {
		return b, err
	}
	if off < 0 || n < 0 || off+n > int64(len(b.Data)) {
		b.Release()
		return tier.Blob{}, tier.ErrCorrupt
	}
	b.Data = b.Data[off : off+n]
	return b, nil
}

// Ready is Range.
func (c *Cache) Ready(ref tier.Ref, off, n int64) (tier.Blob, tier.Nearness) {
	b, err := c.Range(ref, off, n)
	if err != nil {
		return b, tier.Unknown
	}
	return b, tier.InMemory
}

// WillNeed has nothing to do.
func (c *Cache) WillNeed(tier.Ref) bool { return false }

// Copy returns what Put was given, in memory of the caller's.
func (c *Cache) Copy(ref tier.Ref) ([]byte, error) {
	b, err := c.Get(ref)
	if err != nil {
		return nil, err
	}
	defer b.Release()
	return bytes.Clone(b.Data), nil
}

// Has tells whether Put was given the blob.
func (c *Cache) Has(ref tier.Ref) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.blobs[nameOf(ref)]
	return ok
}

// Put keeps a blob.
func (c *Cache) Put(_ context.Context, ref tier.Ref, plain []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fails == nil {
		c.blobs[nameOf(ref)] = plain
	}
}

// Offer keeps a copy of a blob.
func (c *Cache) Offer(ref tier.Ref, plain tier.Blob) bool {
	defer plain.Release()
	c.Put(context.Background(), ref, bytes.Clone(plain.Data))
	return true
}

// Fail has the cache fail from now on, until it is called with nil.
func (c *Cache) Fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fails = err
}

// Len is how many blobs are kept.
func (c *Cache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.blobs)
}

// Lent is how many blobs were got and not released.
func (c *Cache) Lent() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lent
}
