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

	"github.com/aysfs/aysfs/src/bench/link"
)

// sample is one measurement.
type sample struct {
	Work    string  `json:"work"`
	When    string  `json:"when"`
	Driver  string  `json:"driver"`
	Run     int     `json:"run"`
	Seconds float64 `json:"seconds"`
	Problem string  `json:"problem,omitempty"` // why Seconds is nothing, or a limit
	// Of the client that served, after it.
	Client *usage `json:"client,omitempty"`
	// What went over the link since just before the mount.
	Net *netUse `json:"net,omitempty"`
}

// netUse is what a work took from the network.
type netUse struct {
	link.Traffic
	Requests int64 `json:"requests"`
	// OneGet is how long a single download of Down bytes takes; cold only.
	OneGet float64 `json:"one_get_seconds,omitempty"`
}

// bencher is one run of everything.
type bencher struct {
	o      *options
	res    *results
	site   *site
	link   *link.Link
	trees  map[string]*tree
	works  []work
	lineup []*contender
}

// contender is a driver that takes part.
type contender struct {
	name string
	driver
	prepared map[string]error // by tree
	slow     map[string]bool  // work and condition that need not be done again
	lost     map[string]bool  // work that did not end cold, so that the disk lacks something
}

// newBench returns what close must be called for, even with an error.
func newBench(ctx context.Context, o *options, dir string) (b *bencher, err error) {
	b = &bencher{o: o, trees: make(map[string]*tree), site: &site{dir: dir}}
	if err := furnish(); err != nil {
		return b, err
	}
	os.Setenv("TMPDIR", dir)
	if b.site.bin, err = filepath.Abs(o.bin); err != nil {
		return b, err
	}
	near := link.NewThread()
	defer near.End()
	if b.link, err = link.New(o.link, near); err != nil {
		return b, err
	}
	root := filepath.Join(dir, "served")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return b, err
	}
	if memory("MemAvailable") > 4<<30 {
		// The server's files stay in memory when the caches are dropped: its
		// disk is not what is measured.
		if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
			return b, fmt.Errorf("mount tmpfs for the server: %w", err)
		}
	}
	if b.site.server, err = startServer(ctx, filepath.Join(dir, "nginx"), root, b.link.Far(), o.h2); err != nil {
		return b, err
	}
	if err := b.site.server.makeZeros(); err != nil {
		return b, err
	}
	b.res = newResults(ctx, o, b.site)
	b.chooseWorks()
	b.chooseDrivers()
	return b, nil
}

func (b *bencher) close() {
	if b.site.server != nil {
		b.site.server.stop()
	}
	if b.link != nil {
		b.link.Close()
	}
}

func (b *bencher) chooseWorks() {
	for _, w := range works {
		if slices.Contains(b.o.works, w.name) || b.o.works == nil && !w.slow {
			b.works = append(b.works, w)
		}
	}
}

func (b *bencher) chooseDrivers() {
	for _, d := range drivers {
		if b.o.drivers != nil && !slices.Contains(b.o.drivers, d.name) {
			continue
		}
		made := d.make(b.site)
		if why := made.absent(); why != "" {
			b.skip(d.name, why)
			continue
		}
		b.lineup = append(b.lineup, &contender{name: d.name, driver: made, prepared: make(map[string]error), slow: make(map[string]bool), lost: make(map[string]bool)})
	}
}

// skip notes, and tells, that something is left out.
func (b *bencher) skip(what, why string) {
	b.say("%s: skipped: %s", what, why)
	b.res.Skipped = append(b.res.Skipped, what+": "+why)
}

func (b *bencher) say(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, a...))
}

// measureAll does every work on every file system, runs times. The file systems
// take turns within a run, so that what disturbs the machine disturbs all.
func (b *bencher) measureAll(ctx context.Context) error {
	for _, w := range b.works {
		t, err := b.tree(ctx, w.tree)
		if errors.Is(err, errAbsent) {
			b.skip(w.name, err.Error())
			continue
		}
		if err != nil {
			return err
		}
		b.warm(w)
		for run := range b.o.runs {
			for _, c := range b.lineup {
				if err := b.prepare(ctx, c, t); err != nil {
					continue
				}
				b.series(ctx, w, t, c, run+1)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
			}
		}
	}
	return nil
}

// tree makes a tree when it is first needed.
func (b *bencher) tree(ctx context.Context, name string) (*tree, error) {
	if t := b.trees[name]; t != nil {
		return t, nil
	}
	t, err := makeTree(ctx, b.site.path("trees"), name, b.o.quick)
	if err != nil {
		return nil, err
	}
	b.say("tree %s: %d files, %d directories, %.0f MB", name, t.Files, t.Dirs, float64(t.Bytes)/1e6)
	b.trees[name], b.res.Trees[name] = t, t
	return t, nil
}

// prepare prepares a tree for a driver when that is first needed.
func (b *bencher) prepare(ctx context.Context, c *contender, t *tree) error {
	err, done := c.prepared[t.name]
	if !done {
		if err = c.prepare(ctx, t); err != nil {
			b.skip(c.name+" of the tree "+t.name, err.Error())
		}
		c.prepared[t.name] = err
	}
	return err
}

// warm reads the programs of a work, so that they need no disk.
func (b *bencher) warm(w work) {
	for _, p := range w.programs {
		if path, err := exec.LookPath(p); err == nil {
			os.ReadFile(path)
		}
	}
}

// pageRepeats is how often the quick, warm condition is measured in each run.
const pageRepeats = 3

// series measures one work on one file system in all conditions. What fails is
// noted in the sample.
func (b *bencher) series(ctx context.Context, w work, t *tree, c *contender, run int) {
	one := &series{bencher: b, ctx: ctx, w: w, t: t, c: c, run: run}
	wants := func(when string) bool { return slices.Contains(b.o.when, when) && !c.slow[w.name+" "+when] }
	if c.remote() && !c.slow[w.name+" "+cold] {
		// Also where cold is not asked for: it fills the client's disk.
		one.mounted(false, func(dir string) { one.measure(cold, dir) })
	}
	if c.lost[w.name] || !wants(disk) && !wants(page) {
		return
	}
	one.mounted(true, func(dir string) {
		one.measure(disk, dir)
		if wants(page) {
			repeats := pageRepeats
			if w.slow {
				repeats = 1
			}
			for range repeats {
				one.measure(page, dir)
			}
		}
	})
}

// patience is how long a peer may take to be measured more than once: it is not
// they that most of the time should go to.
const patience = 10 * time.Second

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
}

// mounted has the tree mounted, on a machine whose kernel has nothing cached,
// while do runs.
func (s *series) mounted(keep bool, do func(dir string)) {
	if err := dropCaches(); err != nil {
		s.say("%v", err)
	}
	s.before = s.net()
	m, err := s.c.mount(s.ctx, s.t, keep)
	if err != nil {
		if s.ctx.Err() == nil {
			s.skip(s.c.name+" "+s.w.name, err.Error())
		}
		return
	}
	defer m.unmount(s.c.driver)
	s.m = m
	do(m.dir)
}

func (s *series) net() netUse {
	return netUse{Traffic: s.link.Traffic(), Requests: s.site.server.requests()}
}

// measure does the work once and keeps the sample, if it is asked for.
func (s *series) measure(when, dir string) {
	key := s.w.name + " " + when
	if s.ctx.Err() != nil || s.c.slow[key] {
		return
	}
	limit := s.o.limit
	if s.w.slow {
		limit *= 10
	}
	ctx, cancel := context.WithTimeoutCause(s.ctx, limit, errTooLong)
	defer cancel()
	stop := s.record(when)
	took, err := s.w.run(ctx, s.t, dir, when)
	stop()
	if s.ctx.Err() != nil {
		return
	}
	out := sample{Work: s.w.name, When: when, Driver: s.c.name, Run: s.run, Seconds: took.Seconds()}
	switch {
	case ctx.Err() != nil:
		out.Seconds, out.Problem = limit.Seconds(), context.Cause(ctx).Error()
		s.c.slow[key] = true
		s.c.lost[s.w.name] = when == cold
	case err != nil:
		out.Problem = err.Error()
		if s.m.client != nil {
			out.Problem += "\n" + s.m.client.lastWords()
		}
	}
	if took > patience && s.c.name != reference && s.c.name != subject && !s.w.slow {
		s.c.slow[key] = true
	}
	if s.m.client != nil {
		if u, err := s.m.client.usage(); err == nil {
			out.Client = u
		}
	}
	if s.c.remote() && when != page {
		out.Net = s.netSince(s.before, when == cold)
	}
	if !slices.Contains(s.o.when, when) {
		return
	}
	note := ""
	if out.Problem != "" {
		note = "  " + firstLine(out.Problem)
	}
	s.say("%-7s %-5s %-11s run %d  %9s%s", s.w.name, when, s.c.name, s.run, seconds(out.Seconds), note)
	s.res.Samples = append(s.res.Samples, out)
}

// netSince is what went over the link and, to compare, how long one request takes
// for as much.
func (s *series) netSince(before netUse, compare bool) *netUse {
	n := s.net()
	n.Up, n.Down = n.Up-before.Up, n.Down-before.Down
	n.Connections, n.Requests = n.Connections-before.Connections, n.Requests-before.Requests
	if compare {
		if took, err := s.site.server.get(s.ctx, n.Down); err == nil {
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
