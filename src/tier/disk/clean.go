package disk

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/aysfs/aysfs/src/tier"
)

// The clean marker says that the cache was closed in order, and what its files
// were like then: a segment that is still the same need not be verified, and
// need not even be opened to know what is in it. It is removed when it has been
// read, and durably so before the writer changes anything, so it is there only
// if it is true.
//
//	magic, time, number of segments, a stamp for each, in order of eviction,
//	number of entries, for each the entry, its slot being the segment's place
//	in that order counted from 1, and how long ago it was last used,
//	SHA-256 of all that
//
// Numbers are little-endian.
const cleanMagic = "aysfs cache closed 1\n"

// fileStamp is by what a segment's file is known not to have been changed.
type fileStamp struct {
	ID           uint32
	Active       uint32 // 1 if it was being written to
	Size         int64
	Mtime, Ctime int64 // nanoseconds since 1970
	Inode        uint64
	Plain        int64 // bytes of blobs in it
}

func stampFile(s *segment) (fileStamp, fs.FileInfo, error) {
	fi, err := os.Stat(s.path)
	if err != nil {
		return fileStamp{}, nil, err
	}
	f := fileStamp{ID: s.id, Size: fi.Size(), Plain: s.bytes.Load()}
	if st := statOf(fi); st != nil {
		f.Mtime = int64(st.Mtim.Sec)*1e9 + int64(st.Mtim.Nsec)
		f.Ctime = int64(st.Ctim.Sec)*1e9 + int64(st.Ctim.Nsec)
		f.Inode = st.Ino
	}
	return f, fi, nil
}

// saveClean leaves the marker. Everything has been written and synced.
func (c *Cache) saveClean() (err error) {
	path := filepath.Join(c.dir.path, cleanFile)
	defer func() {
		if err != nil {
			os.Remove(path + ".tmp")
			err = fmt.Errorf("save the index of disk cache %s: %w", c.opt.Path, err)
		}
	}()
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	w := newSummer(f)
	now := c.opt.Now()
	w.bytes([]byte(cleanMagic))
	w.number(now.UnixNano())
	segs := c.segments()
	w.number(int64(len(segs)))
	place := make([]uint16, len(c.slots))
	for i, s := range segs {
		stamp, _, err := stampFile(s)
		if err != nil {
			return err
		}
		if !s.spoilt.Load() && i == len(segs)-1 {
			stamp.Active = 1
		}
		w.number(stamp)
		place[s.slot] = uint16(i + 1)
	}
	stamp := c.stampAt(now)
	w.number(c.index.len())
	c.index.each(func(e entry, used uint32) {
		// An entry of a segment that is gone keeps slot 0, and is passed over
		// when it is loaded.
		w.entry(e&^entry(maxSlot)|entry(place[e.slot()]), uint32(uint64(max(stamp, used)-used)*uint64(stampUnit)/uint64(time.Second)))
	})
	if err := errors.Join(w.finish(), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	return c.dir.sync()
}

// load finds out what the cache has.
func (c *Cache) load() {
	names, err := c.dir.names()
	if err != nil {
		c.log.Warn("disk cache: directory cannot be read", "err", err)
		return
	}
	m, err := c.takeClean()
	if err != nil {
		c.log.Warn("disk cache: index cannot be used, segments will be read", "err", err)
	}
	defer m.close()
	segs := map[uint32]*segment{}
	for _, name := range names {
		id, ok := segmentID(name)
		if !ok {
			continue
		}
		segs[id] = newSegment(c.dir.path, id)
		c.lastID = max(c.lastID, id)
	}
	same := c.addUnchanged(m, segs)
	if err := c.loadEntries(m, same); err != nil {
		c.log.Warn("disk cache: index cannot be read to its end", "err", err)
	}
	var rest []*segment
	for _, s := range segs {
		if s.slot == 0 {
			rest = append(rest, s)
		}
	}
	slices.SortFunc(rest, func(a, b *segment) int { return int(int64(a.id) - int64(b.id)) })
	for _, s := range rest {
		c.loadSuspect(s)
	}
	c.resume(m, same)
}

// clean is what the marker said, up to its entries, which are read from file.
type clean struct {
	when   time.Time
	stamps []fileStamp
	count  int64 // of entries
	file   *os.File
	in     *bufio.Reader
}

func (m *clean) close() {
	if m.file != nil {
		m.file.Close()
	}
}

// takeClean opens the marker and removes it. None is no error, and no marker is
// used that could not be removed, unless nothing can be changed at all.
func (c *Cache) takeClean() (*clean, error) {
	path := filepath.Join(c.dir.path, cleanFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &clean{}, nil
	}
	if !c.dir.readOnly {
		err = errors.Join(err, os.Remove(path))
	}
	var m *clean
	if err == nil {
		m, err = readClean(f)
	}
	if err != nil {
		if f != nil {
			f.Close()
		}
		return &clean{}, fmt.Errorf("read %s: %w", path, err)
	}
	return m, nil
}

// readClean checks the marker's sum, and reads it up to the entries.
func readClean(f *os.File) (*clean, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	body := fi.Size() - sha256.Size
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, body)); err != nil {
		return nil, err
	}
	want := make([]byte, sha256.Size)
	if _, err := f.ReadAt(want, max(body, 0)); err != nil || !bytes.Equal(want, sum.Sum(nil)) {
		return nil, fmt.Errorf("it does not have its checksum (%v)", err)
	}
	m := &clean{file: f, in: bufio.NewReaderSize(f, 64<<10)}
	magic := make([]byte, len(cleanMagic))
	if _, err := io.ReadFull(m.in, magic); err != nil || string(magic) != cleanMagic {
		return nil, fmt.Errorf("it starts with %q (%v)", magic, err)
	}
	var when, n int64
	read := func(v any) {
		if err == nil {
			err = binary.Read(m.in, binary.LittleEndian, v)
		}
	}
	read(&when)
	read(&n)
	if n < 0 || n > maxSlot {
		return nil, fmt.Errorf("it has %d segments", n)
	}
	m.when, m.stamps = time.Unix(0, when), make([]fileStamp, n)
	read(m.stamps)
	read(&m.count)
	if m.count < 0 || m.count > fi.Size()/entryOnDisk {
		return nil, fmt.Errorf("it has %d entries in %d bytes", m.count, fi.Size())
	}
	return m, err
}

// addUnchanged adds the segments that are as the marker says, and returns them
// by their place in it.
func (c *Cache) addUnchanged(m *clean, segs map[uint32]*segment) []*segment {
	same := make([]*segment, len(m.stamps))
	for i, was := range m.stamps {
		s := segs[was.ID]
		if s == nil || s.slot != 0 {
			continue
		}
		is, fi, err := stampFile(s)
		is.Plain, is.Active = was.Plain, was.Active
		if err != nil || is != was || !c.add(s) {
			continue
		}
		s.size.Store(onDisk(fi))
		s.bytes.Store(was.Plain)
		same[i] = s
	}
	return same
}

// loadEntries puts the marker's entries of unchanged segments into the index.
func (c *Cache) loadEntries(m *clean, same []*segment) error {
	c.index.expect(m.count)
	asleep := c.ago(m.when)
	var b [entryOnDisk]byte
	for range m.count {
		if _, err := io.ReadFull(m.in, b[:]); err != nil {
			return err
		}
		e, age := entry(binary.LittleEndian.Uint64(b[:])), binary.LittleEndian.Uint32(b[8:])
		i := int(e.slot()) - 1
		if i < 0 || i >= len(same) || same[i] == nil {
			continue
		}
		used := c.opened.Add(-asleep - time.Duration(age)*time.Second)
		c.index.put(e&^entry(maxSlot)|entry(same[i].slot), c.stampAt(used))
	}
	return nil
}

// ago is how long before the cache was opened that was: nothing where a clock says that
// which had not been set yet, as on a machine whose clock stands still while it is off.
func (c *Cache) ago(t time.Time) time.Duration {
	if t.Year() < 2020 {
		return 0
	}
	return max(c.opened.Sub(t), 0)
}

// loadSuspect adds a segment of which nothing is known but what is in it. Each
// of its blobs will be verified before it is served.
func (c *Cache) loadSuspect(s *segment) {
	fi, err := os.Stat(s.path)
	if err != nil {
		return // gone, or not to be read: as good as gone
	}
	s.size.Store(onDisk(fi))
	if !c.add(s) {
		c.log.Warn("disk cache: too many segments", "segment", segmentName(s.id))
		return
	}
	h, err := c.acquire(s)
	if err == nil {
		used := c.stampAt(c.opened.Add(-c.ago(fi.ModTime())))
		err = h.eachRef(func(ref tier.Ref) { c.index.put(fingerprint(&ref)|entry(s.slot), used) })
		if err == nil {
			var n int64
			n, err = h.plainBytes()
			s.bytes.Store(n)
		}
		c.unref(h)
	}
	if err != nil && !errors.Is(err, errBusy) {
		c.condemn(s, err)
	}
}

// resume goes on with the segment that was being written to when the cache was
// closed, if it is as it was then.
func (c *Cache) resume(m *clean, same []*segment) {
	if c.dir.readOnly || len(same) == 0 {
		return
	}
	s, last := same[len(same)-1], m.stamps[len(m.stamps)-1]
	// It must be the youngest still.
	segs := c.segments()
	if s == nil || last.Active == 0 || segs[len(segs)-1] != s || s.size.Load() >= c.bounds.Load().segment {
		return
	}
	if err := c.openActive(s); err != nil && !errors.Is(err, errBusy) {
		c.condemn(s, err)
	}
}

// summer writes numbers and keeps their sum.
type summer struct {
	w   *bufio.Writer
	sum hash.Hash
	err error
	buf [entryOnDisk]byte
}

func newSummer(w io.Writer) *summer {
	return &summer{w: bufio.NewWriterSize(w, 64<<10), sum: sha256.New()}
}

func (s *summer) bytes(b []byte) {
	s.sum.Write(b)
	if _, err := s.w.Write(b); err != nil && s.err == nil {
		s.err = err
	}
}

func (s *summer) number(v any) {
	b, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil && s.err == nil {
		s.err = err
	}
	s.bytes(b)
}

func (s *summer) entry(e entry, age uint32) {
	binary.LittleEndian.PutUint64(s.buf[:], uint64(e))
	binary.LittleEndian.PutUint32(s.buf[8:], age)
	s.bytes(s.buf[:])
}

func (s *summer) finish() error {
	if _, err := s.w.Write(s.sum.Sum(nil)); err != nil && s.err == nil {
		s.err = err
	}
	return errors.Join(s.err, s.w.Flush())
}
