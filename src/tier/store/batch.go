package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// batches asks a cache for many blobs in one request, those that nobody waits for:
// whatever is asked for within a moment goes along. Answers come as they arrive
// there, so that none stands behind another that the cache has to fetch.
type batches struct {
	h *HTTP

	mu      sync.Mutex
	domains map[string]*gathering // GUARDED_BY(mu)
	off     time.Time             // GUARDED_BY(mu); until then there are none
}

// gathering is what of one domain will be asked for next.
type gathering struct {
	next    []*want // in order
	running int     // requests under way
	due     bool    // somebody will look at next soon
}

// want is one blob of a batch.
type want struct {
	ref  tier.Ref
	left bool // GUARDED_BY(batches.mu); nobody waits for it any more

	done chan struct{} // closed once what follows is set
	data []byte
	err  error // errOrdinary where it is to be asked for alone
}

const (
	// batchMost is how many blobs a batch has at most, and batchesAtOnce how many
	// batches are under way for a domain.
	batchMost     = 256
	batchesAtOnce = 4
	// batchWait is how long a blob waits for others.
	batchWait = time.Millisecond
	// batchOff is for how long there are none where a server has no such request.
	batchOff = 10 * time.Minute
)

// get asks for a blob along with others. It returns errOrdinary where that is to be asked
// for alone.
func (b *batches) get(ctx context.Context, ref tier.Ref) (data []byte, err error) {
	w := &want{ref: ref, done: make(chan struct{})}
	b.mu.Lock()
	if time.Now().Before(b.off) {
		b.mu.Unlock()
		return nil, errOrdinary
	}
	g := b.domains[ref.Domain]
	if g == nil {
		g = &gathering{}
		b.domains[ref.Domain] = g
	}
	g.next = append(g.next, w)
	if !g.due && g.running < batchesAtOnce {
		g.due = true
		b.h.tasks.Go(func() { b.gather(g, ref.Domain) })
	}
	b.mu.Unlock()
	var late <-chan time.Time
	for wanted := tier.Wanted(ctx); ; {
		select {
		case <-w.done:
			return w.data, w.err
		case <-wanted:
			wanted = nil
			if !b.waits(g, w) {
				late = time.After(b.h.halts())
				continue
			}
			err = errOrdinary // others are before it
		case <-late:
			err = errOrdinary // the batch may have come to a halt
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		b.mu.Lock()
		w.left = true
		b.mu.Unlock()
		return nil, err
	}
}

// waits tells whether a blob has not been asked for yet.
func (b *batches) waits(g *gathering, w *want) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(g.next, w)
}

// gather waits a moment and asks for what has come together, again and again while
// there is more.
func (b *batches) gather(g *gathering, domain string) {
	select {
	case <-time.After(batchWait):
	case <-b.h.ctx.Done():
	}
	b.mu.Lock()
	g.due = false
	g.running++
	for len(g.next) > 0 {
		n := min(len(g.next), batchMost)
		batch := g.next[:n:n]
		if g.next = g.next[n:]; len(g.next) > 0 && !g.due && g.running < batchesAtOnce {
			g.due = true
			b.h.tasks.Go(func() { b.gather(g, domain) })
		}
		b.mu.Unlock()
		b.ask(domain, batch)
		b.mu.Lock()
	}
	g.running--
	if g.running == 0 && !g.due {
		delete(b.domains, domain)
	}
	b.mu.Unlock()
}

// errNoBatches says that a server has no such request.
var errNoBatches = errors.New("the server has no batches")

// ask makes one request. What it doesn't bring is left to the ordinary way.
func (b *batches) ask(domain string, batch []*want) {
	wants := make(map[digest.Digest][]*want, len(batch))
	var text []byte
	limit := int64(1)
	b.mu.Lock()
	for _, w := range batch {
		if w.left {
			continue
		}
		if wants[w.ref.Digest] == nil {
			text = object.AppendWant(text, w.ref.Digest)
		}
		wants[w.ref.Digest] = append(wants[w.ref.Digest], w)
		limit = max(limit, w.ref.Max())
	}
	b.mu.Unlock()
	end := func(w *want, data []byte, err error) {
		w.data, w.err = data, err
		close(w.done)
	}
	err := b.read(domain, text, limit, len(wants), func(f object.Frame) {
		for _, w := range wants[f.Digest] {
			switch {
			case f.Status == object.FrameAbsent:
				end(w, nil, tier.ErrAbsent)
			case f.Status != object.FrameBlob || int64(len(f.Stored)) > w.ref.Max():
				end(w, nil, errOrdinary)
			default:
				end(w, f.Stored, nil)
			}
		}
		delete(wants, f.Digest)
	})
	if errors.Is(err, errNoBatches) {
		b.mu.Lock()
		b.off = time.Now().Add(batchOff)
		b.mu.Unlock()
	}
	for _, ws := range wants {
		for _, w := range ws {
			end(w, nil, errOrdinary)
		}
	}
}

// read asks for a text of n digests and calls each with what comes.
func (b *batches) read(domain string, text []byte, limit int64, n int, each func(object.Frame)) error {
	if n == 0 {
		return nil
	}
	ctx, cancel := context.WithCancelCause(b.h.ctx)
	defer cancel(nil)
	u, err := b.h.url(domain)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(text))
	if err != nil {
		return err
	}
	b.h.say(ctx, req)
	resp, err := b.h.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != object.FrameType {
		_, _ = io.CopyN(io.Discard, resp.Body, maxDrain)
		if isBusy(resp.StatusCode) || resp.StatusCode == http.StatusUnauthorized { // it may only have to be told of us anew
			return fmt.Errorf("POST %s: %s", bare(u), resp.Status)
		}
		return fmt.Errorf("POST %s: %w: %s", bare(u), errNoBatches, resp.Status)
	}
	// The cache may have to fetch them: that may take as long as an answer's header.
	watched := watch(resp.Body, b.h.limits.header, cancel)
	defer watched.stop()
	body := bufio.NewReaderSize(watched, pipeBuffer)
	for range n {
		f, err := object.ReadFrame(body, limit)
		if err != nil {
			return fmt.Errorf("POST %s: %w", bare(u), err)
		}
		watched.goOn()
		each(f)
	}
	return nil
}
