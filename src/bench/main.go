package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/aysfs/aysfs/src/bench/link"
)

// options are what the command line says.
type options struct {
	runs    int
	works   []string
	drivers []string
	when    []string
	quick   bool
	publish bool
	tls     bool
	perf    bool
	limit   time.Duration
	within  time.Duration
	from    string
	bin     string
	out     string
	link    link.Config
}

func main() { os.Exit(run()) }

func run() int {
	o, err := readFlags(os.Args[1:])
	if err == flag.ErrHelp {
		return 0
	}
	switch {
	case err != nil:
	case o.from != "":
		err = show(o)
	case os.Getenv(sandboxEnv) == "":
		var code int
		if code, err = inSandbox(o.out); err == nil {
			return code
		}
	default:
		err = bench(o, os.Getenv(sandboxEnv))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func readFlags(args []string) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.IntVar(&o.runs, "runs", 3, "how often everything is measured; medians are shown")
	fs.BoolVar(&o.quick, "quick", false, "small trees, one run, no slow peers: two minutes")
	fs.BoolVar(&o.publish, "publish", true, "measure publishing too")
	fs.BoolVar(&o.tls, "tls", false, "TLS between client and store")
	fs.BoolVar(&o.perf, "perf", false, "record the clients with perf while they are measured, into the output directory")
	fs.DurationVar(&o.limit, "limit", 20*time.Second, "longest time of a work, then it is given up; build has ten times that")
	fs.DurationVar(&o.within, "within", 14*time.Minute, "when nothing is repeated any more that would take longer; all is done once")
	fs.StringVar(&o.from, "from", "", "JSON `file` of an earlier run: measure nothing, show that")
	fs.StringVar(&o.bin, "bin", "bin", "`directory` with aysfs and ays")
	fs.StringVar(&o.out, "out", ".bench", "`directory` for results, and for trees and caches meanwhile")
	fs.DurationVar(&o.link.RoundTrip, "rtt", 10*time.Millisecond, "round trip of the link")
	fs.Float64Var(&o.link.Mbits, "mbits", 1000, "rate of the link each way, in Mbit/s")
	list := func(name string, all []string, standard, what string) *string {
		return fs.String(name, standard, what+", of "+strings.Join(all, ","))
	}
	works := list("works", workNames(), "", "what to measure (default all but stat, and of peers a few)")
	drivers := list("drivers", driverNames(), "", "on which file systems (default all that are there but aysfs-debug)")
	when := list("when", conditions, strings.Join(conditions, ","), "in which conditions")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("%q is not understood", fs.Arg(0))
	}
	if o.quick {
		o.runs = 1
		o.drivers = quickDrivers
	}
	var err error
	for _, l := range []struct {
		to    *[]string
		value string
		all   []string
	}{{&o.works, *works, workNames()}, {&o.drivers, *drivers, driverNames()}, {&o.when, *when, conditions}} {
		if l.value != "" {
			if *l.to, err = choose(l.value, l.all); err != nil {
				return nil, err
			}
		}
	}
	o.runs = max(o.runs, 1)
	return o, nil
}

// choose splits a list that must have nothing but names out of all.
func choose(value string, all []string) ([]string, error) {
	names := strings.Split(value, ",")
	for _, n := range names {
		if !slices.Contains(all, n) {
			return nil, fmt.Errorf("there is no %q; choose from %s", n, strings.Join(all, ","))
		}
	}
	return names, nil
}

// procs is for how many goroutines there is a P at least. Reads of a mount block theirs for
// a while, and the link, which is in this process, too, is not to wait for one.
const procs = 8

// bench does everything, with dir for what need not stay.
func bench(o *options, dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	runtime.GOMAXPROCS(max(procs, runtime.GOMAXPROCS(0)))
	b, err := newBench(ctx, o, dir)
	defer b.close()
	if err != nil {
		return err
	}
	for run := range o.runs {
		b.runAll(ctx, run)
	}
	for run := 1; run < o.runs; run++ {
		b.attempt(ctx, "works", func() error { return b.measureAll(ctx, run, isPeer) })
	}
	b.res.Seconds = time.Since(b.res.Time).Seconds()
	b.res.Machine.LoadAfter = loadAverage()
	// What there is, is shown even if it is not all.
	if !b.res.empty() {
		if err := b.res.keep(o.out); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if b.res.empty() {
		return errors.New("nothing could be measured")
	}
	return nil
}

// runAll measures everything once: at first, and all but the peers again.
func (b *bencher) runAll(ctx context.Context, run int) {
	b.attempt(ctx, "works", func() error {
		return b.measureAll(ctx, run, func(c *contender) bool { return run == 0 || !isPeer(c) })
	})
	b.repeat(demandWork, run, func() {
		b.attempt(ctx, demandWork, func() error { return b.measureDemand(ctx, run) })
	})
	b.repeat(siteWork, run, func() {
		b.attempt(ctx, siteWork, func() error { return b.measureSite(ctx, run) })
	})
	if run == 0 {
		b.attempt(ctx, manyWork, func() error { return b.measureMany(ctx) })
	}
	b.repeat("serve", run, func() {
		b.attempt(ctx, "serve", func() error { return b.measureServe(ctx, run) })
	})
	if b.o.publish {
		b.repeat("publish", run, func() {
			b.attempt(ctx, "publish", func() error { return b.measurePublish(ctx, run) })
		})
	}
}

// attempt does a part of all. If that fails, the others are not the worse for it.
func (b *bencher) attempt(ctx context.Context, part string, do func() error) {
	if ctx.Err() != nil {
		return
	}
	if err := do(); err != nil && ctx.Err() == nil {
		b.skip(part, err.Error())
	}
}

// show is for who has measured before.
func show(o *options) error {
	r, err := readResults(o.from)
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	return r.render(o.out)
}
