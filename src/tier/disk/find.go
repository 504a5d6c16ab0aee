package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/tier"
)

// Blobs are found in bolt's pages without bolt's cursor, which makes garbage for
// every lookup, and looks at pages that the disk may have to be waited for.
//
// A page has a header of 16 bytes: its number (8 bytes), flags (2), the count of
// its elements (2), how many pages more belong to it (4). Elements of 16 bytes
// follow, sorted by key. In a branch: where the key is, counted from the element
// (4), its size (4), the number of the page below (8). In a leaf: flags (4), where
// the key is (4), its size (4), that of the value behind it (4). The value of a
// nested bucket begins with the number of its root page (8), 0 where that follows
// at once, and its sequence (8). All in the order of bytes of the machine.
const (
	headerSize  = 16
	elementSize = 16
	bucketSize  = 16

	branchPage = 1
	leafPage   = 2
	nested     = 1 // flag of an element

	maxDepth = 16 // of a tree that bolt made: 256 MiB take three
)

var (
	errNotFound = errors.New("not in the segment")
	// errCold says that the disk would have to be waited for.
	errCold = errors.New("not in memory")
)

// place is where a blob is: in the file at off, or, if it is too small for a page
// of its own, copied.
type place struct {
	off, size int64
	inline    tier.Blob // to be released, if off is 0
}

// locate finds a blob. It looks at pages of the tree, but not at a value that has
// its own. Without wait it is errCold until the disk was asked for all of them.
func (c *Cache) locate(h *handle, domain string, d *digest.Digest, wait bool) (p place, err error) {
	if !wait && !h.warmed.Load() {
		return p, errCold
	}
	snap := h.borrow()
	defer snap.refs.Add(-1)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = &damage{r}
		}
	}()
	b := snap.domains[domain]
	if b == nil || b.Root() == 0 {
		return p, errNotFound
	}
	v, err := h.find(snap.tx, uint64(b.Root()), d[:])
	if err != nil {
		return p, err
	}
	if len(v) < bucketSize {
		return p, &damage{fmt.Sprintf("bucket of %d bytes", len(v))}
	}
	root := binary.NativeEndian.Uint64(v)
	p.size = int64(binary.NativeEndian.Uint64(v[8:]))
	if root == 0 {
		const head = bucketSize + headerSize + elementSize + 1
		if p.size < 0 || int64(len(v)) != head+p.size {
			return p, &damage{fmt.Sprintf("value of %d bytes in a bucket of %d", p.size, len(v))}
		}
		p.inline = c.buffers.blob(p.size)
		copy(p.inline.Data, v[head:])
		return p, nil
	}
	end := snap.tx.Size()
	p.off = int64(root)*pageSize + valueOffset
	if root >= uint64(end/pageSize) || p.size <= 0 || p.size > end-p.off {
		return p, &damage{fmt.Sprintf("value of %d bytes on page %d of %d", p.size, root, end/pageSize)}
	}
	return p, nil
}

// find returns the value of a nested bucket's key in the tree with that root.
func (h *handle) find(tx *bolt.Tx, root uint64, key []byte) ([]byte, error) {
	for range maxDepth {
		page, err := h.page(tx, root)
		if err != nil {
			return nil, err
		}
		flags, count := binary.NativeEndian.Uint16(page[8:]), int(binary.NativeEndian.Uint16(page[10:]))
		if headerSize+count*elementSize > len(page) {
			return nil, &damage{fmt.Sprintf("page %d has %d elements", root, count)}
		}
		// The first element with a key that is not below key.
		lo, hi := 0, count
		exact := false
		for lo < hi {
			mid := int(uint(lo+hi) >> 1)
			c := bytes.Compare(elementKey(page, mid, flags), key)
			if c == 0 {
				lo, exact = mid, true
				break
			}
			if c < 0 {
				lo = mid + 1
			} else {
				hi = mid
			}
		}
		e := headerSize + lo*elementSize
		switch {
		case flags == branchPage && count > 0:
			if !exact && lo > 0 {
				e -= elementSize
			}
			root = binary.NativeEndian.Uint64(page[e+8:])
		case flags != leafPage:
			return nil, &damage{fmt.Sprintf("page %d has flags %#x", root, flags)}
		case !exact || page[e]&nested == 0:
			return nil, errNotFound
		default:
			at := e + int(binary.NativeEndian.Uint32(page[e+4:])) + int(binary.NativeEndian.Uint32(page[e+8:]))
			n := int(binary.NativeEndian.Uint32(page[e+12:]))
			return page[at : at+n], nil
		}
	}
	return nil, &damage{"a tree that is too deep"}
}

// warm has the disk read the tree of a handle that was just opened, of which its
// caller has a reference.
func (c *Cache) warm(h *handle) {
	if len(h.snap.Load().domains) == 0 {
		h.warmed.Store(true)
		return
	}
	h.refs.Add(1)
	go func() {
		h.warm()
		c.unref(h)
	}()
}

// warm has the disk begin to read the leaves of the tree, which lookups come to in
// no order. They are a hundredth of a segment at most. It waits for the branches above.
func (h *handle) warm() {
	snap := h.borrow()
	defer snap.refs.Add(-1)
	defer h.warmed.Store(true)
	// Who looks a blob up will tell of what is damaged.
	_ = guard(func() error {
		for _, b := range snap.domains {
			if b.Root() != 0 {
				if err := h.warmBelow(snap.tx, uint64(b.Root()), maxDepth); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (h *handle) warmBelow(tx *bolt.Tx, number uint64, depth int) error {
	page, err := h.page(tx, number)
	if err != nil {
		return err
	}
	if binary.NativeEndian.Uint16(page[8:]) != branchPage || depth == 0 {
		return nil
	}
	count := int(binary.NativeEndian.Uint16(page[10:]))
	below := func(i int) uint64 { return binary.NativeEndian.Uint64(page[headerSize+i*elementSize+8:]) }
	for i := range count {
		if err := h.willNeed(int64(below(i))*pageSize, pageSize); err != nil {
			return fmt.Errorf("read ahead: %w", err)
		}
	}
	// All leaves are equally far down. A look at the first tells what they are.
	if count == 0 {
		return nil
	}
	first, err := h.page(tx, below(0))
	if err != nil || binary.NativeEndian.Uint16(first[8:]) == leafPage {
		return err
	}
	for i := range count {
		if err := h.warmBelow(tx, below(i), depth-1); err != nil {
			return err
		}
	}
	return nil
}

// elementKey is the key of element i. What points out of the page panics.
func elementKey(page []byte, i int, flags uint16) []byte {
	e := headerSize + i*elementSize
	at, size := binary.NativeEndian.Uint32(page[e:]), binary.NativeEndian.Uint32(page[e+4:])
	if flags == leafPage {
		at, size = size, binary.NativeEndian.Uint32(page[e+8:])
	}
	return page[e+int(at) : e+int(at)+int(size)]
}

// page returns a page of the tree, with those that belong to it.
func (h *handle) page(tx *bolt.Tx, number uint64) ([]byte, error) {
	pages := uint64(tx.Size() / pageSize)
	if number >= pages {
		return nil, &damage{fmt.Sprintf("page %d of %d", number, pages)}
	}
	off := int64(number) * pageSize
	page := h.view(off, pageSize)
	if id := binary.NativeEndian.Uint64(page); id != number {
		return nil, &damage{fmt.Sprintf("page %d says it is %d", number, id)}
	}
	if more := uint64(binary.NativeEndian.Uint32(page[12:])); more > 0 {
		if more >= pages-number {
			return nil, &damage{fmt.Sprintf("page %d has %d behind it", number, more)}
		}
		page = h.view(off, int64(more+1)*pageSize)
	}
	return page, nil
}
