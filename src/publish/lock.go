package publish

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how often a lock that somebody else holds is tried again.
const lockPoll = 50 * time.Millisecond

// errLocked says that somebody else holds a lock.
var errLocked = errors.New("locked by another process")

// lock takes the lock that the file path stands for, and makes the file if
// need be. It waits until ctx is done; waiting, if not nil, is called once if
// there is a wait. Closing the file gives the lock back.
func lock(ctx context.Context, path string, waiting func()) (*os.File, error) {
	for {
		f, err := tryLock(path)
		if !errors.Is(err, errLocked) {
			return f, err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the lock %s: %w", path, context.Cause(ctx))
		case <-time.After(lockPoll):
		}
	}
}

// tryLock is lock without waiting: errLocked if somebody else has it.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	if err = flock(f, unix.LOCK_EX|unix.LOCK_NB); err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("lock %s: %w", path, errLocked)
	}
	return nil, err
}
