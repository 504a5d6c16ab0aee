package ledisconn

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
)

// ErrAnswer says that what came is no answer as databases give them.
var ErrAnswer = errors.New("not an answer as databases give them")

const (
	maxDepth    = 8       // arrays in arrays; CLUSTER SLOTS has 4
	maxElements = 1 << 20 // of one array
	maxBulk     = 1 << 30 // bytes of a string that is an answer by itself: ledis has no larger
	maxLine     = 64 << 10
	lineKept    = 80
)

// Guard is a connection on which nothing comes but answers of the Redis protocol,
// version 2: radix takes memory for any length that it is told, and the stack of its
// goroutine for arrays in each other, and neither would leave the process alive.
// After an error it is of no more use. All that is in one array is most bytes at most.
func Guard(c net.Conn, most int64) net.Conn { return &guard{Conn: c, most: most} }

type guard struct {
	net.Conn
	most int64

	line []byte  // how the line begins that has not ended
	size int     // of that line
	skip int64   // bytes of a string that are still to come, with what ends it
	open []int64 // elements that are still to come, of each array that has not ended
	room int64   // of the bytes that the outermost array may have
	bad  error
}

// Read passes on what was understood.
func (g *guard) Read(b []byte) (int, error) {
	if g.bad != nil {
		return 0, g.bad
	}
	n, err := g.Conn.Read(b)
	if g.bad = g.follow(b[:n]); g.bad != nil {
		return 0, g.bad
	}
	return n, err
}

func (g *guard) follow(b []byte) error {
	for len(b) > 0 {
		if g.skip > 0 {
			n := min(g.skip, int64(len(b)))
			b = b[n:]
			if g.skip -= n; g.skip == 0 {
				g.ended()
			}
			continue
		}
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		b = rest
		g.line = append(g.line, line[:min(len(line), lineKept-len(g.line))]...)
		if g.size += len(line); g.size > maxLine {
			return fmt.Errorf("%w: a line of more than %d bytes", ErrAnswer, maxLine)
		}
		if !whole {
			return nil
		}
		if err := g.begun(g.line); err != nil {
			return err
		}
		g.line, g.size = g.line[:0], 0
	}
	return nil
}

// begun takes the line with which an answer, or an element of one, begins.
func (g *guard) begun(line []byte) error {
	wrong := func() error { return fmt.Errorf("%w: it begins with %q", ErrAnswer, line) }
	if len(line) == 0 {
		return wrong()
	}
	switch line[0] {
	case '+', '-', ':':
		g.ended()
		return nil
	case '$', '*':
	default:
		return wrong()
	}
	text, ok := bytes.CutSuffix(line[1:], []byte("\r"))
	if ok && string(text) == "-1" {
		g.ended()
		return nil
	}
	n, err := strconv.ParseUint(string(text), 10, 63)
	if !ok || err != nil {
		return wrong()
	}
	if line[0] == '*' {
		return g.array(int64(n))
	}
	if len(g.open) == 0 {
		if n > maxBulk {
			return fmt.Errorf("%w: a string of %d bytes, more than %d", ErrAnswer, n, maxBulk)
		}
	} else if g.room -= int64(min(n, 1<<62)); g.room < 0 {
		return fmt.Errorf("%w: an array of more than %d bytes", ErrAnswer, g.most)
	}
	g.skip = int64(n) + int64(len("\r\n"))
	return nil
}

func (g *guard) array(n int64) error {
	switch {
	case n > maxElements:
		return fmt.Errorf("%w: an array of %d elements, more than %d", ErrAnswer, n, maxElements)
	case len(g.open) == maxDepth:
		return fmt.Errorf("%w: more than %d arrays in each other", ErrAnswer, maxDepth)
	case len(g.open) == 0:
		g.room = g.most
	}
	// radix takes memory for each element before it comes.
	if g.room -= n * elementOverhead; g.room < 0 {
		return fmt.Errorf("%w: an array of more than %d bytes", ErrAnswer, g.most)
	}
	if n == 0 {
		g.ended()
		return nil
	}
	g.open = append(g.open, n)
	return nil
}

// elementOverhead is what an element costs besides its bytes.
const elementOverhead = 16

// ended counts an answer, or an element, and the arrays that end with it.
func (g *guard) ended() {
	for i := len(g.open) - 1; i >= 0; i-- {
		if g.open[i]--; g.open[i] > 0 {
			return
		}
		g.open = g.open[:i]
	}
}
