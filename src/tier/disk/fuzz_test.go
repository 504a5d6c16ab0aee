package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/tier"
)

const fuzzBlobs = 3

// gives fails the test if a cache gives any other bytes for a blob, or an error that
// is not that it has none.
func gives(t *testing.T, c tier.Cache) {
	t.Helper()
	for n := range uint64(fuzzBlobs) {
		ref, want := blob(n, sizeOf(n+1))
		if got, err := c.Copy(ref); (err != nil || !bytes.Equal(got, want)) && !errors.Is(err, tier.ErrAbsent) {
			t.Fatalf("blob %d: %d bytes, %v", n, len(got), err)
		}
	}
}

// FuzzClean puts anything with a right checksum in the place of the marker that the
// cache was closed in order. The input is what lies behind the stamps of the
// segments, unless it is to be all of it.
func FuzzClean(f *testing.F) {
	dir := f.TempDir()
	open := func(t testing.TB) *Cache {
		t.Helper()
		c, err := Open(Options{Path: dir, MaxSize: 64 << 20})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	shut := func(t testing.TB, c *Cache) {
		t.Helper()
		if err := c.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, cleanFile)
	marker := func(t testing.TB) []byte {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b[:len(b)-sha256.Size]
	}
	c := open(f)
	for n := range uint64(fuzzBlobs) {
		put(c, n, sizeOf(n+1))
	}
	shut(f, c)
	was := marker(f)
	head := len(cleanMagic) + 16 + binary.Size(fileStamp{})
	f.Add(was[head:], false)
	f.Add(was[len(cleanMagic):], true)
	f.Add(was[len(cleanMagic):head], true)
	f.Add(binary.LittleEndian.AppendUint64(nil, math.MaxInt64), false)
	twice := bytes.Clone(was[head:])
	copy(twice[len(twice)-entryOnDisk:], twice[len(twice)-2*entryOnDisk:])
	f.Add(twice, false)
	many := append(bytes.Clone(was[len(cleanMagic):][:8]), 0xff, 0x7f, 0, 0, 0, 0, 0, 0)
	f.Add(many, true)
	f.Fuzz(func(t *testing.T, body []byte, whole bool) {
		b := append([]byte(cleanMagic), body...)
		if !whole {
			// The segment must be as it is now, or it would be read anew.
			b = append(bytes.Clone(marker(t)[:head]), body...)
		}
		sum := sha256.Sum256(b)
		if err := os.WriteFile(path, append(b, sum[:]...), 0o600); err != nil {
			t.Fatal(err)
		}
		c := open(t)
		gives(t, c)
		for n := range uint64(fuzzBlobs) { // for the next input
			put(c, n, sizeOf(n+1))
		}
		flush(t, c)
		shut(t, c)
	})
}

// FuzzSeed lets seed.json and the index beside it say anything.
func FuzzSeed(f *testing.F) {
	dir := f.TempDir()
	b, err := BuildSeed(dir, nil)
	if err != nil {
		f.Fatal(err)
	}
	var refs []tier.Ref
	for n := range uint64(fuzzBlobs) {
		ref, data := blob(n, sizeOf(n+1))
		refs = append(refs, ref)
		if err := b.Add(ref, data); err != nil {
			f.Fatal(err)
		}
	}
	if err := errors.Join(b.Commit(refs, map[string][]byte{"head": []byte("note")}), b.Close()); err != nil {
		f.Fatal(err)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	m, err := readManifest(dir)
	if err != nil {
		f.Fatal(err)
	}
	list, index := read(seedFile), read(indexName(m.Index))
	f.Add(list, index)
	f.Add(bytes.Replace(list, []byte("seg-00000001"), []byte("../seg-00000001"), 1), index)
	f.Add(bytes.Replace(list, []byte(`"bytes":`), []byte(`"bytes":-`), 1), index[8:])
	f.Add([]byte(`{"format":1,"segments":[{"file":"seg-00000001.bolt"},{"file":"seg-00000001.bolt"},{"file":"seg-4294967296.bolt"}]}`), append(index, 0xff))
	f.Add([]byte(`{"format":1,"segments":null,"heads":{"":""}}`), []byte{})
	f.Fuzz(func(t *testing.T, list, index []byte) {
		// The list may name the index by its digest, which the fuzzer can't know.
		list = bytes.Replace(list, []byte(m.Index.String()), []byte(digest.Of(index).String()), 1)
		name := filepath.Join(dir, indexName(digest.Of(index)))
		if err := errors.Join(os.WriteFile(filepath.Join(dir, seedFile), list, 0o600), os.WriteFile(name, index, 0o600)); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(name)
		s, err := OpenSeed(dir, nil)
		if err != nil {
			return
		}
		gives(t, s)
		for n := range uint64(fuzzBlobs) {
			ref, _ := blob(n, sizeOf(n+1))
			if b, err := s.Range(ref, 7, 100); err == nil {
				b.Release()
			}
		}
		shut(t, s.c)
	})
}
