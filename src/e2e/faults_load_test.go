//go:build faults

package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/control"
)

// loadTree is 42 MB of files of all sizes, with links.
func loadTree(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	tree := map[string]node{"changing/version": {mode: 0o644, data: []byte("0")}}
	for i := range 400 {
		tree[fmt.Sprintf("d%d/e%d/small%d", i%7, i%20, i)] = file(i * i / 8)
	}
	for i := range 80 {
		tree[fmt.Sprintf("d%d/medium%d", i%7, i)] = node{mode: 0o644, data: noise(250_000+i*1000, byte(i))}
	}
	for i := range 4 {
		tree[fmt.Sprintf("large%d", i)] = node{mode: 0o644, data: noise(4<<20+i, byte(100+i))}
		tree[fmt.Sprintf("link%d", i)] = node{mode: os.ModeSymlink, target: fmt.Sprintf("large%d", i)}
	}
	write(t, dir, tree)
	return dir
}

// busyMount is many threads at work in a mount, in a process of their own.
type busyMount struct {
	t    *testing.T
	proc *process
	in   io.Closer
	out  strings.Builder
}

// startThreads has n threads at work, of whose calls none may take longer than limit.
func startThreads(t *testing.T, mount, tree string, n int, seed uint64, limit time.Duration) *busyMount {
	t.Helper()
	c := &busyMount{t: t}
	cmd := child(t, "crowd a mount", mount, tree, strconv.Itoa(n), strconv.FormatUint(seed, 10), fmt.Sprint(limit.Seconds()))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, &c.out, &c.out
	cmd.WaitDelay = time.Second
	c.in, c.proc = w, startProcess(t, cmd)
	r.Close()
	t.Cleanup(func() { w.Close() })
	return c
}

// working fails the test when they have ended.
func (c *busyMount) working() {
	c.t.Helper()
	if c.proc.endsWithin(0) {
		c.t.Fatalf("the threads ended: %v\n%s", c.proc.err, lastLines(c.out.String(), 30))
	}
}

// end ends the threads, which must all have done well. It returns how many calls
// there were, how many failed by EIO, and how long the slowest took.
func (c *busyMount) end() (calls, failed int64, slowest time.Duration) {
	c.t.Helper()
	c.in.Close()
	if !c.proc.endsWithin(time.Minute) {
		c.t.Fatal("the threads do not end")
	}
	var seconds float64
	if _, err := fmt.Sscan(c.out.String(), &calls, &failed, &seconds); err != nil || c.proc.err != nil {
		c.t.Fatalf("the threads: %v\n%s", c.proc.err, lastLines(c.out.String(), 30))
	}
	return calls, failed, time.Duration(seconds * float64(time.Second)).Round(time.Millisecond)
}

// taken is what a process takes at one moment.
type taken struct {
	anon, files, sockets, routines, threads int64
}

// takes is what a process takes of memory, descriptors and threads.
func takes(t *testing.T, pid int) (n taken) {
	t.Helper()
	n.anon = anonymous(t, pid)
	for dir, to := range map[string]*int64{"fd": &n.files, "task": &n.threads} {
		dir = fmt.Sprintf("/proc/%d/%s", pid, dir)
		names, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if to, _ := os.Readlink(filepath.Join(dir, name.Name())); strings.HasPrefix(to, "socket:") {
				n.sockets++
				continue
			}
			*to++
		}
	}
	return n
}

// curve is what a process takes over time.
type curve []taken

// peak is the most of each in a part of it; of goroutines, of which there are hundreds
// for a moment, the least.
func (c curve) peak(from, to int) (most taken) {
	most.routines = c[from].routines
	for _, n := range c[from:to] {
		most.anon = max(most.anon, n.anon)
		most.files = max(most.files, n.files)
		most.sockets = max(most.sockets, n.sockets)
		most.routines = min(most.routines, n.routines)
		most.threads = max(most.threads, n.threads)
	}
	return most
}

func (n taken) String() string {
	return fmt.Sprintf("%.1f MiB, %d descriptors, %d sockets, %d goroutines, %d threads", float64(n.anon)/(1<<20), n.files, n.sockets, n.routines, n.threads)
}

// mostConns is how many connections there may be to one server, with two goroutines each:
// as many as it takes, and they stay for a while.
const mostConns = 64

// flat checks that the last third of a curve is no higher than the first, but for
// what may be chance, or connections that the load has come to take.
func (c curve) flat(t *testing.T, what string) {
	t.Helper()
	if len(c) < 9 {
		t.Fatalf("%s: %d samples are too few", what, len(c))
	}
	first, last := c.peak(0, len(c)/3), c.peak(len(c)*2/3, len(c))
	t.Logf("promise: %s, peak of the first third: %v; of the last: %v", what, first, last)
	grown := func(a, b, slack int64) bool { return b > a+a/5+slack }
	conns := min(max(0, last.sockets-first.sockets), mostConns)
	if grown(first.anon, last.anon, 10<<20) || grown(first.files, last.files, 16) || grown(first.sockets, last.sockets-conns, 16) ||
		grown(first.routines, last.routines-2*conns, 50) || grown(first.threads, last.threads, 16) {
		t.Errorf("%s does not stay flat", what)
	}
}

// TestFaultsLoad has 256 threads at work in one mount, and programs that are killed
// there, while the tree gets new versions, the config changes, and the cache, which
// is too small, is evicted all the time.
func TestFaultsLoad(t *testing.T) {
	r := chances(t)
	long := time.Duration(*faultsRounds) * 25 * time.Second
	const (
		most  = 24 << 20
		limit = 30 * time.Second // of a call, which waits for its turn on this machine
	)
	tree := loadTree(t)
	store := newStore(t, "e2e|app(1)", tree)
	c, mount := appClient(t, store.url())
	c.main = "refresh = \"1s\"\nio_timeout = \"30s\""
	c.disk = fmt.Sprintf("max_size = \"%dMiB\"", most>>20)
	c.start()
	sameTree(t, tree, mount)

	over := make(chan struct{})
	var churn sync.WaitGroup
	defer churn.Wait()
	stop := sync.OnceFunc(func() { close(over) })
	defer stop()
	each := func(pause time.Duration, f func(i int) error) {
		churn.Go(func() {
			for i := 1; ; i++ {
				select {
				case <-over:
					return
				case <-time.After(pause):
				}
				if err := f(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var killed, serials, reloads int
	rk := rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
	each(20*time.Millisecond, func(int) error {
		cat := exec.Command("md5sum", filepath.Join(mount, "large0"), filepath.Join(mount, "large1"), filepath.Join(mount, fmt.Sprintf("d%d/medium%d", 3, 3)))
		cat.Stdout = io.Discard
		if err := spawn(cat); err != nil {
			return err
		}
		time.Sleep(time.Duration(rk.IntN(30_000)) * time.Microsecond)
		cat.Process.Signal([]os.Signal{os.Interrupt, os.Kill}[rk.IntN(2)])
		ended := make(chan error, 1)
		go func() { ended <- cat.Wait() }()
		select {
		case <-ended:
			killed++
			return nil
		case <-time.After(20 * time.Second):
			return fmt.Errorf("a reader that was killed is still there")
		}
	})
	each(900*time.Millisecond, func(i int) error {
		if err := os.WriteFile(filepath.Join(tree, "changing", "version"), fmt.Append(nil, i), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(tree, "changing", fmt.Sprint("f", i%5)), noise(10_000, byte(i)), 0o644); err != nil {
			return err
		}
		cmd := exec.Command(ays, "publish", "-store", store.dir, "-id", "e2e|app(1)", tree)
		if err := spawn(cmd); err != nil {
			return err
		}
		serials++
		return cmd.Wait()
	})
	config := c.config()
	each(700*time.Millisecond, func(i int) error {
		text := config
		if i%2 == 0 {
			text += fmt.Sprintf("[[mount_files]]\nname = \"other\"\npath = %q\nays.id = \"e2e|app(1)\"\nstor.name = \"s\"\n", filepath.Join(c.dir, "other"))
		}
		c.rewrite(text)
		c.hup()
		reloads++
		return nil
	})

	busy := startThreads(t, mount, tree, 256, r.Uint64(), limit)
	var seen curve
	var disk int64
	began := time.Now()
	for time.Since(began) < long {
		busy.working()
		now := takes(t, c.proc.Process.Pid)
		s := c.status()
		now.routines = int64(s.Memory.Routines)
		disk = max(disk, diskUse(t, c.cacheDir()))
		if time.Since(began) > 3*time.Second {
			seen = append(seen, now)
		}
		time.Sleep(100 * time.Millisecond)
	}
	calls, failed, slowest := busy.end()
	stop()
	churn.Wait()
	s := c.status()
	if failed > 0 {
		t.Errorf("%d calls failed, with the store within reach", failed)
	}
	if disk > most {
		t.Errorf("the cache takes %d bytes of at most %d", disk, most)
	}
	if s.Cache.Evicted == 0 || s.Mounts[0].Moves == 0 {
		t.Errorf("nothing was evicted (%d bytes), or the mount has never moved (%d times)", s.Cache.Evicted, s.Mounts[0].Moves)
	}
	seen.flat(t, "aysfs")
	t.Logf("promise: 256 threads made %d calls in %v, all right, the slowest in %v; %d readers killed, %d serials, %d moves, %d reloads, %d MiB evicted, at most %d of %d MiB on disk",
		calls, long, slowest, killed, serials, s.Mounts[0].Moves, reloads, s.Cache.Evicted>>20, disk>>20, most>>20)

	// In the end all is as in the beginning.
	c.reload(config, func(s *control.Status) bool { return len(s.Mounts) == 1 })
	eventually(t, 30*time.Second, "the last version is shown", func() bool {
		b, err := os.ReadFile(filepath.Join(mount, "changing/version"))
		want, _ := os.ReadFile(filepath.Join(tree, "changing/version"))
		return err == nil && string(b) == string(want)
	})
	sameTree(t, tree, mount)
	c.stop()
	if log := c.log(); strings.Contains(log, "panic") {
		t.Errorf("the log has a panic:\n%s", log)
	}
}

// signal sends a process a signal.
func (p *process) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}
