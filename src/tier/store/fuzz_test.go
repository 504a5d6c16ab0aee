package store

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// FuzzReadHead compares with net/http: where the pipeline takes the length of an
// answer for known, the library must see the same status and the same body, or the
// next answer would be read from the wrong place.
func FuzzReadHead(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\nContent-Type: text/html\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length : 5\r\nContent-Length: 3\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nX: a\r\n Content-Length: 4\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\r\n\r\nhello",
		"HTTP/1.1 204 None\r\nConnection: Keep-Alive, close\r\n\r\n",
		"HTTP/1.1 304 None\r\nContent-Length: 9\r\nContent-Encoding: zstd\r\n\r\n",
		"HTTP/1.0 204 \n0:\x00\n\n",
		"HTTP/1.1 +20 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 206 Part\r\nContent-Range: bytes 0-4/9\r\nContent-Length: 5\r\n\r\nhello",
	} {
		f.Add([]byte(s))
	}
	req, err := http.NewRequest(http.MethodGet, "http://store.example/", nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		ours := bufio.NewReaderSize(bytes.NewReader(in), pipeBuffer)
		h, err := readHead(ours)
		if err != nil || h.length < 0 {
			return
		}
		theirs := bufio.NewReaderSize(bytes.NewReader(in), pipeBuffer)
		resp, err := http.ReadResponse(theirs, req)
		if err != nil {
			t.Fatalf("%q: taken as %+v, but %v", in, h, err)
		}
		if resp.StatusCode != h.status || len(resp.TransferEncoding) > 0 || resp.ContentLength != h.length || resp.Close && !h.ends {
			t.Fatalf("%q: %+v, but %d with %d bytes, %v, close %v", in, h, resp.StatusCode, resp.ContentLength, resp.TransferEncoding, resp.Close)
		}
		a, _ := io.ReadAll(io.LimitReader(ours, h.length))
		b, _ := io.ReadAll(resp.Body)
		if !bytes.Equal(a, b) {
			t.Fatalf("%q: the body is %q, but %q", in, a, b)
		}
		if len(a) < int(min(h.length, 1<<20)) {
			return // cut off
		}
		a, _ = io.ReadAll(ours)
		b, _ = io.ReadAll(theirs)
		if !bytes.Equal(a, b) {
			t.Fatalf("%q: the next answer is at %q, but %q", in, a, b)
		}
	})
}

// FuzzRetryAfter checks that a server can't have a client wait for what is no time.
func FuzzRetryAfter(f *testing.F) {
	f.Add("120", "")
	f.Add("-1", "")
	f.Add("1e9", "")
	f.Add("99999999999999999999", "")
	f.Add("Fri, 27 Nov 2026 07:28:00 GMT", "Fri, 27 Nov 2026 07:27:00 GMT")
	f.Add("Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT")
	f.Fuzz(func(t *testing.T, v, date string) {
		d, ok := retryAfter(http.Header{"Retry-After": {v}, "Date": {date}})
		if d < 0 || !ok && d != 0 {
			t.Fatalf("%q at %q: %v, %v", v, date, d, ok)
		}
		if n, err := strconv.Atoi(v); err == nil && ok && (n < 0 || d != time.Duration(n)*time.Second) {
			t.Fatalf("%q: %v", v, d)
		}
	})
}

var contentRange = regexp.MustCompile(`^bytes (\d+)-(\d+)/(\d+|\*)$`)

// FuzzCheckRange checks that only what is well-formed, and goes on where it should,
// is taken for the rest of a body.
func FuzzCheckRange(f *testing.F) {
	f.Add("bytes 5-9/10", int64(5), int64(10))
	f.Add("bytes 5-9/*", int64(5), int64(10))
	f.Add("bytes 5-9", int64(5), int64(10))
	f.Add("bytes 5-9/x", int64(5), int64(10))
	f.Add("bytes  +5-+9/0", int64(5), int64(10))
	f.Add("bytes */10", int64(5), int64(10))
	f.Add("bytes 18446744073709551621-9/10", int64(5), int64(10))
	f.Fuzz(func(t *testing.T, v string, from, limit int64) {
		if checkRange(http.Header{"Content-Range": {v}}, from, limit) != nil {
			return
		}
		m := contentRange.FindStringSubmatch(v)
		if m == nil {
			t.Fatalf("%q is taken", v)
		}
		last, err := strconv.ParseInt(m[2], 10, 64)
		if first, e := strconv.ParseInt(m[1], 10, 64); e != nil || err != nil || first != from || last < first || last >= limit {
			t.Fatalf("%q is taken for what goes on at %d, up to %d", v, from, limit)
		}
		if m[3] != "*" && m[3] != fmt.Sprint(last+1) {
			total, err := strconv.ParseInt(m[3], 10, 64)
			if err != nil || total != last+1 {
				t.Fatalf("%q is taken for all the rest", v)
			}
		}
	})
}
