package ledisbolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// FuzzKeys checks that a key is taken for a blob's, or a size's, if it is just as
// ledis writes those, and that a domain's blobs lie between its prefix and its end.
func FuzzKeys(f *testing.F) {
	f.Add(append(blobPrefix("d"), "field"...))
	f.Add(append(blobPrefix("a:b"), ":f"...))
	f.Add(sizeKey("d"))
	f.Add([]byte("\x00\x02\xff\xfffiles:d:x"))
	f.Add([]byte("\x00\x02\x00\x03files:d:x"))
	f.Add([]byte("\x01\x02\x00\x07files:d:x"))
	f.Add([]byte("\x00\x03files"))
	f.Fuzz(func(t *testing.T, key []byte) {
		if domain, field, ok := splitBlob(key); ok {
			p := blobPrefix(string(domain))
			if !bytes.Equal(append(bytes.Clone(p), field...), key) {
				t.Fatalf("%q: domain %q, field %q", key, domain, field)
			}
			if bytes.Compare(key, p) < 0 || bytes.Compare(key, blobEnd(p)) >= 0 {
				t.Fatalf("%q is not from %q to %q", key, p, blobEnd(p))
			}
		}
		if domain, ok := splitSize(key); ok && !bytes.Equal(sizeKey(string(domain)), key) {
			t.Fatalf("%q: domain %q", key, domain)
		}
		if isDomain(string(key)) && strings.ContainsAny(string(key), "/:\x00") {
			t.Fatalf("domain %q", key)
		}
	})
}

// FuzzModel does what the input says, two bytes a step, on a store and on a map, and
// goes over both, to and fro.
func FuzzModel(f *testing.F) {
	f.Add([]byte("\x00a\x00b\x04a\x40c\x05z\x80a\x06\x00\x04b\x04\xff"))
	f.Add([]byte("\x00\x01\x10\x01\x20\x01\x30\x01\x06\x00\x00\x01\x05\x00\x02\x01\x04\x00\x07\x00\x04\x00\x05\xff"))
	f.Add([]byte("\x30\x05\x30\x09\x30\x0d\x06\x00\x30\x05\x30\x11\x06\x00\x07\x00\x02\x05\x06\x00\x03\x05\x05\xff\x04\x00"))
	f.Fuzz(func(t *testing.T, steps []byte) {
		steps = steps[:min(len(steps), 120)]
		opt := Options{SegmentSize: 1 << 20, Buffer: 64 << 10, SyncEvery: time.Hour}
		dir := t.TempDir()
		s, err := Open(dir, opt)
		must(t, err)
		defer func() { s.Close() }()
		model := make(map[string]string)
		for ; len(steps) >= 2; steps = steps[2:] {
			key := string([]string{"\x00", "k", string(blobPrefix("a")), string(blobPrefix("bb"))}[steps[1]&3]) + fmt.Sprintf("%02x", steps[1]>>2)
			switch steps[0] & 7 {
			case 0, 1:
				v := strings.Repeat(string(rune('a'+steps[1]%26)), int(steps[0]>>3)*int(steps[0]>>3)*60)
				must(t, db{s}.Put([]byte(key), []byte(v)))
				model[key] = v
			case 2:
				must(t, db{s}.Delete([]byte(key)))
				delete(model, key)
			case 3:
				got, err := s.get([]byte(key))
				if v, ok := model[key]; err != nil || (got != nil) != ok || string(got) != v {
					t.Fatalf("%q is %.20q, want %.20q, %v", key, got, v, err)
				}
			case 4, 5:
				compare(t, s, model, key, steps[0]&1 == 1)
			case 6:
				must(t, s.Sync())
			case 7:
				must(t, s.Close())
				s, err = Open(dir, opt)
				must(t, err)
				if d := s.Damage(); len(d) > 0 {
					t.Fatal(d)
				}
			}
		}
		keys := slices.Sorted(maps.Keys(model))
		compare(t, s, model, "", false)
		if len(keys) > 0 {
			compare(t, s, model, keys[len(keys)-1], true)
		}
	})
}

// FuzzIndexFile puts anything with a right checksum in the place of an index file.
// What the segments have is found all the same.
func FuzzIndexFile(f *testing.F) {
	dir := f.TempDir()
	s, err := Open(dir, Options{})
	must(f, err)
	const blobs = 4
	key := func(i int) []byte { return fmt.Appendf(blobPrefix("d"), "%d", i) }
	for i := range blobs {
		must(f, db{s}.Put(key(i), fmt.Append(nil, i)))
	}
	must(f, s.Close())
	path := s.domains["d"].indexPath()
	saved, err := os.ReadFile(path)
	must(f, err)
	saved = saved[len(indexMagic) : len(saved)-4]
	f.Add(saved)
	f.Add(saved[:12])
	f.Add(append([]byte{0xff, 0xff, 0xff, 0xff}, saved[4:]...))
	twice := bytes.Clone(saved)
	copy(twice[len(twice)-12:], twice[len(twice)-24:])
	f.Add(twice)
	f.Fuzz(func(t *testing.T, body []byte) {
		b := append([]byte(indexMagic), body...)
		b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, newCastagnoli().table))
		must(t, os.WriteFile(path, b, 0o600))
		s, err := Open(dir, Options{})
		must(t, err)
		defer func() { must(t, s.Close()) }()
		for _, d := range s.Damage() {
			if !errors.Is(d, ErrDamaged) {
				t.Fatal(d)
			}
		}
		// An index that says of an unchanged segment what is not in it may hide a blob,
		// and no more than that.
		for i := range blobs {
			if v, err := s.get(key(i)); err != nil || v != nil && string(v) != fmt.Sprint(i) {
				t.Fatalf("%q is %q, %v", key(i), v, err)
			}
		}
		n := 0
		it := &iterator{s: s}
		for it.First(); it.Valid(); it.Next() {
			if n++; n > blobs+1 {
				t.Fatalf("%q and no end", it.Key())
			}
		}
	})
}
