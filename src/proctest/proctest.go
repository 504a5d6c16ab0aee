package proctest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// Main runs a package's tests and returns the exit code. They have a directory of
// their own for all that is temporary; prepare is called with it before. That fails
// them, and so does what is still mounted there when they have ended.
func Main(m *testing.M, name string, prepare func(dir string) error) int {
	code, err := runAll(m, name, prepare)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return code
}

func runAll(m *testing.M, name string, prepare func(dir string) error) (code int, err error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("these tests mount file systems: run them as root")
	}
	dir, err := os.MkdirTemp("", "aysfs-"+name+"-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // some test reads as somebody else
		return 1, err
	}
	if err := prepare(dir); err != nil {
		return 1, err
	}
	os.Setenv("TMPDIR", dir)
	code = m.Run()
	if left := MountsUnder(dir); len(left) > 0 {
		return 1, fmt.Errorf("left mounted: %q", left)
	}
	return code, nil
}

// Build is go build as make has it, with more of the environment, and more of the
// command line. The result goes to a file, or to a directory where to ends with /.
func Build(to string, env []string, args ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-buildvcs=false", "-o", to}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s with %q: %w\n%s", to, env, err, msg)
	}
	return nil
}

// MountsUnder lists what is mounted below dir, inner mounts first. It panics where
// that can't be known.
func MountsUnder(dir string) []string {
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

// Spawner returns a function that starts processes, each of which ends with this
// one, however this one ends. The kernel means the thread that started them, so
// that one stays.
func Spawner() func(*exec.Cmd) error {
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
}
