package publish

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// openBelow opens a path below the directory root, one name after the other:
// none of them is followed if it is a symlink, and all together may be longer
// than the system takes at once.
func openBelow(root *os.File, path string, flags int) (*os.File, error) {
	fd, err := openPath(root, path, flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openPath is openBelow for a bare descriptor.
func openPath(root *os.File, path string, flags int) (int, error) {
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
			return -1, fmt.Errorf("open: %w", err)
		}
		if !more {
			return fd, nil
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

// bareFile reads a file by its descriptor. The runtime's poller has nothing to say of
// files, and the way around it is noticeably shorter where there are thousands of
// small ones.
type bareFile int

func (f bareFile) Read(b []byte) (int, error) {
	return f.read(b, func() (int, error) { return unix.Read(int(f), b) })
}

// readAt reads what is at an offset, maybe less than there is room for.
func (f bareFile) readAt(b []byte, at int64) (int, error) {
	return f.read(b, func() (int, error) { return unix.Pread(int(f), b, at) })
}

func (f bareFile) read(b []byte, call func() (int, error)) (int, error) {
	for {
		n, err := call()
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, wrapErrno("read", err)
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// writeAt makes a file in an open directory, and returns its descriptor.
func writeAt(dir *os.File, name string, content []byte) (fd int, err error) {
	for {
		fd, err = unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o644)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return -1, wrapErrno("make file", err)
	}
	for len(content) > 0 {
		n, err := unix.Write(fd, content)
		if err != nil && err != unix.EINTR {
			unix.Close(fd)
			return -1, wrapErrno("write", err)
		}
		content = content[max(n, 0):]
	}
	return fd, nil
}

// fstat is what the system says of an open file.
func fstat(f *os.File) (unix.Stat_t, error) { return fstatFD(int(f.Fd())) }

func fstatFD(fd int) (st unix.Stat_t, err error) {
	for {
		if err = unix.Fstat(fd, &st); err != unix.EINTR {
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
