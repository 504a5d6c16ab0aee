package profile

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/tinylib/msgp/msgp"
)

var update = os.Getenv("UPDATE_GOLDEN") != ""

// sample has one of everything.
func sample() *Profile {
	r := NewRecording()
	r.Listing("")
	r.Listing("usr/lib")
	r.File("usr/lib/libc.so", 900<<10)
	r.File("usr/lib/na\xefve", 1)
	r.Chunk("usr/lib/libpython.so", 0, 300<<10)
	r.Chunk("usr/lib/libpython.so", 300<<10, 200<<10)
	r.Chunk("usr/lib/libpython.so", 4<<20, 1<<20)
	p := r.Profile()
	p.Time = time.Unix(1_790_000_000, 0).UTC()
	return p
}

func encoded(t testing.TB, p *Profile) []byte {
	t.Helper()
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parsed(t testing.TB, b []byte) *Profile {
	t.Helper()
	p, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// pack is a profile with that for its MessagePack.
func pack(t testing.TB, plain []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(plain, []byte(magic))
}

func TestRoundTrip(t *testing.T) {
	for _, p := range []*Profile{sample(), {Time: time.Unix(0, 0).UTC()}, {Time: time.Unix(maxTime, 0).UTC(), Runs: maxRuns}} {
		if got := parsed(t, encoded(t, p)); !reflect.DeepEqual(got.Needs, p.Needs) || !got.Time.Equal(p.Time) || got.Runs != p.Runs {
			t.Errorf("got  %+v\nwant %+v", got, p)
		}
	}
}

func TestFormatStays(t *testing.T) {
	const file = "testdata/plain.golden"
	got := hex.Dump(sample().appendPlain(nil))
	if update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the format has changed:\n%s\nwas\n%s", got, want)
	}
}

func TestEncodeStaysWithinItsBound(t *testing.T) {
	p := &Profile{Time: time.Unix(1, 0), Runs: 1}
	sum := uint64(1)
	for i := range MaxNeeds { // names that don't compress
		sum = sum*6364136223846793005 + 1442695040888963407
		p.Needs = append(p.Needs, Need{fmt.Sprintf("%d/%x%x%x%x", i, sum, sum*sum, sum>>3*sum, sum>>7*sum), Whole, oneRun})
	}
	b := encoded(t, p)
	got := parsed(t, b)
	if len(b) > MaxBytes || len(got.Needs) < 1000 || len(got.Needs) >= MaxNeeds {
		t.Fatalf("%d bytes, %d needs", len(b), len(got.Needs))
	}
	if !reflect.DeepEqual(got.Needs, p.Needs[:len(got.Needs)]) {
		t.Error("what is left is not the beginning")
	}
}

// need is one encoded run of needs.
func need(path string, first, count, weight int) []byte {
	b := msgp.AppendArrayHeader(nil, 4)
	b = msgp.AppendBytes(b, []byte(path))
	b = msgp.AppendInt(b, first)
	b = msgp.AppendInt(b, count)
	return msgp.AppendInt(b, weight)
}

func plainOf(needs ...[]byte) []byte { return plainAt(1, 1, needs...) }

func plainAt(at int64, runs int, needs ...[]byte) []byte {
	b := msgp.AppendArrayHeader(nil, 3)
	b = msgp.AppendInt64(b, at)
	b = msgp.AppendInt(b, runs)
	b = msgp.AppendArrayHeader(b, uint32(len(needs)))
	return append(b, bytes.Join(needs, nil)...)
}

func TestHostileBytesAreRefused(t *testing.T) {
	good := encoded(t, sample())
	if _, err := Parse(pack(t, plainOf(need("a", -1, 1, 64), need("b", 7, 3, 1)))); err != nil {
		t.Fatal(err)
	}
	bomb := msgp.AppendArrayHeader(nil, 3)
	bomb = append(bomb, make([]byte, 64<<20)...)
	for name, b := range map[string][]byte{
		"empty":            {},
		"before 1970":      pack(t, plainAt(-1, 1)),
		"after 9999":       pack(t, plainAt(maxTime+1, 1)),
		"many runs":        pack(t, plainAt(1, maxRuns+1)),
		"cut off":          good[:len(good)-3],
		"another version":  append([]byte("aysprof\x02"), good[len(magic):]...),
		"too long":         append(bytes.Clone(good), make([]byte, MaxBytes)...),
		"bytes behind":     append(bytes.Clone(good), 0),
		"more behind":      pack(t, append(plainOf(), 0xc0)),
		"a bomb":           pack(t, bomb),
		"many said":        pack(t, append(plainOf()[:3], 0xdd, 0xff, 0xff, 0xff, 0xff)),
		"blocks over all":  pack(t, plainOf(need("a", 0, MaxNeeds+1, 1))),
		"block too high":   pack(t, plainOf(need("a", 1<<31-1, 1, 1))),
		"below listing":    pack(t, plainOf(need("a", -3, 1, 1))),
		"two whole":        pack(t, plainOf(need("a", -1, 2, 1))),
		"none":             pack(t, plainOf(need("a", 0, 0, 1))),
		"no weight":        pack(t, plainOf(need("a", -1, 1, 0))),
		"twice":            pack(t, plainOf(need("a", -1, 1, 1), need("a", -1, 1, 1))),
		"overlap":          pack(t, plainOf(need("a", 0, 3, 1), need("a", 2, 3, 1))),
		"not one run":      pack(t, plainOf(need("a", 0, 3, 1), need("a", 3, 1, 1))),
		"absolute":         pack(t, plainOf(need("/a", -1, 1, 1))),
		"up":               pack(t, plainOf(need("a/../b", -1, 1, 1))),
		"slash at the end": pack(t, plainOf(need("a/", -2, 1, 1))),
		"NUL":              pack(t, plainOf(need("a\x00", -1, 1, 1))),
		"long name":        pack(t, plainOf(need(strings.Repeat("n", 256), -1, 1, 1))),
		"root as a file":   pack(t, plainOf(need("", -1, 1, 1))),
		"long spelling":    pack(t, bytes.Replace(plainOf(need("a", -1, 1, 64)), []byte{0xff, 1, 64}, []byte{0xd0, 0xff, 1, 64}, 1)),
	} {
		if p, err := Parse(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, p := range []*Profile{sample(), Merge(sample(), sample()), {}} {
		f.Add(encoded(f, p)[len(magic):], false)
		f.Add(p.appendPlain(nil), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, plain bool) {
		if plain { // so that the fuzzer need not know zstd
			b = pack(t, b)
		} else {
			b = append([]byte(magic), b...)
		}
		p, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		if len(p.Needs) > MaxNeeds {
			t.Fatalf("%d needs", len(p.Needs))
		}
		again := parsed(t, encoded(t, p))
		if len(again.Needs) > len(p.Needs) || !reflect.DeepEqual(again.Needs, p.Needs[:len(again.Needs)]) {
			t.Fatal("it reads differently")
		}
		m := Merge(p, sample())
		if len(m.Needs) > MaxNeeds {
			t.Fatalf("%d needs when merged", len(m.Needs))
		}
		parsed(t, encoded(t, m))
	})
}
