package ledisconn

import (
	"context"
	"net"
	"sync"
	"time"
)

// dialer makes connections on which no wait is for ever. radix gives up a call
// when its context is done, but then waits for the connection.
type dialer struct{ timeout time.Duration }

func (d dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &timedConn{Conn: c, timeout: d.timeout}, nil
}

// timedConn gives every Read and Write a deadline, or leaves the one that was
// set if that is earlier.
type timedConn struct {
	net.Conn
	timeout time.Duration

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
	if !c.read.IsZero() && c.read.Before(end) {
		end = c.read
	}
	err := c.Conn.SetReadDeadline(end)
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c *timedConn) Write(b []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
