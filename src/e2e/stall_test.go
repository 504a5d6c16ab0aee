package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stalledClient has a mount of a small tree that was listed, and of which one
// file was read. Then the store stopped to answer.
func stalledClient(t *testing.T, timeout string) (c *client, mount string, store *webStore) {
	tree, names := smallTree(t)
	write(t, tree, map[string]node{"sub/x": file(10)})
	store = newStore(t, "e2e|app(1)", tree)
	c = newClient(t, store.url())
	c.main = `io_timeout = "` + timeout + `"`
	mount = c.mount("e2e|app(1)")
	c.start()
	run(t, 10*time.Second, "ls", "-lR", mount)
	wantContent(t, 5*time.Second, filepath.Join(mount, names[9]), content(100_009))
	store.setFault(stall)
	return c, mount, store
}

func TestStalledStore(t *testing.T) {
	t.Parallel()
	c, mount, store := stalledClient(t, "2s")
	begin := time.Now()
	wantError(t, 3*time.Second, filepath.Join(mount, "h"), syscall.EIO)
	if d := time.Since(begin); d < time.Second {
		t.Errorf("gave up after %v, want io_timeout", d)
	}
	store.setFault(nil)
	eventually(t, 5*time.Second, "what failed can be read now", func() bool {
		b, err := os.ReadFile(filepath.Join(mount, "h"))
		return err == nil && string(b) == string(content(100_007))
	})
	c.stop()
}

// TestStalledStoreStopsNobodyElse: while reads wait, all that is here is served.
func TestStalledStoreStopsNobodyElse(t *testing.T) {
	t.Parallel()
	c, mount, _ := stalledClient(t, "30s")
	for _, name := range []string{"h", "f", "d", "b"} {
		startProcess(t, exec.Command("cat", filepath.Join(mount, name)))
	}
	eventually(t, 30*time.Second, "somebody waits", func() bool { return len(c.status().Stores[0].Tier.Fetching) >= 4 }) // in some orders others are fetched ahead
	for name, f := range map[string]func() error{
		"statfs":           func() error { return unix.Statfs(mount, &unix.Statfs_t{}) },
		"stat of the root": func() error { return unix.Stat(mount, &unix.Stat_t{}) },
		"a cached file": func() error {
			// Direct, past what the kernel has of it.
			fd, err := unix.Open(filepath.Join(mount, "j"), unix.O_RDONLY|unix.O_DIRECT, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			_, err = unix.Pread(fd, make([]byte, 4096), 0)
			return err
		},
		"ls": func() error { return exec.Command("ls", "-lR", mount).Run() },
	} {
		var err error
		within(t, time.Second, name, func() { err = f() })
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.stop()
}

func TestCtrlCEndsAStalledRead(t *testing.T) {
	t.Parallel()
	c, mount, _ := stalledClient(t, "30s")
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		cat := startProcess(t, exec.Command("cat", filepath.Join(mount, "h")))
		if cat.endsWithin(300 * time.Millisecond) {
			t.Fatalf("cat does not wait: %v", cat.err)
		}
		cat.Process.Signal(sig)
		if !cat.endsWithin(time.Second) {
			t.Errorf("cat still waits a second after %v", sig)
		}
	}
	// The kernel does not say that nobody waits for its read-ahead any more. But
	// all of them waited for the same.
	if f := c.status().Stores[0].Tier.Fetching; len(f) > 1 {
		t.Errorf("being fetched for nobody: %+v", f)
	}
	begin := time.Now()
	c.stop()
	if d := time.Since(begin); d > 4*time.Second {
		t.Errorf("took %v to stop", d)
	}
}

// TestSignalsDontBreakReads: Go programs, and many with timers, get signals all
// the time. On a slow network as on a local disk a read goes on under them.
func TestSignalsDontBreakReads(t *testing.T) {
	t.Parallel()
	tree := shortDir(t)
	write(t, tree, map[string]node{"large": file(3 << 20), "small": file(5000)})
	store := newStore(t, "e2e|app(1)", tree)
	c, mount := startClient(t, store.url())
	store.delay.Store(int64(300 * time.Millisecond))
	for _, name := range []string{"small", "large"} {
		if out, err := try(t, 30*time.Second, child(t, "read under signals", filepath.Join(mount, name), filepath.Join(tree, name))); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	c.stop()
}

// TestSlowStore: slow is not stalled. A large file that takes longer than
// io_timeout as a whole is read all the same: the kernel's read-ahead of it may
// run out of time, but no program sees that.
func TestSlowStore(t *testing.T) {
	t.Parallel()
	tree := shortDir(t)
	write(t, tree, map[string]node{"large": {mode: 0o644, data: noise(4<<20, 1)}})
	store := newStore(t, "e2e|app(1)", tree)
	c, mount := appClient(t, store.url())
	c.main = `io_timeout = "6s"`
	c.start()
	gate := make(chan struct{}, 1) // one at a time
	store.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case gate <- struct{}{}:
			time.Sleep(500 * time.Millisecond)
			<-gate
		case <-r.Context().Done():
		}
		return false
	})
	begin := time.Now()
	got, err := readFile(t, time.Minute, filepath.Join(mount, "large"))
	if err != nil || string(got) != string(noise(4<<20, 1)) {
		t.Errorf("%v, or other content", err)
	}
	if d := time.Since(begin); d < 6*time.Second {
		t.Errorf("took %v: the store was not slow", d)
	}
	c.stop()
}
