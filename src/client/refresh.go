package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tree"
)

// look is what the last look at a mount's head came to.
type look struct {
	at      time.Time // when the store last answered
	problem problem
	err     error // nil where all is well
}

// problem is why a mount doesn't show its store's newest head.
type problem int

const (
	none        problem = iota
	unreachable         // the store could not be asked
	absent              // the store has no head of the tree any more
	refused             // its head is older, or is not signed as it should
	incomplete          // its objects can't be had yet
)

// problemOf tells what err, why there is no head of the store's, stands for.
func problemOf(err error) problem {
	switch {
	case errors.Is(err, tree.ErrOlder), errors.Is(err, object.ErrUnsigned), errors.Is(err, object.ErrHead):
		return refused
	case errors.Is(err, tier.ErrAbsent) && !errors.Is(err, tier.ErrUnavailable):
		return absent
	}
	return unreachable
}

// refresh looks at the heads of all mounts from time to time, until the client
// stops. While a store can't be reached it looks more often at first.
func (c *Client) refresh() {
	var pause time.Duration // between looks for a store that is away
	for {
		every := c.config().Main.Refresh
		most := every
		if most == 0 {
			most = time.Minute
		}
		wait := every - time.Duration(rand.Int64N(int64(every)/8+1)) // machines that started together drift apart
		if pause > 0 {
			wait = min(pause, most)
		}
		var due <-chan time.Time
		if wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-due:
		case <-c.looks:
		case <-c.life.Done():
			return
		}
		switch {
		case c.lookAtAll():
			pause = 0
		case pause == 0:
			pause = firstPause
		default:
			pause = min(2*pause, most)
		}
	}
}

// lookSoon asks for a look at the heads.
func (c *Client) lookSoon() {
	select {
	case c.looks <- struct{}{}:
	default:
	}
}

// wanted is one tree of one store.
type wanted struct {
	origin *origin
	tree   object.TreeName
}

// maxLooks is how many heads are asked for at once.
const maxLooks = 8

// lookAtAll looks at the head of each tree once, however many mounts show it, and
// moves these. It is false where a store could not be asked.
func (c *Client) lookAtAll() bool {
	groups := make(map[wanted][]*mount)
	c.mu.Lock()
	for _, m := range c.mounts {
		if f, s := m.showing(); s.head != nil && !over(f) { // without a tree keep looks
			cfg, _ := m.config()
			k := wanted{m.origin, treeName(cfg)}
			groups[k] = append(groups[k], m)
		}
	}
	c.mu.Unlock()
	var all sync.WaitGroup
	var mu sync.Mutex
	ok := true
	slots := make(chan struct{}, maxLooks)
	for k, mounts := range groups {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if !c.lookAt(k, mounts) {
				mu.Lock()
				ok = false
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return ok
}

// moveTime is how long a move may take; what was fetched by then is not fetched
// again.
const moveTime = 2 * time.Minute

// lookAt looks at one head, and moves the mounts that show another one. It is
// false where the store could not be asked.
func (c *Client) lookAt(k wanted, mounts []*mount) bool {
	ctx, cancel := context.WithTimeout(c.life, c.config().Main.IOTimeout)
	found := k.origin.look(ctx, k.tree)
	cancel()
	mounts = slices.DeleteFunc(mounts, func(m *mount) bool { return m.life.Err() != nil }) // gone meanwhile
	if len(mounts) == 0 {
		return true
	}
	if !found.Fresh {
		kind := problemOf(found.Err)
		c.said(k, mounts, look{problem: kind, err: found.Err})
		return kind != unreachable
	}
	now := time.Now()
	for _, m := range mounts {
		err := c.follows(m, found.Head)
		if m.life.Err() != nil {
			continue
		}
		l := look{at: now}
		switch {
		case err == nil:
		case errors.Is(err, tree.ErrOlder):
			l.problem, l.err = refused, err
		default:
			l.problem, l.err = incomplete, err
		}
		c.said(k, []*mount{m}, l)
	}
	return true
}

// follows moves a mount to a head, unless it shows that or a newer one.
func (c *Client) follows(m *mount, head *object.Head) error {
	_, s := m.showing()
	if s.head.Text() == head.Text() {
		m.mu.Lock()
		m.shown.fresh = true
		m.mu.Unlock()
		return nil
	}
	if s.head.Tree == head.Tree && head.Serial < s.head.Serial {
		return fmt.Errorf("head of %v: serial %d, %d is shown: %w", head.Tree, head.Serial, s.head.Serial, tree.ErrOlder)
	}
	ctx, cancel := context.WithTimeout(m.life, moveTime)
	defer cancel()
	return c.show(ctx, m, head, true)
}

// said notes what a look came to, and logs it where it is another thing than the
// time before.
func (c *Client) said(k wanted, mounts []*mount, l look) {
	news := false
	var paths []string
	for _, m := range mounts {
		m.mu.Lock()
		news = news || m.look.problem != l.problem
		if l.at.IsZero() {
			l.at = m.look.at
		}
		m.look = l
		if l.problem == unreachable {
			m.shown.fresh = false
		}
		paths = append(paths, m.path)
		m.mu.Unlock()
	}
	slices.Sort(paths)
	level, what := slog.LevelInfo, "the newest head is shown again"
	switch l.problem {
	case none:
	case unreachable:
		level, what = slog.LevelWarn, "the store can't be asked for newer heads: what is shown stays"
	case absent:
		level, what = slog.LevelWarn, "the store no longer has the tree: what is shown stays"
	case refused:
		level, what = slog.LevelError, "the store's head is refused: what is shown stays"
	case incomplete:
		level, what = slog.LevelWarn, "a newer head can't be shown yet: what is shown stays"
	}
	if !news {
		level = slog.LevelDebug
	}
	args := []any{"op", "refresh", "store", k.origin.name, "tree", k.tree.String(), "mounts", paths}
	if l.err != nil {
		args = append(args, "err", l.err)
	}
	c.log.Log(c.life, level, what, args...)
}
