package publish

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// openBelow opens a path below the directory root, one name after the other:
// none of them is followed if it is a symlink, and all together may be longer
// than the system takes at once.
func openBelow(root *os.File, path string, flags int) (*os.File, error) {
	at := int(root.Fd())
	for {
		name, rest, more := strings.Cut(path, "/")
		how := flags | unix.O_NOFOLLOW
		if more {
			how = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW
		}
		fd, err := openat(at, name, how)
		if at != int(root.Fd()) {
			unix.Close(at)
		}
		if err != nil {
			return nil, fmt.Errorf("open: %w", err)
		}
		if !more {
			return os.NewFile(uintptr(fd), name), nil
		}
		at, path = fd, rest
	}
}

// openat is the system's, made again where a signal interrupts it. The empty
// name is the directory itself.
func openat(at int, name string, flags int) (int, error) {
	if name == "" {
		name = "."
	}
	for {
		fd, err := unix.Openat(at, name, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// fstat is what the system says of an open file.
func fstat(f *os.File) (st unix.Stat_t, err error) {
	for {
		if err = unix.Fstat(int(f.Fd()), &st); err != unix.EINTR {
			return st, wrapErrno("stat", err)
		}
	}
}

// lstatAt looks at a name in an open directory.
func lstatAt(dir *os.File, name string) (st unix.Stat_t, err error) {
	for {
		if err = unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != unix.EINTR {
			return st, wrapErrno("stat", err)
		}
	}
}

// readlinkAt reads a symlink in an open directory. One that is no symlink any
// more is errChanged.
func readlinkAt(dir *os.File, name string) ([]byte, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	if errors.Is(err, unix.EINVAL) {
		return nil, errChanged
	}
	if err != nil {
		return nil, wrapErrno("read link", err)
	}
	return buf[:n:n], nil
}

func wrapErrno(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", op, err)
}
