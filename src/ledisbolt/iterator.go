package ledisbolt

import (
	"bytes"
	"errors"
	"slices"
	"sort"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// Pages grow as an iterator goes on: most look at one key or at a few.
const (
	firstPage = 8
	largePage = 512
	// Values of a page that are no larger are read with it, the others when they
	// are asked for.
	eagerValue = 1 << 10
)

// walk is a way through keys.
type walk struct {
	start     []byte // nil: from the very first, or last
	inclusive bool   // start itself too
	back      bool
}

// has tells whether key is on the way.
func (r walk) has(key string) bool {
	if r.start == nil {
		return true
	}
	c := strings.Compare(key, string(r.start))
	if r.back {
		c = -c
	}
	return c > 0 || c == 0 && r.inclusive
}

// pair is a key and its value, nil if that is yet to be read.
type pair struct {
	key   string
	value []byte
}

// page is what was found next on a walk.
type page struct {
	pairs []pair // in the order of the walk
	more  bool   // there may be others behind them
	bound string // where more, but there are no pairs: all up to here were deleted
}

// source is what one place has next on a walk, in any order. Where more, it has
// others behind the last of them.
type source struct {
	pairs []pair
	more  bool
}

// files is a state of the store's files, to page through.
type files struct {
	main    *boltFile
	domains []domainFiles // in the order of their keys
	// fixed holds the snapshots to use; where it has none, the newest are.
	fixed map[*boltFile]*snapshot
}

type domainFiles struct {
	d        *domain
	count    int
	segments []*segment
}

// state returns the files as they are now. mu is held.
func (s *Store) state() files {
	f := files{main: s.main}
	for _, d := range s.domains {
		f.domains = append(f.domains, domainFiles{d, s.count(d), d.segments()})
	}
	slices.SortFunc(f.domains, func(a, b domainFiles) int { return bytes.Compare(a.d.prefix, b.d.prefix) })
	return f
}

// read calls fn with a file's snapshot.
func (f *files) read(b *boltFile, fn func(*snapshot) error) error {
	if f.fixed != nil {
		return fn(f.fixed[b])
	}
	snap, err := b.acquire()
	if err != nil {
		return err
	}
	defer snap.release()
	return fn(snap)
}

// page returns up to n pairs that are next on a walk, as the store is now.
func (s *Store) page(r walk, n int) (page, error) {
	for tries := 0; tries < 100; tries++ {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return page{}, ErrClosed
		}
		overlays := [2]map[string]op{}
		cut, edge := false, ""
		for i, o := range []*overlay{s.frozen, s.active} {
			overlays[i] = make(map[string]op)
			if o == nil {
				continue
			}
			o.sort()
			keys, rest := o.window(r, 4*n)
			for _, k := range keys {
				overlays[i][k] = o.ops[k]
			}
			if rest {
				last := keys[len(keys)-1]
				if r.back {
					last = keys[0]
				}
				if !cut || (last < edge) != r.back {
					cut, edge = true, last
				}
			}
		}
		f := s.state()
		s.mu.Unlock()
		p, err := s.merge(f, r, n, overlays, cut, edge)
		switch {
		case err == nil && len(p.pairs) == 0 && p.more:
			r, tries = walk{start: []byte(p.bound), back: r.back}, 0
		case !errors.Is(err, errGone):
			return p, err
		}
	}
	return page{}, errGone
}

// merge puts a page together from files and what is newer than they. Of the
// overlays, nothing is known behind edge if cut.
func (s *Store) merge(f files, r walk, n int, overlays [2]map[string]op, cut bool, edge string) (page, error) {
	all := make(map[string][]byte)
	// Up to where all is known: behind it a source may have what it did not give.
	bound, bounded := edge, cut
	add := func(src source) {
		for _, p := range src.pairs {
			all[p.key] = p.value
		}
		if !src.more {
			return
		}
		last := src.pairs[len(src.pairs)-1].key
		if !bounded || (last < bound) != r.back {
			bound, bounded = last, true
		}
	}
	beyond := func(key string) bool { return bounded && key != bound && (key > bound) != r.back }

	var main source
	err := f.read(f.main, func(snap *snapshot) (err error) {
		main, err = s.scanFile(snap, nil, r, n)
		return err
	})
	if errors.Is(err, errNoSense) && f.fixed == nil {
		s.replaceMain(f.main, err)
	}
	if err != nil {
		return page{}, err
	}
	add(main)
	domains := f.domains
	if r.back {
		domains = slices.Clone(domains)
		slices.Reverse(domains)
	}
	for _, d := range domains {
		if key := string(sizeKey(d.d.name)); d.count > 0 && r.has(key) {
			all[key] = sizeValue(d.count)
		}
		first, end := string(d.d.prefix), string(blobEnd(d.d.prefix))
		if !r.back && (!r.has(end) || beyond(first)) || r.back && (!r.has(first) || beyond(end)) {
			continue
		}
		for _, g := range d.segments {
			var src source
			err := f.read(&g.boltFile, func(snap *snapshot) (err error) {
				src, err = s.scanFile(snap, d.d.prefix, r, max(16, 4*n/len(d.segments)))
				return err
			})
			if errors.Is(err, ErrDamaged) {
				d.d.trouble(g, err)
				err = errGone
			}
			if err != nil {
				return page{}, err
			}
			add(src)
		}
	}
	for _, o := range overlays {
		for k, v := range o {
			if v.del {
				delete(all, k)
			} else {
				all[k] = v.value
			}
		}
	}
	p := page{more: bounded, bound: bound}
	for k, v := range all {
		if !beyond(k) {
			p.pairs = append(p.pairs, pair{k, v})
		}
	}
	sort.Slice(p.pairs, func(i, j int) bool { return (p.pairs[i].key < p.pairs[j].key) != r.back })
	if len(p.pairs) > n {
		p.pairs, p.more = p.pairs[:n], true
	}
	return p, nil
}

// scanFile reads up to n pairs of a file that are next on a walk. The file's
// keys stand behind prefix. Damaged ones are passed over: who gets one forgets it.
func (s *Store) scanFile(snap *snapshot, prefix []byte, r walk, n int) (src source, err error) {
	err = guard(func() error {
		c := snap.kv.Cursor()
		k, v := seek(c, prefix, r)
		for ; k != nil; k, v = step(c, r.back) {
			if len(src.pairs) == n {
				src.more = true
				return nil
			}
			p := pair{key: string(prefix) + string(k)}
			if prefix == nil && v != nil && len(v) <= eagerValue+sumSize {
				at, err := snap.locateAt(k, v)
				if err == nil {
					err = s.crc.check(snap, at, k, at.small)
				}
				if err != nil {
					s.log.Warn("damaged value passed over", "op", "iterate", "err", err)
					continue
				}
				p.value = append(make([]byte, 0, len(at.small)), at.small...)
			}
			src.pairs = append(src.pairs, p)
		}
		return nil
	})
	return src, err
}

// seek puts a cursor on the first key of a walk.
func seek(c *bolt.Cursor, prefix []byte, r walk) (k, v []byte) {
	edge := func() ([]byte, []byte) {
		if r.back {
			return c.Last()
		}
		return c.First()
	}
	if r.start == nil {
		return edge()
	}
	at, inside := bytes.CutPrefix(r.start, prefix)
	if !inside {
		if (string(r.start) < string(prefix)) != r.back {
			return edge() // all of the file is ahead
		}
		return nil, nil
	}
	k, v = c.Seek(at)
	if r.back {
		switch {
		case k == nil:
			return c.Last()
		case !r.inclusive || !bytes.Equal(k, at):
			return c.Prev()
		}
		return k, v
	}
	if !r.inclusive && bytes.Equal(k, at) {
		return c.Next()
	}
	return k, v
}

func step(c *bolt.Cursor, back bool) (k, v []byte) {
	if back {
		return c.Prev()
	}
	return c.Next()
}

// iterator is ledis' driver.IIterator. It reads page by page, and holds nothing
// in between. An error ends it: the interface has no way to tell.
type iterator struct {
	s    *Store
	snap *snapshotOf // nil: the newest state for each page

	pairs []pair
	at    int
	back  bool
	more  bool
	size  int
}

func (it *iterator) load(r walk) {
	if it.size == 0 {
		it.size = firstPage
	} else {
		it.size = min(4*it.size, largePage)
	}
	var p page
	var err error
	if it.snap != nil {
		p, err = it.snap.page(r, it.size)
	} else {
		p, err = it.s.page(r, it.size)
	}
	if err != nil {
		it.s.log.Error("iterate", "op", "iterate", "err", err)
		p = page{}
	}
	it.pairs, it.at, it.back, it.more = p.pairs, 0, r.back, p.more
}

func (it *iterator) First() { it.size = 0; it.load(walk{}) }
func (it *iterator) Last()  { it.size = 0; it.load(walk{back: true}) }

// Seek goes to key, or the next one that is there. ledis' HMGET and HDEL find
// field after field this way: one that is there is answered without a page.
func (it *iterator) Seek(key []byte) {
	it.size = 0
	if _, field, ok := splitBlob(key); ok && len(field) > 0 && it.snap == nil {
		v, at, err := it.s.look(key, true)
		if at != nil {
			at.release()
		}
		if err == nil && (v != nil || at != nil) {
			it.pairs, it.at, it.back, it.more = []pair{{string(key), v}}, 0, false, true
			return
		}
	}
	it.load(walk{start: key, inclusive: true})
}

func (it *iterator) Next() { it.step(false) }
func (it *iterator) Prev() { it.step(true) }

func (it *iterator) step(back bool) {
	if !it.Valid() {
		return
	}
	if back == it.back {
		if it.at++; it.at < len(it.pairs) {
			return
		}
		if !it.more {
			it.pairs = nil
			return
		}
		it.at--
	}
	it.load(walk{start: []byte(it.pairs[it.at].key), back: back})
}

func (it *iterator) Valid() bool { return it.at < len(it.pairs) }

func (it *iterator) Key() []byte {
	if !it.Valid() {
		return nil
	}
	return []byte(it.pairs[it.at].key)
}

// Value is empty if the key has been deleted since its page was read.
func (it *iterator) Value() []byte {
	if !it.Valid() {
		return nil
	}
	p := &it.pairs[it.at]
	if p.value == nil {
		var err error
		if it.snap != nil {
			p.value, err = it.snap.Get([]byte(p.key))
		} else {
			p.value, err = it.s.get([]byte(p.key))
		}
		if err != nil {
			it.s.log.Error("read a value", "op", "iterate", "err", err)
		}
		if p.value == nil {
			p.value = []byte{}
		}
	}
	return p.value
}

func (it *iterator) Close() error { it.pairs = nil; return nil }

// snapshotOf is ledis' driver.ISnapshot: the store as it was. It keeps every
// file open, and what was deleted since on disk: it is for a short time. While
// it is there, large changes may fail, for want of room to map.
type snapshotOf struct {
	s     *Store
	files files
}

// newSnapshot writes what is in memory to disk first.
func (s *Store) newSnapshot() (*snapshotOf, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.flushLocked(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	closed := s.closed
	v := &snapshotOf{s: s, files: s.state()}
	for i, d := range v.files.domains {
		v.files.domains[i].count = d.d.index.count // without what has come since the flush
	}
	s.mu.RUnlock()
	if closed {
		return nil, ErrClosed
	}
	v.files.fixed = make(map[*boltFile]*snapshot)
	all := []*boltFile{v.files.main}
	for _, d := range v.files.domains {
		for _, g := range d.segments {
			all = append(all, &g.boltFile)
		}
	}
	for _, f := range all {
		snap, err := f.acquire()
		if err != nil {
			v.Close()
			return nil, err
		}
		v.files.fixed[f] = snap
	}
	return v, nil
}

func (v *snapshotOf) Close() {
	for f, snap := range v.files.fixed {
		snap.release()
		delete(v.files.fixed, f)
	}
}

func (v *snapshotOf) page(r walk, n int) (page, error) {
	return v.s.merge(v.files, r, n, [2]map[string]op{}, false, "")
}

// Get returns a copy of a value, nil if there is none.
func (v *snapshotOf) Get(key []byte) ([]byte, error) {
	domain, field, isBlob := splitBlob(key)
	size, isSize := splitSize(key)
	snaps := []*snapshot{v.files.fixed[v.files.main]}
	for _, d := range v.files.domains {
		if isSize && d.d.name == string(size) {
			return sizeValue(d.count), nil
		}
		if isBlob && d.d.name == string(domain) {
			key, snaps = field, nil
			for _, g := range d.segments {
				snaps = append(snaps, v.files.fixed[&g.boltFile])
			}
		}
	}
	for _, snap := range snaps {
		at, ok, err := snap.locate(key)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		value, err := snap.read(at)
		if err != nil {
			return nil, err
		}
		return value, v.s.crc.check(snap, at, key, value)
	}
	return nil, nil
}
