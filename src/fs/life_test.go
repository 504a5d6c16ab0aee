package fs

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Who still has a mount that was taken away, in a mount namespace of its own, is told
// that it can't be read: to be interrupted means to try again, for ever.
func TestReadsBehindTheEnd(t *testing.T) {
	m := newMemory()
	f, mnt := m.mount(t, sample, nil)
	other := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 60")
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		other.Process.Kill()
		other.Wait()
	})
	if _, err := bufio.NewReader(out).ReadByte(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(mnt, "hello")); err != nil {
		t.Fatal(err)
	}
	m.lose(make(chan struct{}), "hello, world\n")
	if lazy, err := f.Unmount(); lazy || err != nil {
		t.Fatal(lazy, err)
	}
	name := filepath.Join(fmt.Sprintf("/proc/%d/root", other.Process.Pid), mnt, "hello")
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if n, err := unix.Read(fd, make([]byte, 100)); err != syscall.EIO {
		t.Errorf("%d bytes, %v", n, err)
	}
}
