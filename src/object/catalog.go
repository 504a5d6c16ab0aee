package object

import (
	"bytes"
	"hash/fnv"
	"strings"

	"github.com/tinylib/msgp/msgp"

	"github.com/aysfs/aysfs/src/digest"
)

// ComparePaths orders directories as a walk that sorts names meets them: a
// directory, then all that is below it, then its next sibling. That is byte
// order with '/' before every other byte. The root is the empty path.
func ComparePaths(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			if a[i] == '/' {
				return -1
			}
			if b[i] == '/' {
				return 1
			}
			return int(a[i]) - int(b[i])
		}
	}
	return len(a) - len(b)
}

// Join appends a name to a directory's path.
func Join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// Parent is the directory that holds path; the root is in itself.
func Parent(path string) string {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)]
}

// DirListing is a directory and its encoded listing.
type DirListing struct {
	Path    string
	Listing []byte
}

// A catalog carries a run of directories in ComparePaths order. It ends before
// the first directory that would take it over maxCatalog bytes, and sooner,
// from minCatalog on, where the path of a directory says so: then a change in
// one place leaves the cuts in other places, and so the other catalogs, as they
// were.
const (
	minCatalog = 384 << 10
	maxCatalog = 1 << 20
	cutOneIn   = 16
)

// CutCatalog tells whether a new catalog starts with the directory path, when
// the one before has have bytes and the listing to add has more.
func CutCatalog(path string, have, more int) bool {
	switch {
	case have == 0:
		return false
	case have+more > maxCatalog:
		return true
	case have < minCatalog:
		return false
	}
	h := fnv.New32a()
	h.Write([]byte(path))
	return h.Sum32()%cutOneIn == 0
}

// EncodeCatalog encodes directories, which must be in ComparePaths order.
func EncodeCatalog(dirs []DirListing) []byte {
	size := 5
	for i := range dirs {
		size += len(dirs[i].Path) + len(dirs[i].Listing) + 12
	}
	b := msgp.AppendArrayHeader(make([]byte, 0, size), uint32(len(dirs)))
	for i := range dirs {
		b = msgp.AppendArrayHeader(b, 2)
		b = msgp.AppendBytes(b, []byte(dirs[i].Path))
		b = msgp.AppendBytes(b, dirs[i].Listing)
	}
	return b
}

// maxCatalogDirs is more than the directories in any catalog that is cut as above. One of
// more than maxCatalog bytes has a single one.
const maxCatalogDirs = 1 << 18

// CatalogLen is how many directories a catalog says that it has: no more than there
// may be, nor than its bytes may hold.
func CatalogLen(raw []byte) (int, error) {
	n, b, err := msgp.ReadArrayHeaderBytes(raw)
	if err != nil {
		return 0, malformed("catalog: %v", err)
	}
	if n > maxCatalogDirs || int(n) > len(b)/5 { // two headers of two bytes in one of one
		return 0, malformed("catalog says %d directories in %d bytes, at most %d may be there", n, len(b), maxCatalogDirs)
	}
	return int(n), nil
}

// ParseCatalog reads what EncodeCatalog wrote and calls each for every
// directory in it. Paths and listings point into raw; the listings are not
// looked into.
func ParseCatalog(raw []byte, each func(path, listing []byte) error) error {
	n, err := CatalogLen(raw)
	if err != nil {
		return err
	}
	_, b, _ := msgp.ReadArrayHeaderBytes(raw)
	var prev []byte
	for i := range n {
		var path, listing []byte
		if path, b, err = readPair(b); err != nil {
			return malformed("catalog entry %d: %v", i, err)
		}
		if listing, b, err = ReadBytes(b); err != nil {
			return malformed("catalog entry %d: %v", i, err)
		}
		if i > 0 && ComparePaths(string(prev), string(path)) >= 0 {
			return malformed("catalog entry %d: %.80q after %.80q", i, path, prev)
		}
		prev = path
		if err := each(path, listing); err != nil {
			return err
		}
	}
	if len(b) != 0 {
		return malformed("%d bytes after the catalog", len(b))
	}
	return nil
}

// readPair reads the head of an array of two and its first element.
func readPair(b []byte) (first, rest []byte, err error) {
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return nil, nil, err
	}
	if n != 2 {
		return nil, nil, malformed("%d fields, want 2", n)
	}
	return ReadBytes(b)
}

// Index tells which catalog carries a directory. It has one row for each
// catalog, with the first directory in it.
type Index struct {
	firsts   []string
	catalogs []digest.Digest
}

// Add appends a catalog that starts with the directory first.
func (x *Index) Add(first string, catalog digest.Digest) {
	x.firsts, x.catalogs = append(x.firsts, first), append(x.catalogs, catalog)
}

// Encode encodes the rows as pairs [dirpath, catalog digest].
func (x *Index) Encode() []byte {
	b := msgp.AppendArrayHeader(nil, uint32(len(x.firsts)))
	for i := range x.firsts {
		b = msgp.AppendArrayHeader(b, 2)
		b = msgp.AppendBytes(b, []byte(x.firsts[i]))
		b = msgp.AppendBytes(b, x.catalogs[i][:])
	}
	return b
}

// ParseIndex reads what Encode wrote. The first row must be the root's.
func ParseIndex(raw []byte) (*Index, error) {
	n, b, err := msgp.ReadArrayHeaderBytes(raw)
	if err != nil {
		return nil, malformed("index: %v", err)
	}
	if n == 0 || uint64(n) > uint64(len(b))/digest.Size {
		return nil, malformed("index says %d catalogs in %d bytes", n, len(b))
	}
	x := &Index{firsts: make([]string, 0, n), catalogs: make([]digest.Digest, 0, n)}
	for i := range n {
		path, r, err := readPair(b)
		if err != nil {
			return nil, malformed("index row %d: %v", i, err)
		}
		d, r, err := readDigest(r)
		if err != nil {
			return nil, err
		}
		if i == 0 && len(path) != 0 {
			return nil, malformed("index starts with %.80q, not with the root", path)
		}
		if i > 0 && ComparePaths(x.firsts[i-1], string(path)) >= 0 {
			return nil, malformed("index row %d: %.80q after %.80q", i, path, x.firsts[i-1])
		}
		x.Add(string(bytes.Clone(path)), d)
		b = r
	}
	if len(b) != 0 {
		return nil, malformed("%d bytes after the index", len(b))
	}
	return x, nil
}

// Catalog is the digest of the catalog that carries the directory path, if the
// tree has it at all.
func (x *Index) Catalog(path string) digest.Digest {
	lo, hi := 0, len(x.firsts)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if ComparePaths(x.firsts[mid], path) <= 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return x.catalogs[max(lo-1, 0)]
}

// Catalogs are all catalogs in order. The slice is not to be changed.
func (x *Index) Catalogs() []digest.Digest { return x.catalogs }

// Footprint is the memory in bytes that x holds, about.
func (x *Index) Footprint() int64 {
	size := int64(cap(x.firsts))*16 + int64(cap(x.catalogs))*digest.Size
	for _, f := range x.firsts {
		size += int64(len(f)) + 8
	}
	return size
}
