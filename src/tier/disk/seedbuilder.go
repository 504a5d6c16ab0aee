package disk

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/tier"
)

// SeedBuilder makes a seed, or changes one. Methods are for one goroutine at a
// time, but for those of tier.Cache.
type SeedBuilder struct {
	c    *Cache
	lock *os.File

	small []*item // yet to be written
	fresh int64   // bytes that were added
}

var _ tier.Cache = (*SeedBuilder)(nil)

// BuildSeed opens a directory to make a seed in it, making the directory if need
// be. What is there, from a seed or a build that was cut off, can be got, and stays
// until Commit. The error is ErrInUse where another builder has the directory, and
// ErrForeign where something else is in it.
func BuildSeed(path string, log *slog.Logger) (*SeedBuilder, error) {
	b, err := buildSeed(path, log)
	if err != nil {
		return nil, fmt.Errorf("seed %s: %w", path, err)
	}
	return b, nil
}

func buildSeed(path string, log *slog.Logger) (*SeedBuilder, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	lock, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	b := &SeedBuilder{c: newSeedCache(path, log), lock: lock}
	ids, err := b.segments()
	if err != nil {
		lock.Close()
		return nil, err
	}
	for _, id := range ids {
		b.c.lastID = max(b.c.lastID, id)
		b.c.loadSeed(id)
	}
	return b, nil
}

// segments are the numbers of all segments' files in the directory, in their order.
func (b *SeedBuilder) segments() ([]uint32, error) {
	names, err := b.c.dir.names()
	if err != nil {
		return nil, err
	}
	var ids []uint32
	for _, name := range names {
		if id, ok := segmentID(name); ok {
			ids = append(ids, id)
		} else if !inSeed(name) {
			return nil, fmt.Errorf("%w: it has %q", ErrForeign, name)
		}
	}
	return ids, nil
}

// inSeed tells the files that a seed has, or a build that was cut off leaves.
func inSeed(name string) bool {
	name = strings.TrimSuffix(name, tempSuffix)
	_, segment := segmentID(name)
	return segment || name == seedFile || indexFile.MatchString(name)
}

// Head returns the note that the seed, as it was committed last, has for a tree.
func (b *SeedBuilder) Head(tree string) ([]byte, error) {
	m, err := readManifest(b.c.opt.Path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tier.ErrAbsent, err)
	}
	return (&Seed{heads: m.Heads}).Head(tree)
}

// Get answers with what is there already.
func (b *SeedBuilder) Get(ref tier.Ref) (tier.Blob, error) { return b.c.Get(ref) }

// Range is Get for a part of a blob.
func (b *SeedBuilder) Range(ref tier.Ref, off, n int64) (tier.Blob, error) {
	return b.c.Range(ref, off, n)
}

// Ready answers nothing: nobody is in a hurry.
func (b *SeedBuilder) Ready(tier.Ref, int64, int64) (tier.Blob, tier.Nearness) {
	return tier.Blob{}, tier.Unknown
}

// WillNeed does nothing.
func (b *SeedBuilder) WillNeed(tier.Ref) bool { return false }

// Copy is Get into memory of the caller's own.
func (b *SeedBuilder) Copy(ref tier.Ref) ([]byte, error) { return b.c.Copy(ref) }

// Has tells whether a blob is there already.
func (b *SeedBuilder) Has(ref tier.Ref) bool { return b.c.Has(ref) }

// Put does nothing: what is fetched is added in the order that is wanted, by Add.
func (b *SeedBuilder) Put(context.Context, tier.Ref, []byte) {}

// Offer does nothing.
func (b *SeedBuilder) Offer(_ tier.Ref, plain tier.Blob) bool {
	plain.Release()
	return true
}

// Add adds a blob, which the caller has verified and doesn't change any more,
// unless it is there. It can be got after Flush, if not before.
//
// bolt gives out the pages of values in no particular order, within a transaction.
// With those that need pages one at a time, the same blobs make the same bytes,
// and an image that can be built twice stays one.
func (b *SeedBuilder) Add(ref tier.Ref, plain []byte) error {
	if b.c.Has(ref) || slices.ContainsFunc(b.small, func(it *item) bool { return keyOf(&it.ref) == keyOf(&ref) }) {
		return nil
	}
	if int64(len(plain)) > b.c.largest() {
		return fmt.Errorf("add %v to seed %s: %d bytes, at most %d", ref, b.c.opt.Path, len(plain), b.c.largest())
	}
	b.fresh += int64(len(plain))
	return b.add(&item{ref: ref, fp: fingerprint(&ref), data: plain})
}

func (b *SeedBuilder) add(it *item) error {
	if len(it.data) > maxInline {
		return b.write([]*item{it})
	}
	if b.small = append(b.small, it); len(b.small) >= seedBatch {
		return b.Flush()
	}
	return nil
}

// seedBatch is how many small blobs are written at once.
const seedBatch = 256

// Flush writes what was added.
func (b *SeedBuilder) Flush() error {
	small := b.small
	b.small = nil
	return b.write(small)
}

func (b *SeedBuilder) write(batch []*item) error {
	for len(batch) > 0 {
		n, err := b.c.writeSome(batch)
		if err != nil {
			return fmt.Errorf("write seed %s: %w", b.c.opt.Path, err)
		}
		batch = batch[n:]
	}
	return nil
}

// Fresh is how many bytes were added.
func (b *SeedBuilder) Fresh() int64 { return b.fresh }

// Commit makes the seed one that has the blobs of refs, all of which are there, and
// these heads. It is on disk when Commit returns; until then the seed is what it
// was. Segments that have anything else are written anew or removed.
func (b *SeedBuilder) Commit(refs []tier.Ref, heads map[string][]byte) error {
	if err := b.commit(refs, heads); err != nil {
		return fmt.Errorf("commit seed %s: %w", b.c.opt.Path, err)
	}
	return nil
}

func (b *SeedBuilder) commit(refs []tier.Ref, heads map[string][]byte) error {
	if err := b.Flush(); err != nil {
		return err
	}
	wanted := make(map[pendingKey]bool, len(refs))
	for _, ref := range refs {
		wanted[keyOf(&ref)] = true
	}
	m := manifest{Format: seedFormat, Segments: []listed{}, Heads: make(map[string]string, len(heads))}
	for key, note := range heads {
		m.Heads[key] = string(note)
	}
	old := b.c.segments()
	for _, s := range old {
		keep, here, err := b.sort(s, wanted)
		if err != nil {
			return err
		}
		if keep {
			continue
		}
		for _, ref := range here {
			data, err := b.c.Copy(ref)
			if err != nil {
				return fmt.Errorf("copy %v forward: %w", ref, err)
			}
			if err := b.add(&item{ref: ref, fp: fingerprint(&ref), data: data}); err != nil {
				return err
			}
		}
		if err := b.Flush(); err != nil {
			return err
		}
		b.c.drop(s)
	}
	for _, ref := range refs {
		if !b.c.Has(ref) {
			return fmt.Errorf("%v: %w", ref, tier.ErrAbsent)
		}
	}
	b.c.seal(false)
	for _, s := range b.c.segments() {
		if err := syncFile(s.path); err != nil {
			return err
		}
		m.Segments = append(m.Segments, listed{segmentName(s.id), s.bytes.Load()})
	}
	index := b.encodeIndex()
	m.Index = digest.Of(index)
	if err := b.place(indexName(m.Index), index); err != nil {
		return err
	}
	return b.publish(m)
}

// encodeIndex is the file that says which blob is in which segment.
func (b *SeedBuilder) encodeIndex() []byte {
	place := make(map[uint16]entry)
	for i, s := range b.c.segments() {
		place[s.slot] = entry(i + 1)
	}
	all := make([]uint64, 0, b.c.index.len())
	b.c.index.each(func(e entry, _ uint32) { all = append(all, uint64(e&fpMask|place[e.slot()])) })
	slices.Sort(all)
	text := make([]byte, 0, 8*len(all))
	for _, e := range all {
		text = binary.LittleEndian.AppendUint64(text, e)
	}
	return text
}

// place gives a file in the directory its content, at once and durably but for its name.
func (b *SeedBuilder) place(name string, content []byte) error {
	path := filepath.Join(b.c.dir.path, name)
	err := writeSynced(path+tempSuffix, content)
	if err == nil {
		err = os.Rename(path+tempSuffix, path)
	}
	if err != nil {
		os.Remove(path + tempSuffix)
	}
	return err
}

const tempSuffix = ".tmp"

// sort tells whether a segment has nothing but what is wanted, and else what of it is.
func (b *SeedBuilder) sort(s *segment, wanted map[pendingKey]bool) (keep bool, here []tier.Ref, err error) {
	h, err := b.c.acquire(s)
	if err != nil {
		return false, nil, nil // it is no good: nothing of it counts
	}
	defer b.c.unref(h)
	keep = true
	err = h.eachRef(func(ref tier.Ref) {
		e, _, ok := b.c.index.peek(fingerprint(&ref))
		if ok && e.slot() == s.slot && wanted[keyOf(&ref)] {
			here = append(here, ref)
		} else {
			keep = false
		}
	})
	if err != nil {
		b.c.condemn(s, err)
		return false, nil, nil
	}
	return keep && len(here) > 0, here, nil
}

// publish puts the manifest in force and removes what it doesn't list.
func (b *SeedBuilder) publish(m manifest) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := b.c.dir.sync(); err != nil {
		return err
	}
	if err := b.place(seedFile, append(text, '\n')); err != nil {
		return err
	}
	if err := b.c.dir.sync(); err != nil {
		return err
	}
	names, err := b.c.dir.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == seedFile || name == indexName(m.Index) || !inSeed(name) || slices.ContainsFunc(m.Segments, func(l listed) bool { return l.File == name }) {
			continue
		}
		if err := os.Remove(filepath.Join(b.c.dir.path, name)); err != nil {
			return fmt.Errorf("remove what the seed no longer needs: %w", err)
		}
	}
	return b.c.dir.sync()
}

// Stats returns what is there.
func (b *SeedBuilder) Stats() Stats { return b.c.Stats() }

// Close ends the build. What was not committed is found by the next one.
func (b *SeedBuilder) Close() error {
	flushed := b.Flush()
	b.c.seal(false)
	return errors.Join(flushed, b.c.Close(context.Background()), b.lock.Close())
}
