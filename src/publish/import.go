package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// node is a name in a tree that is put together out of what an archive says,
// in whatever order it says it.
type node struct {
	kind     object.Kind
	mode     uint16
	mtime    int64
	target   []byte           // of a symlink
	content  *content         // of a file; hard links share one
	children map[string]*node // of a directory
	layer    int              // of an image: the last that named it
}

// content is what a file has, once it is stored.
type content struct {
	size    int64
	digest  digest.Digest
	chunked bool
}

// builder puts a tree together.
type builder struct {
	r     *reader
	root  *node
	layer int

	ctx context.Context // of g
	g   *errgroup.Group
}

// build calls fill, which adds to the tree, and returns the root directory with
// the listings of all.
func (r *reader) build(ctx context.Context, fill func(*builder) error) (*dir, error) {
	g, gctx := errgroup.WithContext(ctx)
	b := &builder{r: r, root: &node{kind: object.Dir, mode: 0o755}, ctx: gctx, g: g}
	err := fill(b)
	if e := g.Wait(); e != nil {
		return nil, e
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, errTooMany) {
		return nil, err
	}
	if err := r.problems.err(); err != nil {
		return nil, err
	}
	d := &dir{}
	if err := r.encode(b.root, d); err != nil {
		return nil, err
	}
	r.counts.Bytes = r.bytes.Load()
	return d, nil
}

// encode makes listings of a directory and all below it.
func (r *reader) encode(n *node, d *dir) error {
	r.counts.Dirs++
	d.mode, d.mtime = n.mode, n.mtime
	entries := make([]object.Entry, 0, len(n.children))
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		c := n.children[name]
		e := object.Entry{Name: []byte(name), Kind: c.kind, Mode: c.mode, Mtime: c.mtime}
		switch c.kind {
		case object.Symlink:
			r.counts.Symlinks++
			e.Target, e.Size = c.target, int64(len(c.target))
		case object.File:
			r.counts.Files++
			r.fresh.Add(1)
			r.bytes.Add(c.content.size)
			e.Size, e.Digest, e.Chunked = c.content.size, c.content.digest, c.content.chunked
		case object.Dir:
			sub := &dir{path: object.Join(d.path, name), parent: d}
			if err := r.encode(c, sub); err != nil {
				return err
			}
			d.subdirs = append(d.subdirs, sub)
			e.Digest, e.Size = digest.Of(sub.listing), int64(len(sub.listing))
		}
		entries = append(entries, e)
	}
	var err error
	if d.listing, err = object.EncodeListing(entries); err != nil {
		return fmt.Errorf("directory %q: %w", d.path, err)
	}
	return nil
}

// errBelow says that what should be a directory is something else.
var errBelow = errors.New("is below what is no directory")

// cleanPath splits a path of an archive into names. The root has none.
func cleanPath(path string) ([]string, error) {
	var names []string
	for name := range strings.SplitSeq(path, "/") {
		switch {
		case name == "" || name == ".":
			continue
		case name == "..":
			return nil, errors.New("a path with .. in it is not published")
		case len(name) > object.MaxName:
			return nil, fmt.Errorf("name of %d bytes, at most %d", len(name), object.MaxName)
		case strings.IndexByte(name, 0) >= 0:
			return nil, errors.New("name with a zero byte")
		}
		names = append(names, name)
	}
	return names, nil
}

// find returns what is at a path, or nil.
func (b *builder) find(names []string) *node {
	n := b.root
	for _, name := range names {
		if n = n.children[name]; n == nil {
			return nil
		}
	}
	return n
}

// dir returns the directory at a path, which is made if need be, with the time
// of what is in it.
func (b *builder) dir(names []string, mtime int64) (*node, error) {
	n := b.root
	for _, name := range names {
		next := n.children[name]
		if next == nil {
			next = &node{kind: object.Dir, mode: 0o755, mtime: mtime, layer: b.layer}
			n.put(name, next)
		}
		if next.kind != object.Dir {
			return nil, errBelow
		}
		next.layer = b.layer
		n = next
	}
	return n, nil
}

func (n *node) put(name string, child *node) {
	if n.children == nil {
		n.children = map[string]*node{}
	}
	n.children[name] = child
}

// add puts a name in its place, instead of what was there. Directories stay what
// they hold.
func (b *builder) add(names []string, n *node) error {
	n.layer = b.layer
	if len(names) == 0 {
		if n.kind != object.Dir {
			return errors.New("the root is no directory")
		}
		b.root.mode, b.root.mtime = n.mode, n.mtime
		return nil
	}
	last := len(names) - 1
	parent, err := b.dir(names[:last], n.mtime)
	if err != nil {
		return err
	}
	if old := parent.children[names[last]]; old != nil && old.kind == object.Dir && n.kind == object.Dir {
		n.children = old.children
	}
	parent.put(names[last], n)
	return nil
}

// file stores what is to be read from f, size bytes, and returns it as content,
// which is complete when g is done.
func (b *builder) file(f io.Reader, size int64) (*content, error) {
	c := &content{size: size}
	if size > object.MaxBlob {
		e := object.Entry{Size: size}
		if err := b.r.readChunks(b.ctx, f, &e); err != nil {
			return nil, err
		}
		c.digest, c.chunked = e.Digest, e.Chunked
		b.r.meter.files.Add(1)
		return c, nil
	}
	pool := &b.r.files.blobs
	buf := pool.Get().(*[]byte)
	if _, err := io.ReadFull(f, (*buf)[:size]); err != nil {
		pool.Put(buf)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	select {
	case b.r.files.chunks <- struct{}{}:
	case <-b.ctx.Done():
		pool.Put(buf)
		return nil, context.Cause(b.ctx)
	}
	b.g.Go(func() error {
		defer func() {
			pool.Put(buf)
			<-b.r.files.chunks
		}()
		var err error
		if c.digest, err = b.r.store.put((*buf)[:size]); err != nil {
			return storeError{err}
		}
		b.r.meter.files.Add(1)
		b.r.meter.bytes.Add(size)
		return nil
	})
	return c, nil
}

// perm is the permission bits to publish out of an archive's mode.
func (b *builder) perm(path string, mode int64) uint16 {
	return b.r.bits(path, uint16(mode&object.ModeBits))
}

// without removes from a directory what came with earlier layers than this one.
// What this one put there stays.
func (b *builder) without(n *node) {
	for name := range n.children {
		b.remove(n, name)
	}
}

// remove removes a name of a directory as far as it came with earlier layers.
func (b *builder) remove(parent *node, name string) {
	n := parent.children[name]
	if n == nil {
		return
	}
	if n.layer < b.layer {
		delete(parent.children, name)
		return
	}
	if n.kind == object.Dir {
		b.without(n)
	}
}

// checkedReader is an archive whose last bytes are known once it is read.
type checkedReader struct {
	r    io.Reader
	tail [512]byte // the last bytes, as a ring
	n    int64
}

func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	for _, b := range p[max(0, n-len(c.tail)):n] {
		c.tail[c.n%int64(len(c.tail))] = b
		c.n++
	}
	return n, err
}

// zeroTail tells whether the archive ended as tar archives do: one that was cut
// off between two files doesn't.
func (c *checkedReader) zeroTail() bool {
	return c.n >= int64(len(c.tail)) && c.tail == [512]byte{}
}
