package fs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Clear takes away whatever of this kind is mounted at path, dead or alive: for
// when the process that served it had to be killed. Who still uses it keeps what
// it has open. Nothing mounted there is no error.
func Clear(path string) error {
	for range maxStale {
		device, err := mountedHere(realPath(path))
		if err != nil {
			return err
		}
		if device == "" {
			return nil
		}
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("take away the mount at %s: %w", path, err)
		}
	}
	return fmt.Errorf("%s: %w: mounts keep coming back", path, ErrMountPoint)
}

// State is what a path looks like to who wants to mount there.
type State int

// What a path may be.
const (
	Free  State = iota // nothing of this kind is mounted
	Alive              // a mount of this kind answers
	Stale              // the process that served it is gone
	Stuck              // it does not answer
)

// StateOf says what is at path. It changes nothing, and waits no longer than
// statTimeout.
func StateOf(path string) (State, error) {
	err := statWithin(path, statTimeout)
	switch {
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ECONNABORTED):
		return Stale, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Stuck, nil
	}
	device, err := mountedHere(realPath(path))
	if err != nil || device == "" {
		return Free, err
	}
	return Alive, nil
}

// ClearKept takes a kept mount away from its path if it is still there. Who uses it
// may go on.
func ClearKept(k Kept) error {
	var s state
	if err := json.Unmarshal(k.State, &s); err != nil {
		return fmt.Errorf("read what is kept of the mount at %s: %w", k.Path, err)
	}
	path, ok := DetachedFrom(k)
	if !ok {
		path = k.Path
	}
	device, err := mountedHere(path)
	if err != nil || device == "" || device != s.Device {
		return err
	}
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("take away the mount at %s: %w", path, err)
	}
	return nil
}
