package ledisbolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	bolt "go.etcd.io/bbolt"
)

const (
	// largeValue is the size in bytes from which a value has a bucket of its own.
	largeValue = 4 << 10
	// A value that is alone in its bucket lies behind the header of its page,
	// one element and its key. Knowing that, it can be read from the file
	// without its first page being faulted in through the map.
	valueOffset = 16 + 16 + 1
	sumSize     = 4
)

var valueKey = []byte("d")

type castagnoli struct{ table *crc32.Table }

// sum covers the key as well, so that a value can't stand in for another one.
func (c castagnoli) sum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, c.table), c.table, value)
}

func newCastagnoli() castagnoli { return castagnoli{crc32.MakeTable(crc32.Castagnoli)} }

// diskSize is about what a value takes in a file, in bytes, the tree included.
func diskSize(key string, value []byte) int64 {
	n := int64(len(key)) + 64
	if len(value) < largeValue {
		return 2 * (n + int64(len(value))) // leaves are half full at worst
	}
	return 2*n + (int64(len(value))+valueOffset+pageSize-1)/pageSize*pageSize
}

// putValue sets a key, whatever it was before.
func (c castagnoli) putValue(kv *bolt.Bucket, key string, value []byte) error {
	k := []byte(key)
	sum := c.sum(k, value)
	nested := kv.Bucket(k) != nil
	if nested {
		if err := kv.DeleteBucket(k); err != nil {
			return err
		}
	}
	if len(value) < largeValue {
		v := make([]byte, 0, len(value)+sumSize)
		return kv.Put(k, binary.BigEndian.AppendUint32(append(v, value...), sum))
	}
	if !nested {
		if err := kv.Delete(k); err != nil {
			return err
		}
	}
	b, err := kv.CreateBucket(k)
	if err != nil {
		return err
	}
	if err := b.SetSequence(uint64(len(value))<<32 | uint64(sum)); err != nil {
		return err
	}
	return b.Put(valueKey, value)
}

// deleteValue removes a key. One that isn't there is no error.
func deleteValue(kv *bolt.Bucket, key string) error {
	k := []byte(key)
	if kv.Bucket(k) != nil {
		return kv.DeleteBucket(k)
	}
	return kv.Delete(k)
}

// located is where a value is: small ones are in the map, as part of a page of
// the tree; large ones are in the file at off.
type located struct {
	small []byte
	off   int64
	size  int64
	sum   uint32
	large bool
}

// locate finds a key. It looks at pages of the tree, but not at large values.
func (s *snapshot) locate(key []byte) (at located, found bool, err error) {
	err = guard(func() error {
		k, v := s.kv.Cursor().Seek(key)
		if !bytes.Equal(k, key) {
			return nil
		}
		found = true
		at, err = s.locateAt(k, v)
		return err
	})
	return at, found, err
}

// locateAt is locate for what a cursor stands on.
func (s *snapshot) locateAt(k, v []byte) (located, error) {
	if v != nil {
		if len(v) < sumSize {
			return located{}, fmt.Errorf("%w: value of %d bytes in %s", ErrDamaged, len(v), s.f.path)
		}
		n := len(v) - sumSize
		return located{small: v[:n:n], size: int64(n), sum: binary.BigEndian.Uint32(v[n:])}, nil
	}
	b := s.kv.Bucket(k)
	if b == nil {
		return located{}, fmt.Errorf("%w: no value at %q in %s", ErrDamaged, k, s.f.path)
	}
	seq := b.Sequence()
	at := located{large: true, off: int64(b.Root())*pageSize + valueOffset, size: int64(seq >> 32), sum: uint32(seq)}
	if end := s.tx.Size(); b.Root() == 0 || at.off < 0 || at.off > end || at.size > end-at.off {
		return located{}, fmt.Errorf("%w: value of %d bytes at %d of %d in %s", ErrDamaged, at.size, at.off, end, s.f.path)
	}
	return at, nil
}

// read returns a copy of a value. Large ones are not faulted in through the map.
func (s *snapshot) read(at located) ([]byte, error) {
	if !at.large {
		v := make([]byte, 0, at.size)
		err := guard(func() error {
			v = append(v, at.small...)
			return nil
		})
		return v, err
	}
	v := make([]byte, at.size)
	if _, err := s.h.file.ReadAt(v, at.off); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		return nil, fmt.Errorf("read %d bytes at %d of %s: %w", at.size, at.off, s.f.path, err)
	}
	return v, nil
}

// check compares a value with its checksum.
func (c castagnoli) check(s *snapshot, at located, key, value []byte) error {
	if sum := c.sum(key, value); sum != at.sum {
		return fmt.Errorf("%w: value of %d bytes at %q in %s has checksum %08x, want %08x", ErrDamaged, len(value), key, s.f.path, sum, at.sum)
	}
	return nil
}
