package fs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Clear takes away whatever of this kind is mounted at path, dead or alive: for
// when the process that served it had to be killed. Who still uses it keeps what
// it has open. Nothing mounted there is no error.
func Clear(path string) error {
	for range maxStale {
		mounted, err := mountedHere(path)
		if err != nil {
			return err
		}
		if !mounted {
			return nil
		}
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("take away the mount at %s: %w", path, err)
		}
	}
	return fmt.Errorf("%s: %w: mounts keep coming back", path, ErrMountPoint)
}
