package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sandboxEnv names the directory to work in, and says that this is the process
// in the sandbox.
const sandboxEnv = "AYSFS_BENCH_DIR"

// grace is how long the process in the sandbox may tidy up after a signal.
const grace = 20 * time.Second

// inSandbox runs this program once more in namespaces of its own. With the first
// process of a pid namespace all others in it end, and with them their mounts
// and their network: whatever happens, nothing is left but a directory.
func inSandbox(out string) (code int, err error) {
	if err := requirements(); err != nil {
		return 1, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return 1, err
	}
	old, _ := filepath.Glob(filepath.Join(out, "tmp-*")) // of a run that was killed
	for _, d := range old {
		os.RemoveAll(d)
	}
	dir, err := os.MkdirTemp(out, "tmp-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if dir, err = filepath.Abs(dir); err != nil {
		return 1, err
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), sandboxEnv+"="+dir, "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	runtime.LockOSThread() // which is the parent whose death the kernel means
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("make namespaces: %w", err)
	}
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
			time.AfterFunc(grace, func() { cmd.Process.Kill() })
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// requirements says what is missing for any measurement at all.
func requirements() error {
	if os.Geteuid() != 0 {
		return errors.New("run it as root: it mounts file systems and drops the kernel's caches")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("the link needs /dev/net/tun: %w", err)
	}
	if why := missing("curl"); why != "" {
		return errors.New(why + ": apt-get install curl")
	}
	_, err := findNginx()
	return err
}

// furnish makes the sandbox a place to work in.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc of the new namespace: %w", err)
	}
	// sshd wants a directory below, and mount(8) writes there.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs at /run: %w", err)
	}
	return nil
}
