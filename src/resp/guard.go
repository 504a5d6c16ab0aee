package resp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	headerLine = 32 // bytes that "*<arguments>" or "$<length>" may have
	inlineLine = 1 << 10
	guardRead  = 16 << 10

	// Commands up to this many bytes need no reservation.
	smallCommand = 64 << 10
	// The parser has a buffer of up to twice a command, and a copy of it.
	commandCopies = 3
)

// protocolError is what a client did wrong. It is told, and cut off.
type protocolError string

func (e protocolError) Error() string { return "Protocol error: " + string(e) }

var errBusy = errors.New("no memory for a command")

// limits bound one command.
type limits struct {
	args    int
	bulk    int64 // bytes of one argument
	command int64 // bytes of all
}

// guard hands on what comes from a connection, command by command, and nothing
// that is over the limits. Its Read returns when the buffer is full or commands
// are complete, so that the parser, which starts from the beginning with every
// read, has few.
type guard struct {
	ctx    context.Context
	conn   net.Conn
	r      *bufio.Reader
	limits limits // changes with AUTH
	memory *semaphore.Weighted
	most   int64 // weight of memory

	idleTimeout, readTimeout time.Duration

	line  []byte // read, and to be handed on
	args  int    // still to come
	body  int64  // bytes still to come of an argument, its line end included
	total int64  // bytes of the command's arguments so far
	want  int64  // to be reserved before it goes on
	held  int64  // reserved
	large bool   // a large command is complete: hand on no more before it is handled
	begun bool   // within a command
	err   error  // that ended it, to be returned once all before has been
}

func newGuard(ctx context.Context, conn net.Conn, l limits, memory *semaphore.Weighted, most int64) *guard {
	return &guard{ctx: ctx, conn: conn, r: bufio.NewReaderSize(conn, guardRead), limits: l, memory: memory, most: most}
}

// handled is called when all that was handed on has been answered. It returns
// whether a large command was among that, whose buffers should go.
func (g *guard) handled() bool {
	if g.held > 0 {
		g.memory.Release(g.held)
		g.held = 0
	}
	was := g.large
	g.large = false
	return was
}

func (g *guard) Read(p []byte) (n int, err error) {
	if g.err == nil {
		n, g.err = g.read(p)
	}
	if n > 0 {
		return n, nil // the parser would lose it if there were an error too
	}
	return 0, g.err
}

func (g *guard) read(p []byte) (n int, err error) {
	complete := false // p holds a whole command
	for n < len(p) {
		if g.want > 0 {
			if complete {
				return n, nil // which may give back what there is to wait for
			}
			if err := g.reserve(); err != nil {
				return n, err
			}
		}
		switch {
		case len(g.line) > 0:
			m := copy(p[n:], g.line)
			n, g.line = n+m, g.line[m:]
			if len(g.line) > 0 {
				return n, nil
			}
		case g.body > 0:
			if complete && g.r.Buffered() == 0 {
				return n, nil
			}
			m, err := g.r.Read(p[n:min(int64(len(p)), int64(n)+g.body)])
			n, g.body = n+m, g.body-int64(m)
			if err != nil {
				return n, err
			}
		case g.begun && g.args == 0:
			g.begun = false
			complete = true
			if g.total > smallCommand {
				g.large = true
			}
			g.total = 0
		case g.large:
			return n, nil
		default:
			if complete && !g.lineBuffered() {
				return n, nil
			}
			if err := g.next(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

func (g *guard) lineBuffered() bool {
	b, _ := g.r.Peek(g.r.Buffered())
	return bytes.IndexByte(b, '\n') >= 0
}

// next reads a line: the start of a command, or of an argument.
func (g *guard) next() error {
	if !g.begun {
		if err := g.conn.SetReadDeadline(time.Now().Add(g.idleTimeout)); err != nil {
			return err
		}
		first, err := g.r.Peek(1)
		if err != nil {
			return err
		}
		if err := g.conn.SetReadDeadline(time.Now().Add(g.readTimeout)); err != nil {
			return err
		}
		g.begun = true
		if first[0] != '*' {
			g.line, err = g.readLine(inlineLine)
			return err
		}
		line, err := g.readLine(headerLine)
		if err != nil {
			return err
		}
		n, ok := number(line)
		if !ok || n == 0 || n > int64(g.limits.args) {
			return protocolError("invalid multibulk length")
		}
		g.line, g.args = line, int(n)
		return nil
	}
	line, err := g.readLine(headerLine)
	if err != nil {
		return err
	}
	if line[0] != '$' {
		return protocolError("expected '$'")
	}
	n, ok := number(line)
	if !ok || n > g.limits.bulk || g.total+n > g.limits.command {
		return protocolError("invalid bulk length")
	}
	g.total += n
	g.args--
	g.line, g.body = line, n+2
	if g.total > smallCommand && g.held == 0 {
		g.want = g.total
		if g.args > 0 {
			g.want = g.limits.command // reserved once, or two that wait for more could wait for each other
		}
	}
	return nil
}

// readLine returns a line with its end, in memory of its own.
func (g *guard) readLine(most int) ([]byte, error) {
	for n := 1; ; n++ {
		b, err := g.r.Peek(max(n, min(g.r.Buffered(), most)))
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			line := bytes.Clone(b[:i+1])
			_, err := g.r.Discard(i + 1)
			return line, err
		}
		if n = len(b); n >= most {
			return nil, protocolError("too big a line")
		}
		if err != nil {
			return nil, err
		}
	}
}

// number reads "*12\r\n" or "$12\r\n".
func number(line []byte) (n int64, ok bool) {
	digits, ok := bytes.CutSuffix(line[1:], []byte("\r\n"))
	if !ok || len(digits) == 0 || len(digits) > 10 {
		return 0, false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}

// reserve waits until there is memory for a large command.
func (g *guard) reserve() error {
	n := min(g.want*commandCopies, g.most)
	ctx, cancel := context.WithTimeout(g.ctx, g.readTimeout)
	defer cancel()
	if err := g.memory.Acquire(ctx, n); err != nil {
		return errBusy
	}
	g.held, g.want = n, 0
	// It was not the client that was slow.
	return g.conn.SetReadDeadline(time.Now().Add(g.readTimeout))
}
