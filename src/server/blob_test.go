package server

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/aysfs/aysfs/src/digest"
)

func TestBlobByFetch(t *testing.T) {
	t.Parallel()
	for fetch, want := range []struct {
		status int
		kept   bool
	}{{404, false}, {200, true}, {202, true}, {200, false}} {
		t.Run(fmt.Sprint("fetch=", fetch), func(t *testing.T) {
			st, c := newStore(t), newCache(t)
			c.tell(st, "stor")
			d := digest.Of(random)
			r := c.blob("default", d, fetch)
			if r.status != want.status {
				t.Fatalf("status %d", r.status)
			}
			if r.status == 200 && !bytes.Equal(r.body, random) || r.status != 200 && len(r.body) != 0 {
				t.Errorf("%d bytes", len(r.body))
			}
			if want.kept {
				eventually(t, "kept", func() bool { return c.blob("default", d, 0).status == 200 })
			} else if got := c.blob("default", d, 0).status; got != 404 {
				t.Errorf("fetch=0 then: %d", got)
			}
			before := st.asked(d.String())
			if want.kept {
				for again := range 4 {
					if r := c.blob("default", d, again); r.status != 200 || !bytes.Equal(r.body, random) {
						t.Errorf("kept, and with fetch=%d: %d", again, r.status)
					}
				}
				if n := st.asked(d.String()); n != before || n != 1 {
					t.Errorf("the store was asked %d times", n)
				}
			}
			none := digest.Of([]byte("nobody has this"))
			for again, status := range []int{404, 404, 202, 404} {
				if r := c.blob("default", none, again); r.status != status || len(r.body) != 0 {
					t.Errorf("absent, fetch=%d: %d", again, r.status)
				}
			}
		})
	}
}

func TestEncoding(t *testing.T) {
	t.Parallel()
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor")
	dec, err := zstd.NewReader(nil)
	must(t, err)
	packed := st.put("default", looksPacked())
	for _, k := range []struct {
		d     digest.Digest
		plain []byte
		zstd  bool // where it is accepted
	}{{digest.Of(wordy), wordy, true}, {digest.Of(random), random, false}, {packed, looksPacked(), false}} {
		for _, accept := range []string{"identity", "", "gzip, br", "zstd", "gzip, ZSTD;q=0.5", "zstd;q=0", "*"} {
			for _, fetch := range []int{3, 1, 0} {
				r := c.blob("default", k.d, fetch, "Accept-Encoding", accept)
				wants := k.zstd && (accept == "zstd" || accept == "gzip, ZSTD;q=0.5")
				enc := r.header.Get("Content-Encoding")
				if r.status != 200 || (enc == "zstd") != wants || enc != "" && enc != "zstd" {
					t.Fatalf("accept %q, fetch=%d: %d, encoding %q", accept, fetch, r.status, enc)
				}
				got := r.body
				if wants {
					got, err = dec.DecodeAll(got, nil)
					must(t, err)
				}
				if !bytes.Equal(got, k.plain) {
					t.Fatalf("accept %q: other bytes", accept)
				}
				if r.header.Get("Etag") != `"`+k.d.String()+`"` || r.header.Get("Cache-Control") != "public, max-age=31536000, immutable" || r.header.Get("Vary") != "Accept-Encoding" {
					t.Errorf("headers %v", r.header)
				}
				h := c.do(http.MethodHead, fmt.Sprintf("/default/%v?fetch=%d", k.d, fetch), nil, "Accept-Encoding", accept)
				if h.status != 200 || h.header.Get("Content-Length") != fmt.Sprint(len(r.body)) || h.header.Get("Content-Encoding") != enc {
					t.Errorf("HEAD: %d %v", h.status, h.header)
				}
			}
		}
	}
}

// looksPacked is plain content that looks compressed.
func looksPacked() []byte { return append([]byte{0x28, 0xb5, 0x2f, 0xfd}, random[:1000]...) }
