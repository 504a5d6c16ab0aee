package object_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

func newCodec(t testing.TB) *object.Codec {
	t.Helper()
	c, err := object.NewCodec(2)
	must(t, err)
	return c
}

func TestPackAndUnpack(t *testing.T) {
	c := newCodec(t)
	zstdFile := c.Pack(bytes.Repeat([]byte("zstd"), 1000), nil)
	for what, x := range map[string]struct {
		plain  []byte
		packed bool
	}{
		"nothing":          {nil, false},
		"tiny":             {bytes.Repeat([]byte("a"), 63), false},
		"text":             {bytes.Repeat([]byte("text "), 100), true},
		"noise":            {noise(object.MaxBlob), false},
		"a little text":    {append(noise(15<<10), make([]byte, 900)...), false}, // saves less than a sixteenth
		"more of it":       {append(noise(15<<10), make([]byte, 1400)...), true},
		"looks compressed": {zstdFile, false},
		"a large catalog":  {bytes.Repeat([]byte("entry"), 1<<20), true},
	} {
		t.Run(what, func(t *testing.T) {
			stored := c.Pack(x.plain, make([]byte, 0, 100))
			if got := !bytes.Equal(stored, x.plain); got != x.packed {
				t.Errorf("%d bytes are stored as %d", len(x.plain), len(stored))
			}
			if x.packed && len(stored) > len(x.plain)-len(x.plain)/16 {
				t.Errorf("%d bytes are stored as %d", len(x.plain), len(stored))
			}
			got, err := c.Unpack(digest.Of(x.plain), stored, int64(len(x.plain)))
			if err != nil || !bytes.Equal(got, x.plain) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			if len(x.plain) > 0 {
				if _, err := c.Unpack(digest.Of(x.plain), stored, int64(len(x.plain)-1)); !errors.Is(err, digest.ErrMismatch) {
					t.Errorf("beyond the limit: error %v", err)
				}
			}
			if _, err := c.Unpack(sum("other"), stored, object.MaxBlob); !errors.Is(err, digest.ErrMismatch) {
				t.Errorf("other digest: error %v", err)
			}
		})
	}
}

// However a frame says its size, or does not, no more is unpacked than may be.
func TestUnpackIsBounded(t *testing.T) {
	c := newCodec(t)
	bomb := make([]byte, 64<<20)
	d := digest.Of(bomb)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	must(t, err)
	sized := enc.EncodeAll(bomb, nil)
	var stream bytes.Buffer // without a size in its header
	enc.Reset(&stream)
	for i := range 64 {
		_, err := enc.Write(bomb[i<<20 : (i+1)<<20])
		must(t, err)
	}
	must(t, enc.Close())
	bomb = nil
	frames := bytes.Repeat(c.Pack(make([]byte, object.MaxBlob), nil), 300)
	for what, stored := range map[string][]byte{"sized": sized, "not sized": stream.Bytes(), "many frames": frames} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := c.Unpack(d, stored, object.MaxBlob); !errors.Is(err, digest.ErrMismatch) {
			t.Errorf("%s: error %v", what, err)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 32<<20 {
			t.Errorf("%s: %d bytes allocated", what, got)
		}
	}
}

// A frame that does not say its size has no byte more than its limit, either, nor have
// two that come together.
func TestUnpackKeepsToTheLimit(t *testing.T) {
	c := newCodec(t)
	enc, err := zstd.NewWriter(nil)
	must(t, err)
	text := bytes.Repeat([]byte("some text, "), 1000)
	for n := 1; n <= 40; n++ {
		plain := text[:5000+n]
		var stream bytes.Buffer
		enc.Reset(&stream)
		_, err := enc.Write(plain[:3000])
		must(t, errors.Join(err, enc.Flush()))
		_, err = enc.Write(plain[3000:])
		must(t, errors.Join(err, enc.Close()))
		frames := append(enc.EncodeAll(plain[:5000], nil), enc.EncodeAll(plain[5000:], nil)...)
		for what, stored := range map[string][]byte{"not sized": stream.Bytes(), "two frames": frames} {
			if got, err := c.Unpack(digest.Of(plain), stored, 5000); !errors.Is(err, digest.ErrMismatch) {
				t.Errorf("%s: %d bytes, error %v, where 5000 may come", what, len(got), err)
			}
		}
		if got, err := c.Unpack(digest.Of(plain), stream.Bytes(), int64(len(plain))); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("not sized: %d bytes, error %v, want %d", len(got), err, len(plain))
		}
	}
}

func FuzzUnpack(f *testing.F) {
	c := newCodec(f)
	f.Add([]byte{}, []byte{}, int64(0))
	f.Add(bytes.Repeat([]byte("text "), 100), []byte("other"), int64(500))
	f.Add(c.Pack(bytes.Repeat([]byte("text "), 100), nil), []byte{0x28, 0xb5, 0x2f, 0xfd}, int64(1000))
	f.Fuzz(func(t *testing.T, a, b []byte, limit int64) {
		limit &= 1<<20 - 1
		d := digest.Of(a)
		// Whatever b is: what comes out is a, or nothing does.
		if got, err := c.Unpack(d, b, limit); err == nil && (!bytes.Equal(got, a) || int64(len(got)) > limit) {
			t.Fatalf("got %x for %x", got, a)
		} else if err != nil && !errors.Is(err, digest.ErrMismatch) {
			t.Fatalf("error %v is not ErrMismatch", err)
		}
		got, err := c.Unpack(d, c.Pack(a, nil), limit)
		if fits := int64(len(a)) <= limit; (err == nil) != fits || err == nil && !bytes.Equal(got, a) {
			t.Fatalf("%d bytes with limit %d: %d bytes, %v", len(a), limit, len(got), err)
		}
	})
}

// What was unpacked goes when its user lets go of it, however large.
func TestUnpackedMemoryIsLetGo(t *testing.T) {
	c, err := object.NewCodec(2)
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	plain := make([]byte, size)
	for i := range 4096 { // so that it is more than one repeated byte
		plain[i*16384] = byte(i)
	}
	d, stored := digest.Of(plain), c.Pack(plain, nil)
	plain = nil
	for range 4 {
		if b, err := c.Unpack(d, stored, size); err != nil || len(b) != size {
			t.Fatal(len(b), err)
		}
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > size/2 {
		t.Errorf("%d MiB are still in memory", m.HeapAlloc>>20)
	}
	runtime.KeepAlive(c)
}

// What does not say how large it is costs no more memory than such things have, whatever
// the limit.
func TestUnpackOfUnknownSizeIsCheap(t *testing.T) {
	c := newCodec(t)
	plain := bytes.Repeat([]byte("text "), 50)
	d, stored := digest.Of(plain), c.Pack(plain, nil)
	var h zstd.Header
	if err := h.Decode(stored); err != nil || h.HasFCS {
		t.Fatalf("not what is to be tested: %v, size said: %v", err, h.HasFCS)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const times = 100
	for range times {
		if got, err := c.Unpack(d, stored, object.MaxMetadata); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / times; each > 64<<10 {
		t.Errorf("%d bytes of memory for each, which is one of %d", each, len(plain))
	}
}

// What does not say how large it is holds on to no more memory than it has bytes.
func TestUnpackedOfUnknownSizeIsSmall(t *testing.T) {
	plain := bytes.Repeat([]byte("text "), 100)
	var stored bytes.Buffer
	enc, err := zstd.NewWriter(&stored)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range [][]byte{plain[:100], plain[100:]} {
		if _, err := enc.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := enc.Flush(); err != nil { // so that it can't know
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := newCodec(t).Unpack(digest.Of(plain), stored.Bytes(), object.MaxBlob)
	if err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if cap(got) > 2*len(plain) {
		t.Errorf("%d bytes hold on to %d", len(got), cap(got))
	}
}
