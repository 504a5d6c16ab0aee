package tree

import (
	"bytes"
	"context"
	"fmt"

	"github.com/aysfs/aysfs/src/object"
)

// Change is a path that two trees don't have alike.
type Change struct {
	Path string
	// Old and New are what the trees have there; nil where it is not there. They
	// are good until each, which got them, returns.
	Old, New *object.Entry
}

// Diff calls each for all that is not the same in two trees, in the order of a
// walk. What is below a directory that was added or removed is told, too. A
// directory itself is told of if its own mode or, with all in it the same, its
// time is another; so is the root, as the empty path. Where two directories
// have one digest nothing below them is looked at: so what it costs depends on
// what changed, not on how much there is.
func Diff(ctx context.Context, older, newer *Tree, each func(Change) error) error {
	d := &differ{ctx: ctx, older: older, newer: newer, each: each}
	a, b := older.Root(), newer.Root()
	return d.entry("", &a, &b)
}

type differ struct {
	ctx          context.Context
	older, newer *Tree
	each         func(Change) error
}

// entry compares what is at one path; one of the two may be nil.
func (d *differ) entry(path string, a, b *object.Entry) error {
	if a != nil && b != nil && a.Kind != b.Kind {
		if err := d.entry(path, a, nil); err != nil {
			return err
		}
		return d.entry(path, nil, b)
	}
	isDir := a != nil && a.Kind == object.Dir || b != nil && b.Kind == object.Dir
	switch {
	case a == nil || b == nil, !isDir && !alike(a, b),
		isDir && (a.Mode != b.Mode || a.Digest == b.Digest && a.Mtime != b.Mtime):
		if err := d.each(Change{path, a, b}); err != nil {
			return err
		}
	}
	if isDir && (a == nil || b == nil || a.Digest != b.Digest) {
		return d.dir(path, a, b)
	}
	return nil
}

// alike tells whether two files, or two symlinks, are the same.
func alike(a, b *object.Entry) bool {
	return a.Mode == b.Mode && a.Size == b.Size && a.Mtime == b.Mtime && a.Digest == b.Digest && bytes.Equal(a.Target, b.Target)
}

// dir compares what is in a directory.
func (d *differ) dir(path string, a, b *object.Entry) error {
	if err := d.ctx.Err(); err != nil { // which what is in memory does not ask for
		return fmt.Errorf("compare %q: %w", path, err)
	}
	older, err := d.listing(d.older, path, a)
	if err != nil {
		return err
	}
	newer, err := d.listing(d.newer, path, b)
	if err != nil {
		return err
	}
	for i, j := 0, 0; i < older.len() || j < newer.len(); {
		var x, y *object.Entry
		if i < older.len() {
			e := older.At(i)
			x = &e
		}
		if j < newer.len() {
			e := newer.At(j)
			y = &e
		}
		if x != nil && y != nil {
			switch c := bytes.Compare(x.Name, y.Name); {
			case c < 0:
				y = nil
			case c > 0:
				x = nil
			}
		}
		name := x
		if x != nil {
			i++
		}
		if y != nil {
			j++
			name = y
		}
		if err := d.entry(object.Join(path, string(name.Name)), x, y); err != nil {
			return err
		}
	}
	return nil
}

// entries is a listing, or nothing where there is no directory.
type entries struct{ *object.Listing }

func (e entries) len() int {
	if e.Listing == nil {
		return 0
	}
	return e.Listing.Len()
}

func (d *differ) listing(t *Tree, path string, dir *object.Entry) (entries, error) {
	if dir == nil {
		return entries{}, nil
	}
	l, err := t.Listing(d.ctx, path, dir.Digest)
	return entries{l}, err
}
