package ledisbolt

import (
	"slices"
	"sort"
	"sync/atomic"
)

// op is what becomes of a key.
type op struct {
	value []byte // not nil, unless del
	del   bool
}

// overlay holds writes that are not in the files yet. Store.mu guards it; once
// it is frozen, only delta changes.
type overlay struct {
	ops    map[string]op
	keys   []string // of ops
	sorted bool
	bytes  int64
	delta  map[*domain]int // by how many it changes the number of a domain's blobs

	taken chan struct{} // closed when a flush takes it, and another one is active
	done  chan struct{} // closed when it has been written, or has failed
	// Set before done is closed: what went wrong with main.bolt, and with blobs.
	err, blobErr error
	awaited      atomic.Bool // a Sync returns these errors
}

// opOverhead is about what an entry costs besides key and value, in bytes.
const opOverhead = 128

func newOverlay() *overlay {
	return &overlay{
		ops: make(map[string]op), sorted: true, delta: make(map[*domain]int),
		taken: make(chan struct{}), done: make(chan struct{}),
	}
}

// ended tells whether it has been written, or has failed.
func (o *overlay) ended() bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

func (o *overlay) set(key string, v op) {
	old, ok := o.ops[key]
	if ok {
		o.bytes -= int64(len(old.value))
	} else {
		o.keys = append(o.keys, key)
		o.sorted = o.sorted && (len(o.keys) < 2 || o.keys[len(o.keys)-2] < key)
		o.bytes += int64(len(key)) + opOverhead
	}
	o.bytes += int64(len(v.value))
	o.ops[key] = v
}

func (o *overlay) remove(key string) {
	v, ok := o.ops[key]
	if !ok {
		return
	}
	delete(o.ops, key)
	o.bytes -= int64(len(v.value)) + int64(len(key)) + opOverhead
	o.keys = slices.DeleteFunc(o.keys, func(k string) bool { return k == key })
}

func (o *overlay) sort() {
	if !o.sorted {
		sort.Strings(o.keys)
		o.sorted = true
	}
}

// window returns up to n keys next to start in one direction. more says that
// there are others behind them.
func (o *overlay) window(r walk, n int) (keys []string, more bool) {
	lo, hi := 0, len(o.keys)
	switch {
	case r.start == nil:
	case r.back:
		hi = sort.Search(len(o.keys), func(i int) bool {
			return o.keys[i] > string(r.start) || !r.inclusive && o.keys[i] == string(r.start)
		})
	default:
		lo = sort.Search(len(o.keys), func(i int) bool {
			return o.keys[i] > string(r.start) || r.inclusive && o.keys[i] == string(r.start)
		})
	}
	if hi-lo <= n {
		return o.keys[lo:hi], false
	}
	if r.back {
		return o.keys[hi-n : hi], true
	}
	return o.keys[lo : lo+n], true
}
