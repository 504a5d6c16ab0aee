package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// childEnv makes the test program do one of children's jobs instead.
const childEnv = "AYSFS_E2E_CHILD"

var children = map[string]func(args []string) int{
	"read under signals": readUnderSignals,
	"work in a mount":    workInAMount,
	"kill at a step":     traceAndKill,
	"crowd a mount":      crowdAMount,
}

func child(t *testing.T, job string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), childEnv+"="+job)
	return cmd
}

// readUnderSignals reads a file that must be the same as another one, and
// gets a signal that it doesn't care about every millisecond: Go's runtime
// sends this very one to its threads.
func readUnderSignals(args []string) int {
	go func() {
		for range time.Tick(time.Millisecond) {
			syscall.Kill(os.Getpid(), syscall.SIGURG)
		}
	}()
	got, err := os.ReadFile(args[0])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if want, err := os.ReadFile(args[1]); err != nil || !bytes.Equal(got, want) {
		fmt.Println("other content than was published", err)
		return 1
	}
	return 0
}
