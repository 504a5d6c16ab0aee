package fs

import (
	"bytes"
	"cmp"
	"iter"
	"slices"
	"sync"

	"github.com/aysfs/aysfs/src/object"
)

// crowds fetches files ahead of who picks small ones of one kind out of directories,
// as a program that starts picks modules: each of them would cost a round trip, all
// of them together hardly more than one. What is of one kind has the same in its
// name from the first dot on.
//
// Where a directory has little of a kind, all of that comes with the first file that
// was missing; where it has more, with the second. Where there is very much, so
// that the reader may be one that reads at random, it begins with the third, and goes on
// in rounds while what was brought is asked for. Once a kind is missing in a second
// directory, the crowd is a herd: what is of that kind comes from all directories
// below the one that both are in, as far as guesses have credit. What is in a directory
// with an entry comes last, or when that is read.
type crowds struct {
	fs *FS

	mu    sync.Mutex
	dirs  [128]*crowd // GUARDED_BY(mu); by hash of directory and kind
	herds [16]*herd   // GUARDED_BY(mu); by hash of kind
}

// crowd is the files of a kind in a directory.
type crowd struct {
	dir, kind uint64
	number    uint64 // of the tree
	misses    int    // GUARDED_BY(crowds.mu)
	running   bool   // GUARDED_BY(crowds.mu)
	done      bool   // GUARDED_BY(crowds.mu)
	known     bool   // GUARDED_BY(crowds.mu); files and total are
	files     int    // of the kind
	total     int64  // bytes of all of these
	next      int    // of very many: entry of the listing to go on with; who runs has it

	issued, used int64 // GUARDED_BY(guesses.mu); bytes brought, and of these what was asked for
}

const (
	// littleBytes and fewBytes are how many bytes of a kind in a directory come with
	// the first file that is missing, and with the second.
	littleBytes = 1 << 20
	fewBytes    = 16 << 20
	crowdAfter  = 3
	// oneRound is how many bytes are brought at once where there is more.
	oneRound = 512 << 10
)

// missed takes note that file r has to be fetched for somebody who waits.
func (w *crowds) missed(s *shown, r *inode) {
	g := &w.fs.guesses
	if g.off.Load() || g.knows(r.id) {
		return
	}
	g.read(worth(r.size))
	if r.parent == 0 || w.fs.walks.leads(r.id) {
		return
	}
	l, name := w.kindred(s, r)
	if name == nil {
		return
	}
	kind := hashName(name)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gather(s, r.parent, l, kind, name)
	w.drive(s, r.parent, kind, name)
}

// entered takes note that file r is read, which came as the entry of its directory.
func (w *crowds) entered(s *shown, r *inode) {
	if l, name := w.kindred(s, r); name != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.gather(s, r.parent, l, hashName(name), name)
	}
}

// kindred is what file r has in common with others of its kind, and the listing of its
// directory; nil where there is neither in memory.
func (w *crowds) kindred(s *shown, r *inode) (*object.Listing, []byte) {
	dir, ok := w.fs.table.get(r.parent)
	if !ok {
		return nil, nil
	}
	l, ok := s.cached(dir.digest)
	if !ok {
		return nil, nil
	}
	i, ok := position(l, r)
	if !ok {
		return nil, nil
	}
	return l, kindOf(l.At(i).Name)
}

// kindOf is what a name has in common with others of its kind; nil for one without.
func kindOf(name []byte) []byte {
	if i := bytes.IndexByte(name, '.'); i >= 0 {
		return name[i:]
	}
	return nil
}

// isOf tells whether an entry is a small file of a kind.
func isOf(e *object.Entry, kind []byte) bool {
	return e.Kind == object.File && !e.Chunked && e.Size > 0 && bytes.HasSuffix(e.Name, kind) && bytes.Equal(kindOf(e.Name), kind)
}

// sizeOf is how many files a kind has in a listing, and how many bytes these have.
func sizeOf(l *object.Listing, kind []byte) (files int, total int64) {
	for i := range l.Len() {
		if e := l.At(i); isOf(&e, kind) {
			files++
			total += e.Size
		}
	}
	return files, total
}

// gather brings the files of a kind in a directory in which one was missing. w.mu is
// held.
func (w *crowds) gather(s *shown, dir uint64, l *object.Listing, kind uint64, name []byte) {
	at := &w.dirs[mix(dir^kind)%uint64(len(w.dirs))]
	c := *at
	if c == nil || c.dir != dir || c.kind != kind || c.number != s.number {
		c = &crowd{dir: dir, kind: kind, number: s.number}
		*at = c
	}
	c.misses++
	if c.running || c.done || c.known && !w.goesOn(c) {
		return
	}
	c.running = w.fs.guess(mostCrowding, func() {
		done := w.measure(c, l, name) && w.round(s, c, l, name)
		w.mu.Lock()
		c.running, c.done = false, done
		w.mu.Unlock()
	})
}

// measure finds out how large a crowd is, which takes its time in a large directory, and
// tells whether more of it is worth it.
func (w *crowds) measure(c *crowd, l *object.Listing, kind []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !c.known {
		w.mu.Unlock()
		files, total := sizeOf(l, kind)
		w.mu.Lock()
		c.known, c.files, c.total = true, files, total
	}
	return w.goesOn(c)
}

// few tells whether all files of a crowd may come in one go.
func (c *crowd) few() bool { return c.total <= fewBytes && c.files <= maxHerd }

// goesOn tells whether more of a crowd is worth it. w.mu is held.
func (w *crowds) goesOn(c *crowd) bool {
	switch {
	case c.few() && c.total <= littleBytes:
		return true
	case c.few():
		return c.misses >= crowdAfter-1 || w.fs.programs.recent()
	}
	return c.misses >= crowdAfter && w.fs.guesses.useful(c)
}

// round brings more of a crowd's files: all of them, but for very many. It is true when
// there are no more.
func (w *crowds) round(s *shown, c *crowd, l *object.Listing, kind []byte) bool {
	if c.few() {
		return w.fs.guesses.bring(s, 0, c, filesOf(s, c.dir, l, kind))
	}
	w.fs.guesses.bring(s, 0, c, func(yield func(wanted) bool) {
		for size := int64(0); c.next < l.Len() && size < oneRound; c.next++ {
			e := l.At(c.next)
			if !isOf(&e, kind) {
				continue
			}
			if size += e.Size; !yield(wantedOf(s, c.dir, &e)) {
				return
			}
		}
	})
	return c.next == l.Len()
}

// filesOf are the files of a kind in a directory, the smallest first: of two that are
// as likely to be needed, it costs less.
func filesOf(s *shown, dir uint64, l *object.Listing, kind []byte) iter.Seq[wanted] {
	return func(yield func(wanted) bool) {
		var files []object.Entry
		for i := range l.Len() {
			if e := l.At(i); isOf(&e, kind) {
				files = append(files, e)
			}
		}
		slices.SortStableFunc(files, func(a, b object.Entry) int { return cmp.Compare(a.Size, b.Size) })
		for i := range files {
			if !yield(wantedOf(s, dir, &files[i])) {
				return
			}
		}
	}
}

func wantedOf(s *shown, dir uint64, e *object.Entry) wanted {
	return wanted{id: idOf(dir, hashName(e.Name), e), ref: s.view.BlobRef(e.Digest, e.Size)}
}
