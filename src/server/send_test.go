package server

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"

	"github.com/aysfs/aysfs/src/digest"
)

func TestRanges(t *testing.T) {
	t.Parallel()
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor")
	d := digest.Of(random)
	n, tag := len(random), `"`+d.String()+`"`
	for _, k := range []struct {
		header      []string
		first, last int // last < first: nothing
		status      int
	}{
		{[]string{"Range", "bytes=0-9"}, 0, 9, 206},
		{[]string{"Range", "bytes=10-"}, 10, n - 1, 206},
		{[]string{"Range", "bytes=-5"}, n - 5, n - 1, 206},
		{[]string{"Range", "bytes=-999999999"}, 0, n - 1, 206},
		{[]string{"Range", fmt.Sprintf("bytes=%d-%d", n-1, n+100)}, n - 1, n - 1, 206},
		{[]string{"Range", fmt.Sprintf("bytes=%d-", n)}, 1, 0, 416},
		{[]string{"Range", "bytes=-0"}, 1, 0, 416},
		{[]string{"Range", "bytes=9-1"}, 0, n - 1, 200},
		{[]string{"Range", "bytes=0-1,5-6"}, 0, n - 1, 200},
		{[]string{"Range", "lines=0-1"}, 0, n - 1, 200},
		{[]string{"Range", "bytes=99999999999999999999999-"}, 0, n - 1, 200},
		{[]string{"Range", "bytes=0-9", "If-Range", tag}, 0, 9, 206},
		{[]string{"Range", "bytes=0-9", "If-Range", `"other"`}, 0, n - 1, 200},
		{[]string{"If-None-Match", tag}, 1, 0, 304},
		{[]string{"If-None-Match", `"other", W/` + tag}, 1, 0, 304},
		{[]string{"If-None-Match", "*"}, 1, 0, 304},
		{[]string{"If-None-Match", `"other"`}, 0, n - 1, 200},
	} {
		r := c.blob("default", d, 1, k.header...)
		want := []byte{}
		if k.first <= k.last {
			want = random[k.first : k.last+1]
		}
		if r.status != k.status || !bytes.Equal(r.body, want) {
			t.Errorf("%v: %d, %d bytes, want %d, %d bytes", k.header, r.status, len(r.body), k.status, len(want))
		}
		says := r.header.Get("Content-Range")
		if r.status == 206 && says != fmt.Sprintf("bytes %d-%d/%d", k.first, k.last, n) || r.status == 416 && says != fmt.Sprintf("bytes */%d", n) {
			t.Errorf("%v: content range %q", k.header, says)
		}
	}
	// The range is of what is sent, compressed or not.
	packed := c.blob("default", digest.Of(wordy), 1, "Accept-Encoding", "zstd")
	part := c.blob("default", digest.Of(wordy), 1, "Accept-Encoding", "zstd", "Range", "bytes=10-19")
	if part.status != 206 || part.header.Get("Content-Encoding") != "zstd" || !bytes.Equal(part.body, packed.body[10:20]) {
		t.Errorf("part of what is compressed: %d %v", part.status, part.header)
	}
	if part = c.blob("default", digest.Of(wordy), 1, "Range", "bytes=10-19"); !bytes.Equal(part.body, wordy[10:20]) {
		t.Errorf("part of what is unpacked: %d %q", part.status, part.body)
	}
	// Nobody learns by it whether there is something.
	none := digest.Of([]byte("none"))
	if r := c.blob("default", none, 0, "If-None-Match", `"`+none.String()+`"`); r.status != http.StatusNotFound {
		t.Errorf("If-None-Match of what isn't here: %d", r.status)
	}
}

func FuzzParseRange(f *testing.F) {
	f.Add("bytes=0-1", int64(10))
	f.Add("bytes=-5", int64(3))
	f.Add("bytes=5-", int64(0))
	f.Fuzz(func(t *testing.T, v string, size int64) {
		if size < 0 {
			return
		}
		first, length, ok := parseRange(v, size)
		if ok && (first < 0 || length < 0 || first > size || length > size-first) {
			t.Fatalf("%q of %d: %d bytes at %d", v, size, length, first)
		}
	})
}

func TestAccepts(t *testing.T) {
	for v, want := range map[string]bool{
		"zstd": true, "gzip, zstd": true, "zstd;q=1.0": true, "zstd; q=0.001": true, "zstd;q=0": false, "zstd;q=x": false, "zstdx": false, "": false,
	} {
		if got := accepts(http.Header{"Accept-Encoding": {"br", v}}, "Accept-Encoding", "zstd"); got != want {
			t.Errorf("%q: %v", v, got)
		}
	}
}
