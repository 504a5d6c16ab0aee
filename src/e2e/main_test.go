package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/bench/link"
)

// The programs under test. TestMain builds them.
var aysfs, aysfsRace, ays, aysCache string

func TestMain(m *testing.M) {
	if f, ok := children[os.Getenv(childEnv)]; ok {
		os.Exit(f(os.Args[1:]))
	}
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// runAll gives the tests a directory of their own, where nothing may be left
// mounted.
func runAll(m *testing.M) (code int, err error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("these tests mount file systems: run them as root")
	}
	dir, err := os.MkdirTemp("", "aysfs-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // one test reads as somebody else
		return 1, err
	}
	if err := build(dir); err != nil {
		return 1, err
	}
	os.Setenv("TMPDIR", dir)
	code = m.Run()
	if left := mountsUnder(dir); len(left) > 0 {
		return 1, fmt.Errorf("left mounted: %q", left)
	}
	return code, nil
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
		name := filepath.Base(b.args[len(b.args)-1])
		*b.to = filepath.Join(dir, "bin-cgo"+b.cgo, name)
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-buildvcs=false", "-o", *b.to}, b.args...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+b.cgo)
		if msg, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", *b.to, err, msg)
		}
	}
	return nil
}

// mountsUnder lists what is mounted below dir, inner mounts first.
func mountsUnder(dir string) []string {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		panic(err)
	}
	var found []string
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); strings.HasPrefix(f[1], dir+"/") {
			found = append([]string{f[1]}, found...)
		}
	}
	return found
}

// spawn starts a process that ends with this one, however this one ends. The
// kernel means the thread that started it, so that one stays.
var spawn = func() func(*exec.Cmd) error {
	cmds, errs := make(chan *exec.Cmd), make(chan error)
	go func() {
		runtime.LockOSThread()
		for cmd := range cmds {
			if cmd.SysProcAttr == nil {
				cmd.SysProcAttr = &syscall.SysProcAttr{}
			}
			cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
			errs <- cmd.Start()
		}
	}()
	return func(cmd *exec.Cmd) error {
		cmds <- cmd
		return <-errs
	}
}()

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
