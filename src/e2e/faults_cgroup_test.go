//go:build faults

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cgroup is a group of processes whose memory, or number, is limited; of either
// version of the kernel's interface.
type cgroup struct {
	t   *testing.T
	dir string
	v2  bool
}

// newCgroup makes a group of its own for the test. Where there may be none the test is
// skipped.
func newCgroup(t *testing.T, controller string) *cgroup {
	t.Helper()
	g := &cgroup{t: t}
	parent := filepath.Join("/sys/fs/cgroup", controller)
	if b, err := os.ReadFile("/sys/fs/cgroup/cgroup.subtree_control"); err == nil {
		if !strings.Contains(string(b), controller) {
			os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+"+controller), 0) // or the next step fails
		}
		parent, g.v2 = "/sys/fs/cgroup", true
	}
	dir, err := os.MkdirTemp(parent, "aysfs-e2e-")
	if err != nil {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	g.dir = dir
	t.Cleanup(func() {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			if err := os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) || time.Now().After(end) {
				return
			}
		}
	})
	if _, err := os.Stat(filepath.Join(dir, g.name("limit"))); controller == "memory" && err != nil {
		t.Skipf("memory can't be limited here: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "pids.max")); controller == "pids" && err != nil {
		t.Skipf("processes can't be limited here: %v", err)
	}
	return g
}

func (g *cgroup) name(what string) string {
	if g.v2 {
		return map[string]string{"limit": "memory.max", "peak": "memory.peak", "kills": "memory.events"}[what]
	}
	return map[string]string{"limit": "memory.limit_in_bytes", "peak": "memory.max_usage_in_bytes", "kills": "memory.oom_control"}[what]
}

// set writes one of the group's files. The kernel may refuse to limit memory to less
// than is used and can't be had back.
func (g *cgroup) set(name, value string) error {
	return os.WriteFile(filepath.Join(g.dir, name), []byte(value), 0)
}

func (g *cgroup) get(name string) string {
	b, _ := os.ReadFile(filepath.Join(g.dir, name))
	return strings.TrimSpace(string(b))
}

// kills is how many of its processes the kernel has killed for want of memory.
func (g *cgroup) kills() (n int) {
	for line := range strings.Lines(g.get(g.name("kills"))) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			n, _ = strconv.Atoi(v)
		}
	}
	return n
}

// inside is a program that runs another one in the group.
func (g *cgroup) inside(program string) string {
	g.t.Helper()
	name := filepath.Join(shortDir(g.t), "inside")
	text := fmt.Sprintf("#!/bin/sh\necho $$ >%s/cgroup.procs && exec %s \"$@\"\n", g.dir, program)
	mustWrite(g.t, name, []byte(text), 0o755)
	return name
}

// TestFaultsMemoryLimit gives a client and its keeper half of the memory that the
// default config may take, with many at work.
func TestFaultsMemoryLimit(t *testing.T) {
	t.Parallel()
	r := chances(t)
	// [main] memory, what Go needs, and mapped pages.
	const half = (64 + 12 + 24) << 20 / 2
	group := newCgroup(t, "memory")
	if err := group.set(group.name("limit"), strconv.Itoa(half)); err != nil {
		t.Fatal(err)
	}
	tree := loadTree(t)
	store := newStore(t, "e2e|app(1)", tree)
	c := keptClient(t, store.url())
	c.program = group.inside(c.program)
	c.main = "io_timeout = \"60s\""
	mount := c.mount("e2e|app(1)", "prefetch = 2")
	c.start()
	id := mountID(t, mount)

	// It uses less than configured; where it is killed all the same another one goes on.
	busy := startThreads(t, mount, tree, 64, r.Uint64(), time.Minute)
	began := time.Now()
	for time.Since(began) < time.Duration(*faultsRounds)*8*time.Second {
		busy.working()
		time.Sleep(100 * time.Millisecond)
	}
	busy.in.Close()
	if !busy.proc.endsWithin(40 * time.Second) {
		now := c.soon()
		t.Logf("hangs, after %d kills: %+v, being fetched: %+v", group.kills(), now.Keeper, now.Stores[0].Tier.Fetching)
		syscall.Kill(now.PID, syscall.SIGQUIT) // its goroutines are in the log then
		time.Sleep(time.Second)
		t.Fatal(lastLines(c.log(), 400))
	}
	calls, failed, slowest := busy.end()
	atHalf, own, peak := group.kills(), anonymous(t, c.soon().PID), group.get(group.name("peak"))

	// The keeper is not what goes first.
	adjusted := func(pid int) (n int) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		if _, err2 := fmt.Sscan(string(b), &n); err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		return n
	}
	if s := c.soon(); adjusted(s.PID) <= adjusted(s.Keeper.PID) {
		t.Errorf("the kernel would kill the keeper, with %d, as soon as what serves, with %d", adjusted(s.Keeper.PID), adjusted(s.PID))
	}

	if failed > 0 {
		t.Errorf("%d calls failed", failed)
	}
	if now := mountID(t, mount); now != id {
		t.Errorf("it was mount %s, and is %s", id, now)
	}
	sameTree(t, tree, mount)
	t.Logf("promise: with %d MiB in all, 64 threads at work: killed %d times (%.1f MiB of its own; %s bytes at most, pages included), %d calls, %d failed, the slowest took %v",
		half>>20, atHalf, float64(own)/(1<<20), peak, calls, failed, slowest)
	c.stop()
}

// TestFaultsProcesses has no process be started, nor any thread, when what serves has
// died: the mounts are kept until there can be one.
func TestFaultsProcesses(t *testing.T) {
	t.Parallel()
	r := chances(t)
	group := newCgroup(t, "pids")
	tree := keptTree(t)
	store := newStore(t, "e2e|app(1)", tree)
	c := keptClient(t, store.url())
	c.program = group.inside(c.program)
	mount := c.mount("e2e|app(1)")
	c.start()
	id := mountID(t, mount)
	ws := startWork(t, mount, tree)
	var slowest time.Duration
	rounds := 2 * *faultsRounds
	for range rounds {
		s := c.soon()
		time.Sleep(time.Until(s.Since.Add(1200 * time.Millisecond)))
		if err := group.set("pids.max", "1"); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(1000+r.IntN(3000)) * time.Millisecond)
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", s.Keeper.PID)); err != nil {
			t.Fatalf("the keeper has ended:\n%s", lastLines(c.log(), 10))
		}
		if err := group.set("pids.max", "max"); err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, answers(t, mount))
		ws.working()
	}
	ws.end()
	if now := mountID(t, mount); now != id {
		t.Errorf("it was mount %s, and is %s", id, now)
	}
	if n := strings.Count(c.log(), "can't start a worker"); n == 0 {
		t.Errorf("it could be started:\n%s", c.log())
	}
	sameTree(t, tree, mount)

	// With few threads it works, or dies and is followed by another.
	now := group.get("pids.current")
	n, _ := strconv.Atoi(now)
	if err := group.set("pids.max", strconv.Itoa(n+2)); err != nil {
		t.Fatal(err)
	}
	before := c.soon().Keeper.Restarts
	busy := startThreads(t, mount, tree, 128, r.Uint64(), time.Minute)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		busy.working()
	}
	if err := group.set("pids.max", "max"); err != nil {
		t.Fatal(err)
	}
	answers(t, mount)
	calls, failed, longest := busy.end()
	t.Logf("promise: %d times nothing could be started in the place of what had died: answers %v after it could; with two more threads than at rest: %d deaths, 128 threads made %d calls, %d failed, the slowest took %v",
		rounds, slowest.Round(time.Millisecond), c.soon().Keeper.Restarts-before, calls, failed, longest)
	if failed > 0 {
		t.Errorf("%d calls failed", failed)
	}
	c.stop()
}
