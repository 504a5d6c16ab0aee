package faults

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// answer answers, right or wrong. It tells whether the connection stays.
func (x *exchange) answer(kind Kind) (stays bool) {
	switch kind {
	case "":
		return x.pass()
	case Late:
		return x.wait(time.Second+time.Duration(x.rand.Int64N(int64(time.Second)))) && x.pass()
	case Silent:
		return x.hold()
	case Loris:
		for x.printf("HTTP/1.1 200 OK\r\n"); x.printf("X-A: b\r\n"); {
			if !x.wait(200 * time.Millisecond) {
				break
			}
		}
		return false
	case Hints:
		for x.printf("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n") && x.wait(20*time.Millisecond) {
		}
		return false
	case Huge:
		x.printf("HTTP/1.1 200 OK\r\nX-Huge: %s\r\nContent-Length: 0\r\n\r\n", strings.Repeat("x", 1<<20))
		return false
	case Chunks:
		x.printf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-7fffffffffffffff\r\nxx\r\n0\r\n\r\n")
		return false
	case Endless:
		x.printf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		piece := "10000\r\n" + strings.Repeat("x", 0x10000) + "\r\n"
		for range 1024 {
			if x.ctx.Err() != nil || !x.write([]byte(piece)) {
				break
			}
		}
		return false
	case Bomb:
		encoding := [...]string{"", "Content-Encoding: zstd\r\n"}[x.rand.IntN(2)]
		b := bomb()
		return x.printf("HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n", encoding, len(b)) && x.write(b)
	case Encoding:
		return x.printf("HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 5\r\n\r\nbytes")
	case Page:
		const page = "<!DOCTYPE html><title>Log in</title><form><input name=who></form>"
		return x.printf("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s", len(page), page)
	case Redirect:
		return x.printf("HTTP/1.1 302 Found\r\nLocation: %s?%s%d\r\nContent-Length: 0\r\n\r\n", x.req.URL.EscapedPath(), redirected, x.rand.Uint32())
	case Status400, Status401, Status403, Status404:
		return x.status(kind, "")
	case Status429, Status500, Status502, Status503:
		after := [...]string{"", "0", "1", "3600", "99999999999999999999", "Fri, 31 Dec 2100 23:59:59 GMT", "soon"}
		return x.status(kind, after[x.rand.IntN(len(after))])
	}
	return x.wrong(kind)
}

const redirected = "redirected="

// isRedirected tells whether a request comes of a redirect.
func isRedirected(req *http.Request) bool { return strings.HasPrefix(req.URL.RawQuery, redirected) }

func (x *exchange) status(kind Kind, after string) bool {
	if after != "" {
		after = "Retry-After: " + after + "\r\n"
	}
	return x.printf("HTTP/1.1 %s Made Up\r\n%sContent-Length: 3\r\n\r\nno\n", kind, after)
}

// wrong is what begins with the right answer.
func (x *exchange) wrong(kind Kind) (stays bool) {
	header, body, err := x.right()
	if err != nil {
		return false
	}
	whole := append(header, body...)
	switch n := x.at(len(header), len(body)); kind {
	case Stall:
		x.write(whole[:n])
		return x.hold()
	case Drip, LowSpeed:
		rest, size, pause := whole[n:], 1, time.Second
		if kind == LowSpeed {
			size, pause = 100, 200*time.Millisecond
		}
		stays = x.write(whole[:n])
		for len(rest) > 0 && stays {
			stays = x.wait(pause) && x.write(rest[:min(size, len(rest))])
			rest = rest[min(size, len(rest)):]
		}
		return stays
	case Cut:
		x.write(whole[:n])
		return false
	case Reset:
		x.write(whole[:n])
		x.wait(time.Duration(x.rand.Int64N(int64(50 * time.Millisecond)))) // so that some of it arrives
		_ = x.tcp.SetLinger(0)
		x.tcp.Close()
		return false
	case Close:
		x.write(whole)
		return false
	case Twice:
		return x.write(append(whole, whole...))
	case Flip:
		garble(x.rand, whole[len(header):])
		return x.write(whole)
	case Header:
		garble(x.rand, whole[:len(header)-4])
		x.write(whole)
		return x.hold() // the length may have been garbled
	case Short, Long:
		length := x.rand.IntN(len(body) + 1)
		if kind == Long {
			length = len(body) + 1 + x.rand.IntN(1<<20)
		}
		return x.write(lengthLine.ReplaceAll(header, []byte("Content-Length: "+strconv.Itoa(length)))) && x.write(body)
	case Noise:
		for i := range body {
			body[i] = byte(x.rand.Uint32())
		}
		return x.write(header) && x.write(body)
	case Other:
		if other := x.server.another.Swap(&body); other != nil {
			body = *other
		}
		return x.printf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body)) && x.write(body)
	}
	panic("faults: no kind " + kind)
}

var lengthLine = regexp.MustCompile(`(?i)content-length: \d+`)

// at is a place in an answer: its very beginning, in the header, or in the body.
func (x *exchange) at(header, body int) int {
	switch x.rand.IntN(4) {
	case 0:
		return 0
	case 1:
		return x.rand.IntN(header)
	}
	return header + x.rand.IntN(body+1)
}

// garble flips some bits of b.
func garble(r *rand.Rand, b []byte) {
	for range min(len(b), 1+r.IntN(4)) {
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
	}
}

// bomb is a gigabyte of zeros as zstd, with no size stated.
var bomb = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	zeros := make([]byte, 1<<20)
	for range 1 << 10 {
		_, _ = w.Write(zeros)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
})
