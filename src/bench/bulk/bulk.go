package bulk

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// Shape is what a tree looks like: Dirs directories in its root, with Files files
// in each.
type Shape struct{ Dirs, Files int }

// contents is how many different contents files have, and contentSize how long
// each is, in bytes.
const (
	contents    = 16
	contentSize = 1000
)

// Dir is the name of directory i, and File that of file i in a directory.
func Dir(i int) string  { return fmt.Sprintf("directory-%06d", i) }
func File(i int) string { return fmt.Sprintf("file-number-%06d.txt", i) }

// Content is what is in file i of any directory.
func Content(i int) []byte {
	b := make([]byte, contentSize)
	for at := range b {
		b[at] = byte('a' + (at+i%contents)%26)
	}
	binary.LittleEndian.PutUint32(b, uint32(i%contents))
	return b
}

// mtime is that of everything, in nanoseconds since 1970.
const mtime = 1767225600_000000000

// Publish puts a tree into the store in dir as the first head of that name. Its own
// memory does not grow with the tree, but for the listing of the root.
func Publish(dir string, name object.TreeName, shape Shape) error {
	codec, err := object.NewCodec(1)
	if err != nil {
		return err
	}
	s := &store{dir: filepath.Join(dir, object.DomainOrDefault("")), codec: codec}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fmt.Errorf("make a store: %w", err)
	}
	var blobs [contents]digest.Digest
	for i := range blobs {
		if blobs[i], err = s.put(Content(i)); err != nil {
			return err
		}
	}
	entries := make([]object.Entry, shape.Files)
	for i := range entries {
		entries[i] = object.Entry{Name: []byte(File(i)), Mode: 0o644, Size: contentSize, Digest: blobs[i%contents]}
	}
	// Directories differ by the times of their files.
	listing := func(n int) ([]byte, error) {
		for i := range entries {
			entries[i].Mtime = mtime + int64(n)*1000
		}
		return object.EncodeListing(entries)
	}
	subdirs := make([]object.Entry, shape.Dirs)
	for n := range subdirs {
		raw, err := listing(n)
		if err != nil {
			return err
		}
		subdirs[n] = object.Entry{
			Name: []byte(Dir(n)), Kind: object.Dir, Mode: 0o755, Mtime: mtime, Size: int64(len(raw)), Digest: digest.Of(raw),
		}
	}
	root, err := object.EncodeListing(subdirs)
	if err != nil {
		return err
	}
	c := cataloguer{store: s}
	if err := c.add("", root); err != nil {
		return err
	}
	for n := range shape.Dirs {
		raw, err := listing(n)
		if err != nil {
			return err
		}
		if err := c.add(Dir(n), raw); err != nil {
			return err
		}
	}
	if err := c.cut(); err != nil {
		return err
	}
	index := c.index.Encode()
	files := int64(shape.Dirs) * int64(shape.Files)
	head := &object.Head{
		Tree: name, Serial: 1, Time: time.Unix(0, mtime), Domain: object.DomainOrDefault(""),
		Root: digest.Of(root), RootSize: int64(len(root)), RootMode: 0o755, RootMtime: mtime,
		IndexSize: int64(len(index)), Catalog: c.index.Catalogs()[0], Catalogs: int64(len(c.index.Catalogs())), MaxSize: c.largest,
		Counts: object.Counts{Files: files, Dirs: int64(shape.Dirs) + 1, Bytes: files * contentSize},
	}
	if head.Index, err = s.put(index); err != nil {
		return err
	}
	note, err := head.Sign()
	if err != nil {
		return err
	}
	heads := filepath.Join(dir, filepath.FromSlash(name.Dir()))
	if err := os.MkdirAll(heads, 0o755); err != nil {
		return fmt.Errorf("make a store: %w", err)
	}
	if err := os.WriteFile(filepath.Join(heads, "head"), note, 0o644); err != nil {
		return fmt.Errorf("write a head: %w", err)
	}
	return nil
}

// store is one domain of a store.
type store struct {
	dir   string
	codec *object.Codec
	buf   []byte
}

func (s *store) put(plain []byte) (digest.Digest, error) {
	d := digest.Of(plain)
	if cap(s.buf) < len(plain) {
		s.buf = make([]byte, 0, len(plain))
	}
	if err := os.WriteFile(filepath.Join(s.dir, d.String()), s.codec.Pack(plain, s.buf), 0o644); err != nil {
		return d, fmt.Errorf("write a blob: %w", err)
	}
	return d, nil
}

// cataloguer puts listings into catalogs as they come.
type cataloguer struct {
	store   *store
	run     []object.DirListing
	have    int // bytes in run
	index   object.Index
	largest int64 // bytes of a catalog
}

func (c *cataloguer) add(path string, raw []byte) error {
	more := len(path) + len(raw)
	if object.CutCatalog(path, c.have, more) {
		if err := c.cut(); err != nil {
			return err
		}
	}
	c.run = append(c.run, object.DirListing{Path: path, Listing: raw})
	c.have += more
	return nil
}

// cut stores what has come as one catalog.
func (c *cataloguer) cut() error {
	raw := object.EncodeCatalog(c.run)
	d, err := c.store.put(raw)
	if err != nil {
		return err
	}
	c.index.Add(c.run[0].Path, d)
	c.largest = max(c.largest, int64(len(raw)))
	c.run, c.have = nil, 0
	return nil
}
