package disk

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// A seed is a directory with segments as a Cache has them, and what makes them
// one:
//
//	seed.json                  what it consists of, and the heads; see manifest
//	index-0123456789abcdef     which blob is in which segment, named by its own digest
//	seg-00000001.bolt, ...     those that seed.json doesn't list don't count
//
// seed.json is replaced by a rename, so that a seed is always the old one or the
// new. Who reads it writes nothing, and takes no lock. The index is there to spare
// reading all segments; without it that is done. It has 8 bytes for each blob, in
// rising order, little-endian: an entry of the Cache's index, whose slot is the
// segment's place in seed.json's list, counted from 1.
const (
	seedFile   = "seed.json"
	seedFormat = 1
	maxSeed    = 64 << 20 // bytes of seed.json

	// seedSegment bounds a segment in bytes: it is to be read on small machines,
	// too, wherever it was written.
	seedSegment = 64 << 20
)

// ErrNoSeed says that there is nothing at a seed's path.
var ErrNoSeed = errors.New("there is no seed")

// manifest is what seed.json has.
type manifest struct {
	Format   int               `json:"format"`
	Segments []listed          `json:"segments"`
	Index    digest.Digest     `json:"index"`
	Heads    map[string]string `json:"heads"` // notes by tree.Heads.Key
}

type listed struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"` // of its blobs, plain
}

func indexName(d digest.Digest) string { return fmt.Sprintf("index-%.16s", d) }

var indexFile = regexp.MustCompile(`^index-[0-9a-f]{16}$`)

// Seed is a cache that came with the machine's image. It is only read: nothing is
// added, evicted or mended. Each blob is checked against its digest before it is
// first served; what fails is absent.
type Seed struct {
	c     *Cache
	heads map[string]string
	given atomic.Int64 // bytes
}

var _ tier.Cache = (*Seed)(nil)

// OpenSeed opens the seed in a directory. Without one the error is ErrNoSeed.
// Segments that can't be used are logged and left out.
func OpenSeed(path string, log *slog.Logger) (*Seed, error) {
	m, err := readManifest(path)
	if err != nil {
		return nil, fmt.Errorf("seed %s: %w", path, err)
	}
	s := &Seed{c: newSeedCache(path, log), heads: m.Heads}
	if err := s.c.loadIndexed(m); err != nil {
		s.c.log.Warn("seed: index cannot be used, segments will be read", "err", err)
		for _, l := range m.Segments {
			if id, ok := segmentID(l.File); ok {
				s.c.loadSeed(id)
			}
		}
	}
	return s, nil
}

func readManifest(path string) (manifest, error) {
	var m manifest
	name := filepath.Join(path, seedFile)
	fi, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return m, ErrNoSeed
	}
	if err == nil && fi.Size() > maxSeed {
		err = fmt.Errorf("%s has %d bytes, at most %d", name, fi.Size(), maxSeed)
	}
	if err != nil {
		return m, err
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%s: %w", name, err)
	}
	if m.Format != seedFormat {
		return m, fmt.Errorf("%s has format %d, this is for %d: bake it again", name, m.Format, seedFormat)
	}
	return m, nil
}

// newSeedCache is a Cache without a writer, on a directory that it doesn't lock.
func newSeedCache(path string, log *slog.Logger) *Cache {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := newCache(Options{Path: path, MaxSize: whole, Now: time.Now, segment: seedSegment}, log.With("tier", "seed", "path", path))
	c.patient = true
	c.dir = &directory{path: path, readOnly: true}
	if is32Bit {
		c.maxMapped = seedMapped32
	}
	c.bounds.Store(&bounds{Limits: Limits{MaxSize: whole}, segment: seedSegment})
	close(c.written)
	close(c.synced)
	return c
}

// loadSeed adds a segment that must be there, and reads which blobs it has.
func (c *Cache) loadSeed(id uint32) {
	s := newSegment(c.dir.path, id)
	if err := s.measure(); err != nil {
		c.lost(s, err)
		return
	}
	c.loadSuspect(s)
}

// lost takes note of a segment that should be there.
func (c *Cache) lost(s *segment, err error) {
	c.count.condemned.Add(1)
	c.log.Warn("seed: segment cannot be used", "segment", segmentName(s.id), "err", err)
}

// loadIndexed adds the segments of a manifest, with what its index says that they
// have. After an error there is nothing.
func (c *Cache) loadIndexed(m manifest) error {
	b, err := os.ReadFile(filepath.Join(c.dir.path, indexName(m.Index)))
	if err != nil {
		return err
	}
	if err := m.Index.Check(b); err != nil {
		return fmt.Errorf("%s: %w", indexName(m.Index), err)
	}
	slots := make([]uint16, 1, len(m.Segments)+1)
	for _, l := range m.Segments {
		slots = append(slots, 0)
		id, ok := segmentID(l.File)
		if !ok {
			continue
		}
		s := newSegment(c.dir.path, id)
		if err := s.measure(); err != nil {
			c.lost(s, err)
			continue
		}
		s.bytes.Store(l.Bytes)
		if c.add(s) {
			slots[len(slots)-1] = s.slot
		}
	}
	c.index.expect(int64(len(b) / 8))
	now := c.stamp()
	for ; len(b) >= 8; b = b[8:] {
		e := entry(binary.LittleEndian.Uint64(b))
		if i := int(e.slot()); i < len(slots) && slots[i] != 0 {
			c.index.put(e&fpMask|entry(slots[i]), now)
		}
	}
	return nil
}

// Get answers as Cache.Get does.
func (s *Seed) Get(ref tier.Ref) (tier.Blob, error) { return s.Range(ref, 0, whole) }

// Range answers as Cache.Range does.
func (s *Seed) Range(ref tier.Ref, off, n int64) (tier.Blob, error) {
	b, err := s.c.Range(ref, off, n)
	s.given.Add(int64(len(b.Data)))
	return b, err
}

// Ready answers as Cache.Ready does.
func (s *Seed) Ready(ref tier.Ref, off, n int64) (tier.Blob, tier.Nearness) {
	b, near := s.c.Ready(ref, off, n)
	s.given.Add(int64(len(b.Data)))
	return b, near
}

// WillNeed answers as Cache.WillNeed does.
func (s *Seed) WillNeed(ref tier.Ref) bool { return s.c.WillNeed(ref) }

// Copy answers as Cache.Copy does.
func (s *Seed) Copy(ref tier.Ref) ([]byte, error) {
	data, err := s.c.Copy(ref)
	s.given.Add(int64(len(data)))
	return data, err
}

// Has answers as Cache.Has does.
func (s *Seed) Has(ref tier.Ref) bool { return s.c.Has(ref) }

// Put does nothing.
func (s *Seed) Put(context.Context, tier.Ref, []byte) {}

// Offer does nothing.
func (s *Seed) Offer(_ tier.Ref, plain tier.Blob) bool {
	plain.Release()
	return true
}

// Head returns the note that was baked for a tree, or tier.ErrAbsent.
func (s *Seed) Head(tree string) ([]byte, error) {
	if note, ok := s.heads[tree]; ok && len(note) <= object.MaxHead {
		return []byte(note), nil
	}
	return nil, tier.ErrAbsent
}

// Stats returns what the seed has, and how it was asked.
func (s *Seed) Stats() Stats { return s.c.Stats() }

// Given is how many bytes the seed has answered with.
func (s *Seed) Given() int64 { return s.given.Load() }

// Close gives the files back. Blobs that were got stay valid until they are
// released.
func (s *Seed) Close() error {
	if err := s.c.Close(context.Background()); err != nil {
		return fmt.Errorf("close seed %s: %w", s.c.opt.Path, err)
	}
	return nil
}

// Seeded is a cache over a seed: what is not in the one may be in the other.
type Seeded struct {
	Cache *Cache // nil: nothing is kept
	Seed  *Seed
}

var _ tier.Cache = Seeded{}

// Get answers from the cache or else from the seed.
func (s Seeded) Get(ref tier.Ref) (tier.Blob, error) {
	if s.Cache != nil {
		if b, err := s.Cache.Get(ref); err == nil {
			return b, nil
		}
	}
	return s.Seed.Get(ref)
}

// Range is Get for a part of a blob.
func (s Seeded) Range(ref tier.Ref, off, n int64) (tier.Blob, error) {
	if s.Cache != nil {
		if b, err := s.Cache.Range(ref, off, n); err == nil {
			return b, nil
		}
	}
	return s.Seed.Range(ref, off, n)
}

// Ready is Range for what is in memory.
func (s Seeded) Ready(ref tier.Ref, off, n int64) (tier.Blob, tier.Nearness) {
	if s.Cache != nil {
		if b, near := s.Cache.Ready(ref, off, n); near != tier.Unknown || s.Cache.Has(ref) {
			return b, near
		}
	}
	return s.Seed.Ready(ref, off, n)
}

// WillNeed has the disk begin to read a blob of either.
func (s Seeded) WillNeed(ref tier.Ref) bool {
	if s.Cache != nil && s.Cache.Has(ref) {
		return s.Cache.WillNeed(ref)
	}
	return s.Seed.WillNeed(ref)
}

// Copy is Get into memory of the caller's own.
func (s Seeded) Copy(ref tier.Ref) ([]byte, error) {
	if s.Cache != nil {
		if data, err := s.Cache.Copy(ref); err == nil {
			return data, nil
		}
	}
	return s.Seed.Copy(ref)
}

// Has tells whether either has the blob.
func (s Seeded) Has(ref tier.Ref) bool {
	return s.Cache != nil && s.Cache.Has(ref) || s.Seed.Has(ref)
}

// Name tells the two apart: which of them would give the blob.
func (s Seeded) Name(ref tier.Ref) string {
	if s.Cache != nil && s.Cache.Has(ref) || !s.Seed.Has(ref) {
		return "disk"
	}
	return "seed"
}

// Put gives a blob to the cache.
func (s Seeded) Put(ctx context.Context, ref tier.Ref, plain []byte) {
	if s.Cache != nil {
		s.Cache.Put(ctx, ref, plain)
	}
}

// Offer is Put that waits for nothing.
func (s Seeded) Offer(ref tier.Ref, plain tier.Blob) bool {
	if s.Cache == nil {
		return s.Seed.Offer(ref, plain)
	}
	return s.Cache.Offer(ref, plain)
}
