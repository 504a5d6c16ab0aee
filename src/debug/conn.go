package debug

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/mediocregopher/radix/v4"
	"github.com/mediocregopher/radix/v4/resp/resp3"

	"github.com/aysfs/aysfs/src/ledisconn"
	"github.com/aysfs/aysfs/src/tier"
)

// maxPage bounds what redis may tell of paths at once, in bytes: a page of the log,
// with the longest of them in each entry, has less than half of that.
const maxPage = 64 << 20

// maxConns is how many connections there are at most.
const maxConns = 8

// conns are connections to one redis, made when they are needed. radix has a
// pool, too: it wants redis to be there at the start, waits for up to 4 s when
// redis is back, and shares a connection that carries a large file.
type conns struct {
	addr    string
	dialer  radix.Dialer
	timeout time.Duration
	slots   chan struct{} // one for each call that may go on

	mu     sync.Mutex
	idle   []radix.Conn // GUARDED_BY(mu)
	closed bool         // GUARDED_BY(mu)
}

func newConns(addr, passwd string, timeout time.Duration) *conns {
	return &conns{
		addr: addr, timeout: timeout, slots: make(chan struct{}, maxConns),
		// No Protocol and no AuthUser: as for ledis, the plainest handshake.
		// Each wait has an end, but not all of them together: a large file takes its time.
		dialer: radix.Dialer{AuthPass: passwd, NetDialer: ledisconn.Dialer{Timeout: timeout, Most: maxPage, Silent: errSilent}},
	}
}

// call is one connection in use.
type call struct {
	ctx  context.Context
	conn radix.Conn
	// spent is set once it must not be repeated on another connection.
	spent bool
}

// do runs one command.
func (c *call) do(rcv any, cmd string, args ...string) error {
	return c.conn.Do(c.ctx, radix.Cmd(rcv, cmd, args...))
}

// use runs f on a connection. One that was idle may have been closed by the
// other side since: then f runs again, on a new one.
func (p *conns) use(ctx context.Context, doing string, f func(*call) error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", doing, ctx.Err())
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return fmt.Errorf("%s: wait for one of %d calls to redis at %s to end: %w", doing, maxConns, p.addr, ctx.Err())
	}
	for {
		conn, used, err := p.get(ctx)
		if err == nil {
			var again bool
			if again, err = p.run(ctx, conn, f); again && used {
				p.drop() // the others are no younger
				continue
			}
		}
		return p.failed(ctx, doing, err)
	}
}

// run runs f on conn. again tells that it was the connection that failed, and
// that f may run again.
func (p *conns) run(ctx context.Context, conn radix.Conn, f func(*call) error) (again bool, err error) {
	// radix waits for the connection even when its context is done, and would
	// set deadlines of its own: closing it is what always works.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c := &call{ctx: context.WithoutCancel(ctx), conn: conn}
	err = f(c)
	if stop() && err == nil {
		p.put(conn)
		return false, nil
	}
	conn.Close()
	return err != nil && !c.spent && reply(err) == "" && ctx.Err() == nil && !errors.Is(err, errSilent), err
}

func (p *conns) get(ctx context.Context) (conn radix.Conn, used bool, err error) {
	p.mu.Lock()
	closed := p.closed
	if n := len(p.idle); n > 0 {
		conn, used = p.idle[n-1], true
		p.idle = p.idle[:n-1]
	}
	p.mu.Unlock()
	switch {
	case closed:
		return nil, false, net.ErrClosed
	case used:
		return conn, true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	conn, err = p.dialer.Dial(ctx, "tcp", p.addr)
	return conn, false, err
}

func (p *conns) put(conn radix.Conn) {
	p.mu.Lock()
	closed := p.closed
	if !closed {
		p.idle = append(p.idle, conn)
	}
	p.mu.Unlock()
	if closed {
		conn.Close()
	}
}

// drop closes all that are idle.
func (p *conns) drop() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
}

func (p *conns) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.drop()
}

// failed says what was to be done, and where.
func (p *conns) failed(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	doing += " in redis at " + p.addr
	for _, known := range []error{tier.ErrAbsent, tier.ErrCorrupt, ErrFormat, errChanged} {
		if errors.Is(err, known) {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	said := reply(err)
	for _, denied := range []string{"NOAUTH", "WRONGPASS", "NOPERM", "ERR AUTH", "ERR invalid password"} {
		if strings.HasPrefix(said, denied) {
			return fmt.Errorf("%s: %w: %s", doing, tier.ErrDenied, said)
		}
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", doing, ctx.Err())
	case said != "":
		return fmt.Errorf("%s: %w: %s", doing, tier.ErrUnavailable, said)
	case errors.Is(err, context.DeadlineExceeded):
		err = errSilent
	}
	return fmt.Errorf("%s: %w: %w", doing, tier.ErrUnavailable, err)
}

// reply is what redis said, where that is what went wrong.
func reply(err error) string {
	var e resp3.SimpleError
	if errors.As(err, &e) {
		return e.Error()
	}
	return ""
}

// errSilent is a redis that does not answer. It is no os.ErrDeadlineExceeded,
// which radix takes for a context that is done.
var errSilent = errors.New("it does not answer in time")
