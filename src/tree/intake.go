package tree

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// intake bounds the metadata that is on its way into memory: being fetched, unpacked,
// checked and decoded. Who wants some has what it may take, by its stated size,
// admitted before it is asked for, and given back once it is decoded or refused.
//
// Each source has a line of its own, so that one that hangs holds up nobody
// else's. What is too large for a line goes one at a time, whatever the source, beside
// all that is small. Lines are first in, first out. Who has been admitted waits for
// nothing else here, so waiting ends.
type intake struct {
	mu    sync.Mutex
	most  int64           // GUARDED_BY(mu); bytes of one line
	lines map[Blobs]*line // GUARDED_BY(mu); those in use. That of what is large has no source
}

// line is what comes from one source, and who waits to be admitted.
type line struct {
	held    int64 // bytes
	waiting []*waiter
}

type waiter struct {
	bytes      int64
	background bool // nobody waits for it
	admitted   chan struct{}
}

// pass is what somebody was admitted with.
type pass struct {
	from  Blobs // nil: it is too large for a line
	line  *line
	bytes int64
}

// large tells whether there is nothing else that is too large for a line.
func (p pass) large() bool { return p.from == nil }

// small is how many bytes are to be made room for: all that is small stays beside what
// is large.
func (p pass) small() int64 {
	if p.large() {
		return 0
	}
	return p.bytes
}

// leastLine is as little as a line has, in bytes: some ordinary catalogs.
const leastLine = 4 * object.MaxBlob

// limit sets how many bytes a line has. Those admitted stay so.
func (in *intake) limit(most int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.most = max(most, leastLine)
	for from, l := range in.lines {
		in.advance(from, l)
	}
}

// admit waits until so many bytes may come from a source. Unless it fails, release must
// be called with what it returns once they are no longer needed, or are accounted for
// elsewhere. What is in the background stands behind, until it is tier.Wanted.
func (in *intake) admit(ctx context.Context, from Blobs, bytes int64) (pass, error) {
	in.mu.Lock()
	if bytes > in.most {
		from = nil
	}
	l := in.lines[from]
	if l == nil {
		if in.lines == nil {
			in.lines = make(map[Blobs]*line)
		}
		l = &line{}
		in.lines[from] = l
	}
	w := &waiter{bytes, tier.Background(ctx), make(chan struct{})}
	l.join(w)
	in.advance(from, l)
	in.mu.Unlock()
	p := pass{from, l, bytes}
	for wanted := tier.Wanted(ctx); ; {
		select {
		case <-w.admitted: // whether or not somebody still waits for it
			return p, nil
		default:
		}
		select {
		case <-w.admitted:
		case <-wanted:
			wanted = nil
			in.hurry(p, w)
		case <-ctx.Done():
			in.giveUp(p, w)
			return pass{}, waitedInVain(ctx, "for memory")
		}
	}
}

// join has somebody wait behind all that are as urgent.
func (l *line) join(w *waiter) {
	at := len(l.waiting)
	for !w.background && at > 0 && l.waiting[at-1].background {
		at--
	}
	l.waiting = slices.Insert(l.waiting, at, w)
}

// hurry tells that somebody waits for what w waits for.
func (in *intake) hurry(p pass, w *waiter) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if i := slices.Index(p.line.waiting, w); i >= 0 && w.background {
		p.line.waiting = slices.Delete(p.line.waiting, i, i+1)
		w.background = false
		p.line.join(w)
		in.advance(p.from, p.line)
	}
}

// advance admits who is first in a line for as long as there is room. in.mu is held.
func (in *intake) advance(from Blobs, l *line) {
	for len(l.waiting) > 0 {
		w := l.waiting[0]
		if l.held > 0 && (from == nil || l.held+w.bytes > in.most) {
			return
		}
		l.held += w.bytes
		l.waiting = slices.Delete(l.waiting, 0, 1)
		close(w.admitted)
	}
	if l.held == 0 {
		delete(in.lines, from)
	}
}

func (in *intake) release(p pass) {
	in.mu.Lock()
	defer in.mu.Unlock()
	p.line.held -= p.bytes
	in.advance(p.from, p.line)
}

// giveUp has somebody leave a line, who may just have been admitted.
func (in *intake) giveUp(p pass, w *waiter) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if i := slices.Index(p.line.waiting, w); i >= 0 {
		p.line.waiting = slices.Delete(p.line.waiting, i, i+1)
	} else {
		p.line.held -= w.bytes
	}
	in.advance(p.from, p.line)
}

// waitedInVain says that ctx is done, and what was waited for. Out of time is
// unavailable; a caller who left is not.
func waitedInVain(ctx context.Context, what string) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("wait %s: %w: %w", what, tier.ErrUnavailable, cause)
	}
	return fmt.Errorf("wait %s: %w", what, cause)
}
