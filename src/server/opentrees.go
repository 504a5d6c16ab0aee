package server

import (
	"slices"
	"sync"

	"github.com/aysfs/aysfs/src/tree"
)

// openTrees bounds the indexes that trees hold: those used longest ago are closed,
// to be opened again when somebody asks.
type openTrees struct {
	limit int64 // bytes of indexes, as their heads say

	mu    sync.Mutex
	order []*version // GUARDED_BY(mu); used last at the end
	bytes int64      // GUARDED_BY(mu)
}

// treePair is a tree as two see it.
type treePair struct {
	here *tree.Tree // reads what is here
	keep *tree.Tree // fetches, and keeps
}

// maxOpen is how many trees are open at a time.
const maxOpen = 256

// get returns the trees of a version.
func (o *openTrees) get(s *Server, st *stor, v *version) *treePair {
	o.mu.Lock()
	defer o.mu.Unlock()
	if v.trees != nil {
		i := slices.Index(o.order, v)
		copy(o.order[i:], o.order[i+1:])
		o.order[len(o.order)-1] = v
		return v.trees
	}
	pair := &treePair{
		here: tree.New(v.head, blobsHere{s, st}, st.metadata),
		keep: tree.New(v.head, blobsFrom{s, st, true}, st.metadata),
	}
	v.trees = pair
	o.order = append(o.order, v)
	o.bytes += v.head.IndexSize
	for len(o.order) > maxOpen || o.bytes > o.limit && len(o.order) > 1 {
		oldest := o.order[0]
		o.order = slices.Delete(o.order, 0, 1)
		o.bytes -= oldest.head.IndexSize
		oldest.trees = nil
	}
	return pair
}
