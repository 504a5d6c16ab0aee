//go:build appliance

package appliance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/proctest"
)

// top is the top of the source, from where the tests run.
const top = "../.."

// The programs under test, for this machine. TestMain builds them.
var aysfs, ays, aysCache string

func TestMain(m *testing.M) {
	os.Exit(proctest.Main(m, "appliance", func(dir string) error {
		bin := filepath.Join(dir, "bin")
		aysfs, ays, aysCache = filepath.Join(bin, "aysfs"), filepath.Join(bin, "ays"), filepath.Join(bin, "ays_cache")
		return build(bin)
	}))
}

// build builds all programs as make build does. More of the environment may
// name another architecture.
func build(to string, env ...string) error {
	return proctest.Build(to+"/", append([]string{"CGO_ENABLED=0"}, env...), "-ldflags=-s -w -X main.version=appliance", top+"/src/cmd/...")
}

// spawn starts a process that ends with this one, however this one ends.
var spawn = proctest.Spawner()

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
