//go:build appliance

package appliance

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
)

// top is the top of the source, from where the tests run.
const top = "../.."

// The programs under test, for this machine. TestMain builds them.
var aysfs, ays, aysCache string

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "appliance:", err)
		code = 1
	}
	os.Exit(code)
}

// runAll gives the tests a directory of their own, where nothing may be left
// mounted.
func runAll(m *testing.M) (code int, err error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("these tests mount file systems and make images: run them as root")
	}
	dir, err := os.MkdirTemp("", "aysfs-appliance-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return 1, err
	}
	bin := filepath.Join(dir, "bin")
	if err := build(bin); err != nil {
		return 1, err
	}
	aysfs, ays, aysCache = filepath.Join(bin, "aysfs"), filepath.Join(bin, "ays"), filepath.Join(bin, "ays_cache")
	os.Setenv("TMPDIR", dir)
	code = m.Run()
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return 1, err
	}
	for line := range strings.Lines(string(table)) {
		if at := strings.Fields(line)[1]; strings.HasPrefix(at, dir+"/") {
			return 1, fmt.Errorf("left mounted: %s", at)
		}
	}
	return code, nil
}

// build builds all programs as make build does. More of the environment may
// name another architecture.
func build(to string, env ...string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -X main.version=appliance", "-o", to+"/", top+"/src/cmd/...")
	cmd.Dir = "."
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %v: %w\n%s", env, err, msg)
	}
	return nil
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

// try runs a program to its end, which must come within d, and returns what it
// printed.
func try(t *testing.T, d time.Duration, cmd *exec.Cmd) (string, error) {
	t.Helper()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	if err := spawn(cmd); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(d, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	if !late.Stop() {
		t.Fatalf("%s: still running after %v\n%s", cmd, d, end(out.String()))
	}
	return out.String(), err
}

// run is try for a program that must not fail.
func run(t *testing.T, d time.Duration, name string, args ...string) string {
	t.Helper()
	out, err := try(t, d, exec.Command(name, args...))
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", filepath.Base(name), args, err, end(out))
	}
	return out
}

// shell runs a few lines of shell, which have the arguments as $1, $2 …
func shell(t *testing.T, lines string, args ...string) string {
	t.Helper()
	return run(t, time.Minute, "sh", append([]string{"-euc", lines, "sh"}, args...)...)
}

// end is the end of what somebody said, as much as people read of it.
func end(s string) string { return s[max(0, len(s)-8<<10):] }
