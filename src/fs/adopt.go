package fs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/object"
)

// tableLayout names what a record and a table look like, and what was agreed with
// the kernel when it was mounted (FS.library), to a successor, which takes no other.
const tableLayout = 1<<16 | recordSize

// adoptInodes makes a table of the memory file that another process left, as it
// was when that ended, in whatever it was doing. The file is the table's from then
// on, also where that fails. Lookups whose answers never reached the kernel, and
// forgets that were read and not dealt with, leave counts too high: such an inode
// stays until the mount ends.
func adoptInodes(fd int) (*inodes, error) {
	t := &inodes{fd: fd, displaced: make(map[spot]uint64)}
	if err := t.adopt(); err != nil {
		t.close()
		return nil, fmt.Errorf("take up the inode table: %w", err)
	}
	return t, nil
}

func (t *inodes) adopt() error {
	var st unix.Stat_t
	if err := unix.Fstat(t.fd, &st); err != nil {
		return err
	}
	if st.Size == 0 || st.Size%int64(segmentBytes) != 0 {
		return fmt.Errorf("it has %d bytes, which no table has", st.Size)
	}
	for off := int64(0); off < st.Size; off += int64(segmentBytes) {
		mem, err := unix.Mmap(t.fd, off, segmentBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		s := newSegment(mem)
		t.segments = append(t.segments, s)
		if err := s.scan(t.fd, off); err != nil {
			return err
		}
		t.count += s.used
	}
	t.index()
	if _, r := t.find(rootID); r == nil || r.kind != object.Dir {
		return errors.New("it does not have the root")
	}
	return nil
}

// scan finds out which slots of a segment, at off in the file, are used. Holes in
// the file have none, and stay holes.
func (s *segment) scan(fd int, off int64) error {
	first := 0 // slots before are done with
	for at, end := off, off+int64(segmentBytes); at < end; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && data >= end {
			break
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		at = min(hole, end)
		last := min(int(at-off+int64(recordSize)-1)/recordSize, segmentSlots)
		for i := max(first, int(data-off)/recordSize); i < last; i++ {
			if s.slots[i].id != 0 {
				s.used++
				s.fresh = i + 1
			}
		}
		first = max(first, last)
	}
	for i := s.fresh - 1; i >= 0; i-- {
		if r := &s.slots[i]; r.id == 0 {
			*r = record{next: s.free}
			s.free = uint32(i) + 1
		}
	}
	return nil
}

// index makes the buckets of a table whose segments are there, and finds the
// directories that could not have their own ids.
func (t *inodes) index() {
	n := 1024
	for n < t.count {
		n *= 2
	}
	t.buckets = make([]uint32, n)
	for i, s := range t.segments {
		for j := range s.slots[:s.fresh] {
			r := &s.slots[j]
			if r.id == 0 {
				continue
			}
			b := t.bucket(r.id)
			r.next, t.buckets[b] = t.buckets[b], uint32(i*segmentSlots+j)+1
			if r.kind == object.Dir && r.mode&gone == 0 && r.id != rootID && r.id != idOf(r.parent, r.name, &object.Entry{Kind: object.Dir}) {
				t.displaced[spot{r.parent, r.name}] = r.id
			}
		}
	}
}
