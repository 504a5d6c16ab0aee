package profile

import "time"

// Recording takes down what one run needs. It is for one goroutine at a time.
type Recording struct {
	needs []Need
	seen  map[key]struct{}
	bytes int64
	last  time.Time
}

// NewRecording returns an empty one.
func NewRecording() *Recording { return &Recording{seen: make(map[key]struct{})} }

// Listing notes that the listing of a directory is needed.
func (r *Recording) Listing(dir string) { r.add(dir, Listing, 0) }

// File notes that a file of size bytes that is one blob is needed.
func (r *Recording) File(path string, size int64) { r.add(path, Whole, size) }

// Chunk notes that the chunk of n bytes at off in a file is needed.
func (r *Recording) Chunk(path string, off, n int64) {
	first, end := blocksOf(off, n)
	if end > maxBlocks {
		return
	}
	for b := first; b < end && !r.Full(); b++ {
		r.add(path, int32(b), min(n, BlockSize))
	}
}

func (r *Recording) add(path string, block int32, n int64) {
	k := key{path, block}
	if _, known := r.seen[k]; known || r.Full() || !validPath(path) || path == "" && block != Listing {
		return
	}
	r.seen[k] = struct{}{}
	r.needs = append(r.needs, Need{path, block, oneRun})
	r.bytes += n
	r.last = time.Now()
}

// Full tells whether it takes no more: what follows is not the start of anything.
func (r *Recording) Full() bool { return len(r.needs) >= MaxNeeds || r.bytes >= MaxFetch }

// Len is how many needs it has, and Bytes how many bytes of files those are, about.
func (r *Recording) Len() int     { return len(r.needs) }
func (r *Recording) Bytes() int64 { return r.bytes }

// Last is when there was news.
func (r *Recording) Last() time.Time { return r.last }

// Profile is what was taken down so far.
func (r *Recording) Profile() *Profile {
	return &Profile{Time: r.last.UTC().Truncate(time.Second), Runs: 1, Needs: r.needs[:len(r.needs):len(r.needs)]}
}

// blocksOf is the blocks that stand for the chunk of n bytes at off: first, and
// those up to end, which is not one of them.
func blocksOf(off, n int64) (first, end int64) {
	const half = BlockSize / 2
	first, end = (off+half-1)/BlockSize, (off+n+half-1)/BlockSize
	if first == end { // the last chunk, too short to have a block's middle in it
		end++
	}
	return first, end
}

// pointOf is the byte in a file of size bytes whose chunk a block stands for;
// false if the file does not come as far as that, by more than half a block.
func pointOf(block int32, size int64) (int64, bool) {
	start := int64(block) * BlockSize
	return max(min(start+BlockSize/2, size-1), 0), size > 0 && start <= size+BlockSize/2
}
