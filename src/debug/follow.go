package debug

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// pageEntries is how many entries of the log are asked for at once.
const pageEntries = 1000

// Position is a place in the log, between two entries. The zero Position is its
// beginning.
type Position struct {
	next int64
	last string // the entry before, by which one knows the log again
}

// End is the position behind the log's last entry.
func (s *Store) End(ctx context.Context) (Position, error) {
	for {
		var n int64
		var last []string
		err := s.conns.use(ctx, "look at the log of "+s.mount, func(c *call) error {
			last = nil
			err := c.do(&n, "LLEN", s.lines)
			if err != nil || n == 0 {
				return err
			}
			return c.do(&last, "LRANGE", s.lines, strconv.FormatInt(n-1, 10), strconv.FormatInt(n-1, 10))
		})
		switch {
		case err != nil || n == 0:
			return Position{}, err
		case len(last) == 1:
			return Position{n, last[0]}, nil
		} // else it was cleared in between
	}
}

// Since returns entries behind a position, not always all of them, and the
// position behind these; none if there are none yet. reset tells that the log
// is not the one of that position any more: it was cleared. It then goes on
// from the beginning. Entries that can't be read are left out, and told to the
// log.
func (s *Store) Since(ctx context.Context, p Position) (found []Entry, next Position, reset bool, err error) {
	first := max(p.next-1, 0)
	var lines []string
	err = s.conns.use(ctx, "read the log of "+s.mount, func(c *call) error {
		lines = nil
		return c.do(&lines, "LRANGE", s.lines, strconv.FormatInt(first, 10), strconv.FormatInt(first+pageEntries, 10))
	})
	if err != nil {
		return nil, p, false, err
	}
	if p.next > 0 {
		if len(lines) == 0 || lines[0] != p.last {
			return nil, Position{}, true, nil
		}
		lines = lines[1:]
	}
	for _, line := range lines {
		e, err := parseEntry(p.next, line)
		if err != nil {
			s.log.Warn("ignoring an entry", "err", err)
		} else {
			found = append(found, e)
		}
		p = Position{p.next + 1, line}
	}
	return found, p, false, nil
}

// Log calls each for every entry of the log, oldest first. An error of each
// ends it.
func (s *Store) Log(ctx context.Context, each func(Entry) error) error {
	var at Position
	for {
		found, next, reset, err := s.Since(ctx, at)
		switch {
		case err != nil:
			return err
		case reset:
			return fmt.Errorf("read the log of %s: it was cleared meanwhile", s.mount)
		case next == at:
			return nil
		}
		for _, e := range found {
			if err := each(e); err != nil {
				return err
			}
		}
		at = next
	}
}

// Update is news from the log.
type Update struct {
	Entries []Entry
	Reset   bool  // the state was cleared: what was known of it is no more
	Err     error // redis can't be asked; the next Update without one goes on where this left off
}

// Follow asks for news behind a position all the while, and calls each where
// there is some, or an error, from one goroutine. It returns when ctx is done.
// Who takes an End first and then All misses nothing.
func (s *Store) Follow(ctx context.Context, at Position, every time.Duration, each func(Update)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	failing := false
	for {
		found, next, reset, err := s.Since(ctx, at)
		if ctx.Err() != nil {
			return
		}
		// That it works again is news, too.
		if len(found) > 0 || reset || err != nil || failing {
			each(Update{found, reset, err})
		}
		failing = err != nil
		more := err == nil && next != at
		at = next
		if more {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
