package resp

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ledisdb/ledisdb/ledis"
	"github.com/tidwall/redcon"
	"golang.org/x/sync/semaphore"
)

// Config says what is served, and the bounds. The zero value of a bound is its
// default.
type Config struct {
	DB     *ledis.DB
	Passwd string // to be told by AUTH before anything else; empty for none
	// Private tells which keys nobody gets to see; nil for none.
	Private func(key []byte) bool
	// Hidden tells which keys are as if they were not there, and can't be put; nil
	// for none.
	Hidden func(key []byte) bool
	// Check, if not nil, tells what is wrong with a field of a hash that is to be put.
	Check func(key, field, value []byte) error
	// EmptyField is what stands for the empty field of a hash, which ledis doesn't
	// have; empty for nothing.
	EmptyField string
	// Field, if not nil, returns a field of a hash without a copy, to be released.
	// Where ok is false ledis is asked.
	Field func(key, field []byte) (data []byte, release func(), ok bool)
	// Drop, if not nil, removes a hash whole, faster than ledis does. Where it is
	// false ledis is asked.
	Drop    func(key []byte) (bool, error)
	Version string // for INFO

	MaxConns   int   // 128
	MaxArgs    int   // of a command; 4,096
	MaxBulk    int64 // bytes of an argument; 1 MiB and 64 KiB
	MaxCommand int64 // bytes of all arguments; twice MaxBulk
	MaxReply   int64 // bytes of a reply that is put together in memory, of which there are 4 at a time; 16 MiB
	Memory     int64 // bytes that large commands of all connections take; 64 MiB

	IdleTimeout  time.Duration // between commands; 5 min
	ReadTimeout  time.Duration // of a command, from its first byte; 30 s
	WriteTimeout time.Duration // of what is written at a time, up to 64 KiB or one value; 30 s

	Log *slog.Logger // nil for none
}

func (c Config) withDefaults() Config {
	set := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&c.MaxBulk, 1<<20+64<<10)
	set(&c.MaxCommand, 2*c.MaxBulk)
	set(&c.MaxReply, 16<<20)
	set(&c.Memory, 64<<20)
	for v, d := range map[*int]int{&c.MaxConns: 128, &c.MaxArgs: 4096} {
		if *v <= 0 {
			*v = d
		}
	}
	for v, d := range map[*time.Duration]time.Duration{&c.IdleTimeout: 5 * time.Minute, &c.ReadTimeout: 30 * time.Second, &c.WriteTimeout: 30 * time.Second} {
		if *v <= 0 {
			*v = d
		}
	}
	if c.Private == nil {
		c.Private = func([]byte) bool { return false }
	}
	if c.Hidden == nil {
		c.Hidden = func([]byte) bool { return false }
	}
	if c.Check == nil {
		c.Check = func(_, _, _ []byte) error { return nil }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

const (
	flushAt     = 64 << 10 // bytes of replies that wait to be written
	largeReply  = 32 << 10 // bytes of a value that is written without a copy
	collectors  = 4        // replies put together in memory at a time
	authTries   = 3        // wrong passwords on a connection
	acceptPause = 50 * time.Millisecond
)

// Server answers on any number of listeners.
type Server struct {
	cfg      Config
	commands map[string]command
	memory   *semaphore.Weighted
	collect  chan struct{}
	started  time.Time
	passwd   [sha256.Size]byte
	ctx      context.Context // done once Close is called
	stop     context.CancelFunc

	mu     sync.Mutex
	closed bool               // GUARDED_BY(mu)
	open   map[io.Closer]bool // GUARDED_BY(mu); listeners and connections
	conns  atomic.Int64
	wg     sync.WaitGroup
}

// New returns a server. Close ends it; the database is the caller's to close,
// after that.
func New(cfg Config) *Server {
	cfg = cfg.withDefaults()
	ctx, stop := context.WithCancel(context.Background())
	return &Server{
		ctx: ctx, stop: stop,
		cfg: cfg, commands: commandTable(), memory: semaphore.NewWeighted(cfg.Memory), collect: make(chan struct{}, collectors),
		started: time.Now(), passwd: sha256.Sum256([]byte(cfg.Passwd)), open: make(map[io.Closer]bool),
	}
}

// Listen listens on a port of the address bind; empty is the loopback.
func Listen(bind string, port int) (net.Listener, error) {
	if bind == "" {
		bind = "127.0.0.1"
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(bind, strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("listen for RESP: %w", err)
	}
	return ln, nil
}

// Conns is how many connections there are.
func (s *Server) Conns() int { return int(s.conns.Load()) }

// Close closes all listeners and connections, and waits for what goes on.
func (s *Server) Close() {
	s.stop()
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		_ = c.Close() // which has whoever uses it find out
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// keep has Close close c. It is false once that was called.
func (s *Server) keep(c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.open[c] = true
	s.wg.Add(1)
	return true
}

func (s *Server) drop(c io.Closer) {
	_ = c.Close()
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	s.wg.Done()
}

// Serve answers on ln until it fails or Close is called; then the error is nil.
func (s *Server) Serve(ln net.Listener) error {
	if !s.keep(ln) {
		_ = ln.Close()
		return nil
	}
	defer s.drop(ln)
	for {
		c, err := ln.Accept()
		if err != nil {
			s.mu.Lock()
			closed := s.closed
			s.mu.Unlock()
			if closed {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("serve RESP: %w", err)
			}
			// Out of descriptors, say. Others may end.
			s.cfg.Log.Warn("accept", "op", "resp", "err", err)
			time.Sleep(acceptPause)
			continue
		}
		if s.conns.Add(1) > int64(s.cfg.MaxConns) {
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = c.Write([]byte("-ERR max number of clients reached\r\n"))
			_ = c.Close()
			s.conns.Add(-1)
			continue
		}
		if !s.keep(c) {
			_ = c.Close()
			s.conns.Add(-1)
			continue
		}
		go func() {
			defer s.drop(c)
			defer s.conns.Add(-1)
			s.serve(c)
		}()
	}
}

// conn is one connection.
type conn struct {
	s      *Server
	c      net.Conn
	g      *guard
	out    []byte    // replies that wait to be written
	err    error     // of writing
	until  time.Time // by when all has to be written; zero for no such time
	authed bool
	tries  int
	quit   bool
}

func (s *Server) serve(nc net.Conn) {
	g := newGuard(s.ctx, nc, limits{args: 8, bulk: 1 << 10, command: 8 << 10}, s.memory, s.cfg.Memory)
	g.idleTimeout, g.readTimeout = s.cfg.IdleTimeout, s.cfg.ReadTimeout
	c := &conn{s: s, c: nc, g: g}
	defer g.handled()
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("panic", "op", "resp", "client", nc.RemoteAddr().String(), "err", p, "stack", string(debug.Stack()))
		}
	}()
	if s.cfg.Passwd == "" {
		c.login()
	}
	rd := redcon.NewReader(g)
	for !c.quit && c.err == nil {
		cmds, err := rd.ReadCommands()
		if err != nil {
			c.failed(err)
			return
		}
		for i, cmd := range cmds {
			cmds[i] = redcon.Command{} // for the collector
			if c.quit || c.err != nil {
				break
			}
			c.do(cmd.Args)
			if len(c.out) >= flushAt {
				c.flush()
			}
		}
		c.flush()
		if g.handled() {
			rd = redcon.NewReader(g) // without the buffer that it grew
		}
	}
}

func (c *conn) login() {
	c.authed = true
	cfg := c.s.cfg
	c.g.limits = limits{args: cfg.MaxArgs, bulk: cfg.MaxBulk, command: cfg.MaxCommand}
}

// failed tells the client what was wrong with what it sent, if that was it.
func (c *conn) failed(err error) {
	var p protocolError
	switch {
	case errors.As(err, &p):
		c.out = redcon.AppendError(c.out, "ERR "+p.Error())
	case errors.Is(err, errBusy):
		c.out = redcon.AppendError(c.out, "BUSY "+err.Error())
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
		return
	default:
		var op *net.OpError
		if errors.As(err, &op) {
			return
		}
		c.out = redcon.AppendError(c.out, "ERR "+oneLine(err.Error()))
	}
	c.flush()
}

// flush writes the replies that wait.
func (c *conn) flush() {
	if c.err == nil && len(c.out) > 0 {
		c.write(c.out)
	}
	if cap(c.out) > 4*flushAt {
		c.out = nil
	}
	c.out = c.out[:0]
}

func (c *conn) write(parts ...[]byte) {
	end := time.Now().Add(c.s.cfg.WriteTimeout)
	if !c.until.IsZero() && c.until.Before(end) {
		end = c.until
	}
	if c.err = c.c.SetWriteDeadline(end); c.err != nil {
		return
	}
	b := net.Buffers(parts)
	_, c.err = b.WriteTo(c.c)
}

// bulk answers with a value. A large one is written at once.
func (c *conn) bulk(v []byte) {
	if len(v) < largeReply {
		c.out = redcon.AppendBulk(c.out, v)
		return
	}
	if c.err != nil {
		return
	}
	c.out = append(c.out, '$')
	c.out = strconv.AppendInt(c.out, int64(len(v)), 10)
	c.out = append(c.out, "\r\n"...)
	c.write(c.out, v, []byte("\r\n"))
	c.out = c.out[:0]
}

func (c *conn) bulkOrNull(v []byte) {
	if v == nil {
		c.out = redcon.AppendNull(c.out)
	} else {
		c.bulk(v)
	}
}

func (c *conn) array(n int)       { c.out = redcon.AppendArray(c.out, n) }
func (c *conn) int(n int64)       { c.out = redcon.AppendInt(c.out, n) }
func (c *conn) status(msg string) { c.out = redcon.AppendString(c.out, msg) }
func (c *conn) error(msg string)  { c.out = redcon.AppendError(c.out, oneLine(msg)) }

// reply answers with a number, or with what went wrong.
func (c *conn) reply(n int64, err error) {
	if err != nil {
		c.fail(err)
		return
	}
	c.int(n)
}

func (c *conn) fail(err error) { c.error("ERR " + err.Error()) }

// rightPasswd takes as long whatever is wrong.
func (s *Server) rightPasswd(p []byte) bool {
	sum := sha256.Sum256(p)
	return subtle.ConstantTimeCompare(sum[:], s.passwd[:]) == 1
}

// oneLine keeps a message to what an error reply can hold.
func oneLine(msg string) string {
	b := []byte(msg)
	if len(b) > 256 {
		b = b[:256]
	}
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
