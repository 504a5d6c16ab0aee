package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aysfs/aysfs/src/tier"
)

// call is one request, as far as it has been understood.
type call struct {
	asker
	request
	r *http.Request
	w *writer
}

// wrong answers a request that can't be understood, or must not be made.
func (c *call) wrong(status int, why string) {
	h := c.w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	line := oneLine(why) + "\n"
	h.Set("Content-Length", strconv.Itoa(len(line)))
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		_, _ = c.w.Write([]byte(line))
	}
}

// oneLine is text as an answer may have it, whatever a request put into it.
func oneLine(s string) string {
	const most = 300
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// nothing answers with an empty body: there is no such thing, or it can't be
// found out.
func (c *call) nothing(err error) {
	status := http.StatusBadGateway
	switch {
	case errors.Is(err, tier.ErrAbsent):
		status = http.StatusNotFound
	case errors.Is(err, context.Canceled):
		status = statusLeft
	case errors.Is(err, context.DeadlineExceeded):
		status = http.StatusGatewayTimeout
	}
	if status != http.StatusNotFound && status != statusLeft {
		c.w.server.log.Debug("nothing to give", "op", "http", "path", c.r.URL.Path, "err", err)
	}
	c.empty(status)
}

// statusLeft is for logs and metrics: nobody is there to read it.
const statusLeft = 499

func (c *call) empty(status int) {
	h := c.w.Header()
	h.Set("Content-Length", "0")
	h.Set("Cache-Control", "no-store")
	c.w.WriteHeader(status)
}

// started answers fetch=2 where something is not here.
func (c *call) started(ok bool) {
	if !ok {
		c.w.Header().Set("Retry-After", "1")
		c.empty(http.StatusServiceUnavailable)
		return
	}
	c.empty(http.StatusAccepted)
}

// writer is an http.ResponseWriter that cuts off who doesn't take what it is
// sent, and counts.
type writer struct {
	http.ResponseWriter
	server *Server
	stall  time.Duration
	status int
	bytes  int64
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader notes the status.
func (w *writer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// joiner is a connection that can send a header together with what follows it.
type joiner interface{ Join() }

type joinerKey struct{}

// ConnContext is for http.Server: a connection with a method Join is told when the
// next two writes belong together. net/http makes two of every answer that does
// not fit into its buffer.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	if j, ok := conn.(joiner); ok {
		return context.WithValue(ctx, joinerKey{}, j)
	}
	return ctx
}

// minJoined is a body that takes net/http more than one write, whatever the
// header.
const minJoined = 4 << 10

// join has the header of an answer sent with the body, which is going to be
// written with one call.
func (c *call) join(body []byte) {
	if len(body) < minJoined || c.r.ProtoMajor != 1 {
		return
	}
	if j, ok := c.r.Context().Value(joinerKey{}).(joiner); ok {
		j.Join()
	}
}

// piece is how many bytes must be taken within the stall timeout.
const piece = 64 << 10

// Write sends b, piece by piece.
func (w *writer) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	sent := 0
	for {
		part := b[sent:min(sent+piece, len(b))]
		// Where it can't be set there is no connection to wait for.
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.stall))
		n, err := w.ResponseWriter.Write(part)
		sent += n
		w.bytes += int64(n)
		if err != nil || sent == len(b) {
			return sent, err
		}
	}
}
