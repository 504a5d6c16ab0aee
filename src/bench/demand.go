package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// demandWork reads small files that are not here, one after the other and now and then,
// as a server does that runs, while the same client fetches ahead for another mount. It
// is about how much longer that takes: the means.
const demandWork = "demand"

// waited is how long such reads took.
type waited struct {
	Beside  string    `json:"beside"`
	Run     int       `json:"run"`
	Seconds []float64 `json:"seconds"` // of each read
	Down    int64     `json:"down"`    // bytes over the link meanwhile
}

// beside is what goes on in the other mount meanwhile.
type beside struct {
	name     string
	ahead    string        // what is fetched ahead; empty: nothing is
	than     string        // without that
	tree     string        // of the other mount
	prefetch int           // of that, as its config has it
	profile  bool          // there is one, of all that the tree has
	picks    bool          // a program begins there, and goes on to pick files
	time     time.Duration // for which files are read
	most     time.Duration // pauses are from leastPause to this
}

// Whole trees come only after 100 ms in which nobody read.
var besides = []beside{
	{name: "nothing", tree: "big", time: shortTime, most: shortPause},
	{name: "a profile", ahead: "a profile is fetched", than: "nothing", tree: "big", prefetch: 1, profile: true, time: shortTime, most: shortPause},
	{name: "the whole tree", ahead: "the whole tree is fetched", than: "nothing", tree: "big", prefetch: 2, time: 2 * shortTime, most: 200 * time.Millisecond},
	{name: "a start", tree: "python", picks: true, time: shortTime, most: shortPause},
	{name: "a start with guesses", ahead: "guesses are fetched", than: "a start", tree: "python", prefetch: 1, picks: true, time: shortTime, most: shortPause},
}

const (
	shortTime  = 1600 * time.Millisecond
	leastPause = 20 * time.Millisecond
	shortPause = 60 * time.Millisecond
	pickPause  = 25 * time.Millisecond // of who starts
	// Files that are read and picked, more than there is time for.
	smallFile   = 32 << 10
	demandFiles = 200
)

// measureDemand has the subject alone do it: it is about a promise of its own.
func (b *bencher) measureDemand(ctx context.Context, run int) error {
	if b.o.works != nil && !slices.Contains(b.o.works, demandWork) {
		return nil
	}
	d := &aysfs{site: b.site}
	if why := d.absent(); why != "" {
		return fmt.Errorf("%w: %s", errAbsent, why)
	}
	trees := make(map[string]*tree)
	for _, name := range []string{"go", "big", "python"} {
		t, err := b.tree(ctx, name)
		if err != nil {
			return err
		}
		if err := d.prepare(ctx, t); err != nil {
			return err
		}
		trees[name] = t
	}
	if run == 0 {
		if err := d.profileAll(ctx, trees["big"]); err != nil {
			return err
		}
	}
	for i := range besides {
		// What is slow now and then is not to be the same one's each time.
		at := besides[(i+run)%len(besides)]
		out, err := b.demandBeside(ctx, d, trees["go"], trees[at.tree], at)
		if err != nil {
			return fmt.Errorf("beside %s: %w", at.name, err)
		}
		out.Run = run + 1
		b.say("%-7s beside %-20s run %d  %d reads  mean %s  p50 %s  p99 %s  %.1f MB", demandWork, at.name, out.Run, len(out.Seconds),
			seconds(average(out.Seconds)), seconds(median(out.Seconds)), seconds(quantile(out.Seconds, 0.99)), float64(out.Down)/1e6)
		b.res.Demand = append(b.res.Demand, *out)
	}
	return nil
}

// profiledID is the name of a tree that is published once more, with a profile of all
// of it.
func profiledID(t *tree) string { return "bench|" + t.name + "(2)" }

// profileAll publishes the tree of one large file so.
func (d *aysfs) profileAll(ctx context.Context, t *tree) error {
	store := filepath.Join(d.server.root, d.store())
	if err := d.publish(ctx, store, t.dir, profiledID(t)); err != nil {
		return err
	}
	return runQuietly(ctx, time.Minute, filepath.Join(d.bin, "ays"), "profile", "record", "-replace", "-store", store, "-id", profiledID(t),
		"--", "cp", "{}/"+bigFile, os.DevNull)
}

// demandBeside reads files of one tree while another one is mounted beside it, from cold.
func (b *bencher) demandBeside(ctx context.Context, d *aysfs, t, other *tree, at beside) (*waited, error) {
	dirs := []string{d.path("mnt", demandWork, "read"), d.path("mnt", demandWork, "beside")}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	id := treeID(other)
	if at.profile {
		id = profiledID(other)
	}
	mounts := fmt.Sprintf(mountConfig, "read", dirs[0], treeID(t)) + "prefetch = 0\n" +
		fmt.Sprintf(mountConfig, "beside", dirs[1], id) + fmt.Sprintf("prefetch = %d\n", at.prefetch)
	m, err := d.start(ctx, d.path("cache", demandWork), false, dirs[0], mounts)
	if err != nil {
		return nil, err
	}
	m.lower = &mounted{dir: dirs[1]}
	defer m.unmount()
	var out *waited
	if !inTime(at.time+b.o.limit, func() { out, err = b.readBeside(ctx, dirs[0], t, dirs[1], other, at) }) {
		m.abort()
		return nil, errTooLong
	}
	return out, err
}

func (b *bencher) readBeside(ctx context.Context, dir string, t *tree, otherDir string, other *tree, at beside) (*waited, error) {
	paths, err := smallFiles(dir, t)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, at.time)
	defer cancel()
	var picking sync.WaitGroup
	var pickErr error
	if at.picks {
		picking.Go(func() { pickErr = pick(ctx, otherDir, other) })
	}
	before := b.link.Traffic().Down
	out := &waited{Beside: at.name}
	out.Seconds, err = readNowAndThen(ctx, paths, at.most)
	picking.Wait()
	out.Down = b.link.Traffic().Down - before
	return out, errors.Join(err, pickErr)
}

// smallFiles are the paths of small files of a tree in a mount, in no order, whose
// attributes were asked for there.
func smallFiles(dir string, t *tree) (paths []string, err error) {
	for _, k := range rand.New(rand.NewPCG(1, 2)).Perm(len(t.paths)) {
		path := filepath.Join(dir, t.paths[k])
		fi, err := os.Lstat(path)
		if err != nil {
			return nil, err
		}
		if fi.Mode().IsRegular() && fi.Size() > 0 && fi.Size() <= smallFile {
			if paths = append(paths, path); len(paths) == demandFiles {
				break
			}
		}
	}
	return paths, nil
}

// readNowAndThen reads the beginning of one file after the other until ctx is done,
// and tells how long each took.
func readNowAndThen(ctx context.Context, paths []string, most time.Duration) (took []float64, err error) {
	pauses := rand.New(rand.NewPCG(3, 4))
	for _, path := range paths {
		select {
		case <-time.After(leastPause + time.Duration(pauses.Int64N(int64(most-leastPause)))):
		case <-ctx.Done():
			return took, nil
		}
		began := time.Now()
		if err := readStart(path); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began).Seconds())
	}
	return took, nil
}

// readStart reads the first page of a file.
func readStart(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.Read(make([]byte, 4<<10)); err == io.EOF {
		err = nil
	}
	return err
}

// pick begins a program, as far as reading goes, and picks one small file after the
// other until ctx is done.
func pick(ctx context.Context, dir string, t *tree) error {
	if err := readStart(filepath.Join(dir, "bin/python3")); err != nil {
		return err
	}
	paths, err := smallFiles(dir, t)
	for _, path := range paths {
		select {
		case <-time.After(pickPause):
		case <-ctx.Done():
			return nil
		}
		if err = readStart(path); err != nil {
			break
		}
	}
	return err
}

// waits is how long the reads beside something took in all runs, and what the mean of
// these is; 0 if there are none.
func (r *results) waits(beside string) (each []float64, mean float64) {
	for _, w := range r.Demand {
		if w.Beside == beside {
			each = append(each, w.Seconds...)
		}
	}
	return each, average(each)
}

// demand has a row for each thing that small files were read beside.
func (r *results) demand() [][]string {
	rows := [][]string{{"beside", "reads", "mean", "", "p50", "p99", "MB down"}}
	for _, at := range besides {
		each, mean := r.waits(at.name)
		if len(each) == 0 {
			continue
		}
		_, than := r.waits(at.than)
		var down []float64
		for _, w := range r.Demand {
			if w.Beside == at.name {
				down = append(down, float64(w.Down))
			}
		}
		rows = append(rows, []string{at.name, fmt.Sprint(len(each)), seconds(mean), ratio(mean, than),
			seconds(median(each)), seconds(quantile(each, 0.99)), fmt.Sprintf("%.1f", median(down)/1e6)})
	}
	return rows
}

// demandGoals are about how much longer a read takes beside what is fetched ahead.
func (r *results) demandGoals() (goals []goal) {
	for _, at := range besides {
		if at.ahead == "" {
			continue
		}
		g := goal{what: "a read while " + at.ahead + " ahead", promise: "≤ 1.05× without"}
		each, mean := r.waits(at.name)
		_, than := r.waits(at.than)
		if g = g.beside(mean, "", than, 1.05); g.measured != "" {
			g.measured += fmt.Sprintf(", the means; p99 of %d reads %s", len(each), seconds(quantile(each, 0.99)))
		}
		goals = append(goals, g)
	}
	return goals
}
