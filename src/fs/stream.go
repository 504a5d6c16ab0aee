package fs

import (
	"sync"

	"github.com/aysfs/aysfs/src/object"
)

// streams fetches large files ahead of who reads them in order. A window
// behind the reader doubles while it goes on, and closes when it jumps.
type streams struct {
	fs *FS

	mu    sync.Mutex
	slots [32]stream
	clock uint64
}

// stream is one reader's place in one file, in bytes.
type stream struct {
	id     uint64
	next   int64 // where a reader in order reads next
	ahead  int64 // what lies before was asked for
	window int64
	used   uint64 // when, by the clock of streams
}

const (
	minWindow = 1 << 20
	// near is how far a read may be from where the last one ended to open a
	// window: among random reads few are that by chance.
	near = 256 << 10
	// disorder is how far the kernel's own read-ahead, whose requests come in
	// any order, may be away from a reader in order.
	disorder = 8 << 20
)

// read takes note that n bytes at off of file r are read, and fetches what
// comes next. The chunks of this read itself are begun at once, side by side.
func (s *streams) read(r *inode, list *object.ChunkList, off, n int64) {
	s.mu.Lock()
	s.clock++
	st := s.slot(r.id)
	if d := off - st.next; st.window == 0 && (d < 0 || d > near) || d > disorder || d < -disorder {
		st.window, st.next, st.ahead = 0, off, off
	} else {
		st.window = min(max(2*st.window, minWindow), s.fs.window.Load())
	}
	st.next = max(st.next, off+n)
	from, to := max(st.ahead, off), min(st.next+st.window, list.Size)
	st.ahead = max(st.ahead, to)
	s.mu.Unlock()

	now := s.fs.now.Load()
	for at := from; at < to; {
		i, start := list.At(at)
		c := list.Chunks[i]
		if !now.blobs.Prefetch(now.view.BlobRef(c.Digest, c.Size)) {
			s.mu.Lock()
			if st := s.slot(r.id); st.ahead > start {
				st.ahead = start
			}
			s.mu.Unlock()
			return
		}
		at = start + c.Size
	}
}

// slot returns the file's stream, in the place of the one least recently used
// where it is new. s.mu is held.
func (s *streams) slot(id uint64) *stream {
	old := &s.slots[0]
	for i := range s.slots {
		st := &s.slots[i]
		if st.id == id {
			st.used = s.clock
			return st
		}
		if st.used < old.used {
			old = st
		}
	}
	*old = stream{id: id, used: s.clock}
	return old
}
