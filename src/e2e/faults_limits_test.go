//go:build faults

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// limitFiles sets how many descriptors a running process may have.
func limitFiles(t *testing.T, pid int, n uint64) {
	t.Helper()
	var was unix.Rlimit
	err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &was)
	if err == nil {
		err = unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: was.Max}, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// limited is a program that runs another one with few descriptors.
func limited(t *testing.T, program string, files int) string {
	t.Helper()
	name := filepath.Join(shortDir(t), "limited")
	text := fmt.Sprintf("#!/bin/sh\nulimit -n %d && exec %s \"$@\"\n", files, program)
	mustWrite(t, name, []byte(text), 0o755)
	return name
}

// limitTree is a tree of 8 MB.
func limitTree(t *testing.T) (string, map[string][]byte) {
	t.Helper()
	return noisyTree(t, 60, func(i int) int { return 100_000 + 1000*i })
}

// TestFaultsDescriptors starts programs with few descriptors, and takes them from
// programs that run.
func TestFaultsDescriptors(t *testing.T) {
	t.Parallel()
	chances(t)
	tree, contents := limitTree(t)
	store := newStore(t, "e2e|app(1)", tree)

	// With too few at the start it is told, or works all the same.
	var works, tells []int
	for _, n := range []int{8, 12, 16, 20, 32} {
		c, mount := appClient(t, store.url(), `wait = "3s"`)
		c.program = limited(t, aysfs, n)
		c.main = `io_timeout = "5s"`
		p := c.begin()
		up := false
		for end := time.Now().Add(6 * time.Second); time.Now().Before(end) && !up && !p.endsWithin(50*time.Millisecond); {
			var err error
			within(t, 15*time.Second, "list the mount", func() { _, err = os.ReadDir(filepath.Join(mount, "d0")) })
			up = err == nil
		}
		log := c.log()
		if strings.Contains(log, "panic") || strings.Contains(log, "fatal error") || strings.Contains(log, "goroutine ") {
			t.Errorf("with %d descriptors:\n%s", n, lastLines(log, 30))
		}
		if up {
			check := newChecker(t, contents, 20*time.Second)
			failed := check.whole(mount)
			t.Logf("%d descriptors: mounted, %d of %d reads failed, %d warnings", n, failed, len(contents), len(c.warnings()))
			if failed == 0 {
				works = append(works, n)
			} else if !strings.Contains(c.log(), "too many open files") {
				t.Errorf("with %d descriptors %d reads failed, and the log does not tell:\n%s", n, failed, c.log())
			}
			if len(c.warnings()) > 20 {
				t.Errorf("with %d descriptors %d warnings:\n%s", n, len(c.warnings()), lastLines(c.log(), 20))
			}
			c.stop()
			continue
		}
		if !strings.Contains(log, "too many open files") && !strings.Contains(log, "descriptors") {
			t.Errorf("with %d descriptors it does not start, or mount, and does not tell why:\n%s", n, lastLines(log, 20))
		}
		tells = append(tells, n)
		p.Process.Signal(unix.SIGTERM)
		if !p.endsWithin(15 * time.Second) {
			t.Errorf("with %d descriptors it does not end", n)
		}
	}

	// They are taken from a client that runs.
	c, mount := appClient(t, store.url(), "prefetch = 0")
	c.main = `io_timeout = "5s"`
	c.disk = "max_size = \"0\""
	c.start()
	check := newChecker(t, contents, 15*time.Second)
	check.whole(mount)
	check.begin(mount)
	pid := c.proc.Process.Pid
	limitFiles(t, pid, 6)
	store.down() // what it has open ends
	store.up()
	check.goOn(40)
	for what, f := range map[string]func() error{
		"df":             func() error { return unix.Statfs(mount, &unix.Statfs_t{}) },
		"ls of the root": func() error { _, err := os.ReadDir(mount); return err },
		"ls of all":      func() error { return exec.Command("ls", "-lR", mount).Run() },
	} {
		var err error
		within(t, 5*time.Second, what, func() { err = f() })
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	limitFiles(t, pid, 20000)
	began := time.Now()
	eventually(t, time.Minute, "all of it is read again", func() bool { return check.whole(mount) == 0 })
	back := time.Since(began)
	check.halt()
	if n := check.whole(mount); n > 0 {
		t.Errorf("%d reads failed, with descriptors again", n)
	}
	if n := len(c.warnings()); n == 0 || n > 10 || !strings.Contains(c.log(), "too many open files") {
		t.Errorf("%d warnings:\n%s", n, lastLines(c.log(), 20))
	}
	t.Logf("promise: aysfs works with %v descriptors, tells that it has too few with %v; taken from it as it runs: %d reads, %d failed, none wrong, %d warnings, all right again after %v",
		works, tells, check.reads.Load(), check.failed.Load(), len(c.warnings()), back.Round(time.Millisecond))
	c.stop()
}

// TestFaultsCacheDescriptors has strangers take all descriptors of a cache server.
func TestFaultsCacheDescriptors(t *testing.T) {
	t.Parallel()
	chances(t)
	tree, contents := limitTree(t)
	store := newStore(t, "e2e|app(1)", tree)
	for _, n := range []int{8, 16, 32, 64, 256} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			g := newGridCache(t)
			g.program = limited(t, aysCache, n)
			g.http = "header_timeout = \"2s\"\nidle_timeout = \"2s\"\nstall_timeout = \"2s\""
			p := g.begin()
			var answers bool
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && !answers && !p.endsWithin(50*time.Millisecond); {
				conn, err := net.Dial("tcp", g.addr)
				if answers = err == nil; answers {
					conn.Close()
				}
			}
			if !answers {
				if log := g.log(); !strings.Contains(log, "too many open files") && !strings.Contains(log, "descriptors") || strings.Contains(log, "goroutine ") {
					t.Errorf("it does not start, and does not tell why:\n%s", lastLines(log, 20))
				}
				t.Logf("promise: ays_cache with %d descriptors does not start, and tells", n)
				return
			}
			c, mount := behind(t, store, g)
			c.main = `io_timeout = "10s"`
			c.disk = "max_size = \"0\"\n" + c.disk
			c.start()
			check := newChecker(t, contents, 20*time.Second)
			check.begin(mount)
			check.goOn(100)
			var conns []net.Conn
			for range n + 50 {
				conn, err := net.DialTimeout("tcp", g.addr, 5*time.Second)
				if err != nil {
					continue
				}
				defer conn.Close()
				conns = append(conns, conn)
			}
			check.goOn(100)
			for _, conn := range conns {
				conn.Close()
			}
			began, before := time.Now(), c.source("grid").Hits
			eventually(t, 30*time.Second, "the client gets blobs from the cache again", func() bool { return c.source("grid").Hits > before+20 })
			back := time.Since(began)
			failed := check.halt()
			if failed > 0 {
				t.Errorf("%d reads failed, with the store within reach", failed)
			}
			if p.endsWithin(0) {
				t.Errorf("it ended: %v", p.err)
			}
			told := complaints(g.log())
			if told == 0 || told > 10 {
				t.Errorf("%d warnings:\n%s", told, lastLines(g.log(), 20))
			}
			t.Logf("promise: ays_cache with %d descriptors and %d strange connections: %d reads, %d failed; %d warnings; in use again after %v",
				n, len(conns), check.reads.Load(), failed, told, back.Round(time.Millisecond))
			c.stop()
			g.stop()
		})
	}
}
