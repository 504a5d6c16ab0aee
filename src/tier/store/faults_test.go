package store_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// script is a server on a bare socket that answers the nth request, from 0,
// with whatever step writes to the connection.
type script struct {
	addr string

	mu    sync.Mutex
	reqs  []*http.Request // GUARDED_BY(mu)
	conns int             // GUARDED_BY(mu)
}

// play starts a server. After each step the connection is closed, unless step
// returns true.
func play(t *testing.T, step func(n int, c *net.TCPConn, r *http.Request) (keep bool)) *script {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{addr: l.Addr().String()}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	serve := func(c *net.TCPConn) {
		defer c.Close()
		defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			s.mu.Lock()
			n := len(s.reqs)
			s.reqs = append(s.reqs, r)
			s.mu.Unlock()
			if !step(n, c, r) {
				return
			}
		}
	}
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns++
			s.mu.Unlock()
			running.Go(func() { serve(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		running.Wait()
	})
	return s
}

func (s *script) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*http.Request(nil), s.reqs...)
}

func (s *script) open(t *testing.T) store.Store {
	t.Helper()
	return open(t, store.Config{URL: mustURL(t, "http://"+s.addr), Timeout: timeout})
}

// timeout is the io_timeout of these stores. What stands still is cut after a
// quarter of it, a missing answer after a third: long enough for a busy machine.
const timeout = 4 * time.Second

// atOnce runs subtests all at once, however few processors there are: they wait
// most of the time.
type atOnce struct {
	*testing.T
	sync.WaitGroup
}

func (a *atOnce) Go(name string, test func(t *testing.T)) {
	a.WaitGroup.Go(func() { a.Run(name, test) })
}

// drain reads until the other end is closed, which is how a server notices that
// a client left.
func drain(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

const etag = `"the-blob"`

func whole(c net.Conn, b []byte, n int) {
	fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nETag: %s\r\nContent-Length: %d\r\n\r\n", etag, len(b))
	_, _ = c.Write(b[:n])
}

func rest(c net.Conn, contentRange string, b []byte) {
	fmt.Fprintf(c, "HTTP/1.1 206 Partial Content\r\nETag: %s\r\nContent-Range: %s\r\nContent-Length: %d\r\n\r\n", etag, contentRange, len(b))
	_, _ = c.Write(b)
}

// An answer that breaks off is gone on with, whatever the server makes of that.
func TestResume(t *testing.T) {
	plain := tiertest.Random(1, 300_000)
	const k = 120_000
	size := len(plain)
	cuts := map[string]func(c *net.TCPConn){
		"closed":  func(*net.TCPConn) {},
		"reset":   func(c *net.TCPConn) { time.Sleep(50 * time.Millisecond); _ = c.SetLinger(0) }, // what was sent arrives first
		"stalled": func(c *net.TCPConn) { drain(c) },
	}
	seconds := []struct {
		name     string
		answer   func(c *net.TCPConn)
		requests int
	}{
		{"206", func(c *net.TCPConn) { rest(c, fmt.Sprintf("bytes %d-%d/%d", k, size-1, size), plain[k:]) }, 2},
		{"206 of unknown size", func(c *net.TCPConn) { rest(c, fmt.Sprintf("bytes %d-%d/*", k, size-1), plain[k:]) }, 2},
		{"200", func(c *net.TCPConn) { whole(c, plain, size) }, 2},
		{"416", func(c *net.TCPConn) {
			fmt.Fprint(c, "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 3\r\n\r\nno\n")
		}, 3},
		{"206 from elsewhere", func(c *net.TCPConn) { rest(c, fmt.Sprintf("bytes %d-%d/%d", k-1, size-1, size), plain[k-1:]) }, 3},
		{"206 beyond the limit", func(c *net.TCPConn) { rest(c, fmt.Sprintf("bytes %d-%d/%d", k, 2*size-1, 2*size), plain[k:]) }, 3},
		{"206 that ends before the end", func(c *net.TCPConn) { rest(c, fmt.Sprintf("bytes %d-%d/%d", k, size-2, size), plain[k:size-1]) }, 3},
		{"206 of another encoding", func(c *net.TCPConn) {
			fmt.Fprintf(c, "HTTP/1.1 206 Partial Content\r\nContent-Encoding: zstd\r\nContent-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n\r\n", k, size-1, size, size-k)
			_, _ = c.Write(plain[k:])
		}, 3},
		{"206 of nothing said", func(c *net.TCPConn) { rest(c, "", plain[k:]) }, 3},
		{"206 of nonsense", func(c *net.TCPConn) { rest(c, "bytes 99999999999999999999-1/-5", plain[k:]) }, 3},
	}
	all := atOnce{T: t}
	defer all.Wait()
	for cutName, cut := range cuts {
		for _, second := range seconds {
			all.Go(cutName+", then "+second.name, func(t *testing.T) {
				s := play(t, func(n int, c *net.TCPConn, r *http.Request) bool {
					switch {
					case n == 0:
						whole(c, plain, k)
						cut(c)
					case n == 1:
						if got := r.Header.Get("Range"); got != fmt.Sprintf("bytes=%d-", k) {
							t.Errorf("asked for range %q after %d bytes", got, k)
						}
						if got := r.Header.Get("If-Range"); got != etag {
							t.Errorf("asked for the rest of %q", got)
						}
						second.answer(c)
					default:
						if got := r.Header.Get("Range"); got != "" {
							t.Errorf("asked for range %q of a server that can't do that", got)
						}
						whole(c, plain, size)
					}
					return false
				})
				got, err := s.open(t).Get(t.Context(), tiertest.RefOf(plain))
				if err != nil || !bytes.Equal(got, plain) {
					t.Errorf("%d of %d bytes, %v", len(got), size, err)
				}
				if n := len(s.requests()); n != second.requests {
					t.Errorf("%d requests, want %d", n, second.requests)
				}
			})
		}
	}
}

// Answers that never get anywhere end, and soon.
func TestBrokenAnswers(t *testing.T) {
	plain := tiertest.Random(2, 100_000)
	tests := []struct {
		name   string
		answer func(c *net.TCPConn)
		want   error
	}{
		{"nothing, closed", func(*net.TCPConn) {}, tier.ErrUnavailable},
		{"nothing, reset", func(c *net.TCPConn) { _ = c.SetLinger(0) }, tier.ErrUnavailable},
		{"nothing, ever", func(c *net.TCPConn) { drain(c) }, tier.ErrUnavailable},
		{"a header and nothing, closed", func(c *net.TCPConn) { whole(c, plain, 0) }, tier.ErrUnavailable},
		{"a header and nothing, ever", func(c *net.TCPConn) { whole(c, plain, 0); drain(c) }, tier.ErrUnavailable},
		{"half a header", func(c *net.TCPConn) { fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Le"); drain(c) }, tier.ErrUnavailable},
		{"no HTTP", func(c *net.TCPConn) { fmt.Fprint(c, "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\r\n") }, tier.ErrUnavailable},
		{"length is no number", func(c *net.TCPConn) { fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: lots\r\n\r\nx") }, tier.ErrUnavailable},
		{"negative length", func(c *net.TCPConn) { fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx") }, tier.ErrUnavailable},
		{"endless header", func(c *net.TCPConn) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\n")
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(c, "X-%d: %s\r\n", i, strings.Repeat("x", 1000)); err != nil {
					return
				}
			}
		}, tier.ErrUnavailable},
		{"bad chunks", func(c *net.TCPConn) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nxx\r\n")
		}, tier.ErrUnavailable},
		{"endless body", func(c *net.TCPConn) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for {
				if _, err := fmt.Fprintf(c, "400\r\n%s\r\n", strings.Repeat("x", 1024)); err != nil {
					return
				}
			}
		}, tier.ErrCorrupt},
		{"a length over the limit", func(c *net.TCPConn) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n")
			drain(c)
		}, tier.ErrCorrupt},
		{"a range that nobody asked for", func(c *net.TCPConn) { rest(c, "bytes 0-99999/100000", plain) }, tier.ErrRefused},
		{"not modified since nothing", func(c *net.TCPConn) { fmt.Fprint(c, "HTTP/1.1 304 Not Modified\r\n\r\n") }, tier.ErrRefused},
		{"no content", func(c *net.TCPConn) { fmt.Fprint(c, "HTTP/1.1 204 No Content\r\n\r\n") }, tier.ErrRefused},
		{"early hints for ever", func(c *net.TCPConn) {
			for {
				if _, err := fmt.Fprint(c, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"); err != nil {
					return
				}
			}
		}, tier.ErrUnavailable},
		{"a drip", func(c *net.TCPConn) {
			whole(c, plain, 1)
			for {
				time.Sleep(20 * time.Millisecond) // 50 bytes a second
				if _, err := c.Write([]byte{0}); err != nil {
					return
				}
			}
		}, tier.ErrUnavailable},
	}
	all := atOnce{T: t}
	defer all.Wait()
	for _, tt := range tests {
		all.Go(tt.name, func(t *testing.T) {
			s := play(t, func(_ int, c *net.TCPConn, _ *http.Request) bool { tt.answer(c); return false })
			start := time.Now()
			b, err := s.open(t).Get(t.Context(), tiertest.RefOf(plain)) // with no deadline to help it
			if !errors.Is(err, tt.want) || errors.Is(err, tier.ErrAbsent) {
				t.Errorf("%d bytes, %v; want %v", len(b), err, tt.want)
			}
			if took := time.Since(start); took > 3*timeout {
				t.Errorf("took %v: %v", took, err)
			}
		})
	}
}

// A body that is shorter or longer than its length says gives bytes that fail
// their digest, or nothing.
func TestWrongLength(t *testing.T) {
	plain := tiertest.Random(3, 10_000)
	for _, length := range []int{0, 1, 9_999, 10_001, 20_000} {
		s := play(t, func(_ int, c *net.TCPConn, _ *http.Request) bool {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", length, plain)
			return false
		})
		ref := tiertest.RefOf(plain)
		ref.Limit = 0
		b, err := s.open(t).Get(t.Context(), ref)
		if err == nil && ref.Digest.Check(b) == nil {
			t.Errorf("length %d of %d: the right bytes", length, len(plain))
		}
		if err != nil && !errors.Is(err, tier.ErrUnavailable) {
			t.Errorf("length %d: %v", length, err)
		}
	}
}

// Whatever a server sends, a client says no more than an error.
func TestGarbage(t *testing.T) {
	plain := tiertest.Random(4, 500)
	good := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nETag: %s\r\nContent-Type: text/html\r\nContent-Encoding: zstd\r\nRetry-After: 1\r\nTransfer-Encoding: chunked\r\n\r\n1f4\r\n%s\r\n0\r\n\r\n", etag, plain)
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(1, 1))
	s := play(t, func(_ int, c *net.TCPConn, _ *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		b := bytes.Clone(good)
		for range 1 + r.IntN(8) {
			b[r.IntN(len(b))] = byte(r.Uint32())
		}
		_, _ = c.Write(b[:r.IntN(len(b)+1)])
		return false
	})
	src := s.open(t)
	ref := tiertest.RefOf(plain)
	for range 200 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		b, err := src.Get(ctx, ref)
		cancel()
		if err == nil && int64(len(b)) > ref.Max() {
			t.Errorf("%d bytes, limit is %d", len(b), ref.Max())
		}
		if err != nil && !errors.Is(err, tier.ErrUnavailable) && !errors.Is(err, tier.ErrCorrupt) && !errors.Is(err, tier.ErrDenied) && !errors.Is(err, tier.ErrAbsent) {
			t.Errorf("an error of no class: %v", err)
		}
	}
}

// A connection whose other end has gone, without a word, must not hold up those
// who come later.
func TestDeadHTTP2Connection(t *testing.T) {
	o := tiertest.NewOrigin(t, true)
	plain := tiertest.Random(5, 1000)
	ref := tiertest.RefOf(plain)
	o.Put(tiertest.Path("", ref.Domain, ref.Digest.String()), plain)
	relay := newRelay(t, o.Listener.Addr().String())
	s := open(t, store.Config{URL: mustURL(t, "https://"+relay.addr), CA: caFile(t, o), Timeout: 4 * time.Second})
	if _, err := s.Get(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	relay.freeze() // what is open now; not what comes later
	start := time.Now()
	for {
		_, err := s.Get(t.Context(), ref)
		if err == nil {
			break
		}
		if time.Since(start) > 15*time.Second {
			t.Fatalf("still on the dead connection after %v: %v", time.Since(start), err)
		}
	}
}

// relay passes bytes on, until it is told not to.
type relay struct {
	addr string

	mu     sync.Mutex
	frozen *chan struct{} // of the connections made now
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan struct{})
	r := &relay{addr: l.Addr().String(), frozen: &first}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	pass := func(from, to net.Conn, frozen chan struct{}) {
		defer to.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			select {
			case <-frozen:
				<-ctx.Done() // keeps both ends open and says nothing
				return
			default:
			}
			if err != nil {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	running.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			context.AfterFunc(ctx, func() { in.Close(); out.Close() })
			r.mu.Lock()
			frozen := *r.frozen
			r.mu.Unlock()
			running.Go(func() { pass(in, out, frozen) })
			running.Go(func() { pass(out, in, frozen) })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		running.Wait()
	})
	return r
}

func (r *relay) freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(*r.frozen)
	next := make(chan struct{})
	r.frozen = &next
}
