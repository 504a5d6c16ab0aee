package object_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

func appendFrame(b []byte, f object.Frame) []byte {
	return append(object.AppendFrameHeader(b, f.Digest, f.Status, len(f.Stored)), f.Stored...)
}

func TestFrames(t *testing.T) {
	frames := []object.Frame{
		{Digest: digest.Of(nil), Stored: []byte{}},
		{Digest: digest.Of([]byte("a")), Status: object.FrameAbsent},
		{Digest: digest.Of([]byte("b")), Stored: []byte("b")},
		{Digest: digest.Of([]byte("c")), Stored: bytes.Repeat([]byte("c"), object.MaxBlob)},
		{Digest: digest.Of([]byte("d")), Status: object.FrameStarted},
		{Digest: digest.Of([]byte("e")), Status: object.FrameUnavailable},
	}
	var b []byte
	for _, f := range frames {
		b = appendFrame(b, f)
	}
	r := bytes.NewReader(b)
	for i, want := range frames {
		got, err := object.ReadFrame(r, object.MaxBlob)
		if err != nil || got.Digest != want.Digest || got.Status != want.Status || !bytes.Equal(got.Stored, want.Stored) {
			t.Fatalf("frame %d: got %v %v, %d bytes, %v", i, got.Digest.Short(), got.Status, len(got.Stored), err)
		}
	}
	if _, err := object.ReadFrame(r, 1); err != io.EOF {
		t.Errorf("behind the last: %v", err)
	}
}

func TestFramesThatAreWrong(t *testing.T) {
	d := digest.Of([]byte("blob"))
	good := appendFrame(nil, object.Frame{Digest: d, Stored: []byte("blob")})
	for n := 1; n < len(good); n++ {
		if _, err := object.ReadFrame(bytes.NewReader(good[:n]), 10); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"too large":          {good, object.ErrTooLarge},
		"unknown status":     {object.AppendFrameHeader(nil, d, 4, 0), object.ErrFormat},
		"bytes of an absent": {object.AppendFrameHeader(nil, d, object.FrameAbsent, 1), object.ErrFormat},
	} {
		if _, err := object.ReadFrame(bytes.NewReader(c.b), 3); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	huge := object.AppendFrameHeader(nil, d, object.FrameBlob, 1<<30)
	if n := testing.AllocsPerRun(1, func() { object.ReadFrame(bytes.NewReader(huge), 1<<40) }); n > 20 {
		t.Errorf("%v allocations", n)
	}
}

func TestWants(t *testing.T) {
	a, b := digest.Of([]byte("a")), digest.Of([]byte("b"))
	text := object.AppendWant(object.AppendWant(object.AppendWant(nil, a), b), a)
	got, err := object.ParseWants(append(bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")), "\n"+b.String()...), 2)
	if err != nil || len(got) != 2 || got[0] != a || got[1] != b {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := object.ParseWants(text, 1); !errors.Is(err, object.ErrTooLarge) {
		t.Errorf("too many: %v", err)
	}
	for _, bad := range []string{"x", a.String() + " ", " " + a.String(), a.String()[1:], a.String() + a.String()} {
		if _, err := object.ParseWants([]byte(bad), 10); !errors.Is(err, object.ErrFormat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// FuzzFrames checks that what is read is written back the same, and that a
// reader ends.
func FuzzFrames(f *testing.F) {
	d := digest.Of([]byte("blob"))
	f.Add(appendFrame(appendFrame(nil, object.Frame{Digest: d, Stored: []byte("blob")}), object.Frame{Digest: d, Status: object.FrameAbsent}))
	f.Add(object.AppendFrameHeader(nil, d, object.FrameBlob, 1<<31-1))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		var again []byte
		for {
			f, err := object.ReadFrame(r, 1<<20)
			if err != nil {
				break
			}
			again = appendFrame(again, f)
		}
		if !bytes.HasPrefix(b, again) {
			t.Fatalf("%x was read as %x", b, again)
		}
	})
}

func FuzzWants(f *testing.F) {
	f.Add(object.AppendWant(nil, digest.Of(nil)))
	f.Add([]byte("\r\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		wants, err := object.ParseWants(b, 3)
		if err == nil && len(wants) > 3 {
			t.Fatal(len(wants))
		}
	})
}
