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
	count    int // of a snapshot's blobs
	segments []*segment
}

// state returns the files as they are now. mu is held.
func (s *Store) state() files {
	f := files{main: s.main}
	for _, d := range s.domains {
		f.domains = append(f.domains, domainFiles{d: d, segments: d.segments()})
	}
	slices.SortFunc(f.domains, func(a, b domainFiles) int { return bytes.Compare(a.d.prefix, b.d.prefix) })
	return f
}

// read calls fn with a snapshot of one.
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
		p, err := s.tryPage(r, n, tries > 3)
		switch {
		case err == nil && len(p.pairs) == 0 && p.more:
			r, tries = walk{start: []byte(p.bound), back: r.back}, 0
		case !errors.Is(err, errGone):
			return p, err
		}
	}
	return page{}, errGone
}

// tryPage is one try of page; errGone asks for another. A flush or an eviction
// may move a blob from a segment that is yet to be read to one that has been, or
// that was not there when the segments were listed. Hence what is in memory comes
// last: if nothing has been moved by then, that has whatever a flush is about to
// move. quiet keeps both away meanwhile.
func (s *Store) tryPage(r walk, n int, quiet bool) (page, error) {
	if quiet {
		s.writing.Lock()
		defer s.writing.Unlock()
	}
	s.mu.RLock()
	closed, epoch, f := s.closed, s.epoch, s.state()
	s.mu.RUnlock()
	if closed {
		return page{}, ErrClosed
	}
	x, err := s.scan(f, r, n)
	if err != nil {
		return page{}, err
	}
	s.mu.Lock()
	if s.epoch != epoch {
		s.mu.Unlock()
		return page{}, errGone
	}
	for _, d := range s.domains {
		x.size(d, s.count(d))
	}
	for _, o := range []*overlay{s.frozen, s.active} {
		if o != nil {
			o.sort()
			x.change(o, 4*n)
		}
	}
	s.mu.Unlock()
	return x.page(n), nil
}

// scan is what was found next on a walk, in one place after the other.
type scan struct {
	walk
	all map[string][]byte
	// Up to where all is known: behind it a place may have what it did not give.
	bound   string
	bounded bool
}

// upTo notes that a place has more behind last.
func (x *scan) upTo(last string) {
	if !x.bounded || (last < x.bound) != x.back {
		x.bound, x.bounded = last, true
	}
}

func (x *scan) beyond(key string) bool {
	return x.bounded && key != x.bound && (key > x.bound) != x.back
}

func (x *scan) add(src source) {
	for _, p := range src.pairs {
		x.all[p.key] = p.value
	}
	if src.more {
		x.upTo(src.pairs[len(src.pairs)-1].key)
	}
}

// size adds how many blobs a domain has.
func (x *scan) size(d *domain, count int) {
	if key := string(sizeKey(d.name)); count > 0 && x.has(key) {
		x.all[key] = sizeValue(count)
	}
}

// change applies what is newer than the files, n keys of it. Store.mu is held.
func (x *scan) change(o *overlay, n int) {
	keys, more := o.window(x.walk, n)
	for _, k := range keys {
		if v := o.ops[k]; v.del {
			delete(x.all, k)
		} else {
			x.all[k] = v.value
		}
	}
	if more && x.back {
		x.upTo(keys[0])
	} else if more {
		x.upTo(keys[len(keys)-1])
	}
}

// page returns the first n pairs.
func (x *scan) page(n int) page {
	p := page{more: x.bounded, bound: x.bound}
	for k, v := range x.all {
		if !x.beyond(k) {
			p.pairs = append(p.pairs, pair{k, v})
		}
	}
	sort.Slice(p.pairs, func(i, j int) bool { return (p.pairs[i].key < p.pairs[j].key) != x.back })
	if len(p.pairs) > n {
		p.pairs, p.more = p.pairs[:n], true
	}
	return p
}

// scan reads what is next in the files.
func (s *Store) scan(f files, r walk, n int) (*scan, error) {
	x := &scan{walk: r, all: make(map[string][]byte)}
	var main source
	err := f.read(f.main, func(snap *snapshot) (err error) {
		main, err = s.scanFile(snap, nil, r, n)
		return err
	})
	if errors.Is(err, errNoSense) && f.fixed == nil {
		s.replaceMain(f.main, err)
	}
	if err != nil {
		return nil, err
	}
	x.add(main)
	domains := f.domains
	if r.back {
		domains = slices.Clone(domains)
		slices.Reverse(domains)
	}
	for _, d := range domains {
		first, end := string(d.d.prefix), string(blobEnd(d.d.prefix))
		if !r.back && (!r.has(end) || x.beyond(first)) || r.back && (!r.has(first) || x.beyond(end)) {
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
				return nil, err
			}
			x.add(src)
		}
	}
	return x, nil
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
	x, err := v.s.scan(v.files, r, n)
	if err != nil {
		return page{}, err
	}
	for _, d := range v.files.domains {
		x.size(d.d, d.count)
	}
	return x.page(n), nil
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
