package ledisbolt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
)

// segment is one bolt file of a domain.
type segment struct {
	boltFile
	id   uint32 // in the file's name; a newer one has a higher
	slot int    // in the index, while bySlot has it there
}

func segmentName(id uint32) string { return fmt.Sprintf("seg-%07d.bolt", id) }

// domain is the blobs of one dedupe domain.
type domain struct {
	s      *Store
	name   string
	dir    string
	prefix []byte // of its keys

	index  *index     // GUARDED_BY(Store.mu)
	bySlot []*segment // GUARDED_BY(Store.mu); nil where a slot is free
	saved  int64      // GUARDED_BY(Store.mu); bytes on disk of the index file

	changed atomic.Bool // since the index file was written

	active *segment // GUARDED_BY(Store.writing); takes new blobs; nil if there is none
	nextID uint32   // GUARDED_BY(Store.writing)
}

const domainDirPrefix = "files-"

func newDomain(s *Store, name string) *domain {
	return &domain{
		s: s, name: name, dir: filepath.Join(s.dir, domainDirPrefix+name), prefix: blobPrefix(name),
		index: newIndex(), bySlot: make([]*segment, 1), nextID: 1,
	}
}

// segments are those there are, by age. mu is held, or writing and nothing else
// that could change them.
func (d *domain) segments() []*segment {
	var all []*segment
	for _, g := range d.bySlot {
		if g != nil {
			all = append(all, g)
		}
	}
	slices.SortFunc(all, func(a, b *segment) int { return int(a.id) - int(b.id) })
	return all
}

// has tells whether g, if not nil, is one of the domain's segments. mu is held.
func (d *domain) has(g *segment) bool { return g != nil && d.bySlot[g.slot] == g }

// pick returns the segments at slots, newest first. mu is held.
func (d *domain) pick(slots []int) []*segment {
	var picked []*segment
	for _, slot := range slots {
		if g := d.bySlot[slot]; g != nil {
			picked = append(picked, g)
		}
	}
	if len(picked) > 1 {
		slices.SortFunc(picked, func(a, b *segment) int { return int(b.id) - int(a.id) })
	}
	return picked
}

func (d *domain) newSegment(id uint32) *segment {
	g := &segment{id: id, boltFile: boltFile{
		path: filepath.Join(d.dir, segmentName(id)), pool: d.s.pool,
		mapSize: mapped(d.s.opt.SegmentSize), alloc: segmentAlloc(d.s.opt.SegmentSize),
	}}
	if !is32Bit {
		g.mapSize *= 2 // for deletes in a full one, which take pages before they give any
	}
	return g
}

func segmentAlloc(segmentSize int64) int { return int(min(segmentSize/16, 8<<20)) }

// place gives a segment a slot. mu is held.
func (d *domain) place(g *segment) error {
	for slot := 1; slot <= maxSlot; slot++ {
		if slot == len(d.bySlot) {
			d.bySlot = append(d.bySlot, nil)
		}
		if d.bySlot[slot] == nil {
			g.slot = slot
			d.bySlot[slot] = g
			return nil
		}
	}
	return fmt.Errorf("domain %s has %d segments: %w", d.name, maxSlot, ErrFull)
}

// move is how a blob's entry in the index is to change. A slot of 0 is none.
type move struct {
	d        *domain
	fp       entry
	from, to *segment
	stamp    uint32 // 0: of now
}

// apply is called with mu held.
func (m move) apply(now uint32) {
	if m.d.has(m.from) {
		m.d.index.remove(m.fp, m.from.slot)
	}
	if m.d.has(m.to) {
		if m.stamp != 0 {
			now = m.stamp
		}
		m.d.index.add(m.fp, m.to.slot, now)
	}
}

// write puts and deletes blobs, and returns what has moved, whether or not all
// of it could be done. Fields are in order, each there once.
func (d *domain) write(ws []write) ([]move, error) {
	if err := d.prepare(); err != nil {
		return nil, err
	}
	var moves []move
	var errs []error
	// Where each is now. A blob is in one segment alone.
	old := make([]*segment, len(ws))
	var puts []int
	for i, w := range ws {
		old[i] = d.where(w.key)
		if w.value != nil {
			puts = append(puts, i)
		}
	}
	gone := make(map[*segment][]int) // what is to be deleted where
	for len(puts) > 0 {
		g, n, err := d.room(ws, puts)
		if err != nil {
			d.s.dropped.Add(int64(len(puts)))
			errs = append(errs, err)
			break
		}
		err = d.putAll(g, ws, puts[:n])
		if err != nil {
			d.s.dropped.Add(int64(n))
			errs = append(errs, err)
			d.spoilt(g, err)
		} else {
			for _, i := range puts[:n] {
				moves = append(moves, move{d: d, fp: fingerprint(ws[i].key), from: old[i], to: g})
				if old[i] != nil && old[i] != g {
					gone[old[i]] = append(gone[old[i]], i)
				}
			}
		}
		puts = puts[n:]
	}
	for i, w := range ws {
		if w.value == nil && old[i] != nil {
			gone[old[i]] = append(gone[old[i]], i)
		}
	}
	for g, list := range gone {
		if err := d.deleteAll(g, ws, list); err != nil {
			errs = append(errs, err)
			d.spoilt(g, err)
			continue
		}
		for _, i := range list {
			if ws[i].value == nil {
				moves = append(moves, move{d: d, fp: fingerprint(ws[i].key), from: g})
			}
		}
	}
	d.changed.Store(true)
	return moves, errors.Join(errs...)
}

// prepare makes the domain's directory.
func (d *domain) prepare() error {
	if _, err := os.Stat(d.dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	return syncDir(d.s.dir)
}

// where returns the segment that has a field; nil if none has. writing is held.
func (d *domain) where(field string) *segment {
	d.s.mu.RLock()
	segments := d.pick(d.index.slots(nil, fingerprint(field)))
	d.s.mu.RUnlock()
	for _, g := range segments {
		snap, err := g.acquire()
		if err != nil {
			continue
		}
		_, ok, err := snap.locate([]byte(field))
		snap.release()
		if ok && err == nil {
			return g
		}
	}
	return nil
}

// room returns the segment to write to, and how many of the puts that are left
// go there: at least one.
func (d *domain) room(ws []write, puts []int) (*segment, int, error) {
	used := int64(0)
	if d.active != nil {
		var err error
		if used, err = d.active.used(); err != nil {
			d.spoilt(d.active, err)
		}
	}
	n, need := 0, int64(0)
	limit := d.s.opt.SegmentSize - 2*int64(segmentAlloc(d.s.opt.SegmentSize)) - used
	for n < len(puts) {
		w := ws[puts[n]]
		size := diskSize(w.key, w.value) + pageSize // a leaf that has to be written anew
		if need+size > limit && d.active != nil && n == 0 {
			d.seal()
			limit += used
		}
		if n > 0 && need+size > limit {
			break
		}
		need += size
		n++
	}
	if free := d.s.Room(); need > free {
		return nil, 0, fmt.Errorf("%d bytes for domain %s: %w: %d may be taken", need, d.name, ErrFull, max(free, 0))
	}
	if d.active == nil {
		if err := d.grow(); err != nil {
			return nil, 0, err
		}
	}
	return d.active, n, nil
}

// used is how many bytes of the file bolt has taken so far, those that are free
// again included: they may be in pieces too small for a blob.
func (g *segment) used() (int64, error) {
	snap, err := g.acquire()
	if err != nil {
		return 0, err
	}
	defer snap.release()
	return snap.tx.Size(), nil
}

// seal has the next blobs go to a new segment.
func (d *domain) seal() { d.active = nil }

// grow starts a segment.
func (d *domain) grow() error {
	g := d.newSegment(d.nextID)
	d.nextID++
	snap, err := g.acquire()
	if err != nil {
		_ = os.Remove(g.path)
		return err
	}
	snap.release()
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	if err := d.place(g); err != nil {
		return err
	}
	d.active = g
	return nil
}

func (d *domain) putAll(g *segment, ws []write, list []int) error {
	return g.update(func(kv *bolt.Bucket) error {
		for _, i := range list {
			if err := d.s.crc.putValue(kv, ws[i].key, ws[i].value); err != nil {
				return err
			}
		}
		return nil
	})
}

// deleteAll deletes from one segment, unless it is about to be unlinked anyway.
func (d *domain) deleteAll(g *segment, ws []write, list []int) error {
	d.s.mu.RLock()
	all := d.index.at(g.slot) == len(list) && g != d.active
	d.s.mu.RUnlock()
	if all {
		return nil
	}
	for chunk := range slices.Chunk(list, deletesPerTx) {
		err := g.update(func(kv *bolt.Bucket) error {
			for _, i := range chunk {
				if err := deleteValue(kv, ws[i].key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// deletesPerTx bounds the pages that deletes take before they give any back.
const deletesPerTx = 1024

// spoilt is told of a segment that could not be written. The next blobs go
// elsewhere; if it is damaged, it is given up.
func (d *domain) spoilt(g *segment, err error) {
	if d.active == g {
		d.seal()
	}
	d.trouble(g, err)
}

// trouble is told of an error that a segment led to. One that is damaged is
// given up, with all that is in it.
func (d *domain) trouble(g *segment, err error) {
	if !errors.Is(err, ErrDamaged) {
		if !errors.Is(err, errGone) {
			d.s.log.Warn("use a segment", "op", "get", "domain", d.name, "file", g.path, "err", err)
		}
		return
	}
	d.s.mu.Lock()
	if !d.has(g) {
		d.s.mu.Unlock()
		return // someone else was first
	}
	blobs := d.forget(g)
	d.s.mu.Unlock()
	d.s.log.Error("damaged segment removed", "op", "get", "domain", d.name, "file", g.path, "blobs", blobs, "err", err)
	d.s.corrupt.Add(int64(blobs))
	d.unlink(g)
}

// forget takes a segment out of the index and returns how many blobs it had.
// mu is held.
func (d *domain) forget(g *segment) int {
	blobs := d.index.at(g.slot)
	d.index.dropSlot(g.slot)
	d.bySlot[g.slot] = nil
	d.s.epoch++
	d.s.recount()
	return blobs
}

func (d *domain) unlink(g *segment) {
	g.retire(true)
	if err := os.Remove(g.path); err != nil {
		d.s.log.Warn("remove a segment", "op", "remove", "domain", d.name, "file", g.path, "err", err)
	}
}

// removeEmpty unlinks segments whose blobs are all gone. writing is held.
func (d *domain) removeEmpty() {
	d.s.mu.Lock()
	var empty []*segment
	for _, g := range d.bySlot {
		if g != nil && d.index.at(g.slot) == 0 {
			d.forget(g)
			empty = append(empty, g)
		}
	}
	d.s.mu.Unlock()
	for _, g := range empty {
		if d.active == g {
			d.seal()
		}
		d.unlink(g)
	}
	if len(empty) > 0 {
		// Or else what was deleted could be back after a power cut.
		if err := syncDir(d.dir); err != nil {
			d.s.log.Warn("sync a directory", "op", "remove", "domain", d.name, "err", err)
		}
	}
}
