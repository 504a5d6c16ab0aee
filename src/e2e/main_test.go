package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/bench/link"
	"github.com/aysfs/aysfs/src/proctest"
)

// The programs under test. TestMain builds them.
var aysfs, aysfsRace, ays, aysCache string

func TestMain(m *testing.M) {
	if f, ok := children[os.Getenv(childEnv)]; ok {
		os.Exit(f(os.Args[1:]))
	}
	os.Exit(proctest.Main(m, "e2e", build))
}

func build(dir string) error {
	for _, b := range []struct {
		to   *string
		cgo  string
		args []string
	}{
		{&aysfs, "0", []string{"-ldflags=-X main.version=e2e", "../cmd/aysfs"}},
		{&ays, "0", []string{"../cmd/ays"}},
		{&aysCache, "0", []string{"../cmd/ays_cache"}},
		{&aysfsRace, "1", []string{"-race", "../cmd/aysfs"}},
	} {
		*b.to = filepath.Join(dir, "bin-cgo"+b.cgo, filepath.Base(b.args[len(b.args)-1]))
		if err := proctest.Build(*b.to, []string{"CGO_ENABLED=" + b.cgo}, b.args...); err != nil {
			return err
		}
	}
	return nil
}

// mountsUnder lists what is mounted below dir, inner mounts first.
func mountsUnder(dir string) []string { return proctest.MountsUnder(dir) }

// spawn starts a process that ends with this one, however this one ends.
var spawn = proctest.Spawner()

// process is a running program whose end can be waited for by many.
type process struct {
	*exec.Cmd
	ended chan struct{}
	err   error // set when ended is closed
}

func startProcess(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	return startIn(t, nil, cmd)
}

// inside runs f in a network namespace; nil is this one.
func inside(ns *link.Thread, f func() error) error {
	if ns == nil {
		return f()
	}
	return ns.Do(f)
}

// startIn is startProcess in a network namespace; nil is this one.
func startIn(t *testing.T, ns *link.Thread, cmd *exec.Cmd) *process {
	t.Helper()
	start := func() error { return spawn(cmd) }
	if ns != nil {
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
		start = func() error { return ns.Do(cmd.Start) }
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		if !p.endsWithin(10 * time.Second) {
			t.Errorf("%s does not end, not even killed", cmd)
		}
	})
	return p
}

func (p *process) endsWithin(d time.Duration) bool {
	select {
	case <-p.ended:
		return true
	case <-time.After(d):
		return false
	}
}

// run runs a program to its end, which must be a good one and come within d.
// It returns what the program printed.
func run(t *testing.T, d time.Duration, name string, args ...string) string {
	t.Helper()
	out, err := try(t, d, exec.Command(name, args...))
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", filepath.Base(name), args, err, out)
	}
	return out
}

// try is run for a program that may fail.
func try(t *testing.T, d time.Duration, cmd *exec.Cmd) (string, error) {
	t.Helper()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	p := startProcess(t, cmd)
	if !p.endsWithin(d) {
		t.Fatalf("%s: still running after %v", cmd, d)
	}
	return out.String(), p.err
}

// within runs f, which must return within d. It goes on behind the test's back
// if it doesn't, so it must not use t.
func within(t *testing.T, d time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("%s: not done after %v", what, d)
	}
}

// eventually waits until ok, for at most d.
func eventually(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not so after %v", what, d)
		}
	}
}
