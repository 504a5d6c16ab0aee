package fs

import (
	"context"
	"errors"
	"syscall"
)

// errno is what the kernel, and so a program, is told of an error: the one
// place that decides. The library passes on a bare syscall.Errno only.
func (f *FS) errno(err error) error {
	// Only an error that this package made itself is a bare errno. One that
	// is wrapped comes from a disk or a network below: there, even ENOENT
	// does not mean that the tree has no such file.
	if e, ok := err.(syscall.Errno); ok || err == nil {
		if !ok {
			return nil
		}
		return e
	}
	if errors.Is(err, context.Canceled) && f.life.Err() == nil {
		// The caller was interrupted, and is the only one to hear of it. Who has a mount
		// for longer than this process wants it, as a container may, was not.
		return syscall.EINTR
	}
	return syscall.EIO
}
