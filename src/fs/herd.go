package fs

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// herd is the files of a kind below a directory.
type herd struct {
	kind    uint64
	tree    *shown
	last    uint64 // GUARDED_BY(crowds.mu); the directory where one was missing last
	running bool   // GUARDED_BY(crowds.mu)

	// Who runs has these.
	known bool     // top and files are
	top   string   // the directory that all of it are below
	files []wanted // those to be brought, in order
}

// haunt is a directory where a herd may be.
type haunt struct {
	id   uint64
	path string
	list digest.Digest
}

const (
	// herdKeeps is what a herd leaves to more likely guesses, or half of what there is.
	herdKeeps = startCredit / 2
	// A herd is looked for among no more than maxLooked entries, and has no more than
	// maxHerd files.
	maxLooked = 1 << 15
	maxHerd   = 4096
	// maxReach is how long the path of a directory may be in which it looks.
	maxReach = unix.PathMax
	// startsBelow is how many directories above a file that a program reads first its
	// herd is.
	startsBelow = 2
	// entryDirs is how many directories must have a file of a name for that to be an
	// entry.
	entryDirs = 8
)

// drive brings the files of a kind that is missing in one directory after the other,
// or in one by a program that has just begun. w.mu is held.
func (w *crowds) drive(s *shown, dir, kind uint64, name []byte) {
	at := &w.herds[kind%uint64(len(w.herds))]
	h, one := *at, dir
	if h == nil || h.kind != kind || h.tree != s {
		h = &herd{kind: kind, tree: s, last: dir}
		*at = h
		if !w.fs.programs.recent() {
			return
		}
	} else if h.running || h.last == dir {
		return
	} else {
		one, h.last = h.last, dir
	}
	h.running = w.fs.guess(mostCrowding, func() {
		w.follow(s, h, one, dir, name)
		w.mu.Lock()
		h.running = false
		w.mu.Unlock()
	})
}

// follow brings the files of a kind from below the directory that two others are in,
// and where it was at that before, goes on.
func (w *crowds) follow(s *shown, h *herd, one, other uint64, kind []byte) {
	ctx := tier.InBackground(s.over)
	top, err := w.above(ctx, s, one, other)
	if err != nil {
		return
	}
	if h.known {
		top = common(top, h.top)
	}
	if !h.known || top != h.top {
		h.known, h.top, h.files = true, top, w.look(ctx, s, top, kind, w.fs.programs.recent())
	}
	g := &w.fs.guesses
	g.bring(s, min(g.remains()/2, herdKeeps), nil, func(yield func(wanted) bool) {
		for ; len(h.files) > 0; h.files = h.files[1:] {
			if !yield(h.files[0]) {
				return
			}
		}
		h.files = nil
	})
}

// above is the path of the directory that two others are in.
func (w *crowds) above(ctx context.Context, s *shown, one, other uint64) (string, error) {
	var paths [2]string
	for i, id := range [...]uint64{one, other} {
		r, _ := w.fs.table.get(id)
		path, _, err := w.fs.where(ctx, s.view, r)
		if err != nil {
			return "", err
		}
		paths[i] = path
	}
	if one == other {
		for range startsBelow {
			paths[0] = object.Parent(paths[0])
		}
	}
	return common(paths[0], paths[1]), nil
}

// common is the directory that two are in, or one of them if the other is in it.
func common(a, b string) string {
	for a != b {
		if len(a) < len(b) {
			a, b = b, a
		}
		a = object.Parent(a)
	}
	return a
}

// found is a file of a herd.
type found struct {
	wanted
	name uint64 // hashed
	code bool   // a library, and not of the kind
}

// look looks for small files of a kind below a directory, near it first, and with
// libraries also for those that a program loads into itself. Where a directory has very
// many, they are left to who reads in it.
func (w *crowds) look(ctx context.Context, s *shown, top string, kind []byte, libraries bool) []wanted {
	at, ok := w.fs.directory(ctx, s, top)
	if !ok {
		return nil
	}
	var files []found
	var dirs []int // where in files each directory begins
	looked := 0
	for queue := []haunt{at}; len(queue) > 0 && looked < maxLooked && len(files) < maxHerd; queue = queue[1:] {
		at := queue[0]
		l, err := s.view.Listing(ctx, at.path, at.list)
		if err != nil {
			break
		}
		looked += l.Len()
		before, total := len(files), int64(0)
		for i := range l.Len() {
			e := l.At(i)
			if e.Kind == object.Dir {
				if len(queue) < maxLooked && len(at.path) < maxReach {
					queue = append(queue, hauntOf(at, e))
				}
				continue
			}
			code := !isOf(&e, kind)
			if len(files)-before <= maxHerd && (!code || libraries && isLibrary(&e)) {
				files = append(files, found{wantedOf(s, at.id, &e), hashName(e.Name), code})
				total += e.Size
			}
		}
		if total > fewBytes || len(files)-before > maxHerd {
			files = files[:before]
		}
		if len(files) > before {
			dirs = append(dirs, before)
		}
	}
	return inOrder(files, dirs)
}

// isLibrary tells whether an entry is a small file of code that a program loads while it
// runs. What it is linked to has a version behind that name.
func isLibrary(e *object.Entry) bool {
	return e.Kind == object.File && !e.Chunked && e.Size > 0 && bytes.HasSuffix(e.Name, []byte(".so"))
}

// inOrder puts the files of a herd in order: entries, which have a name that many
// directories have, as that by which a program begins with each; what is in directories
// without an entry, of which nothing will tell when they are needed; libraries; and what
// is behind entries that may never be read. Of each the smallest come first.
func inOrder(files []found, dirs []int) []wanted {
	have := make(map[uint64]int)
	for _, f := range files {
		if !f.code {
			have[f.name]++
		}
	}
	var entries, open, libraries, behind []wanted
	for i, from := range dirs {
		to := len(files)
		if i+1 < len(dirs) {
			to = dirs[i+1]
		}
		others, before := &open, len(entries)
		for _, f := range files[from:to] {
			if f.entry = !f.code && have[f.name] >= entryDirs; f.entry {
				entries = append(entries, f.wanted)
			}
		}
		if len(entries) > before {
			others = &behind
		}
		for _, f := range files[from:to] {
			switch {
			case f.code:
				libraries = append(libraries, f.wanted)
			case have[f.name] < entryDirs:
				*others = append(*others, f.wanted)
			}
		}
	}
	parts := [][]wanted{entries, open, libraries, behind}
	for _, p := range parts {
		slices.SortStableFunc(p, func(a, b wanted) int { return cmp.Compare(a.ref.Limit, b.ref.Limit) })
	}
	return slices.Concat(parts...)
}

// directory finds a directory by its path.
func (f *FS) directory(ctx context.Context, s *shown, path string) (at haunt, ok bool) {
	at = haunt{id: rootID, list: s.view.Root().Digest}
	for name := range strings.SplitSeq(path, "/") {
		l, err := s.view.Listing(ctx, at.path, at.list)
		if err != nil || name == "" {
			return at, err == nil
		}
		i, ok := l.Find([]byte(name))
		if !ok {
			return at, false
		}
		e := l.At(i)
		if e.Kind != object.Dir {
			return at, false
		}
		at = hauntOf(at, e)
	}
	return at, true
}

// hauntOf is the directory of an entry.
func hauntOf(at haunt, e object.Entry) haunt {
	return haunt{id: idOf(at.id, hashName(e.Name), &e), path: object.Join(at.path, string(e.Name)), list: e.Digest}
}
