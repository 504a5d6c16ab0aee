package faults

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config says what a Server stands in front of.
type Config struct {
	Addr   string // where it listens; empty: a free port of 127.0.0.1
	Target string // host and port of a server that speaks plain HTTP/1.1
	Seed   uint64
	// TLS has it be asked over TLS, and Bad be the certificate that is not to be
	// trusted; nil: plain.
	TLS *tls.Config
	Bad tls.Certificate
}

// Server passes requests on to another server, and has a share of the answers go
// wrong, or of the connections.
type Server struct {
	*chance
	cfg      Config
	listener net.Listener
	up       *http.Transport
	requests atomic.Int64
	ctx      context.Context // done once closed
	close    context.CancelFunc
	all      sync.WaitGroup
	another  atomic.Pointer[[]byte] // the body of an answer before
}

// NewServer starts one.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("faults: %w", err)
	}
	s := &Server{chance: newChance(cfg.Seed), cfg: cfg, listener: l,
		up: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: 5 * time.Second}}
	s.ctx, s.close = context.WithCancel(context.Background())
	s.all.Go(s.accept)
	return s, nil
}

// Addr is the host and port where it listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Requests is how many there were.
func (s *Server) Requests() int64 { return s.requests.Load() }

// Close ends it with all its connections.
func (s *Server) Close() {
	s.close()
	s.listener.Close()
	s.all.Wait()
	s.up.CloseIdleConnections()
}

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.all.Go(func() {
			defer c.Close()
			defer context.AfterFunc(s.ctx, func() { c.Close() })()
			s.connection(c.(*net.TCPConn))
		})
	}
}

// connection is one from its first byte to its last.
func (s *Server) connection(tcp *net.TCPConn) {
	var conn net.Conn = tcp
	if s.cfg.TLS != nil {
		kind, _ := s.draw(func(k Kind) bool { return slices.Contains(Handshakes, k) })
		cfg := s.cfg.TLS
		switch kind {
		case HandshakeStalls:
			_, _ = io.Copy(io.Discard, tcp)
			return
		case NoTLS:
			_, _ = io.WriteString(tcp, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
			return
		case BadCertificate:
			cfg = cfg.Clone()
			cfg.Certificates = []tls.Certificate{s.cfg.Bad}
		}
		conn = tls.Server(tcp, cfg)
	}
	ctx, left := context.WithCancel(s.ctx)
	defer left()
	// Requests are read while answers are written: that is how it is seen that a
	// client has left.
	requests := make(chan *http.Request, 1024)
	s.all.Go(func() {
		defer left()
		defer close(requests)
		in := bufio.NewReader(conn)
		for {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			body, err := io.ReadAll(req.Body)
			if err != nil {
				return
			}
			req.Body, req.ContentLength, req.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
			if len(body) == 0 {
				req.Body = http.NoBody
			}
			select {
			case requests <- req:
			case <-s.ctx.Done():
				return
			}
		}
	})
	for req := range requests {
		s.requests.Add(1)
		kind, r := s.draw(func(k Kind) bool { return !slices.Contains(Handshakes, k) })
		if isRedirected(req) {
			kind = Redirect
		}
		x := &exchange{server: s, ctx: ctx, conn: conn, tcp: tcp, req: req, rand: r}
		if !x.answer(kind) || ctx.Err() != nil {
			conn.Close()
			return
		}
	}
}

// exchange is one request and what becomes of it.
type exchange struct {
	server *Server
	ctx    context.Context // done when the client has left
	conn   net.Conn
	tcp    *net.TCPConn // below conn
	req    *http.Request
	rand   *rand.Rand
}

// ask asks the server behind.
func (x *exchange) ask() (*http.Response, error) {
	out := x.req.Clone(x.ctx)
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", x.server.cfg.Target, ""
	out.Header.Del("Connection")
	return x.server.up.RoundTrip(out)
}

// pass answers as the server behind does, while it does.
func (x *exchange) pass() bool {
	resp, err := x.ask()
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.Write(x.conn) == nil && !resp.Close
}

// right is the answer of the server behind, header and body as they are sent.
func (x *exchange) right() (header, body []byte, err error) {
	resp, err := x.ask()
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if err := resp.Write(&b); err != nil {
		return nil, nil, err
	}
	n := bytes.Index(b.Bytes(), []byte("\r\n\r\n")) + 4
	return b.Bytes()[:n:n], b.Bytes()[n:], nil
}

// write sends bytes. It tells whether that could be done.
func (x *exchange) write(b []byte) bool {
	_, err := x.conn.Write(b)
	return err == nil
}

// printf sends text.
func (x *exchange) printf(format string, a ...any) bool {
	return x.write(fmt.Appendf(nil, format, a...))
}

// wait is false where the client left meanwhile.
func (x *exchange) wait(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-x.ctx.Done():
		return false
	}
}

// hold keeps the connection open until the client leaves.
func (x *exchange) hold() bool {
	<-x.ctx.Done()
	return false
}
