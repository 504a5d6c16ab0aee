package service

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// errTaken says that another process holds the pid file.
var errTaken = errors.New("another one is running")

// pidFile is one that this process holds.
type pidFile struct{ f *os.File }

// takePidFile writes this process' id into a file that stays locked until it is
// released or the process ends.
func takePidFile(path string) (*pidFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the pid file's directory: %w", err)
	}
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, fmt.Errorf("take the pid file: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, errTaken
			}
			return nil, fmt.Errorf("lock the pid file %s: %w", path, err)
		}
		// Whoever held it before may have removed it in between.
		mine, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("look at the pid file: %w", err)
		}
		if now, err := os.Stat(path); err != nil || !os.SameFile(mine, now) {
			f.Close()
			continue
		}
		if err = f.Truncate(0); err == nil {
			_, err = f.WriteString(strconv.Itoa(os.Getpid()) + "\n")
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("write the pid file: %w", err)
		}
		return &pidFile{f}, nil
	}
}

// release takes the file away.
func (p *pidFile) release() {
	os.Remove(p.f.Name())
	p.f.Close()
}

// runningPid is the process that holds a pid file, or 0.
func runningPid(path string) (int, error) {
	// A holder that has just begun may not have written its id yet.
	for range 100 {
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			return 0, nil
		}
		if err != nil {
			return 0, fmt.Errorf("read the pid file: %w", err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		b := make([]byte, 32)
		n, _ := f.Read(b)
		f.Close()
		if err == nil {
			return 0, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return 0, fmt.Errorf("look at the lock of the pid file %s: %w", path, err)
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n]))); err == nil && pid > 1 {
			return pid, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return 0, fmt.Errorf("the pid file %s is held, but says not by whom", path)
}
