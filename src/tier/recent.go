package tier

import (
	"container/list"
	"sync"
)

// recent keeps the blobs that were fetched last in memory, up to a number of
// bytes, so that a chunk is not fetched anew for every read of a part of it
// while the disk cache doesn't have it, or there is none.
type recent struct {
	limit int64

	mu    sync.Mutex
	bytes int64                 // GUARDED_BY(mu); never over limit
	order list.List             // GUARDED_BY(mu); of *kept, newest first
	byRef map[Ref]*list.Element // GUARDED_BY(mu)
}

type kept struct {
	ref  Ref
	blob Blob
}

// keptOverhead is about what an entry costs besides its data, in bytes.
const keptOverhead = 256

// size counts what the entry holds on to: the slice may be shorter than its array.
func (k *kept) size() int64 {
	if s, ok := k.blob.lender.(*Shared); ok {
		return int64(len(s.whole)) + keptOverhead
	}
	return int64(cap(k.blob.Data)) + keptOverhead
}

func newRecent(limit int64) *recent {
	return &recent{limit: limit, byRef: make(map[Ref]*list.Element)}
}

// get returns a blob that is kept, for the caller to release.
func (r *recent) get(ref Ref) (Blob, bool) {
	if r.limit <= 0 {
		return Blob{}, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.byRef[ref]
	if !ok {
		return Blob{}, false
	}
	r.order.MoveToFront(e)
	return e.Value.(*kept).blob.Again()
}

// has tells whether a blob is kept. Who asks is about to want it: it is dropped as late
// as one that was just got.
func (r *recent) has(ref Ref) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.byRef[ref]
	if ok {
		r.order.MoveToFront(e)
	}
	return ok
}

// add keeps a blob, which stays the caller's to release, and drops what was used
// longest ago. What would not fit at all is not kept.
func (r *recent) add(ref Ref, blob Blob) {
	k := &kept{ref, blob}
	if k.size() > r.limit {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.byRef[ref]; ok {
		r.order.MoveToFront(e) // the same digest: the same bytes
		return
	}
	var ok bool
	if k.blob, ok = blob.Again(); !ok {
		return
	}
	r.byRef[ref] = r.order.PushFront(k)
	r.bytes += k.size()
	for r.bytes > r.limit {
		oldest := r.order.Remove(r.order.Back()).(*kept)
		delete(r.byRef, oldest.ref)
		r.bytes -= oldest.size()
		oldest.blob.Release()
	}
}

func (r *recent) usage() (blobs int, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.byRef), r.bytes
}
