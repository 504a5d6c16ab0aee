package fs

import (
	"context"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// streams fetches large files ahead of who reads them in order. A window
// behind the reader doubles while it goes on, and closes when it jumps.
type streams struct {
	fs *FS

	mu    sync.Mutex
	slots [32]*stream
	clock uint64
}

// stream is one reader's way through one file, in bytes. All but what is set when it
// begins is guarded by streams.mu.
type stream struct {
	id     uint64
	next   int64 // where a reader in order reads next
	ahead  int64 // what lies before was asked for, or was here
	window int64
	came   int64  // how many bytes were read since the window opened
	used   uint64 // when, by the clock of streams

	more chan struct{}      // holds one; the reader has come further
	end  context.CancelFunc // of who fetches; nil: nobody
	runs int                // how many have so far
}

const (
	minWindow = 1 << 20
	// near is how far a read may be from where the last one ended to open a
	// window: among random reads few are that by chance.
	near = 256 << 10
	// disorder is how far the kernel's own read-ahead, whose requests come in
	// any order, may be away from a reader in order.
	disorder = 8 << 20
	// steady is how much is read in order by who goes on: a few times what the kernel
	// reads ahead by itself.
	steady = 16 << 20
	// streamRest is how long a reader may rest until nobody waits for it any more.
	streamRest = 15 * time.Second
)

// read takes note that n bytes at off of file r are read, and fetches what comes next, as
// much as there is room for on the way; the chunks of this read itself are begun at once,
// side by side. Who has read much in order gets all that is within the window, as soon as
// there is room for it. Not so who reads here and there in a small part, as programs read
// their libraries: much of what comes next is never read, and others wait behind it.
func (s *streams) read(r *inode, list *object.ChunkList, off, n int64) {
	now := s.fs.now.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock++
	st := s.slot(r.id)
	if d := off - st.next; st.window == 0 && (d < 0 || d > near) || d > disorder || d < -disorder {
		st.stop()
		st.window, st.next, st.ahead, st.came = 0, off, off, 0
	} else {
		st.window = min(max(2*st.window, minWindow), s.fs.window.Load())
	}
	st.next, st.ahead = max(st.next, off+n), max(st.ahead, off)
	st.came += n
	for {
		ref, end, ok := st.piece(now, list)
		switch {
		case !ok:
			return
		case now.blobs.Has(ref): // there is nobody to be woken for it
		case st.window > 0 && st.came >= steady:
			s.fetch(st, now, r)
			return
		case !now.blobs.Prefetch(ref):
			return
		}
		st.ahead = end
	}
}

// piece is the next chunk to be fetched, and where it ends, if there is one within the
// window. streams.mu is held.
func (st *stream) piece(now *shown, list *object.ChunkList) (ref tier.Ref, end int64, ok bool) {
	if st.ahead >= min(st.next+st.window, list.Size) {
		return ref, 0, false
	}
	i, start := list.At(st.ahead)
	c := list.Chunks[i]
	return now.view.BlobRef(c.Digest, c.Size), start + c.Size, true
}

// fetch has what is within the window fetched, and what comes into it later. s.mu is
// held.
func (s *streams) fetch(st *stream, now *shown, r *inode) {
	signal(st.more)
	if st.end != nil {
		return
	}
	st.runs++
	run, d, size := st.runs, r.digest, r.size
	var ctx context.Context
	ctx, st.end = context.WithCancel(now.over)
	s.fs.background.Go(func() {
		// What the mount can't get ahead, its reader will be told of.
		_ = now.blobs.Bring(ctx, tier.ReadAhead, func(yield func(tier.Ref) bool) {
			for {
				ref, ok := s.await(ctx, st, now, d, size)
				if !ok || !yield(ref) {
					return
				}
			}
		}, nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		if st.runs == run {
			st.stop()
		}
	})
}

// await waits for the next chunk to come into the window; it is false if that takes too
// long, or is over. The list of chunks is not held on to, since it may be large: where
// memory has no room for it, the reader will come with it again.
func (s *streams) await(ctx context.Context, st *stream, now *shown, d digest.Digest, size int64) (tier.Ref, bool) {
	for {
		list := now.view.CachedChunks(d, size)
		s.mu.Lock()
		if ctx.Err() != nil || list == nil {
			s.mu.Unlock()
			return tier.Ref{}, false
		}
		ref, end, ok := st.piece(now, list)
		if ok {
			st.ahead = end
		}
		over := st.ahead >= list.Size
		s.mu.Unlock()
		if ok || over {
			return ref, ok
		}
		rest := time.NewTimer(streamRest)
		select {
		case <-st.more:
			rest.Stop()
		case <-ctx.Done():
			rest.Stop()
		case <-rest.C:
			return tier.Ref{}, false
		}
	}
}

// stop ends what fetches for a stream. streams.mu is held.
func (st *stream) stop() {
	if st.end != nil {
		st.end()
		st.end = nil
	}
}

// slot returns the file's stream, in the place of the one least recently used
// where it is new. s.mu is held.
func (s *streams) slot(id uint64) *stream {
	old := 0
	for i, st := range s.slots {
		if st == nil {
			old = i
			break
		}
		if st.id == id {
			st.used = s.clock
			return st
		}
		if st.used < s.slots[old].used {
			old = i
		}
	}
	if st := s.slots[old]; st != nil {
		st.stop()
	}
	s.slots[old] = &stream{id: id, used: s.clock, more: make(chan struct{}, 1)}
	return s.slots[old]
}
