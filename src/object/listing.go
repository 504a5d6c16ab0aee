package object

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/tinylib/msgp/msgp"

	"github.com/aysfs/aysfs/src/digest"
)

// MaxName is the longest file name in bytes, and MaxTarget the longest symlink
// target, as Linux has them.
const (
	MaxName   = 255
	MaxTarget = 4095
)

// ErrFormat says that bytes are not the object they should be. What is wrong
// with them is in the error that wraps it.
var ErrFormat = errors.New("malformed")

func malformed(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, a...))
}

// Kind tells what an entry is.
type Kind uint8

// The kinds that are published. Devices, sockets and pipes are not.
const (
	File Kind = iota
	Dir
	Symlink
)

func (k Kind) String() string {
	switch k {
	case File:
		return "file"
	case Dir:
		return "dir"
	case Symlink:
		return "symlink"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// ModeBits are the permission bits that a listing can hold: rwx for all three,
// setuid, setgid and sticky.
const ModeBits = 0o7777

// Entry is one name in a directory.
type Entry struct {
	Name []byte
	Kind Kind
	Mode uint16 // permission bits only
	// Size in bytes: of the file's content, of the symlink's target, or of
	// the encoded listing of a directory.
	Size  int64
	Mtime int64 // nanoseconds since 1970
	// Digest is the file's blob, the chunk list of a Chunked one, or the
	// directory's listing. A symlink has none.
	Digest  digest.Digest
	Chunked bool
	Target  []byte // of a symlink
}

// entryFields is the length of the array that an entry is encoded as.
const entryFields = 8

// EncodeListing sorts entries by name and encodes them. Names must be unique;
// what could not be decoded again is an error.
func EncodeListing(entries []Entry) ([]byte, error) {
	slices.SortFunc(entries, func(a, b Entry) int { return bytes.Compare(a.Name, b.Name) })
	size := 5
	for i := range entries {
		size += len(entries[i].Name) + len(entries[i].Target) + 64
	}
	b := msgp.AppendArrayHeader(make([]byte, 0, size), uint32(len(entries)))
	for i := range entries {
		b = appendEntry(b, &entries[i])
	}
	if _, err := ParseListing(b); err != nil {
		return nil, fmt.Errorf("encode listing: %w", err)
	}
	return b, nil
}

func appendEntry(b []byte, e *Entry) []byte {
	b = msgp.AppendArrayHeader(b, entryFields)
	b = msgp.AppendBytes(b, e.Name)
	b = msgp.AppendUint8(b, uint8(e.Kind))
	b = msgp.AppendUint16(b, e.Mode)
	b = msgp.AppendInt64(b, e.Size)
	b = msgp.AppendInt64(b, e.Mtime)
	if e.Kind == Symlink {
		b = msgp.AppendBytes(b, nil)
	} else {
		b = msgp.AppendBytes(b, e.Digest[:])
	}
	b = msgp.AppendBool(b, e.Chunked)
	return msgp.AppendBytes(b, e.Target)
}

// readEntry decodes one entry. Name and Target point into b.
func readEntry(b []byte) (e Entry, rest []byte, err error) {
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return e, b, err
	}
	if n != entryFields {
		return e, b, malformed("entry of %d fields, want %d", n, entryFields)
	}
	if e.Name, b, err = ReadBytes(b); err != nil {
		return e, b, err
	}
	kind, b, err := msgp.ReadUint8Bytes(b)
	if err != nil {
		return e, b, err
	}
	e.Kind = Kind(kind)
	if e.Mode, b, err = msgp.ReadUint16Bytes(b); err != nil {
		return e, b, err
	}
	if e.Size, b, err = msgp.ReadInt64Bytes(b); err != nil {
		return e, b, err
	}
	if e.Mtime, b, err = msgp.ReadInt64Bytes(b); err != nil {
		return e, b, err
	}
	sum, b, err := ReadBytes(b)
	if err != nil {
		return e, b, err
	}
	if len(sum) != 0 && len(sum) != digest.Size {
		return e, b, malformed("digest of %d bytes", len(sum))
	}
	copy(e.Digest[:], sum)
	if e.Chunked, b, err = msgp.ReadBoolBytes(b); err != nil {
		return e, b, err
	}
	e.Target, b, err = ReadBytes(b)
	return e, b, err
}

func (e *Entry) check() error {
	switch {
	case len(e.Name) == 0 || len(e.Name) > MaxName:
		return malformed("name of %d bytes", len(e.Name))
	case bytes.IndexByte(e.Name, 0) >= 0 || bytes.IndexByte(e.Name, '/') >= 0:
		return malformed("name %q", e.Name)
	case string(e.Name) == "." || string(e.Name) == "..":
		return malformed("name %q", e.Name)
	case e.Mode&^ModeBits != 0:
		return malformed("%q: mode %#o", e.Name, e.Mode)
	case e.Size < 0:
		return malformed("%q: size %d", e.Name, e.Size)
	case e.Chunked && e.Kind != File:
		return malformed("%q: a %v can't be chunked", e.Name, e.Kind)
	case e.Kind != File && e.Kind != Dir && e.Kind != Symlink:
		return malformed("%q: %v", e.Name, e.Kind)
	case e.Kind != Symlink && (len(e.Target) != 0 || e.Digest.IsZero()):
		return malformed("%q: a %v needs a digest and no target", e.Name, e.Kind)
	case e.Kind == Symlink && (len(e.Target) == 0 || len(e.Target) > MaxTarget || !e.Digest.IsZero() || int64(len(e.Target)) != e.Size || bytes.IndexByte(e.Target, 0) >= 0):
		return malformed("%q: a symlink needs a target of its size, at most %d bytes, and no digest", e.Name, MaxTarget)
	case e.Kind == File && !e.Chunked && e.Size > MaxBlob:
		return malformed("%q: %d bytes in one blob", e.Name, e.Size)
	}
	return nil
}

// Listing is one directory's entries, sorted by name, read where they lie in
// the encoded bytes.
type Listing struct {
	raw  []byte
	offs []uint32 // of each entry in raw
}

// ParseListing checks the whole of raw and keeps it.
func ParseListing(raw []byte) (*Listing, error) {
	if uint64(len(raw)) > math.MaxUint32 {
		return nil, malformed("listing of %d bytes", len(raw))
	}
	n, rest, err := msgp.ReadArrayHeaderBytes(raw)
	if err != nil {
		return nil, malformed("listing: %v", err)
	}
	// An entry takes more than 16 bytes: a count beyond that is a lie that
	// must not become an allocation.
	if uint64(n) > uint64(len(rest))/16 {
		return nil, malformed("listing says %d entries in %d bytes", n, len(rest))
	}
	l := &Listing{raw: raw, offs: make([]uint32, n)}
	var prev []byte
	for i := range l.offs {
		l.offs[i] = uint32(len(raw) - len(rest))
		e, r, err := readEntry(rest)
		if err != nil {
			return nil, malformed("listing entry %d: %v", i, err)
		}
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("listing entry %d: %w", i, err)
		}
		if i > 0 && bytes.Compare(prev, e.Name) >= 0 {
			return nil, malformed("listing entry %d: %q after %q", i, e.Name, prev)
		}
		prev, rest = e.Name, r
	}
	if len(rest) != 0 {
		return nil, malformed("%d bytes after the listing", len(rest))
	}
	return l, nil
}

// Raw is the encoded form, which is not to be changed.
func (l *Listing) Raw() []byte { return l.raw }

// Footprint is the memory in bytes that l holds beside its raw bytes.
func (l *Listing) Footprint() int64 { return int64(cap(l.offs))*4 + 64 }

// Len is the number of entries.
func (l *Listing) Len() int { return len(l.offs) }

// At decodes entry i. Name and Target point into the listing.
func (l *Listing) At(i int) Entry {
	e, _, _ := readEntry(l.raw[l.offs[i]:])
	return e
}

// nameAt is At for the name alone.
func (l *Listing) nameAt(i int) []byte {
	_, b, _ := msgp.ReadArrayHeaderBytes(l.raw[l.offs[i]:])
	name, _, _ := ReadBytes(b)
	return name
}

// Find looks a name up. Without one it returns where it would be.
func (l *Listing) Find(name []byte) (i int, ok bool) {
	lo, hi := 0, len(l.offs)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		switch c := bytes.Compare(l.nameAt(mid), name); {
		case c == 0:
			return mid, true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return lo, false
}
