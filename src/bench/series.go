package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How often the quick, warm condition is measured in each run: the quicker, the
// more often; and what takes turns with the reference twice as often as pairRepeats, for there
// it is about hundredths.
const (
	pageRepeats = 3
	pairRepeats = 5
	pageMost    = 21
	pageTime    = time.Second
)

// series measures one work on one file system in all conditions. What fails is
// noted in the sample.
func (b *bencher) series(ctx context.Context, w work, t *tree, c *contender, run int) {
	one := &series{bencher: b, ctx: ctx, w: w, t: t, c: c, run: run, grace: hangTime}
	wants := func(when string) bool {
		return slices.Contains(b.whens(w), when) && !c.slow[w.name+" "+when]
	}
	again := func(dir string) {
		if !wants(page) {
			return
		}
		before := len(b.res.Samples)
		if b.pairs(w, c) {
			one.turns(dir)
		} else {
			one.repeat(pageRepeats, pageTime, func() bool { return one.measure(page, dir) })
		}
		if done := b.res.Samples[before:]; len(done) > 0 && done[len(done)-1].Problem == "" {
			one.tell(page, medianOf(done, func(s sample) float64 { return s.Seconds }), fmt.Sprintf("in the middle of %d", len(done)))
		}
	}
	if c.from() != here && !c.slow[w.name+" "+cold] {
		one.mounted(false, func(dir string) {
			ok := one.measureOr(wants(cold), cold, dir)
			if c.from() == fresh && ok {
				again(dir)
			}
		})
	}
	if c.from() == fresh || c.hangs || c.lost[w.name] || !wants(disk) && !wants(page) {
		return
	}
	one.mounted(true, func(dir string) {
		if one.measureOr(wants(disk), disk, dir) {
			again(dir)
		}
	})
}

// repeat measures n times, and on until least has passed, but not for ever. It tells
// whether all of it was done.
func (s *series) repeat(n int, least time.Duration, measure func() bool) bool {
	began := time.Now()
	for done := 1; done <= pageMost; done++ {
		if !measure() {
			return false
		}
		if s.w.long || done >= n && time.Since(began) > least {
			break
		}
	}
	return true
}

// turns does the work page-warm by turns with the reference, a half of the times after
// each of them has filled the kernel's caches first. What is read into caches that were just
// emptied gets the memory that lies in pieces, and what is read next lies closer together, which
// makes some hundredths.
func (s *series) turns(dir string) {
	both := func() bool { return s.beside() && s.measure(page, dir) }
	s.rest()
	if !s.beside() || !s.repeat(pairRepeats, pageTime/2, both) {
		return
	}
	if err := dropCaches(); err != nil {
		s.say("%v", err)
		return
	}
	if !s.beside() || !s.fill(dir) {
		return
	}
	s.rest()
	s.repeat(pairRepeats, pageTime/2, both)
}

// fill has the kernel cache what the work needs.
func (s *series) fill(dir string) bool {
	_, err := s.within(func(ctx context.Context) (time.Duration, error) { return s.w.run(ctx, s.t, dir, page) })
	if err != nil && s.ctx.Err() == nil {
		s.say("%s %s: %v", s.w.name, s.c.name, err)
	}
	return err == nil
}

// pairs tells whether a work, page-warm, is done by turns with the reference.
func (b *bencher) pairs(w work, c *contender) bool {
	isReference := func(c *contender) bool { return c.name == reference }
	return !w.long && !c.peer && !isReference(c) && slices.ContainsFunc(b.lineup, isReference)
}

// beside does the work on the reference, for the next sample to be compared with. It
// tells whether that was done.
func (s *series) beside() bool {
	took, err := s.within(func(ctx context.Context) (time.Duration, error) { return s.w.run(ctx, s.t, s.t.dir, page) })
	s.native = took
	if err != nil && s.ctx.Err() == nil {
		s.say("%s %s beside %s: %v", s.w.name, reference, s.c.name, err)
	}
	return err == nil
}

// Page-warm works begin when the client has taken hardly any processor time for
// restLook, or after restMost: what it still does for those before is not what is
// measured.
const (
	restLook = 300 * time.Millisecond
	restMost = 5 * time.Second
	restCPU  = 0.05 // of one processor
)

func (s *series) rest() {
	for began := time.Now(); s.ctx.Err() == nil && time.Since(began) < restMost; {
		before := s.m.usage()
		time.Sleep(restLook)
		after := s.m.usage()
		if before == nil || after == nil || after.CPU-before.CPU <= restCPU*restLook.Seconds() {
			return
		}
	}
}

// measureOr also does the work where it is not wanted, for it fills caches. What
// takes long is not done for that. It tells whether they are filled.
func (s *series) measureOr(wanted bool, when, dir string) (ok bool) {
	if wanted || !s.w.long {
		return s.measure(when, dir)
	}
	_, err := s.within(func(ctx context.Context) (time.Duration, error) { return timed(ctx, dir, nil, tarArgs...) })
	if err != nil {
		s.say("%s %s: read the tree: %v", s.w.name, s.c.name, err)
	}
	return err == nil
}

// patience is how long a peer may take to be measured more than once: it is not
// they that most of the time should go to.
const patience = 5 * time.Second

// errTooLong is why a work was given up.
var errTooLong = errors.New("longer than the limit")

// series is what belongs to one call of bencher.series.
type series struct {
	*bencher
	ctx    context.Context
	w      work
	t      *tree
	c      *contender
	run    int
	m      *mounted
	before netUse // the link's counters at the mount
	mount  time.Duration
	native time.Duration // what the reference took right before
	grace  time.Duration // for what was given up
}

// mounted has the tree mounted, on a machine whose kernel has nothing cached,
// while do runs.
func (s *series) mounted(keep bool, do func(dir string)) {
	if err := dropCaches(); err != nil {
		s.say("%v", err)
	}
	s.before = s.net()
	var m *mounted
	var err error
	began := time.Now()
	if !inTime(mountLimit, func() { m, err = s.c.mount(s.ctx, s.t, keep) }) {
		s.hang()
		return
	}
	s.mount = time.Since(began)
	if err != nil {
		if s.ctx.Err() == nil {
			s.skip(s.c.name+" "+s.w.name, err.Error())
		}
		return
	}
	s.m = m
	do(m.dir)
	if s.c.hangs || !inTime(unmountLimit, m.unmount) {
		s.hang()
	}
}

// hang is for a client that nothing more can be expected of.
func (s *series) hang() {
	s.c.hangs = true
	s.skip(s.c.name, "it hangs: left out from here on")
}

// How long what was given up may take to end, and what drivers limit by themselves.
const (
	hangTime     = 10 * time.Second
	mountLimit   = 2 * time.Minute
	unmountLimit = time.Minute
)

// inTime tells whether do ends in time; if not, it goes on in the background.
func inTime(d time.Duration, do func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
		return true
	case <-time.After(d):
		return false
	}
}

// within does something on the mount until the limit, and then takes the client
// away from under what still waits for it.
func (s *series) within(do func(context.Context) (time.Duration, error)) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(s.ctx, s.limit(), errTooLong)
	defer cancel()
	var took time.Duration
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		took, err = do(ctx)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		wait := func() { <-done }
		if !inTime(s.grace, wait) {
			s.m.abort()
			s.c.hangs = !inTime(s.grace, wait)
		}
	}
	if ctx.Err() != nil {
		return s.limit(), context.Cause(ctx)
	}
	return took, err
}

// limit is how long the work may take.
func (s *series) limit() time.Duration {
	if s.w.long {
		return 10 * s.o.limit
	}
	return s.o.limit
}

func (s *series) net() netUse {
	return netUse{Traffic: s.link.Traffic(), Requests: s.site.server.requests()}
}

// measure does the work once and keeps the sample, if it is asked for. It tells
// whether the work was done.
func (s *series) measure(when, dir string) (ok bool) {
	key := s.w.name + " " + when
	if s.ctx.Err() != nil || s.c.slow[key] {
		return false
	}
	stop := s.record(when)
	took, err := s.within(func(ctx context.Context) (time.Duration, error) { return s.w.run(ctx, s.t, dir, when) })
	stop()
	if s.ctx.Err() != nil {
		return false
	}
	if errors.Is(err, errAbsent) {
		for _, when := range conditions {
			s.c.slow[s.w.name+" "+when] = true
		}
		s.skip(s.w.name+" on "+s.c.name, err.Error())
		return false
	}
	out := sample{Work: s.w.name, When: when, Driver: s.c.name, Run: s.run, Seconds: took.Seconds()}
	if when == cold {
		out.Mount = s.mount.Seconds()
		if s.c.whole {
			out.Seconds += out.Mount
		}
	}
	if when == page {
		out.Native = s.native.Seconds()
	}
	switch {
	case errors.Is(err, errTooLong):
		out.Problem = errTooLong.Error()
		s.c.slow[key] = true
		s.c.lost[s.w.name] = s.c.lost[s.w.name] || when == cold
	case err != nil:
		out.Problem = err.Error() + s.m.lastWords()
	}
	if took > patience && s.c.name != reference && s.c.name != subject && !s.w.long {
		s.c.slow[key] = true
	}
	if s.c.hangs {
		out.Problem = errTooLong.Error()
	} else {
		out.Client = s.m.usage()
	}
	if s.c.from() != here && when != page {
		out.Net = s.netSince(s.before, when == cold && s.w.whole && s.c.name == subject)
	}
	if !slices.Contains(s.whens(s.w), when) {
		return out.Problem == ""
	}
	if when != page || out.Problem != "" {
		s.tell(when, out.Seconds, firstLine(out.Problem))
	}
	s.res.Samples = append(s.res.Samples, out)
	return out.Problem == ""
}

// tell tells what was measured to who waits.
func (s *series) tell(when string, took float64, note string) {
	s.say("%s", strings.TrimRight(fmt.Sprintf("%-7s %-5s %-13s run %d  %9s  %s", s.w.name, when, s.c.name, s.run, seconds(took), note), " "))
}

// netSince is what went over the link and, to compare, how long one request takes
// for the whole tree.
func (s *series) netSince(before netUse, compare bool) *netUse {
	n := s.net()
	n.Up, n.Down = n.Up-before.Up, n.Down-before.Down
	n.Connections, n.Requests = n.Connections-before.Connections, n.Requests-before.Requests
	if compare {
		if took, err := s.site.server.get(s.ctx, s.t.Bytes); err == nil {
			n.OneGet = took.Seconds()
		}
	}
	return &n
}

// record has perf look at the client until the function that it returns is
// called.
func (s *series) record(when string) (stop func()) {
	if !s.o.perf || s.m.client == nil || s.run > 1 {
		return func() {}
	}
	file := filepath.Join(s.o.out, fmt.Sprintf("perf-%s-%s-%s.data", s.w.name, when, s.c.name))
	p, err := startProcess(s.site.dir, exec.Command("perf", "record", "-q", "-F", "999", "-e", "cpu-clock", "--call-graph", "fp",
		"-p", fmt.Sprint(s.m.client.cmd.Process.Pid), "-o", file))
	if err != nil {
		s.say("perf: %v", err)
		return func() {}
	}
	time.Sleep(300 * time.Millisecond) // until it has begun
	return func() {
		p.cmd.Process.Signal(os.Interrupt)
		select {
		case <-p.ended:
		case <-time.After(20 * time.Second):
			p.stop()
		}
	}
}

// dropCaches makes the kernel forget all that it can read again.
func dropCaches() error {
	unix.Sync() // only what is on disk can be forgotten
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return fmt.Errorf("drop the kernel's caches: %w", err)
	}
	return nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
