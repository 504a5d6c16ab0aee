package ledisbolt

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Usage is what a domain has. Bytes are on disk.
type Usage struct {
	Domain   string
	Blobs    int
	Bytes    int64
	Segments int
}

// Usage returns what each domain has, by name. It does not touch the disk.
func (s *Store) Usage() []Usage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []Usage
	for _, d := range s.domains {
		u := Usage{Domain: d.name, Blobs: s.count(d), Bytes: d.bytes()}
		for _, g := range d.bySlot {
			if g != nil {
				u.Segments++
			}
		}
		if u.Blobs > 0 || u.Bytes > 0 {
			all = append(all, u)
		}
	}
	slices.SortFunc(all, func(a, b Usage) int { return strings.Compare(a.Domain, b.Domain) })
	return all
}

// Stats is a snapshot of what a store has and did. Counts are since Open.
type Stats struct {
	Domains    int
	Blobs      int
	Bytes      int64 // on disk, of all files, and of those that are gone but for a View
	MainBytes  int64 // of these, main.bolt's
	IndexBytes int64 // memory that the indexes take
	Pending    int64 // bytes of memory that wait for the disk
	Dropped    int64 // blobs that were not written, for want of room or by an error
	Corrupt    int64 // blobs given up as damaged
	Evicted    int64 // blobs that made room
}

// Stats returns a snapshot. It does not touch the disk.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := Stats{
		Domains: len(s.domains), MainBytes: s.main.size.Load(), Pending: s.active.bytes,
		Dropped: s.dropped.Load(), Corrupt: s.corrupt.Load(), Evicted: s.evicted.Load(),
	}
	if s.frozen != nil {
		st.Pending += s.frozen.bytes
	}
	st.Bytes = st.MainBytes + s.pool.held.Load()
	for _, d := range s.domains {
		st.Blobs += s.count(d)
		st.Bytes += d.bytes()
		st.IndexBytes += int64(len(d.index.entries)) * 12
	}
	return st
}

// bytes is what the domain takes on disk. mu is held.
func (d *domain) bytes() int64 {
	n := d.saved
	for _, g := range d.bySlot {
		if g != nil {
			n += g.size.Load()
		}
	}
	return n
}

// total is what all files take on disk. One that was unlinked takes it until nobody
// looks at it any more, which a slow reader may make long.
func (s *Store) total() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := s.main.size.Load() + s.pool.held.Load()
	for _, d := range s.domains {
		n += d.bytes()
	}
	return n
}

// Room is how many more bytes blobs may take on disk now; it may be below 0.
func (s *Store) Room() int64 {
	left := s.opt.MaxSize - s.total()
	var fs unix.Statfs_t
	if err := unix.Statfs(s.dir, &fs); err == nil { // where it can't be told, writing will
		block := int64(fs.Bsize)
		left = min(left, int64(fs.Bavail)*block-s.opt.MinFree(int64(fs.Blocks)*block))
	}
	return left
}

// DropDomain removes a domain with all its blobs, and returns how many bytes of
// disk that frees: at once, but for segments that a View still looks at. A
// domain that isn't there is no error.
func (s *Store) DropDomain(name string) (int64, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	d := s.domains[name]
	if d == nil {
		s.mu.Unlock()
		return 0, nil
	}
	freed := d.bytes()
	segments := d.segments()
	for _, g := range segments {
		d.bySlot[g.slot] = nil
	}
	for _, key := range slices.Clone(s.active.keys) {
		if strings.HasPrefix(key, string(d.prefix)) {
			s.active.remove(key)
		}
	}
	delete(s.active.delta, d)
	delete(s.domains, name)
	s.epoch++
	s.mu.Unlock()
	for _, g := range segments {
		g.retire(true)
	}
	// By another name first, so that what a crash leaves is not taken for it.
	aside := filepath.Join(s.dir, droppedPrefix+name)
	if err := os.Rename(d.dir, aside); err != nil {
		if os.IsNotExist(err) {
			return 0, nil
		}
		return 0, err
	}
	if err := os.RemoveAll(aside); err != nil {
		return 0, err
	}
	return freed, syncDir(s.dir)
}

const droppedPrefix = "dropped-"
