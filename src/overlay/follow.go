package overlay

import (
	"context"
	"errors"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/aysfs/aysfs/src/debug"
	"github.com/aysfs/aysfs/src/object"
)

// follower keeps a layer up to what redis has.
type follower struct {
	woken  chan struct{}
	at     debug.Position
	loaded bool // all that redis had was seen
	down   bool // it was said that redis can't be asked

	trouble  error   // why redis can't be asked; guarded by Layer.mu
	replaced []*Node // by what others wrote, until keepReplaced; guarded by Layer.mu
}

// wake lets the follower look at once.
func (l *Layer) wake() {
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// Follow keeps the layer up to what redis has until ctx ends. Redis may come and
// go: what was last known then stays.
func (l *Layer) Follow(ctx context.Context) {
	tick := time.NewTicker(l.opt.Every)
	defer tick.Stop()
	for {
		l.Poll(ctx)
		select {
		case <-tick.C:
		case <-l.woken:
		case <-ctx.Done():
			return
		}
	}
}

// Poll looks once at what others did, and sends what could not be sent before.
func (l *Layer) Poll(ctx context.Context) {
	wait, cancel := context.WithTimeout(ctx, l.opt.Timeout)
	defer cancel()
	err := l.poll(wait)
	if err == nil {
		err = l.sendLate(wait)
	}
	l.sweep()
	if ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	l.trouble = err
	l.mu.Unlock()
	switch {
	case err != nil && !l.down:
		l.down = true
		l.log.Warn("redis can't be asked: changed files show as last known, writes fail", "err", err)
	case err == nil && l.down:
		l.down = false
		l.log.Info("redis answers again")
	}
}

// Trouble is why redis could not be asked the last time; nil where it could.
func (l *Layer) Trouble() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.trouble
}

// Status is how a layer is doing.
type Status struct {
	Changed int   // paths that differ from the tree, as redis has it, removed ones included
	Scratch int   // what is on this machine only
	Unsent  int   // files that were written and that redis does not have yet
	Err     error // why redis can't be asked now
}

// Status waits for nothing.
func (l *Layer) Status() Status {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s := Status{Scratch: len(l.scratch), Err: l.trouble}
	for path := range l.shared {
		if l.matches(path) {
			s.Changed++
		}
	}
	for _, n := range l.nodes {
		if n.dirty && !n.gone {
			s.Unsent++
		}
	}
	return s
}

func (l *Layer) poll(ctx context.Context) error {
	if !l.loaded {
		return l.load(ctx)
	}
	for {
		found, next, reset, err := l.opt.Remote.Since(ctx, l.at)
		switch {
		case err != nil:
			return err
		case reset:
			return l.load(ctx)
		case len(found) == 0 && next == l.at:
			if l.at == (debug.Position{}) && l.knowsAny() {
				return l.load(ctx) // what we wrote was cleared before we saw it in the log
			}
			return nil
		}
		if err := l.catchUp(ctx, found); err != nil {
			return err
		}
		l.at = next
	}
}

func (l *Layer) knowsAny() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.shared) > 0
}

// load takes over all that redis has, in place of what was known.
func (l *Layer) load(ctx context.Context) error {
	if err := l.begin(ctx); err != nil {
		return err
	}
	paths, err := l.loadAll(ctx)
	l.keepReplaced()
	l.end()
	l.tell(paths)
	return err
}

func (l *Layer) loadAll(ctx context.Context) ([]string, error) {
	at, err := l.opt.Remote.End(ctx)
	if err != nil {
		return nil, err
	}
	all, err := l.opt.Remote.All(ctx)
	if err != nil {
		return nil, err
	}
	times := make(map[string]time.Time)
	if err := l.opt.Remote.Log(ctx, func(e debug.Entry) error {
		if c, ok := all[e.Path]; ok && c.MD5 == e.MD5 {
			times[e.Path] = e.Time
		}
		return nil
	}); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at, l.loaded = at, true
	var paths []string
	for path := range l.shared {
		if _, ok := all[path]; !ok {
			paths = append(paths, l.learn(path, nil)...)
		}
	}
	for path, c := range all {
		s := state{Change: c, time: times[path]}
		if s.time.IsZero() {
			s.time = time.Now()
		}
		paths = append(paths, l.learn(path, &s)...)
	}
	return paths, nil
}

// catchUp looks at the paths of new entries. What redis has of them counts, not
// what the log says: the entry may be behind that, or our own.
func (l *Layer) catchUp(ctx context.Context, entries []debug.Entry) error {
	last := make(map[string]debug.Entry)
	for _, e := range entries {
		last[e.Path] = e
	}
	if err := l.begin(ctx); err != nil {
		return err
	}
	now, err := l.opt.Remote.LookupAll(ctx, slices.Collect(maps.Keys(last)))
	if err != nil {
		l.end()
		return err
	}
	var paths []string
	l.mu.Lock()
	for path, e := range last {
		if c, ok := now[path]; ok {
			paths = append(paths, l.learn(path, &state{Change: c, time: e.Time})...)
		} else {
			paths = append(paths, l.learn(path, nil)...)
		}
	}
	l.mu.Unlock()
	l.keepReplaced()
	l.end()
	l.tell(paths)
	return nil
}

// learn takes over what redis has of one path; nil is nothing. It returns the
// path if that is news. l.mu is held.
func (l *Layer) learn(path string, s *state) []string {
	old, known := l.shared[path]
	switch {
	case s == nil && !known, s != nil && known && old.Change == s.Change:
		return nil
	case s == nil:
		delete(l.shared, path)
	default:
		l.shared[path] = *s
	}
	// A node that is being written stays, and its close is the last.
	if n := l.nodes[path]; n != nil && !n.dirty && n.Kind != object.Dir {
		delete(l.nodes, path)
		l.replaced = append(l.replaced, n)
	}
	l.refresh(path)
	if l.matches(path) {
		l.touch(Dir(path))
		return []string{path}
	}
	return nil
}

// sendLate sends what was changed and is not open any more.
func (l *Layer) sendLate(ctx context.Context) error {
	l.mu.RLock()
	var late []*Node
	for n := range l.late {
		late = append(late, n)
	}
	l.mu.RUnlock()
	for _, n := range late {
		err := n.Commit(ctx)
		n.idle()
		var changed []string
		l.mu.Lock()
		// What does not match any more never can be sent.
		never := errors.Is(err, syscall.EROFS) && n.dirty && !n.gone
		path := n.path
		if never && n.opens == 0 {
			changed = l.giveUp(n)
		}
		if never || !n.dirty {
			delete(l.late, n)
		}
		n.failed = nil // nobody was told
		done := l.settle(n)
		l.mu.Unlock()
		done()
		l.tell(changed)
		if changed != nil {
			l.log.Warn("a change is given up: its path does not match debug_filter any more", "path", path)
		}
		if err != nil && !never {
			return err
		}
	}
	return nil
}
