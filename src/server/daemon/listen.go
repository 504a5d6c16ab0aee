package daemon

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/server"
)

// listen opens the port.
func listen(cfg config.HTTP, log *slog.Logger) (net.Listener, error) {
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for HTTP: %w", err)
	}
	return &limited{Listener: l, most: connections(cfg.MaxConnections, log), log: log}, nil
}

// connections is how many connections there may be: what the config says, but no more
// than leave some of the process's descriptors for the data and the stores.
func connections(configured int, log *slog.Logger) int64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return int64(configured)
	}
	most := max(1, int64(limit.Cur)-max(minOwnFiles, int64(limit.Cur)/4))
	if most >= int64(configured) {
		return int64(configured)
	}
	log.Warn("fewer connections than configured, for want of descriptors: raise the limit of open files (ulimit -Hn, LimitNOFILE) or lower max_connections",
		"op", "start", "max_connections", configured, "connections", most, "limit", limit.Cur)
	return most
}

// minOwnFiles are the descriptors that a cache needs for other things than
// connections, at least.
const minOwnFiles = 24

// limited closes connections beyond a number at once: a client then goes to
// another cache, rather than wait here.
type limited struct {
	net.Listener
	most int64
	open atomic.Int64
	log  *slog.Logger
	said atomic.Int64 // Unix seconds of the last message
}

// Accept returns the next connection for which there is room.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			l.say("no connection can be taken for want of descriptors: raise the limit of open files (ulimit -Hn, LimitNOFILE)", "err", err)
		}
		if err != nil {
			return nil, err // net/http tries again what may pass
		}
		if l.open.Add(1) <= l.most {
			return &counted{Conn: c, open: &l.open}, nil
		}
		l.open.Add(-1)
		c.Close()
		l.say("too many connections: new ones are closed", "max_connections", l.most)
	}
}

// say tells of trouble, once while it lasts.
func (l *limited) say(msg string, args ...any) {
	if now := time.Now().Unix(); now-l.said.Swap(now) > 10 {
		l.log.Warn(msg, append([]any{"op", "http"}, args...)...)
	}
}

type counted struct {
	net.Conn
	once sync.Once
	open *atomic.Int64

	join bool   // the next write waits for the one after it
	kept []byte // what was written and waits; its memory is used again
}

// Join has what is written next go out with what is written after that, in one
// call of the kernel, where it is short enough. Who calls it makes sure that more
// is written. It is for the goroutine that writes.
func (c *counted) Join() { c.join = true }

// maxJoin is the buffer of net/http, from which a header comes with the first
// bytes of the body.
const maxJoin = 4 << 10

func (c *counted) Write(b []byte) (int, error) {
	switch {
	case len(c.kept) > 0:
		both := net.Buffers{c.kept, b}
		before := len(c.kept)
		c.kept = c.kept[:0]
		n, err := both.WriteTo(c.Conn)
		return max(int(n)-before, 0), err
	case c.join && len(b) <= maxJoin:
		c.join = false
		c.kept = append(c.kept, b...)
		return len(b), nil
	}
	c.join = false
	return c.Conn.Write(b)
}

// Close makes room for another one.
func (c *counted) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

// newHTTP returns a server for HTTP/1.1 and HTTP/2, the latter without TLS as
// well for clients that know of it beforehand. Bodies are bounded in time by the
// handler, as they move on.
func newHTTP(cfg config.HTTP, h http.Handler, certs *certificates, log *slog.Logger) *http.Server {
	s := &http.Server{
		Handler:           h,
		MaxHeaderBytes:    int(cfg.MaxHeader),
		ReadHeaderTimeout: cfg.HeaderTimeout,
		IdleTimeout:       cfg.IdleTimeout,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // of what strangers send
		Protocols:         new(http.Protocols),
		ConnContext:       server.ConnContext,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 250,
			SendPingTimeout:      cfg.StallTimeout,
			PingTimeout:          cfg.StallTimeout,
			WriteByteTimeout:     cfg.StallTimeout,
		},
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	if certs != nil {
		s.TLSConfig = &tls.Config{GetCertificate: certs.get, MinVersion: tls.VersionTLS12}
	}
	return s
}

// certificates is the certificate in use, which a reload may change.
type certificates struct {
	now atomic.Pointer[tls.Certificate]
}

func loadCertificates(cfg config.HTTP) (*certificates, error) {
	c := &certificates{}
	return c, c.load(cfg)
}

func (c *certificates) load(cfg config.HTTP) error {
	cert, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey)
	if err != nil {
		return fmt.Errorf("read the certificate: %w", err)
	}
	c.now.Store(&cert)
	return nil
}

var errNoCertificate = errors.New("there is no certificate")

func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if cert := c.now.Load(); cert != nil {
		return cert, nil
	}
	return nil, errNoCertificate
}
