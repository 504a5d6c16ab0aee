package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	// Mount is what mounting took before, cold. Of drivers that fetch everything
	// then it is a part of Seconds.
	Mount float64 `json:"mount_seconds,omitempty"`
	// Native is what the reference took right before, where they took turns.
	Native float64 `json:"native_seconds,omitempty"`
	// Of the clients that served, after it.
	Client *usage `json:"client,omitempty"`
	// What went over the link since just before the mount.
	Net *netUse `json:"net,omitempty"`
}

// netUse is what a work took from the network.
type netUse struct {
	link.Traffic
	Requests int64 `json:"requests"`
	// OneGet is how long curl takes for as many bytes as the tree has, in one file;
	// cold only, and only for works that read them all.
	OneGet float64 `json:"one_get_seconds,omitempty"`
}

// bencher is one run of everything.
type bencher struct {
	o      *options
	res    *results
	site   *site
	link   *link.Link
	trees  map[string]*tree
	broken map[string]error // trees that can't be made
	works  []work
	lineup []*contender
	end    time.Time                // nothing is repeated after it
	took   map[string]time.Duration // what can be repeated
	cut    bool                     // something was not repeated
}

// contender is a driver that takes part.
type contender struct {
	kind
	driver
	prepared map[string]error // by tree
	slow     map[string]bool  // work and condition that need not be done again
	lost     map[string]bool  // work that did not end cold, so that the disk lacks something
	hangs    bool             // and has left something behind that can't be ended
}

// newBench returns what close must be called for, even with an error.
func newBench(ctx context.Context, o *options, dir string) (b *bencher, err error) {
	b = &bencher{o: o, trees: make(map[string]*tree), broken: make(map[string]error), site: &site{dir: dir},
		end: time.Now().Add(o.within), took: make(map[string]time.Duration)}
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
	if memory("MemAvailable") > 8<<30 {
		// The server's files stay in memory when the caches are dropped: its
		// disk is not what is measured.
		if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
			return b, fmt.Errorf("mount tmpfs for the server: %w", err)
		}
	}
	if b.site.server, err = startServer(ctx, filepath.Join(dir, "nginx"), root, b.link.Far(), o.tls); err != nil {
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
		if slices.Contains(b.o.works, w.name) || b.o.works == nil && !w.asked {
			b.works = append(b.works, w)
		}
	}
}

func (b *bencher) chooseDrivers() {
	for _, k := range drivers {
		if !slices.Contains(b.o.drivers, k.name) && (b.o.drivers != nil || k.asked) {
			continue
		}
		d := k.make(b.site)
		if why := d.absent(); why != "" {
			b.skip(k.name, why)
			continue
		}
		b.lineup = append(b.lineup, &contender{kind: k, driver: d, prepared: make(map[string]error), slow: make(map[string]bool), lost: make(map[string]bool)})
	}
}

// does tells whether a work is for a contender, where not all is asked for.
func (b *bencher) does(c *contender, w work) bool {
	switch {
	case c.hangs || c.tree != "" && c.tree != w.tree:
		return false
	case w.long && len(b.whens(w)) == 0:
		return false
	case b.o.works != nil && (b.o.drivers != nil || !w.long):
		return true
	case w.long:
		return c.name == reference || c.name == subject
	}
	return w.peers || !c.peer
}

// whens are the conditions in which a work is done.
func (b *bencher) whens(w work) []string {
	if w.long && b.o.works == nil {
		return slices.DeleteFunc(slices.Clone(b.o.when), func(when string) bool { return when != page })
	}
	return b.o.when
}

// skip notes, and tells, that something is left out.
func (b *bencher) skip(what, why string) {
	b.say("%s: skipped: %s", what, why)
	if line := what + ": " + why; !slices.Contains(b.res.Skipped, line) {
		b.res.Skipped = append(b.res.Skipped, line)
	}
}

func (b *bencher) say(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, a...))
}

// repeat does something for the first time, or again if there is time for that.
func (b *bencher) repeat(name string, run int, do func()) {
	if run > 0 && time.Now().Add(b.took[name]).After(b.end) {
		if !b.cut {
			b.say("the time is up: from here on nothing is repeated that takes longer than what is left")
		}
		b.cut = true
		return
	}
	began := time.Now()
	do()
	b.took[name] = time.Since(began)
}

// isPeer tells others from the reference and the subject.
func isPeer(c *contender) bool { return c.peer }

// measureAll does every work on those file systems that are chosen. They take
// turns, so that what disturbs the machine disturbs all.
func (b *bencher) measureAll(ctx context.Context, run int, chosen func(*contender) bool) error {
	for _, w := range b.works {
		if w.long && run > 0 {
			continue
		}
		t, err := b.tree(ctx, w.tree)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			b.skip(w.name, err.Error())
			continue
		}
		b.warm(w)
		for _, c := range b.lineup {
			if !chosen(c) || !b.does(c, w) || b.prepare(ctx, c, t) != nil {
				continue
			}
			b.repeat(w.name+" "+c.name, run, func() { b.series(ctx, w, t, c, run+1) })
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// tree makes a tree when it is first needed.
func (b *bencher) tree(ctx context.Context, name string) (*tree, error) {
	if t := b.trees[name]; t != nil || b.broken[name] != nil {
		return t, b.broken[name]
	}
	t, err := makeTree(ctx, b.site.path("trees"), name, b.o.quick)
	if err != nil {
		b.broken[name] = err
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
