package store

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/tier"
)

// pipe is one connection of a pipeline. One goroutine reads; what is to be sent is
// sent by whoever asks for what somebody waits for, else by another goroutine, which
// comes when several have asked.
type pipe struct {
	p     *pipeline
	conn  net.Conn
	wake  chan struct{} // holds one; there is something to send
	ended chan struct{} // closed when nothing more is read

	asks     []*ask // GUARDED_BY(p.mu); on their way, in order
	load     int64  // GUARDED_BY(p.mu); about how many bytes they are
	behind   int    // GUARDED_BY(p.mu); how many of them nobody waits for
	out      []byte // GUARDED_BY(p.mu); requests to be sent
	spare    []byte // GUARDED_BY(p.mu); out, when it was sent last
	sending  bool   // GUARDED_BY(p.mu)
	dead     bool   // GUARDED_BY(p.mu)
	answered int    // GUARDED_BY(p.mu)
	ends     bool   // GUARDED_BY(p.mu); the server has said so
	gaveUp   bool   // GUARDED_BY(p.mu); it was closed for a wrong answer

	last [lastAnswers]digest.Digest // GUARDED_BY(p.mu); what was asked for by the requests that were answered last

	heard atomic.Int64 // when anything last came, or was asked for where nothing was on its way; in nanoseconds since 1970

	came    int64     // bytes that came on it; the reader's
	until   time.Time // the deadline of reading, as it was last set; the reader's
	scratch []byte    // for bodies that are handed on; the reader's
}

const (
	pipeBuffer = 32 << 10 // bytes that are read at once
	mostHeader = 16 << 10 // bytes of an answer's header
	pipeIdle   = 90 * time.Second
	// mostScratch is what a connection keeps for bodies that are handed on, in bytes.
	// Larger ones are rare.
	mostScratch = 128 << 10
)

// push puts a at the end of what is on its way. p.mu is held.
func (c *pipe) push(a *ask) {
	c.out = c.p.appendRequest(c.out, a)
	c.asks = append(c.asks, a)
	c.load += a.weight
	if a.background {
		c.behind++
	}
	a.tries++
	a.sent, a.behind = time.Time{}, false
	if len(c.asks) == 1 {
		a.sent, a.beside = time.Now(), c.p.busyBeside(c)
		c.heard.Store(a.sent.UnixNano())
		// The reader is waiting for anything at all.
		_ = c.conn.SetReadDeadline(time.Now().Add(c.p.limits.header))
	}
}

// appendRequest writes a request.
func (p *pipeline) appendRequest(b []byte, a *ask) []byte {
	b = append(b, "GET "...)
	b = append(b, p.base...)
	b = append(b, '/')
	b = append(b, a.ref.Domain...)
	b = append(b, '/')
	b = hex.AppendEncode(b, a.ref.Digest[:])
	b = append(b, p.query...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = append(b, p.fixed...)
	if p.asking != nil {
		h := make(http.Header, 2)
		p.asking(h)
		buf := bytes.NewBuffer(b)
		_ = h.Write(buf) // to memory
		b = buf.Bytes()
	}
	return append(b, "\r\n"...)
}

// send has what waits sent: now, or with what else comes soon.
func (c *pipe) send(later bool) {
	if !later {
		c.flush()
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write sends what nobody waits for.
func (c *pipe) write() {
	for {
		select {
		case <-c.wake:
			c.flush()
		case <-c.ended:
			return
		}
	}
}

// flush sends what is to be sent, unless that is being done.
func (c *pipe) flush() {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.sending {
		return
	}
	c.sending = true
	for len(c.out) > 0 && !c.dead {
		b := c.out
		c.out = c.spare[:0]
		c.p.mu.Unlock()
		_ = c.conn.SetWriteDeadline(time.Now().Add(c.p.limits.stall))
		_, err := c.conn.Write(b)
		c.p.mu.Lock()
		c.spare = b
		if err != nil {
			c.conn.Close() // the reader sees to the rest
			break
		}
	}
	c.sending = false
}

// errEnds says that a server ends a connection in good order.
var errEnds = errors.New("the server ends the connection")

// read reads answers until the connection ends.
func (c *pipe) read() {
	defer close(c.ended)
	br := bufio.NewReaderSize(c, pipeBuffer)
	var err error
	for err == nil {
		err = c.answer(br)
	}
	c.conn.Close()
	c.end(err)
}

// Read reads what comes, and takes note that something does.
func (c *pipe) Read(b []byte) (int, error) {
	n, err := c.conn.Read(b)
	if n > 0 {
		c.heard.Store(time.Now().UnixNano())
		c.came += int64(n)
		c.p.came.Add(int64(n))
	}
	return n, err
}

// still tells whether something is on its way on a connection, and none of it has come
// for so long. p.mu is held.
func (c *pipe) still(long time.Duration) bool {
	return len(c.asks) > 0 && time.Since(time.Unix(0, c.heard.Load())) >= long
}

// head is what is of interest in the header of an answer.
type head struct {
	status      int
	length      int64 // -1: not said
	plain       bool  // the bytes are the object's
	ends        bool  // the connection ends with it
	contentType string
}

// between wraps what came instead of another answer.
type between struct{ error }

func (b between) Unwrap() error { return b.error }

// answer reads one answer.
func (c *pipe) answer(br *bufio.Reader) error {
	var gap time.Duration
	if br.Buffered() == 0 {
		since, others := time.Now(), c.p.came.Load()-c.came
		if _, err := br.Peek(1); err != nil {
			return between{err}
		}
		others = c.p.came.Load() - c.came - others
		if gap = time.Since(since); float64(others) > gap.Seconds()*fullWay {
			gap = 0 // it stood behind theirs on the way
		}
	}
	h, err := readHead(br)
	if err != nil {
		return err
	}
	c.p.mu.Lock()
	if len(c.asks) == 0 {
		c.p.mu.Unlock()
		return fmt.Errorf("an answer to no request, with status %d", h.status)
	}
	a := c.asks[0]
	left := a.left
	if a.behind {
		c.p.followed(gap)
	} else if !a.sent.IsZero() {
		c.p.thought(time.Since(a.sent), a.beside)
	}
	if h.length < 0 || h.ends && c.answered == 0 {
		// Its end could only be told by that of the connection, or of chunks;
		// or no connection has more than one answer.
		if isBusy(h.status) {
			c.p.troubled() // it may be who is between that says so
		} else {
			c.p.standBack()
		}
	}
	c.p.mu.Unlock()
	if h.length < 0 {
		c.finish(a, true, nil, "", errOrdinary)
		return errEnds
	}
	var data []byte
	switch {
	case h.status == http.StatusOK && h.plain && h.length <= a.ref.Max() && !left && a.answered != nil:
		if err := c.handOn(br, a, &h); err != nil {
			return err
		}
	case h.status == http.StatusOK && h.plain && h.length <= a.ref.Max() && !left && c.makeRoom(a, h.length):
		data = make([]byte, h.length)
		if err := c.body(br, data); err != nil {
			return err
		}
		c.finish(a, h.ends, data, h.contentType, nil)
	case h.length > a.ref.Max() && h.length > mostHeader:
		return fmt.Errorf("status %d with %d bytes", h.status, h.length)
	default:
		if err := c.discard(br, h.length); err != nil {
			return err
		}
		err := errOrdinary
		if h.status == http.StatusNotFound || h.status == http.StatusGone {
			err = tier.ErrAbsent
		}
		c.finish(a, h.ends, nil, "", err)
	}
	if h.ends {
		return errEnds
	}
	return nil
}

// makeRoom waits until there is memory for an answer. It is false where nobody waits for
// that any more.
func (c *pipe) makeRoom(a *ask, size int64) bool {
	if a.room == nil {
		return true
	}
	err := a.room(size)
	c.until = time.Time{}
	c.expect(c.p.limits.header, false) // from now on
	return err == nil
}

// finish takes the first request off, with its answer, and has what waits take
// its place; ends says that the connection ends with it.
func (c *pipe) finish(a *ask, ends bool, data []byte, contentType string, err error) {
	c.p.mu.Lock()
	c.asks[0] = nil
	c.asks = c.asks[1:]
	c.load -= a.weight
	if a.background {
		c.behind--
	}
	c.last[c.answered%lastAnswers] = a.ref.Digest
	c.answered++
	if err == nil {
		c.p.answeredWell()
	}
	if len(c.asks) > 0 {
		c.asks[0].behind = true
	}
	if c.ends = ends; !ends {
		c.p.goesOn(c.answered)
	}
	if len(c.p.queue) > 0 {
		c.p.share(c)
		c.p.renew()
	}
	idle, waits := len(c.asks) == 0, len(c.out) > 0
	c.p.mu.Unlock()
	if a.answered == nil {
		a.data, a.contentType, a.err = data, contentType, err
		close(a.done)
	} else if err != nil && a.hand() {
		a.answered(nil, false)
	}
	if waits {
		c.send(true)
	}
	wait := c.p.limits.header
	if idle {
		wait = pipeIdle
	}
	c.expect(wait, idle)
}

// expect sets the deadline of what is read next, if it differs by much.
func (c *pipe) expect(wait time.Duration, idle bool) {
	until := time.Now().Add(wait)
	if d := until.Sub(c.until); !idle && d >= 0 && d < wait/8 {
		return
	}
	c.until = until
	c.p.mu.Lock()
	if !idle || len(c.asks) == 0 {
		_ = c.conn.SetReadDeadline(until)
	}
	c.p.mu.Unlock()
}

// handOn reads the body of an answer that nobody waits for and hands it on, where it
// lies: its bytes are then read over by the next one. The request is finished
// afterwards, so that the time for that counts as time that this connection is busy.
func (c *pipe) handOn(br *bufio.Reader, a *ask, h *head) error {
	var data []byte
	n := int(h.length)
	peeked := n <= br.Buffered()
	if peeked {
		data, _ = br.Peek(n) // it is there
	} else {
		if n > cap(c.scratch) {
			c.scratch = make([]byte, n)
		}
		data = c.scratch[:n]
		if err := c.body(br, data); err != nil {
			return err
		}
	}
	if a.hand() {
		a.answered(data, !isPage(h.contentType, data, a.ref))
	}
	if peeked {
		_, _ = br.Discard(n)
	}
	if cap(c.scratch) > mostScratch {
		c.scratch = nil
	}
	c.finish(a, h.ends, nil, "", nil)
	return nil
}

// body reads into all of b, which must come at minSpeed.
func (c *pipe) body(br *bufio.Reader, b []byte) error {
	quota := c.quota()
	for got, mark := 0, 0; got < len(b); {
		n, err := br.Read(b[got:])
		if got += n; got-mark >= quota {
			mark = got
			c.expect(c.p.limits.stall, false)
		}
		if err != nil {
			return fmt.Errorf("after %d bytes of %d: %w", got, len(b), unexpected(err))
		}
	}
	return nil
}

// quota is how many bytes of a body must come within limits.stall.
func (c *pipe) quota() int { return max(1, int(c.p.limits.stall.Seconds()*minSpeed)) }

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// discard reads over what is of no use.
func (c *pipe) discard(br *bufio.Reader, n int64) error {
	quota := int64(c.quota())
	for n > 0 {
		m, err := br.Discard(int(min(n, quota)))
		if n -= int64(m); err != nil {
			return unexpected(err)
		}
		c.expect(c.p.limits.stall, false)
	}
	return nil
}

// end takes the connection out of the pipeline. Requests that were not answered go
// to another one, where this one ended in good order, else the ordinary way.
func (c *pipe) end(why error) {
	p := c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	c.dead = true
	for i, o := range p.pipes {
		if o == c {
			p.pipes = append(p.pipes[:i:i], p.pipes[i+1:]...)
			break
		}
	}
	// A server may end a connection between answers at any time; then it has not
	// looked at what was sent since.
	_, isBetween := errors.AsType[between](why)
	fair := errors.Is(why, errEnds) || isBetween && (len(c.asks) == 0 || c.answered > 0 && !errors.Is(why, os.ErrDeadlineExceeded))
	fair = fair || c.gaveUp
	if !fair && p.ctx.Err() == nil {
		p.troubled()
		if errors.Is(why, os.ErrDeadlineExceeded) {
			p.dropIdle()
		}
	}
	if fair && !c.gaveUp && (len(c.asks) > 0 || errors.Is(why, errEnds)) {
		p.lasted(c.answered)
	}
	for _, a := range c.asks {
		switch {
		case a.left || a.handed:
		case fair && a.tries < mostTries && p.ctx.Err() == nil && !time.Now().Before(p.off):
			if to := p.choose(a); to != nil {
				to.send(true)
			}
		default:
			a.refuse(errOrdinary)
		}
	}
	c.asks = nil
	if p.ctx.Err() != nil && len(p.pipes)+p.dialing == 0 {
		p.refuse(p.queue)
		p.queue, p.urgent = nil, 0
	}
	p.shareAll() // what was kept free beside this one may be needed now
	p.renew()
}

// readHead reads the header of an answer.
func readHead(br *bufio.Reader) (head, error) {
	h := head{length: -1, plain: true}
	line, err := headLine(br)
	if err != nil {
		return h, err
	}
	proto, rest, _ := bytes.Cut(line, []byte(" "))
	code, _, _ := bytes.Cut(rest, []byte(" "))
	if h.status, err = strconv.Atoi(string(code)); err != nil || len(code) != 3 || h.status < 200 {
		return h, fmt.Errorf("status line %.80q", line)
	}
	switch string(proto) {
	case "HTTP/1.1":
	case "HTTP/1.0":
		h.ends = true
	default:
		return h, fmt.Errorf("status line %.80q", line)
	}
	size, chunked := len(line), false
	for {
		line, err := headLine(br)
		if err != nil {
			return h, err
		}
		if size += len(line) + 2; size > mostHeader {
			return h, fmt.Errorf("a header of more than %d bytes", mostHeader)
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || !isToken(name) {
			return h, fmt.Errorf("header line %.80q", line)
		}
		value = bytes.TrimSpace(value)
		switch {
		case is(name, "Content-Length"):
			n, ok := parseLength(string(value))
			if !ok || h.length >= 0 && h.length != n {
				return h, fmt.Errorf("content length %.80q", value)
			}
			h.length = n
		case is(name, "Content-Encoding"):
			h.plain = h.plain && (is(value, "zstd") || is(value, "identity"))
		case is(name, "Content-Type"):
			h.contentType = string(value)
		case is(name, "Transfer-Encoding"):
			chunked = true
		case is(name, "Connection"):
			h.ends = h.ends || bytes.Contains(bytes.ToLower(value), []byte("close"))
		}
	}
	switch {
	case chunked:
		h.length = -1
	case h.status == http.StatusNoContent || h.status == http.StatusNotModified:
		h.length = 0
	}
	return h, nil
}

// headLine reads one line of a header. Of control characters it takes only tabs:
// a carriage return, say, is what others may take for the line's end.
func headLine(br *bufio.Reader) ([]byte, error) {
	line, err := br.ReadSlice('\n')
	if err != nil {
		return nil, unexpected(err)
	}
	line = bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))
	if bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return nil, fmt.Errorf("header line %.80q", line)
	}
	return line, nil
}

// isToken tells whether a header may have that name (RFC 9110, 5.6.2). A blank
// before the colon, or at the start of a line, is where readers of headers differ.
func isToken(name []byte) bool {
	for _, c := range name {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return len(name) > 0
}

func is(b []byte, name string) bool { return len(b) == len(name) && bytes.EqualFold(b, []byte(name)) }
