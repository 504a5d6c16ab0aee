package pull

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aysfs/aysfs/src/debug"
	"github.com/aysfs/aysfs/src/tier"
)

// Options say what to pull, and where to.
type Options struct {
	Store  *debug.Store
	Mount  string      // its mount
	Dir    string      // made if its parent is there
	Force  bool        // what was changed here is overwritten, too
	DryRun bool        // only tell
	Report func(Event) // called for each path that is touched or is a problem
}

// Event is what is done with one path, or what is wrong with it.
type Event struct {
	Path string // bytes; empty where it is about all of them
	// Done is "added", "changed", "removed" or "mode"; empty for a problem.
	Done    string
	Problem string // what is wrong, and what was done about it
}

// Result counts paths.
type Result struct {
	Written, Removed int
	Problems         int
}

// Pull brings the present state of every path that was changed into the
// directory. Problems with single paths are told and counted; an error means
// that it could not go on.
func Pull(ctx context.Context, o Options) (Result, error) {
	p := &puller{Options: o}
	err := p.all(ctx)
	return p.res, err
}

// Watch is Pull, and then brings over whatever changes until ctx is done. It
// looks for changes every so often. When redis goes away it says so and waits.
func Watch(ctx context.Context, o Options, every time.Duration) (Result, error) {
	p := &puller{Options: o}
	at, err := o.Store.End(ctx)
	if err == nil {
		err = p.all(ctx)
	}
	if err != nil {
		return p.res, err
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	failing := false
	for {
		next, err := p.news(ctx, at)
		switch {
		case ctx.Err() != nil:
			return p.res, nil
		case err == nil && failing:
			p.Report(Event{Done: "redis answers again"})
		case err != nil && !errors.Is(err, tier.ErrUnavailable) && !errors.Is(err, tier.ErrDenied):
			return p.res, err
		case err != nil && !failing:
			p.Report(Event{Problem: err.Error() + "; waiting for it"})
		}
		failing = err != nil
		more := err == nil && next != at
		at = next
		if more {
			continue
		}
		select {
		case <-ctx.Done():
			return p.res, nil
		case <-tick.C:
		}
	}
}

// puller is one call of Pull or Watch.
type puller struct {
	Options
	res Result

	// Of one batch of changes.
	tree *worktree
	git  git
	past past
	gone map[string]bool // removed in this batch, or would be
}

// all pulls everything.
func (p *puller) all(ctx context.Context) error {
	changes := make(map[string]debug.Change)
	err := p.Store.Scan(ctx, func(c debug.Change, err error) error {
		if err != nil {
			p.problem(c.Path, "%v", err)
		} else {
			changes[c.Path] = c
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.batch(ctx, changes)
}

// news pulls what the log has behind at.
func (p *puller) news(ctx context.Context, at debug.Position) (debug.Position, error) {
	found, next, reset, err := p.Store.Since(ctx, at)
	if err != nil {
		return at, err
	}
	if reset {
		p.Report(Event{Done: "cleared: what was changed up to now stays here as it is"})
		return next, p.all(ctx)
	}
	changes := make(map[string]debug.Change)
	for _, e := range found {
		if _, ok := changes[e.Path]; ok {
			continue
		}
		c, ok, err := p.Store.Lookup(ctx, e.Path)
		switch {
		case errors.Is(err, debug.ErrFormat):
			p.problem(e.Path, "%v", err)
		case err != nil:
			return at, err
		case ok:
			changes[c.Path] = c
		}
	}
	if len(changes) > 0 {
		if err := p.batch(ctx, changes); err != nil {
			return at, err
		}
	}
	return next, nil
}

// batch brings changes over, and remembers what it did.
func (p *puller) batch(ctx context.Context, changes map[string]debug.Change) (err error) {
	if p.tree, err = openWorktree(ctx, p.Dir, p.Mount, p.DryRun); err != nil {
		return err
	}
	defer p.tree.close()
	if p.past, err = p.tree.readPast(); err != nil {
		return err
	}
	p.git, p.gone = git{dir: p.Dir}, make(map[string]bool)
	if !p.DryRun {
		defer func() { err = errors.Join(err, p.tree.writePast(p.past)) }()
	}
	for _, c := range inOrder(changes) {
		if err := p.one(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// inOrder has what is removed first, from the inside out, so that it is out of
// the way, and then directories before what is in them.
func inOrder(changes map[string]debug.Change) []debug.Change {
	all := slices.Collect(maps.Values(changes))
	slices.SortFunc(all, func(a, b debug.Change) int {
		switch {
		case a.Removed() && b.Removed():
			return strings.Compare(b.Path, a.Path)
		case a.Removed():
			return -1
		case b.Removed():
			return 1
		}
		return strings.Compare(a.Path, b.Path)
	})
	return all
}

func (p *puller) problem(path, format string, a ...any) {
	p.res.Problems++
	p.Report(Event{Path: path, Problem: fmt.Sprintf(format, a...)})
}

// one brings one change over. Its error ends it all; what is wrong with this
// path alone is told.
func (p *puller) one(ctx context.Context, c debug.Change) error {
	if why := reserved(c.Path); why != "" {
		p.problem(c.Path, "not written: %s", why)
		return nil
	}
	have, err := p.tree.look(c.Path)
	if c.Removed() && errors.Is(err, errNoDir) {
		have, err = local{}, nil // then it is not there
	}
	if err == nil {
		err = p.merge(ctx, c, have)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, tier.ErrUnavailable), errors.Is(err, tier.ErrDenied):
		return err // of redis
	case err != nil:
		p.problem(c.Path, "not done: %v", err)
	}
	return nil
}

// merge decides what becomes of a path of which have is here.
func (p *puller) merge(ctx context.Context, c debug.Change, have local) error {
	base, known := p.past[c.Path]
	switch {
	case have.is(c):
		return p.perm(c, have, base, known)
	case known && base.is(c) && !p.Force: // changed here alone
		return nil
	}
	ours := false
	if !p.Force || have.kind == debug.ModeDir {
		var err error
		if ours, err = p.changed(ctx, c.Path, have, base, known); err != nil {
			return err
		}
	}
	if ours {
		return p.beside(ctx, c, have)
	}
	return p.take(ctx, c, have)
}

// changed tells that what is here was changed here, and can't be had again.
func (p *puller) changed(ctx context.Context, path string, have local, base pulled, known bool) (bool, error) {
	switch {
	case have.absent():
		return false, nil
	case have.kind == debug.ModeDir:
		empty, err := p.tree.empty(path, p.gone)
		return !empty, err
	case known:
		return !base.left(have), nil
	}
	return !p.git.clean(ctx, path), nil
}

// perm makes the mode of what has the right content what it is there, unless it
// was changed here alone.
func (p *puller) perm(c debug.Change, have local, base pulled, known bool) error {
	perm := permOf(c)
	wanted := c.Mode != 0 && c.Kind() != debug.ModeLink && perm != have.perm && !(known && base.is(c) && base.Mode == c.Mode)
	if wanted {
		p.Report(Event{Path: c.Path, Done: "mode"})
		p.res.Written++
		if !p.DryRun {
			if err := p.tree.root.Chmod(c.Path, fs.FileMode(perm)); err != nil {
				return err
			}
		}
		have.perm = perm
	}
	p.past[c.Path] = pulled{c.MD5, c.Mode, have.perm}
	return nil
}

// permOf is the permissions here of what has a mode. The owner of a directory
// must be able to write what is in it.
func permOf(c debug.Change) uint32 {
	perm := c.Mode & 0o777
	if c.Kind() == debug.ModeDir {
		perm |= 0o700
	}
	return perm
}

// take makes the path here what it is there.
func (p *puller) take(ctx context.Context, c debug.Change, have local) error {
	perm := uint32(0o644)
	switch {
	case c.Mode != 0:
		perm = permOf(c)
	case have.kind == debug.ModeFile:
		perm = have.perm
	}
	if !p.DryRun {
		err := p.tree.put(ctx, p.Store, c, c.Path, have, perm)
		if errors.Is(err, errMoved) {
			return p.beside(ctx, c, have)
		}
		if err != nil {
			return err
		}
		if c.Kind() == debug.ModeLink {
			perm = 0o777
		}
		p.past[c.Path] = pulled{c.MD5, c.Mode, perm}
	}
	e := Event{Path: c.Path, Done: "changed"}
	switch {
	case c.Removed():
		e.Done = "removed"
		p.gone[c.Path] = true
		p.res.Removed++
	case have.absent():
		e.Done = "added"
		p.res.Written++
	default:
		p.res.Written++
	}
	p.Report(e)
	return nil
}

// beside sets what it is there beside what it is here. It is told once, for
// then ours is what follows from theirs.
func (p *puller) beside(ctx context.Context, c debug.Change, have local) error {
	switch {
	case c.Removed():
		p.problem(c.Path, "removed there, but %s here: left as it is", have.different())
	case c.Kind() == debug.ModeDir:
		p.problem(c.Path, "a directory there, but %s here: left as it is", have.different())
	default:
		name, there, err := p.tree.besideName(c)
		if err != nil {
			return err
		}
		if !there && !p.DryRun {
			perm := uint32(0o644)
			if c.Mode != 0 {
				perm = permOf(c)
			}
			if err := p.tree.put(ctx, p.Store, c, name, local{}, perm); err != nil {
				return err
			}
		}
		p.problem(c.Path, "changed there, but %s here: left as it is; theirs is beside it as %s", have.different(), Printable(name))
	}
	if !p.DryRun {
		p.past[c.Path] = pulled{c.MD5, c.Mode, have.perm}
	}
	return nil
}

// Printable is a path for a terminal: quoted where it has anything in it that
// is more than text.
func Printable(path string) string {
	if q := strconv.Quote(path); q != `"`+path+`"` {
		return q
	}
	return path
}
