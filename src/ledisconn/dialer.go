package ledisconn

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/mediocregopher/radix/v4"
)

// opened are the connections of a pool. A pool that is closed while it still
// makes connections forgets to close the last.
type opened struct {
	dialer radix.Dialer

	mu    sync.Mutex
	conns map[*openConn]struct{} // GUARDED_BY(mu)
}

func newOpened(d radix.Dialer) *opened {
	return &opened{dialer: d, conns: make(map[*openConn]struct{})}
}

func (o *opened) dial(ctx context.Context, network, addr string) (radix.Conn, error) {
	inner, err := o.dialer.Dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := &openConn{inner, o}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.conns[c] = struct{}{}
	return c, nil
}

// close closes what the pool, which no longer runs, has left.
func (o *opened) close() error {
	o.mu.Lock()
	left := o.conns
	o.conns = nil
	o.mu.Unlock()
	var errs []error
	for c := range left {
		errs = append(errs, c.Conn.Close())
	}
	return errors.Join(errs...)
}

type openConn struct {
	radix.Conn

	of *opened
}

func (c *openConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// maxArray bounds the values of a table of ours, in bytes.
const maxArray = 256 << 20

// Dialer makes connections on which no wait is for ever, and nothing comes that Guard
// doesn't let pass. radix gives up a call when its context is done, but then waits for
// the connection.
type Dialer struct {
	Timeout time.Duration // of each wait
	Most    int64         // see Guard
	Silent  error         // what a wait that took Timeout ends with; nil: os.ErrDeadlineExceeded
}

// DialContext connects to addr.
func (d Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return Guard(&timedConn{Conn: c, timeout: d.Timeout, silent: d.Silent}, d.Most), nil
}

// timedConn gives every Read and Write a deadline, or leaves the one that was
// set if that is earlier.
type timedConn struct {
	net.Conn
	timeout time.Duration
	silent  error

	mu   sync.Mutex
	read time.Time // GUARDED_BY(mu); deadline that was set, or zero
}

func (c *timedConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = t
	return c.Conn.SetReadDeadline(t)
}

func (c *timedConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	end := time.Now().Add(c.timeout)
	cut := !c.read.IsZero() && c.read.Before(end)
	if cut {
		end = c.read
	}
	err := c.Conn.SetReadDeadline(end)
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	if cut {
		return n, err
	}
	return n, c.ended(err)
}

func (c *timedConn) Write(b []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	return n, c.ended(err)
}

func (c *timedConn) ended(err error) error {
	if c.silent != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return c.silent
	}
	return err
}
