package store

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	_ "golang.org/x/crypto/x509roots/fallback" // for images without roots of their own
)

const (
	maxConns     = 64 // to one host, where it doesn't speak HTTP/2
	demandConns  = 8  // of these, for what somebody waits for
	maxRedirects = 5
)

// dialFunc makes a connection.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// newDialer returns a dialFunc whose dials also end with life.
func newDialer(life context.Context, lim limits) dialFunc {
	dialer := &net.Dialer{
		Timeout:         lim.dial,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
		Control: func(_, _ string, c syscall.RawConn) error {
			return setUserTimeout(c, lim.header)
		},
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(life, cancel)()
		return dialer.DialContext(ctx, network, addr)
	}
}

// newTransport returns a transport for one store. Nothing of it comes from the
// environment: what a daemon talks to is for its config to say. Dials end with
// ctx.
func newTransport(ctx context.Context, cfg Config, lim limits) (*http.Transport, error) {
	roots, err := rootsWith(cfg.CA)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", cfg.Name, err)
	}
	return &http.Transport{
		DialContext:            newDialer(ctx, lim),
		TLSClientConfig:        &tls.Config{RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(maxConns)},
		TLSHandshakeTimeout:    lim.dial,
		ResponseHeaderTimeout:  cmp.Or(cfg.Patience, lim.header),
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    maxConns,
		MaxConnsPerHost:        maxConns,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // Accept-Encoding is ours to say
		ForceAttemptHTTP2:      true,
		// A connection on which nothing arrives is pinged, and dropped if
		// nothing comes back.
		HTTP2: &http.HTTP2Config{SendPingTimeout: lim.stall, PingTimeout: lim.stall},
	}, nil
}

// dialerFor returns what connects to the store at base as tr does, but always for HTTP/1.1,
// and tells how long TCP took for it. With trust and time limits it is as tr is.
func dialerFor(base *url.URL, tr *http.Transport) func(context.Context) (conn net.Conn, trip time.Duration, err error) {
	port := "80"
	if base.Scheme == "https" {
		port = "443"
	}
	addr := net.JoinHostPort(base.Hostname(), cmp.Or(base.Port(), port))
	connect := func(ctx context.Context) (net.Conn, time.Duration, error) {
		began := time.Now()
		conn, err := tr.DialContext(ctx, "tcp", addr)
		return conn, time.Since(began), err
	}
	if base.Scheme != "https" {
		return connect
	}
	cfg := tr.TLSClientConfig.Clone()
	cfg.ServerName, cfg.NextProtos = base.Hostname(), []string{"http/1.1"}
	return func(ctx context.Context) (net.Conn, time.Duration, error) {
		conn, trip, err := connect(ctx)
		if err != nil {
			return nil, 0, err
		}
		ctx, cancel := context.WithTimeout(ctx, tr.TLSHandshakeTimeout)
		defer cancel()
		secure := tls.Client(conn, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, 0, err
		}
		return secure, trip, nil
	}
}

// rootsWith returns the system's roots and those in a PEM file; nil for what
// the system has alone.
func rootsWith(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read ca: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // the private root will do alone
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read ca: %s has no PEM certificate", file)
	}
	return pool, nil
}

// checkRedirect is asked before a redirect is followed. The store's credentials
// go to the store alone, and so does what Asking adds, which may be some.
func (h *HTTP) checkRedirect(req *http.Request, via []*http.Request) error {
	first, last := via[0].URL, via[len(via)-1].URL
	if req.URL.Scheme != "https" && (req.URL.Scheme != "http" || last.Scheme == "https") {
		return fmt.Errorf("%w: from %s to %s", ErrRedirect, last.Scheme, req.URL.Scheme)
	}
	for _, v := range via {
		if *v.URL == *req.URL {
			return fmt.Errorf("%w: they go in a circle at %s", ErrRedirect, bare(req.URL))
		}
	}
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: more than %d of them", ErrRedirect, maxRedirects)
	}
	sameHost := strings.EqualFold(first.Host, req.URL.Host) && first.Scheme == req.URL.Scheme
	secured := first.Scheme == "http" && req.URL.Scheme == "https" && strings.EqualFold(first.Hostname(), req.URL.Hostname())
	if !sameHost && !secured {
		req.Header.Del("Authorization")
		if h.asking != nil {
			own := make(http.Header)
			h.asking(own)
			for name := range own {
				req.Header.Del(name)
			}
		}
	}
	return nil
}
