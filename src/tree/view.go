package tree

import (
	"context"
	"fmt"
	"strings"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// View is what one mount shows of a tree: one directory of it, with the
// directories added that other mounts need as their mount points. It does not
// change.
type View struct {
	*Tree
	prefix string // the directory shown, from the tree's root
	grafts []string
	root   object.Entry
	// grafted holds the listings that differ from the tree's, by digest.
	grafted map[digest.Digest]*object.Listing
}

// NewView shows the directory remote of t; empty is its root. Each path in
// grafts, relative to remote, is shown as a directory, an empty one where the
// tree has none.
func NewView(ctx context.Context, t *Tree, remote string, grafts []string) (*View, error) {
	v := &View{Tree: t, prefix: remote, grafts: grafts, root: t.Root(), grafted: make(map[digest.Digest]*object.Listing)}
	dir := ""
	for name := range strings.SplitSeq(remote, "/") {
		if name == "" {
			continue
		}
		l, err := t.Listing(ctx, dir, v.root.Digest)
		if err != nil {
			return nil, err
		}
		i, ok := l.Find([]byte(name))
		if !ok {
			return nil, fmt.Errorf("%v has no directory %q", t.head.Tree, remote)
		}
		if v.root = l.At(i); v.root.Kind != object.Dir {
			return nil, fmt.Errorf("%q in %v is a %v, not a directory", remote, t.head.Tree, v.root.Kind)
		}
		dir = object.Join(dir, name)
	}
	for _, g := range grafts {
		e, err := v.graft(ctx, "", v.root, strings.Split(g, "/"))
		if err != nil {
			return nil, fmt.Errorf("make room for a mount at %q: %w", g, err)
		}
		v.root = e
	}
	return v, nil
}

// graft returns the directory dir, at path, with names below it made sure to
// be directories.
func (v *View) graft(ctx context.Context, path string, dir object.Entry, names []string) (object.Entry, error) {
	l, err := v.Listing(ctx, path, dir.Digest)
	if err != nil {
		return dir, err
	}
	entries := make([]object.Entry, 0, l.Len()+1)
	for i := range l.Len() {
		entries = append(entries, l.At(i))
	}
	child := object.Entry{Name: []byte(names[0]), Kind: object.Dir, Mode: 0o755, Mtime: dir.Mtime}
	i, ok := l.Find(child.Name)
	switch {
	case !ok:
		i = len(entries)
		if child, err = v.keep(child, nil); err != nil {
			return dir, err
		}
		entries = append(entries, child)
	case entries[i].Kind != object.Dir:
		return dir, fmt.Errorf("%q is a %v in %v", object.Join(path, names[0]), entries[i].Kind, v.head.Tree)
	case len(names) == 1:
		return dir, nil
	}
	if len(names) > 1 {
		if entries[i], err = v.graft(ctx, object.Join(path, names[0]), entries[i], names[1:]); err != nil {
			return dir, err
		}
	}
	return v.keep(dir, entries)
}

// keep gives dir the listing of entries.
func (v *View) keep(dir object.Entry, entries []object.Entry) (object.Entry, error) {
	raw, err := object.EncodeListing(entries)
	if err != nil {
		return dir, err
	}
	l, err := object.ParseListing(raw)
	if err != nil {
		return dir, err
	}
	dir.Digest, dir.Size = digest.Of(raw), int64(len(raw))
	v.grafted[dir.Digest] = l
	return dir, nil
}

// Remote and Grafts are what the view was made with.
func (v *View) Remote() string   { return v.prefix }
func (v *View) Grafts() []string { return v.grafts }

// Root is the directory shown.
func (v *View) Root() object.Entry { return v.root }

// Grafted returns a listing that this view has in place of the tree's, or nil.
func (v *View) Grafted(d digest.Digest) *object.Listing { return v.grafted[d] }

// Cached returns a listing that is in memory; ok tells whether it is.
func (v *View) Cached(d digest.Digest) (l *object.Listing, ok bool) {
	if l := v.grafted[d]; l != nil {
		return l, true
	}
	return v.Tree.Cached(d)
}

// Listing returns the listing d of the directory path, as seen from the view's
// root.
func (v *View) Listing(ctx context.Context, path string, d digest.Digest) (*object.Listing, error) {
	if l := v.grafted[d]; l != nil {
		return l, nil
	}
	return v.Tree.Listing(ctx, v.Full(path), d)
}

// Full is the path, as seen from the tree's root, of what is at path in the view.
func (v *View) Full(path string) string {
	if path == "" {
		return v.prefix
	}
	return object.Join(v.prefix, path)
}
