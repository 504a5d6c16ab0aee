package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv makes the test program do one of children's jobs instead.
const childEnv = "AYSFS_E2E_CHILD"

var children = map[string]func(args []string) int{
	"read under signals": readUnderSignals,
	"work in a mount":    workInAMount,
	"kill at a step":     traceAndKill,
	"sync at random":     syncAtRandom,
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

// syncAtRandom does to the files below a directory what the kernel does when it likes:
// it has parts of them written, in any order. And it syncs a file of its own, which
// has the file system write down the names and sizes of all others.
func syncAtRandom(args []string) int {
	dir := args[0]
	for {
		time.Sleep(rand.N(4 * time.Millisecond))
		if rand.IntN(4) == 0 {
			f, err := os.Create(filepath.Join(dir, "other"))
			if err != nil {
				return 0 // the disk has come to its end
			}
			f.WriteString("other")
			f.Sync()
			f.Close()
			continue
		}
		var names []string
		filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				names = append(names, path)
			}
			return nil
		})
		for range min(len(names), 5) {
			f, err := os.Open(names[rand.IntN(len(names))])
			if err != nil {
				continue // it is gone
			}
			if st, err := f.Stat(); err == nil && st.Size() > 0 {
				unix.SyncFileRange(int(f.Fd()), rand.Int64N(st.Size()), rand.Int64N(256<<10), unix.SYNC_FILE_RANGE_WRITE)
			}
			f.Close()
		}
	}
}
