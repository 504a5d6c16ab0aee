package ledisbolt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

const (
	// keptShare is how much of the target is filled with what was fetched last:
	// the rest is for what sealed segments keep besides.
	keptShare = 0.85
	// copyBytes is how much is copied forward in one transaction.
	copyBytes = 8 << 20
	// worthwhile is how much of a segment must be expired for it to be rewritten
	// when there is room enough.
	worthwhile = 0.5
)

// Evict makes the segments of a domain, or of all with the empty name, take at
// most target bytes on disk, by giving up blobs that have not been fetched for
// longest. Those last fetched before expired are given up in any case, once
// half of their segment is; the zero time expires none.
//
// It works on one segment after the other: what is wanted of it is copied to
// the newest one, as far as there is room, and its file is unlinked. In between
// others may write. It returns how many bytes were freed, even with an error;
// it stops when ctx is done.
func (s *Store) Evict(ctx context.Context, domain string, target int64, expired time.Time) (freed int64, err error) {
	if err := s.flush(); err != nil && !errors.Is(err, ErrFull) {
		return 0, fmt.Errorf("evict: %w", err)
	}
	before := s.scopeBytes(domain)
	old := uint32(0) // what was last fetched before that has expired
	if !expired.IsZero() {
		old = uint32(min(max(expired.Unix(), 0), math.MaxUint32))
	}
	cold := max(old, s.cutoff(domain, target))
	tried := make(map[*segment]bool)
	for ctx.Err() == nil {
		from := cold
		over := s.scopeBytes(domain) > target
		if !over {
			from = old
		}
		d, g, share := s.victim(domain, from, tried)
		if g == nil || !over && share < worthwhile {
			break
		}
		if share == 0 {
			from = math.MaxUint32 // still over, and nothing is cold: this one is the coldest
		}
		tried[g] = true
		if err = d.evict(ctx, g, from); err != nil {
			break
		}
	}
	if err == nil {
		err = ctx.Err()
	}
	freed = before - s.scopeBytes(domain)
	if err != nil {
		return freed, fmt.Errorf("evict: %w", err)
	}
	return freed, nil
}

// scope is the domains that a name means. mu is held.
func (s *Store) scope(name string) []*domain {
	var all []*domain
	for _, d := range s.domains {
		if name == "" || name == d.name {
			all = append(all, d)
		}
	}
	return all
}

func (s *Store) scopeBytes(name string) (n int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, d := range s.scope(name) {
		n += d.bytes()
	}
	return n
}

// cutoff is the time before which blobs are to go so that the others take about
// keptShare of target. Sizes are not known: a blob counts as the average of its
// segment.
func (s *Store) cutoff(name string, target int64) uint32 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	type age struct {
		stamp uint32
		bytes float64
	}
	weights := make(map[uint32]float64)
	total := int64(0)
	for _, d := range s.scope(name) {
		total += d.bytes()
		average := make([]float64, len(d.bySlot))
		for slot, g := range d.bySlot {
			if g != nil {
				average[slot] = float64(g.size.Load()) / float64(max(d.index.at(slot), 1))
			}
		}
		for i := range d.index.entries {
			if e := d.index.load(i); e != 0 {
				weights[d.index.loadStamp(i)] += average[e.slot()]
			}
		}
	}
	if total <= target {
		return 0
	}
	ages := make([]age, 0, len(weights))
	for stamp, bytes := range weights {
		ages = append(ages, age{stamp, bytes})
	}
	slices.SortFunc(ages, func(a, b age) int { return cmp.Compare(b.stamp, a.stamp) })
	kept := 0.0
	for _, a := range ages {
		if kept += a.bytes; kept > keptShare*float64(target) {
			return a.stamp + 1
		}
	}
	return 0
}

// victim is the segment of which the largest part was last fetched before
// cutoff, or is free already, and how large that part is. Where that is nothing
// it is the one that has not been fetched from for longest.
func (s *Store) victim(name string, cutoff uint32, tried map[*segment]bool) (vd *domain, vg *segment, cold float64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var oldest uint32
	for _, d := range s.scope(name) {
		hot, newest := make([]int, len(d.bySlot)), make([]uint32, len(d.bySlot))
		for i := range d.index.entries {
			if e := d.index.load(i); e != 0 {
				stamp := d.index.loadStamp(i)
				newest[e.slot()] = max(newest[e.slot()], stamp)
				if stamp >= cutoff {
					hot[e.slot()]++
				}
			}
		}
		for slot, g := range d.bySlot {
			if g == nil || tried[g] {
				continue
			}
			share := 1 - (1-g.freeShare())*float64(hot[slot])/float64(max(d.index.at(slot), 1))
			if share < 0.01 {
				share = 0
			}
			if vg == nil || share > cold || share == cold && newest[slot] < oldest {
				vd, vg, cold, oldest = d, g, share, newest[slot]
			}
		}
	}
	return vd, vg, cold
}

// freeShare is how much of the file is free again, of 1.
func (g *segment) freeShare() float64 {
	return float64(g.free.Load()) / float64(max(g.size.Load(), 1))
}

// carried is a blob to be copied forward.
type carried struct {
	field string
	value []byte
	stamp uint32
}

// evict copies the blobs of g that were fetched at from or later to the newest
// segment, and unlinks g.
func (d *domain) evict(ctx context.Context, g *segment, from uint32) error {
	var after []byte
	for done := false; !done; {
		if err := ctx.Err(); err != nil {
			return err
		}
		d.s.writing.Lock()
		err := func() error {
			defer d.s.writing.Unlock()
			if d.active == g {
				d.seal()
			}
			var hot []carried
			var err error
			if hot, after, err = d.hot(g, from, after); err != nil {
				return err
			}
			done = after == nil
			return d.carry(g, hot)
		}()
		if errors.Is(err, ErrDamaged) || errors.Is(err, errGone) {
			d.trouble(g, err)
			return nil
		}
		if err != nil {
			return err
		}
	}
	d.s.writing.Lock()
	defer d.s.writing.Unlock()
	d.s.mu.Lock()
	if !d.has(g) {
		d.s.mu.Unlock()
		return nil
	}
	lost := d.forget(g)
	d.s.mu.Unlock()
	d.s.evicted.Add(int64(lost))
	d.changed.Store(true)
	d.unlink(g)
	return nil
}

// hot reads blobs of g that are to be kept, those after the field after, and
// returns where to go on; nil if that was all.
func (d *domain) hot(g *segment, from uint32, after []byte) (hot []carried, next []byte, err error) {
	snap, err := g.acquire()
	if err != nil {
		return nil, nil, err
	}
	defer snap.release()
	bytes := int64(0)
	err = guard(func() error {
		c := snap.kv.Cursor()
		k, v := c.First()
		if after != nil {
			if k, v = c.Seek(after); string(k) == string(after) {
				k, v = c.Next()
			}
		}
		for ; k != nil; k, v = c.Next() {
			d.s.mu.RLock()
			stamp := d.index.stamp(fingerprint(k), g.slot)
			d.s.mu.RUnlock()
			if stamp == 0 || stamp < from {
				continue
			}
			if bytes >= copyBytes {
				return nil
			}
			at, err := snap.locateAt(k, v)
			if err != nil {
				return err
			}
			value, err := snap.read(at)
			if err != nil {
				return err
			}
			next = slices.Clone(k)
			if err := d.s.crc.check(snap, at, k, value); err != nil {
				d.s.corrupt.Add(1)
				d.s.log.Warn("damaged blob not kept", "op", "evict", "domain", d.name, "err", err)
				continue
			}
			bytes += int64(len(value))
			hot = append(hot, carried{string(k), value, stamp})
		}
		next = nil
		return nil
	})
	return hot, next, err
}

// carry writes blobs of g to the newest segment. Those for which there is no
// room stay behind. writing is held.
func (d *domain) carry(g *segment, hot []carried) error {
	ws := make([]write, len(hot))
	left := make([]int, len(hot))
	for i, h := range hot {
		ws[i], left[i] = write{h.field, h.value}, i
	}
	for len(left) > 0 {
		to, n, err := d.room(ws, left)
		if errors.Is(err, ErrFull) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := d.putAll(to, ws, left[:n]); err != nil {
			d.spoilt(to, err)
			return err
		}
		d.s.mu.Lock()
		for _, i := range left[:n] {
			move{d: d, fp: fingerprint(hot[i].field), from: g, to: to, stamp: hot[i].stamp}.apply(0)
		}
		d.s.epoch++
		d.s.mu.Unlock()
		left = left[n:]
	}
	return nil
}
