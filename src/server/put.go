package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
)

// publishedDir is the directory store of what is published to the cache.
func (s *Server) publishedDir() string {
	return filepath.Join(s.opts.Config.Main.Data, object.PublishedStore)
}

// hasPublished tells whether anything is published to the cache, or may be.
func (s *Server) hasPublished(cfg *config.Server) bool {
	if slices.ContainsFunc(cfg.HTTP.Users, func(u config.User) bool { return u.Write }) {
		return true
	}
	_, err := os.Stat(s.publishedDir())
	return err == nil
}

// publishedStore is what is published to the cache, as one of its stores. What is
// copied from it may be evicted, and comes from there again.
func (s *Server) publishedStore(cfg *config.Server) config.Store {
	return config.Store{
		Name: object.PublishedStore, Keys: cfg.Publish.Keys,
		URL: &url.URL{Scheme: "file", Path: s.publishedDir()},
	}
}

// mayWrite answers who may not publish.
func (s *Server) mayWrite(c *call) bool {
	g := s.current.Load().gate
	if g.writes(c.r) {
		return true
	}
	if !g.write {
		c.wrong(http.StatusForbidden, "nobody may publish to this cache: give a [[http.user]] of its config write = true")
		return false
	}
	c.wrong(http.StatusForbidden, "this login may not publish here: its [[http.user]] has no write = true")
	return false
}

// headPublished tells a publisher whether a blob need not be put.
func (s *Server) headPublished(c *call) {
	if !s.mayWrite(c) {
		return
	}
	there, err := s.intake.Has(c.r.Context(), c.domain, c.digest)
	switch {
	case err != nil:
		s.notTaken(c, err)
	case !there:
		c.empty(http.StatusNotFound)
	default:
		c.w.Header().Set("Cache-Control", "no-store")
		c.w.WriteHeader(http.StatusOK)
	}
}

// putBlob answers PUT /<domain>/<digest>.
func (s *Server) putBlob(c *call) {
	if !s.mayWrite(c) {
		return
	}
	ctx := c.r.Context()
	// Nearly all are small. What is larger, or gets so when it is made plain, waits
	// for its turn once it is here: however slowly it comes, others don't wait for it.
	large := c.r.ContentLength > object.MaxBlob
	var stored []byte
	var spool *os.File
	var ok bool
	if large {
		if spool, ok = s.spooled(c); !ok {
			return
		}
		defer spool.Close()
	} else {
		need := max(c.r.ContentLength, 0) + object.MaxBlob
		if s.pools.taken.memory.Acquire(ctx, need) != nil {
			c.empty(statusLeft)
			return
		}
		defer s.pools.taken.memory.Release(need)
		if stored, ok = c.upload(object.MaxBlob); !ok {
			return
		}
	}
	err := object.ErrTooLarge
	if !large {
		_, err = s.codec.Unpack(c.digest, stored, object.MaxBlob)
	}
	if errors.Is(err, object.ErrTooLarge) {
		if s.pools.large.memory.Acquire(ctx, s.pools.large.bytes) != nil {
			c.empty(statusLeft)
			return
		}
		defer s.pools.large.memory.Release(s.pools.large.bytes)
		if large {
			stored = make([]byte, c.r.ContentLength)
			if _, err := io.ReadFull(io.NewSectionReader(spool, 0, c.r.ContentLength), stored); err != nil {
				s.notTaken(c, fmt.Errorf("read what was uploaded: %w", err))
				return
			}
		}
		_, err = s.codec.Unpack(c.digest, stored, s.limit)
	}
	switch {
	case errors.Is(err, object.ErrTooLarge):
		c.wrong(http.StatusRequestEntityTooLarge, fmt.Sprintf("an object may have %d bytes, plain", s.limit))
		return
	case err != nil:
		c.wrong(http.StatusUnprocessableEntity, fmt.Sprintf("the body is not what its digest says: %v", err))
		return
	}
	fresh, err := s.intake.Put(ctx, c.domain, c.digest, stored)
	if err != nil {
		s.notTaken(c, err)
		return
	}
	c.taken(fresh)
}

// putHead answers PUT /md/<tree>/head. The answer comes when all that the head
// reaches would survive a crash.
func (s *Server) putHead(c *call) {
	if !s.mayWrite(c) {
		return
	}
	raw, ok := c.upload(object.MaxHead)
	if !ok {
		return
	}
	st := s.stores.now.Load().byName[object.PublishedStore]
	if st == nil {
		c.wrong(http.StatusServiceUnavailable, "the config was changed just now: try again")
		return
	}
	head, err := st.heads.open(c.tree, raw)
	if err != nil {
		c.wrong(http.StatusUnprocessableEntity, err.Error())
		return
	}
	changed, err := s.intake.PutHead(c.r.Context(), head, raw)
	if err != nil {
		s.notTaken(c, err)
		return
	}
	st.seen(head.Domain)
	st.trees.forget()
	if err := st.heads.published(c.r.Context(), head); err != nil {
		s.log.Warn("look at a head that was published", "op", "publish", "tree", c.tree.String(), "err", err)
	}
	if changed {
		s.log.Info("a tree was published here", "op", "publish", "tree", c.tree.String(), "serial", head.Serial)
	}
	c.taken(changed)
}

// published has a head that was put given to all who ask from now on.
func (h *heads) published(ctx context.Context, head *object.Head) error {
	// A request under way may have read the one before.
	for range 3 {
		s := h.state(ctx, head.Tree)
		s.mu.Lock()
		s.asked, s.err = time.Time{}, nil
		s.mu.Unlock()
		v, err := h.exact(ctx, head.Tree, fetchKeep, "", 0)
		if err != nil || v.head.Serial >= head.Serial {
			return err
		}
	}
	return fmt.Errorf("head of %v: serial %d is not what is there", head.Tree, head.Serial)
}

// forget has the trees asked for anew.
func (l *treeList) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = time.Time{}
}

// notTaken answers for what could not be taken.
func (s *Server) notTaken(c *call, err error) {
	status := http.StatusInternalServerError
	switch {
	case c.r.Context().Err() != nil:
		status = statusLeft
	case errors.Is(err, publish.ErrNoRoom):
		status = http.StatusInsufficientStorage
	case errors.Is(err, publish.ErrOld), errors.Is(err, publish.ErrLacking):
		status = http.StatusConflict
	case errors.Is(err, object.ErrHead):
		status = http.StatusUnprocessableEntity
	}
	if status >= http.StatusInternalServerError {
		s.log.Error("can't take what is published", "op", "publish", "path", c.r.URL.Path, "err", err)
	}
	c.wrong(status, err.Error())
}

// taken answers 201, or 204 for what was here.
func (c *call) taken(fresh bool) {
	if !fresh {
		c.w.WriteHeader(http.StatusNoContent)
		return
	}
	c.empty(http.StatusCreated)
}

// upload reads a body of up to limit bytes. It answers itself where there is too
// much of it, or where it stands still.
func (c *call) upload(limit int64) ([]byte, bool) {
	n, ok := c.length(limit)
	if !ok {
		return nil, false
	}
	b := make([]byte, n)
	at := 0
	ok = c.receive(n, func(k int64) []byte {
		at += int(k)
		return b[at-int(k) : at]
	}, nil)
	return b, ok
}

// spooled is upload of a large object, to a file without a name.
func (s *Server) spooled(c *call) (*os.File, bool) {
	n, ok := c.length(s.limit)
	if !ok {
		return nil, false
	}
	f, err := os.CreateTemp(s.opts.Config.Main.Data, "upload-*")
	if err == nil {
		err = os.Remove(f.Name())
	}
	if err != nil {
		s.notTaken(c, fmt.Errorf("make a file for an upload: %w", err))
		return nil, false
	}
	b := make([]byte, piece)
	if !c.receive(n, func(k int64) []byte { return b[:k] }, f.Write) {
		f.Close()
		return nil, false
	}
	return f, true
}

// length is how long a body of up to limit bytes is.
func (c *call) length(limit int64) (int64, bool) {
	n := c.r.ContentLength
	switch {
	case n < 0:
		c.wrong(http.StatusLengthRequired, "the request must say how long its body is")
	case n > limit:
		c.wrong(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body may have %d bytes", limit))
	default:
		return n, true
	}
	return 0, false
}

// receive reads n bytes of the body, in pieces, each into what buffer returns for
// its length, and has each taken.
func (c *call) receive(n int64, buffer func(n int64) []byte, take func([]byte) (int, error)) bool {
	stall := c.w.server.current.Load().stall
	control := http.NewResponseController(c.w.ResponseWriter)
	for at := int64(0); at < n; {
		_ = control.SetReadDeadline(time.Now().Add(stall)) // where it can't be set there is no connection to wait for
		b := buffer(min(piece, n-at))
		k, err := io.ReadFull(c.r.Body, b)
		if at += int64(k); err != nil {
			// The deadline stays, or the server would wait for the rest.
			c.w.Header().Set("Connection", "close")
			c.wrong(http.StatusBadRequest, "the body can't be read")
			return false
		}
		if take == nil {
			continue
		}
		if _, err := take(b); err != nil {
			c.w.Header().Set("Connection", "close")
			if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
				err = fmt.Errorf("%w: %w", publish.ErrNoRoom, err)
			}
			c.w.server.notTaken(c, fmt.Errorf("keep an upload for now: %w", err))
			return false
		}
	}
	_ = control.SetReadDeadline(time.Time{}) // the server looks by reading whether the client is still there
	return true
}
