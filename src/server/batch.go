package server

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// batchAtOnce is how many blobs of one request are fetched at a time.
const batchAtOnce = 128

// postBatch answers POST /<domain>: frames in order of arrival, those that are
// here first.
func (s *Server) postBatch(c *call) {
	text, ok := c.body()
	if !ok {
		return
	}
	wants, err := object.ParseWants(text, s.current.Load().maxBatch)
	if err != nil {
		c.wrong(http.StatusBadRequest, err.Error())
		return
	}
	ctx, cancel := context.WithCancel(c.r.Context())
	var fetching sync.WaitGroup
	defer fetching.Wait()
	defer cancel()

	h := c.w.Header()
	h.Set("Content-Type", object.FrameType)
	h.Set("Cache-Control", "no-store")
	c.w.WriteHeader(http.StatusOK)
	out := frames{w: c.w, control: http.NewResponseController(c.w)}
	var missing []digest.Digest
	for _, d := range wants {
		blob, err := s.find(ctx, c.asker, c.domain, d)
		if err != nil {
			if !errors.Is(err, tier.ErrAbsent) {
				s.kept.getting.note(err, "domain", c.domain, "digest", d)
			}
			missing = append(missing, d)
			continue
		}
		s.hits.add(1)
		err = out.write(d, object.FrameBlob, blob.Data)
		blob.Release()
		if err != nil {
			return
		}
	}
	s.misses.add(int64(len(missing)))
	if c.fetch == fetchNever || c.fetch == fetchBehind {
		for _, d := range missing {
			status := object.FrameAbsent
			if c.fetch == fetchBehind && s.fetchLater(c.asker, c.domain, d) {
				status = object.FrameStarted
			} else if c.fetch == fetchBehind {
				status = object.FrameUnavailable
			}
			if out.write(d, status, nil) != nil {
				return
			}
		}
		return
	}
	if out.flush() != nil || len(missing) == 0 {
		return
	}
	s.fetchBatch(ctx, c, &out, missing, &fetching)
}

// arrived is what came of one digest of a batch.
type arrived struct {
	digest digest.Digest
	blob   held
	err    error
}

// fetchBatch fetches what is missing and writes it as it comes.
func (s *Server) fetchBatch(ctx context.Context, c *call, out *frames, missing []digest.Digest, fetching *sync.WaitGroup) {
	next := make(chan digest.Digest)
	done := make(chan arrived)
	fetching.Go(func() {
		defer close(next)
		for _, d := range missing {
			select {
			case next <- d:
			case <-ctx.Done():
				return
			}
		}
	})
	for range min(batchAtOnce, len(missing)) {
		fetching.Go(func() {
			for d := range next {
				blob, err := s.fetch(ctx, c.asker, c.domain, d, c.fetch == fetchKeep, nil)
				select {
				case done <- arrived{d, blob, err}:
				case <-ctx.Done():
					if err == nil {
						blob.Release()
					}
					return
				}
			}
		})
	}
	for range missing {
		var a arrived
		select {
		case a = <-done:
		case <-ctx.Done():
			return
		}
		status := object.FrameBlob
		switch {
		case errors.Is(a.err, tier.ErrAbsent):
			status = object.FrameAbsent
		case a.err != nil:
			status = object.FrameUnavailable
		}
		err := out.write(a.digest, status, a.blob.Data)
		if a.err == nil {
			a.blob.Release()
		}
		if err != nil || out.flush() != nil {
			return
		}
	}
}

// frames writes frames.
type frames struct {
	w       *writer
	control *http.ResponseController
	header  [object.FrameHeader]byte
}

func (f *frames) write(d digest.Digest, s object.FrameStatus, stored []byte) error {
	if _, err := f.w.Write(object.AppendFrameHeader(f.header[:0], d, s, len(stored))); err != nil {
		return err
	}
	if len(stored) == 0 {
		return nil
	}
	_, err := f.w.Write(stored)
	return err
}

func (f *frames) flush() error { return f.control.Flush() }
