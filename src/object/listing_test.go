package object_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tinylib/msgp/msgp"

	"github.com/aysfs/aysfs/src/object"
)

func TestListing(t *testing.T) {
	raw, err := object.EncodeListing(someEntries())
	must(t, err)
	golden(t, "listing", raw)
	shuffled := someEntries()
	slices.Reverse(shuffled)
	again, err := object.EncodeListing(shuffled)
	must(t, err)
	if !bytes.Equal(raw, again) {
		t.Error("the order of entries makes a difference")
	}

	l, err := object.ParseListing(raw)
	must(t, err)
	want := someEntries()
	slices.SortFunc(want, func(a, b object.Entry) int { return bytes.Compare(a.Name, b.Name) })
	var got []object.Entry
	for i := range l.Len() {
		got = append(got, l.At(i))
	}
	equal(t, got, want)
	for i, e := range want {
		if at, ok := l.Find(e.Name); !ok || at != i {
			t.Errorf("Find(%q) gave %d, %v, want %d", e.Name, at, ok, i)
		}
		if at, ok := l.Find(append(e.Name, 0)); ok || at != i+1 {
			t.Errorf("Find behind %q gave %d, %v, want %d", e.Name, at, ok, i+1)
		}
	}
}

func TestEmptyListing(t *testing.T) {
	raw, err := object.EncodeListing(nil)
	must(t, err)
	equal(t, raw, []byte{0x90})
	l, err := object.ParseListing(raw)
	must(t, err)
	if i, ok := l.Find([]byte("x")); l.Len() != 0 || ok || i != 0 {
		t.Errorf("%d entries, Find gave %d, %v", l.Len(), i, ok)
	}
}

func TestEncodeListingRefuses(t *testing.T) {
	file := func(change func(*object.Entry)) []object.Entry {
		e := object.Entry{Name: []byte("f"), Mode: 0o644, Size: 1, Digest: sum("f")}
		change(&e)
		return []object.Entry{e}
	}
	link := func(change func(*object.Entry)) []object.Entry {
		e := object.Entry{Name: []byte("l"), Kind: object.Symlink, Size: 1, Target: []byte("t")}
		change(&e)
		return []object.Entry{e}
	}
	name := func(s string) []object.Entry { return file(func(e *object.Entry) { e.Name = []byte(s) }) }
	for what, entries := range map[string][]object.Entry{
		"no name":             name(""),
		"long name":           name(strings.Repeat("n", 256)),
		"slash":               name("a/b"),
		"NUL":                 name("a\x00"),
		"dot":                 name("."),
		"dot dot":             name(".."),
		"same name twice":     append(name("a"), name("a")...),
		"mode":                file(func(e *object.Entry) { e.Mode = 0o10000 }),
		"size":                file(func(e *object.Entry) { e.Size = -1 }),
		"no digest":           file(func(e *object.Entry) { e.Digest = sum(""); clear(e.Digest[:]) }),
		"file with target":    file(func(e *object.Entry) { e.Target = []byte("t") }),
		"large blob":          file(func(e *object.Entry) { e.Size = object.MaxBlob + 1 }),
		"chunked directory":   file(func(e *object.Entry) { e.Kind, e.Chunked = object.Dir, true }),
		"kind":                file(func(e *object.Entry) { e.Kind = 3 }),
		"symlink to nothing":  link(func(e *object.Entry) { e.Size, e.Target = 0, nil }),
		"symlink's size":      link(func(e *object.Entry) { e.Size = 2 }),
		"NUL in target":       link(func(e *object.Entry) { e.Target = []byte{0} }),
		"long target":         link(func(e *object.Entry) { e.Target = bytes.Repeat([]byte("t"), 4096); e.Size = 4096 }),
		"digest of a symlink": link(func(e *object.Entry) { e.Digest = sum("t") }),
		"chunked symlink":     link(func(e *object.Entry) { e.Chunked = true }),
	} {
		if _, err := object.EncodeListing(entries); !errors.Is(err, object.ErrFormat) {
			t.Errorf("%s: error %v", what, err)
		}
	}
}

func TestParseListingRefuses(t *testing.T) {
	raw, err := object.EncodeListing(someEntries())
	must(t, err)
	one, err := object.EncodeListing(someEntries()[:1])
	must(t, err)
	two := append(msgp.AppendArrayHeader(nil, 2), bytes.Repeat(one[1:], 2)...)
	for what, b := range map[string][]byte{
		"nothing":         nil,
		"bytes behind":    append(bytes.Clone(raw), 0),
		"false count":     {0xdd, 0xff, 0xff, 0xff, 0xff},
		"one too many":    append([]byte{raw[0] + 1}, raw[1:]...),
		"one too few":     append([]byte{raw[0] - 1}, raw[1:]...),
		"duplicate":       two,
		"length of name":  append([]byte{0x91, 0x98, 0xc6, 0xff, 0xff, 0xff, 0xff}, make([]byte, 64)...),
		"number of parts": append([]byte{0x91, 0x97}, one[2:]...),
	} {
		if _, err := object.ParseListing(b); !errors.Is(err, object.ErrFormat) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	for n := range raw {
		if _, err := object.ParseListing(raw[:n]); err == nil {
			t.Errorf("took the first %d bytes of %d", n, len(raw))
		}
	}
}

func FuzzParseListing(f *testing.F) {
	raw, err := object.EncodeListing(someEntries())
	must(f, err)
	f.Add(raw)
	f.Add([]byte{0x90})
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := object.ParseListing(raw)
		if err != nil {
			if !errors.Is(err, object.ErrFormat) {
				t.Fatalf("error %v is not ErrFormat", err)
			}
			return
		}
		var entries []object.Entry
		for i := range l.Len() {
			e := l.At(i)
			if at, ok := l.Find(e.Name); !ok || at != i {
				t.Fatalf("Find(%q) gave %d, %v, want %d", e.Name, at, ok, i)
			}
			entries = append(entries, e)
		}
		canonical, err := object.EncodeListing(entries)
		must(t, err)
		back, err := object.ParseListing(canonical)
		must(t, err)
		if back.Len() != l.Len() {
			t.Fatalf("%d entries became %d", l.Len(), back.Len())
		}
		for i := range back.Len() {
			equal(t, back.At(i), entries[i])
		}
	})
}
