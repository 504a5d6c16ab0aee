package fs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/object"
)

// tableLayout names what a record and a table look like, and what was agreed with
// the kernel when it was mounted (FS.mountConfig), to a successor, which takes no other.
const tableLayout = 1<<16 | recordSize

// adoptInodes makes a table of the memory file that another process left, as it
// was when that ended, in whatever it was doing. The file is the table's from then
// on, also where that fails. Lookups whose answers never reached the kernel, and
// forgets that were read and not dealt with, leave counts too high: such an inode
// stays until the mount ends.
func adoptInodes(fd int) (*inodes, error) {
	t := &inodes{fd: fd, buckets: make([]uint32, minBuckets), displaced: make(map[spot]uint64)}
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
	for range st.Size / int64(segmentBytes) {
		if err := t.mapNext(); err != nil {
			return err
		}
	}
	// Beyond what was ever written there is a hole, which is to stay one.
	hole, err := unix.Seek(t.fd, 0, unix.SEEK_HOLE)
	if err != nil {
		return err
	}
	slots := uint32(min(hole+int64(recordSize)-1, st.Size) / int64(recordSize))
	n := 0
	for slot := range slots {
		if t.at(slot).id != 0 {
			n++
		}
	}
	if err := t.makeBuckets(n); err != nil {
		return err
	}
	for slot := range slots {
		t.adoptRecord(slot)
	}
	if _, r := t.find(rootID); r == nil || r.kind != object.Dir {
		return errors.New("it does not have the root")
	}
	return nil
}

// adoptRecord takes what is in a slot to the end of those before, unless it is
// there already: the process may have ended while it moved one.
func (t *inodes) adoptRecord(slot uint32) {
	r := t.at(slot)
	if r.id == 0 {
		return
	}
	to := uint32(t.count)
	if _, twin := t.find(r.id); twin != nil {
		r.put(&record{})
		return
	}
	if to != slot {
		t.at(to).put(r)
		r.put(&record{})
		r = t.at(to)
	}
	first := &t.buckets[t.bucket(r.id)]
	r.next, *first = *first, to+1
	t.count++
	if r.kind == object.Dir && r.mode&gone == 0 && r.id != rootID && r.id != idOf(r.parent, r.name, &object.Entry{Kind: object.Dir}) {
		t.displaced[spot{r.parent, r.name}] = r.id
	}
}
