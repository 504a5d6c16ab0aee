package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

const (
	// maxImportNames bounds the memory for what is not a directory: about 300
	// bytes a name.
	maxImportNames = 10_000_000
	// maxImportPath bounds the length of a path in bytes. Each directory has its
	// own, so that deep ones take the square of it.
	maxImportPath = 16 << 10
	// maxLinks is how many symlinks a path may lead through, as Linux has it.
	maxLinks = 40

	madeMode = 0o755 // of directories that only what is in them tells of
)

// recognise finds out what Root is, unless Format says so.
func (o *Options) recognise() error {
	if o.Root == "" {
		return errors.New("nothing to publish given")
	}
	switch o.Format {
	case "", Directory, Tar, OCI, TextList:
	default:
		return fmt.Errorf("format %q: want dir, tar, oci or list", o.Format)
	}
	if o.Root == "-" {
		if o.Format == "" {
			o.Format = Tar
			o.sniff = true
		}
		if o.Format == Directory || o.Format == TextList {
			return fmt.Errorf("a %s can't be read from standard input", o.Format)
		}
		return nil
	}
	info, err := os.Stat(o.Root)
	if err != nil {
		return fmt.Errorf("to publish: %w", err)
	}
	if o.Format == "" {
		switch {
		case info.IsDir() && isLayout(o.Root):
			o.Format = OCI
		case info.IsDir():
			o.Format = Directory
		case strings.HasSuffix(o.Root, ".flist"):
			o.Format = TextList
		default:
			o.Format = Tar
			o.sniff = true
		}
	}
	if isDir := info.IsDir(); isDir && (o.Format == Tar || o.Format == TextList) {
		return fmt.Errorf("to publish: %s is a directory, and not a %s", o.Root, o.Format)
	} else if !isDir && o.Format == Directory {
		return fmt.Errorf("to publish: %s is not a directory", o.Root)
	} else if !isDir && !info.Mode().IsRegular() && o.Format == TextList {
		return fmt.Errorf("to publish: %s is not a file", o.Root)
	}
	return nil
}

// isDir tells whether Root is a directory.
func (o *Options) isDir() bool {
	info, err := os.Stat(o.Root)
	return o.Root != "-" && err == nil && info.IsDir()
}

// readRoot reads what is published, whatever it is.
func (r *reader) readRoot(ctx context.Context, o *Options) (*dir, error) {
	switch {
	case o.Format == Directory:
		return r.read(ctx)
	case o.Format == TextList:
		dirs, err := o.fileDirs()
		if err != nil {
			return nil, err
		}
		return r.readFlist(ctx, o.Root, dirs)
	case o.Format == OCI && o.isDir():
		l, err := openLayoutDir(o.Root)
		if err != nil {
			return nil, err
		}
		defer l.close()
		return r.readImage(ctx, l, o.choice())
	}
	return r.readArchive(ctx, o)
}

// content is what a file of an imported tree has in it. It is complete when all
// that is to be stored has been.
type content struct {
	size    int64
	digest  digest.Digest
	chunked bool
}

// node is a name in an imported tree.
type node struct {
	kind     object.Kind
	special  string // what it is instead, and then it is not published
	mode     uint16
	mtime    int64
	layer    int // that has told of it last
	target   string
	content  *content
	children map[string]*node // of a directory
}

// importer puts a tree together out of what an archive tells, in its order.
type importer struct {
	*reader
	root    *node
	layered bool // these are an image's layers
	layer   int
	names   int
	tasks   *errgroup.Group // storing content; its limit bounds the memory
}

// importTree lets f tell of a tree, and returns its root directory with the
// listings of all.
func (r *reader) importTree(ctx context.Context, f func(context.Context, *importer) error) (*dir, error) {
	t := &importer{reader: r}
	var tctx context.Context
	t.tasks, tctx = errgroup.WithContext(ctx)
	t.tasks.SetLimit(r.workers)
	err := f(tctx, t)
	// If storing failed, that is why f could not go on.
	if terr := t.tasks.Wait(); terr != nil {
		err = terr
	}
	if err != nil && !errors.Is(err, errTooMany) {
		return nil, err
	}
	if err := r.problems.err(); err != nil {
		return nil, err
	}
	if t.root == nil {
		t.root = t.newDir(0)
	}
	root := &dir{}
	if err := r.build(root, t.root); err != nil {
		return nil, err
	}
	r.counts.Bytes = r.bytes.Load()
	return root, nil
}

// cleanName is a name in an archive as a path in the tree; empty for the root.
func cleanName(name string) (string, error) {
	switch {
	case strings.HasPrefix(name, "/"):
		return "", errors.New("the name is absolute")
	case strings.IndexByte(name, 0) >= 0:
		return "", errors.New("the name has a NUL in it")
	case len(name) > maxImportPath:
		return "", fmt.Errorf("a name of %d bytes, more than %d", len(name), maxImportPath)
	}
	parts := strings.Split(name, "/")
	clean := parts[:0]
	for _, p := range parts {
		switch {
		case p == "" || p == ".":
			continue
		case p == "..":
			return "", errors.New(`the name has ".." in it`)
		case len(p) > object.MaxName:
			return "", fmt.Errorf("a part of the name has %d bytes, more than %d", len(p), object.MaxName)
		}
		clean = append(clean, p)
	}
	return strings.Join(clean, "/"), nil
}

// newDir is a directory that has not been told of itself.
func (t *importer) newDir(mtime int64) *node {
	return &node{kind: object.Dir, mode: madeMode, mtime: mtime, layer: t.layer, children: map[string]*node{}}
}

// count is an error for more names than a tree may have.
func (t *importer) count() error {
	if t.names++; t.names > maxImportNames {
		return fmt.Errorf("more than %d names: unpack it, and publish the directory", maxImportNames)
	}
	return nil
}

// errNoName says that an archive has no such name so far.
var errNoName = errors.New("no such name before it")

// dir returns the directory that path leads to. Of layers, later ones say lib/x
// where an earlier one has made lib a symlink: those are followed, and stay in the
// tree whatever they say. Where a directory is missing it is made with the time mtime, if
// there is one, or else it is errNoName.
func (t *importer) dir(path string, mtime *int64) (*node, error) {
	if t.root == nil {
		if mtime == nil {
			return nil, errNoName
		}
		t.root = t.newDir(*mtime)
	}
	above := []*node{t.root}
	rest := []string{}
	if path != "" {
		rest = strings.Split(path, "/")
	}
	links := 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		at := above[len(above)-1]
		switch name {
		case "", ".":
			continue
		case "..":
			above = above[:max(1, len(above)-1)]
			continue
		}
		child := at.children[name]
		switch {
		case child == nil && mtime == nil:
			return nil, errNoName
		case child == nil && len(name) > object.MaxName: // out of a symlink's target
			return nil, fmt.Errorf("a symlink on the way leads to a name of %d bytes, more than %d", len(name), object.MaxName)
		case child == nil:
			if err := t.count(); err != nil {
				return nil, err
			}
			child = t.newDir(*mtime)
			at.children[name] = child
		case child.special != "" || child.kind == object.File:
			return nil, fmt.Errorf("%q before it is no directory", name)
		case child.kind == object.Symlink && !t.layered:
			return nil, fmt.Errorf("%q before it is no directory, but a symlink", name)
		case child.kind == object.Symlink:
			if links++; links > maxLinks {
				return nil, fmt.Errorf("more than %d symlinks on the way", maxLinks)
			}
			if strings.HasPrefix(child.target, "/") {
				above = above[:1]
			}
			rest = append(strings.Split(child.target, "/"), rest...)
			continue
		}
		above = append(above, child)
		if len(above) > maxImportPath/2 {
			return nil, errors.New("too deep")
		}
	}
	return above[len(above)-1], nil
}

func splitPath(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// put gives a path its node. Of what was told twice the later counts, but for a
// directory, which keeps what is in it.
func (t *importer) put(path string, n *node) error {
	n.layer = t.layer
	if path == "" {
		if n.kind != object.Dir || n.special != "" {
			return errors.New("the root is not a directory")
		}
		if t.root == nil {
			t.root = t.newDir(n.mtime)
		}
		t.root.mode, t.root.mtime = n.mode, n.mtime
		return nil
	}
	dir, name := splitPath(path)
	parent, err := t.dir(dir, &n.mtime)
	if err != nil {
		return err
	}
	old := parent.children[name]
	if old == nil {
		if err := t.count(); err != nil {
			return err
		}
	}
	if n.kind == object.Dir && n.special == "" {
		if old != nil && old.kind == object.Dir && old.special == "" {
			old.mode, old.mtime, old.layer = n.mode, n.mtime, n.layer
			return nil
		}
		n.children = map[string]*node{}
	}
	parent.children[name] = n
	return nil
}

// link returns a node for another name of what has the path target.
func (t *importer) link(target string) (*node, error) {
	// Archivers write the name of the target as they write all names: a slash
	// before it is one that they left out elsewhere.
	clean, err := cleanName(strings.TrimLeft(target, "/"))
	if err != nil {
		return nil, fmt.Errorf("hard link to %q: %w", target, err)
	}
	dir, name := splitPath(clean)
	parent, err := t.dir(dir, nil)
	if err != nil {
		return nil, fmt.Errorf("hard link to %q: %w", target, err)
	}
	n := parent.children[name]
	switch {
	case n == nil:
		return nil, fmt.Errorf("hard link to %q: %w", target, errNoName)
	case n.kind == object.Dir && n.special == "":
		return nil, fmt.Errorf("hard link to %q, which is a directory", target)
	}
	other := *n
	return &other, nil
}

// store reads size bytes of a file and stores them. Small files are stored
// behind the caller's back: their content is complete when the tasks are.
func (t *importer) store(ctx context.Context, in io.Reader, size int64) (*content, error) {
	c := &content{size: size}
	if size > object.MaxBlob {
		e := object.Entry{Size: size}
		if err := t.readChunks(ctx, in, &e); err != nil {
			return nil, err
		}
		c.digest, c.chunked = e.Digest, e.Chunked
		t.meter.files.Add(1)
		return c, nil
	}
	buf := t.files.blobs.Get().(*[]byte)
	if _, err := io.ReadFull(in, (*buf)[:size]); err != nil {
		t.files.blobs.Put(buf)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	t.tasks.Go(func() (err error) {
		defer t.files.blobs.Put(buf)
		if c.digest, err = t.reader.store.put((*buf)[:size]); err != nil {
			return storeError{err}
		}
		t.meter.bytes.Add(size)
		t.meter.files.Add(1)
		return nil
	})
	return c, nil
}

// build makes the listings of a directory and of all below it.
func (r *reader) build(d *dir, n *node) error {
	r.counts.Dirs++
	d.mode, d.mtime = r.bits(d.path, n.mode), n.mtime
	d.left.Store(1)
	names := slices.Sorted(maps.Keys(n.children))
	names = slices.DeleteFunc(names, func(name string) bool {
		special := n.children[name].special
		if special != "" {
			r.skipped++
			r.warn("skipped: only files, directories and symlinks are published",
				"path", object.Join(d.path, name), "kind", special)
		}
		return special != ""
	})
	d.entries = make([]object.Entry, len(names))
	for i, name := range names {
		e, child := &d.entries[i], n.children[name]
		path := object.Join(d.path, name)
		e.Name, e.Kind, e.Mtime = []byte(name), child.kind, child.mtime
		switch child.kind {
		case object.Symlink:
			r.counts.Symlinks++
			e.Mode, e.Target, e.Size = 0o777, []byte(child.target), int64(len(child.target))
		case object.File:
			r.counts.Files++
			r.fresh.Add(1)
			r.bytes.Add(child.content.size)
			e.Mode, e.Size = r.bits(path, child.mode), child.content.size
			e.Digest, e.Chunked = child.content.digest, child.content.chunked
		case object.Dir:
			d.left.Add(1)
			sub := &dir{path: path, parent: d, slot: i}
			d.subdirs = append(d.subdirs, sub)
			if err := r.build(sub, child); err != nil {
				return err
			}
		}
	}
	n.children = nil // the listing has it all
	return r.done(d)
}

// problem notes what is wrong with a name of an archive. The error ends the
// import.
func (r *reader) problem(ctx context.Context, name string, err error) error {
	var se storeError
	if errors.As(err, &se) || ctx.Err() != nil {
		return err
	}
	return r.problems.add(name, err)
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(b)
}

// isLayout tells whether a directory is an OCI image layout.
func isLayout(dir string) bool {
	for _, name := range []string{layoutFile, indexFile} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || !info.Mode().IsRegular() {
			return false
		}
	}
	return true
}
