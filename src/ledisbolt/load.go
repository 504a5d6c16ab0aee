package ledisbolt

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// load opens what is in the store's directory.
func (s *Store) load() error {
	// Whoever has this file has the directory.
	if err := s.loadMain(); err != nil {
		return err
	}
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), droppedPrefix) {
			if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
				return err
			}
		}
		name, ok := strings.CutPrefix(e.Name(), domainDirPrefix)
		if !ok || !e.IsDir() || !isDomain(name) {
			continue
		}
		d := newDomain(s, name)
		if err := d.load(); err != nil {
			return fmt.Errorf("domain %s: %w", name, err)
		}
		s.domains[name] = d
	}
	return nil
}

// load opens the domain's segments and builds the index: from the index file
// where a segment has not changed since that was saved, else from the segment.
func (d *domain) load() error {
	list, err := os.ReadDir(d.dir)
	if err != nil {
		return err
	}
	saved, err := d.readIndex()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		d.s.damage = append(d.s.damage, fmt.Errorf("built anew: %w", err))
	}
	known := make(map[uint16]*segment) // by the slot that they have in saved
	var changed []*segment
	for _, e := range list {
		var id uint32
		if n, _ := fmt.Sscanf(e.Name(), "seg-%d.bolt", &id); n != 1 || id == 0 || e.Name() != segmentName(id) {
			if strings.HasSuffix(e.Name(), ".tmp") {
				_ = os.Remove(filepath.Join(d.dir, e.Name()))
			}
			continue
		}
		d.nextID = max(d.nextID, id+1)
		g := d.newSegment(id)
		if fi, err := e.Info(); err == nil {
			g.size.Store(onDisk(fi))
		}
		tx, err := g.txID()
		if errors.Is(err, ErrDamaged) {
			if err := d.giveUp(g, err); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := d.place(g); err != nil {
			return err
		}
		if at, ok := saved.segments[id]; ok && at.tx == tx {
			known[at.slot] = g
		} else {
			changed = append(changed, g)
		}
	}
	stamps := make(map[entry]uint32) // of what is to be found in changed ones
	for i, e := range saved.entries {
		if g := known[uint16(e.slot())]; g != nil {
			d.index.add(e&fpMask, g.slot, saved.stamps[i])
		} else {
			stamps[e&fpMask] = saved.stamps[i]
		}
	}
	slices.SortFunc(changed, func(a, b *segment) int { return int(a.id) - int(b.id) })
	d.changed.Store(len(changed) > 0)
	for _, g := range changed {
		if err := d.scan(g, stamps); err != nil {
			return err
		}
	}
	return nil
}

func (g *segment) txID() (uint64, error) {
	snap, err := g.acquire()
	if err != nil {
		return 0, err
	}
	defer snap.release()
	return uint64(snap.tx.ID()), nil
}

// giveUp removes a damaged segment that Open came upon.
func (d *domain) giveUp(g *segment, why error) error {
	d.s.damage = append(d.s.damage, fmt.Errorf("removed: %w", why))
	g.retire(true)
	return os.Remove(g.path)
}

// scan adds the fields of a segment to the index. Where another segment has one
// too, because a crash came between writing the new and deleting the old, the
// newer stays.
func (d *domain) scan(g *segment, stamps map[entry]uint32) error {
	now := d.s.stamp()
	older := make(map[*segment][]string)
	snap, err := g.acquire()
	if err == nil {
		err = guard(func() error {
			c := snap.kv.Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				if _, err := snap.locateAt(k, v); err != nil {
					return err
				}
				fp := fingerprint(k)
				if other := d.where(string(k)); other != nil && other.id > g.id {
					older[g] = append(older[g], string(k))
					continue
				} else if other != nil {
					older[other] = append(older[other], string(k))
					d.index.remove(fp, other.slot)
				}
				stamp, ok := stamps[fp]
				if !ok {
					stamp = now
				}
				d.index.add(fp, g.slot, stamp)
			}
			return nil
		})
		snap.release()
	}
	if errors.Is(err, ErrDamaged) {
		d.index.dropSlot(g.slot)
		d.bySlot[g.slot] = nil
		return d.giveUp(g, err)
	}
	if err != nil {
		return err
	}
	for g, fields := range older {
		err := g.update(func(kv *bolt.Bucket) error {
			for _, f := range fields {
				if err := deleteValue(kv, f); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			d.s.log.Warn("delete older copies", "op", "open", "domain", d.name, "err", err)
		}
	}
	return nil
}

// The index file, all numbers big-endian:
//
//	"aysindex1\n"
//	segments    4 bytes
//	entries     8 bytes
//	for each segment: id 4, slot 2, transaction 8
//	for each entry:   entry 8, last fetched 4
//	CRC-32C of all that
const indexMagic = "aysindex1\n"

// savedIndex is the content of an index file.
type savedIndex struct {
	segments map[uint32]savedSegment // by id
	entries  []entry
	stamps   []uint32
}

type savedSegment struct {
	slot uint16
	tx   uint64 // the last one when the file was written
}

func (d *domain) indexPath() string { return filepath.Join(d.dir, "index") }

// readIndex reads what saveIndex wrote. Without a file, or with a damaged one,
// it is an empty one and an error.
func (d *domain) readIndex() (savedIndex, error) {
	x := savedIndex{segments: make(map[uint32]savedSegment)}
	b, err := os.ReadFile(d.indexPath())
	if err != nil {
		return x, err
	}
	damaged := fmt.Errorf("%s: %w", d.indexPath(), ErrDamaged)
	const head = len(indexMagic) + 4 + 8
	if len(b) < head+4 || string(b[:len(indexMagic)]) != indexMagic ||
		crc32.Checksum(b[:len(b)-4], d.s.crc.table) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return x, damaged
	}
	segments := uint64(binary.BigEndian.Uint32(b[len(indexMagic):]))
	entries := binary.BigEndian.Uint64(b[len(indexMagic)+4:])
	if rest := uint64(len(b) - head - 4); segments > rest/14 || entries != (rest-14*segments)/12 {
		return x, damaged
	}
	d.saved = int64(len(b))
	b = b[head:]
	for range segments {
		x.segments[binary.BigEndian.Uint32(b)] = savedSegment{slot: binary.BigEndian.Uint16(b[4:]), tx: binary.BigEndian.Uint64(b[6:])}
		b = b[14:]
	}
	x.entries, x.stamps = make([]entry, entries), make([]uint32, entries)
	for i := range entries {
		x.entries[i], x.stamps[i] = entry(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint32(b[8:])
		b = b[12:]
	}
	return x, nil
}

// saveAll saves the index of every domain. writing is held.
func (s *Store) saveAll() error {
	s.mu.RLock()
	var domains []*domain
	for _, d := range s.domains {
		domains = append(domains, d)
	}
	s.mu.RUnlock()
	var errs []error
	for _, d := range domains {
		errs = append(errs, d.saveIndex())
	}
	return errors.Join(errs...)
}

// saveIndex writes the index file, unless nothing has changed. writing is held.
func (d *domain) saveIndex() error {
	if !d.changed.Swap(false) {
		return nil
	}
	err := d.writeIndex()
	if err != nil {
		d.changed.Store(true)
		_ = os.Remove(d.indexPath() + ".tmp")
	}
	return err
}

func (d *domain) writeIndex() error {
	d.s.mu.RLock()
	x := savedIndex{entries: make([]entry, 0, d.index.count), stamps: make([]uint32, 0, d.index.count)}
	for i := range d.index.entries {
		if e := d.index.load(i); e != 0 {
			x.entries, x.stamps = append(x.entries, e&^checkedFlag), append(x.stamps, d.index.loadStamp(i))
		}
	}
	segments := d.segments()
	d.s.mu.RUnlock()
	if len(segments) == 0 && d.saved == 0 {
		return nil
	}
	tmp := d.indexPath() + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	w := newSummer(f, d.s.crc)
	w.write([]byte(indexMagic))
	w.number(4, uint64(len(segments)))
	w.number(8, uint64(len(x.entries)))
	for _, g := range segments {
		tx, err := g.txID()
		if err != nil {
			return err
		}
		w.number(4, uint64(g.id))
		w.number(2, uint64(g.slot))
		w.number(8, tx)
	}
	for i, e := range x.entries {
		w.number(8, uint64(e))
		w.number(4, uint64(x.stamps[i]))
	}
	if err := w.finish(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, d.indexPath()); err != nil {
		return err
	}
	d.s.mu.Lock()
	d.saved = onDisk(fi)
	d.s.mu.Unlock()
	return nil
}

// summer writes numbers and a checksum of them.
type summer struct {
	w   *bufio.Writer
	sum hash.Hash32
	err error
}

func newSummer(w io.Writer, c castagnoli) *summer {
	return &summer{w: bufio.NewWriterSize(w, 64<<10), sum: crc32.New(c.table)}
}

func (s *summer) write(b []byte) {
	if s.err == nil {
		s.sum.Write(b)
		_, s.err = s.w.Write(b)
	}
}

// number writes the low n bytes of v.
func (s *summer) number(n int, v uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	s.write(b[8-n:])
}

func (s *summer) finish() error {
	sum := s.sum.Sum32()
	s.number(4, uint64(sum))
	if s.err != nil {
		return s.err
	}
	return s.w.Flush()
}
