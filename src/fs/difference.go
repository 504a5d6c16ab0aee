package fs

import (
	"bytes"
	"context"
	"errors"
	"path"
	"slices"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tree"
)

// difference is what has to be done about the kernel when a mount moves from
// one view to another: as much of the two as lies in directories that the kernel
// holds. Below others it holds nothing.
type difference struct {
	fs   *FS
	was  *shown
	view *tree.View

	roots   []change // where to walk
	changes []change // directories that stay, with their attributes or names changed
	skipped []change // directories that the kernel did not hold when they were come by
	fetched int
}

// change is a directory that both views have, or, without is, that only the old
// one has.
type change struct {
	parent  uint64
	name    uint64 // hash of its name
	id      uint64 // 0 where the kernel does not hold it
	path    string
	was, is object.Entry
	gone    bool
	names   []string // that the kernel must look up anew
}

// walk compares the directories in d.roots, and below.
func (d *difference) walk(ctx context.Context) error {
	for _, c := range d.roots {
		err := d.compare(ctx, c)
		if err == errReplace {
			i := slices.IndexFunc(d.changes, func(p change) bool { return p.id == c.parent })
			d.changes[i].names = append(d.changes[i].names, path.Base(c.path))
			c.gone = true
			d.skipped = append(d.skipped, c)
			continue
		}
		if err != nil {
			return err
		}
	}
	d.roots = nil
	return nil
}

// compare compares one directory, and those below that are not the same in both
// views.
func (d *difference) compare(ctx context.Context, c change) error {
	if c.id = d.fs.table.directory(c.parent, c.name); c.id == 0 || c.gone {
		d.skipped = append(d.skipped, c)
		return nil
	}
	if d.was.view == nil || c.was.Digest == c.is.Digest {
		d.changes = append(d.changes, c)
		return nil
	}
	old, err := d.listing(ctx, d.was.view, c.path, c.was)
	if errors.Is(err, tier.ErrAbsent) && c.id != rootID {
		// What the kernel has of it can't be told by name any more: it becomes
		// another directory.
		return errReplace
	}
	if err != nil {
		return err
	}
	list, err := d.listing(ctx, d.view, c.path, c.is)
	if err != nil {
		return err
	}
	for i, j := 0, 0; i < old.Len() || j < list.Len(); {
		var was, is object.Entry
		order := 0
		if i < old.Len() {
			was = old.At(i)
		} else {
			order = 1
		}
		if j < list.Len() {
			is = list.At(j)
		} else {
			order = -1
		}
		if order == 0 {
			order = bytes.Compare(was.Name, is.Name)
		}
		if order <= 0 {
			i++
		}
		if order >= 0 {
			j++
		}
		stays := order == 0 && was.Kind == is.Kind
		if stays && sameAttributes(was, is) && content(&was) == content(&is) {
			continue
		}
		child := change{parent: c.id, path: object.Join(c.path, string(was.Name)), was: was, is: is}
		if stays && was.Kind == object.Dir {
			child.name = hashName(was.Name)
			err := d.compare(ctx, child)
			if err == nil {
				continue
			}
			if err != errReplace {
				return err
			}
		}
		if order <= 0 {
			c.names = append(c.names, string(was.Name))
			if was.Kind == object.Dir {
				child.name, child.gone = hashName(was.Name), true
				d.skipped = append(d.skipped, child)
			}
		} else {
			c.names = append(c.names, string(is.Name))
		}
	}
	d.changes = append(d.changes, c)
	return nil
}

// errReplace says that a directory can't be told apart name by name.
var errReplace = errors.New("the old listing is no longer to be had")

func (d *difference) listing(ctx context.Context, v *tree.View, path string, e object.Entry) (*object.Listing, error) {
	if l, ok := v.Cached(e.Digest); ok {
		return l, nil
	}
	d.fetched++
	return v.Listing(ctx, path, e.Digest)
}

// notices is how often the kernel was told to drop something.
func (d *difference) notices() int {
	n := len(d.changes)
	for i := range d.changes {
		n += len(d.changes[i].names)
	}
	return n
}
