package fs

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// closes tells which files of a mount nobody has open for writing any more. A mount
// that is not asked about opens is not asked about closes either; fanotify(7) tells
// of those of writers, afterwards.
type closes struct {
	events *os.File
	buf    [8192]byte
}

// watchCloses begins to watch what is mounted at path.
func watchCloses(path string) (*closes, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_UNLIMITED_QUEUE,
		unix.O_RDONLY|unix.O_CLOEXEC|unix.O_LARGEFILE)
	if err != nil {
		return nil, fmt.Errorf("watch files being closed: %w", err)
	}
	if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_CLOSE_WRITE, unix.AT_FDCWD, path); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch files of %s being closed: %w", path, err)
	}
	return &closes{events: os.NewFile(uintptr(fd), "fanotify")}, nil
}

// close ends a next that waits.
func (c *closes) close() error { return c.events.Close() }

// told is that a file was closed, maybe long ago.
type told struct {
	id   uint64
	last bool // by the last who could write to it; else by one, and another may not have
}

// next waits for files to be closed.
func (c *closes) next() ([]told, error) {
	n, err := c.events.Read(c.buf[:])
	if err != nil {
		if errors.Is(err, os.ErrClosed) {
			return nil, os.ErrClosed
		}
		return nil, fmt.Errorf("wait for files to be closed: %w", err)
	}
	var all []told
	for b := c.buf[:n]; len(b) >= int(unsafe.Sizeof(unix.FanotifyEventMetadata{})); {
		e := (*unix.FanotifyEventMetadata)(unsafe.Pointer(&b[0]))
		if e.Event_len < uint32(e.Metadata_len) || int(e.Event_len) > len(b) {
			return all, fmt.Errorf("fanotify tells of an event of %d bytes, of %d", e.Event_len, len(b))
		}
		b = b[e.Event_len:]
		if e.Fd < 0 {
			continue
		}
		if t, ok := closedFor(int(e.Fd)); ok {
			all = append(all, t)
		}
		// To keep it, and ask later, would have the kernel close it when this process
		// is killed, and wait for that process to take what is yet to be written.
		unix.Close(int(e.Fd))
	}
	return all, nil
}

// closedFor tells of which file a descriptor is, and whether nobody has that open for
// writing: of such a file alone the kernel gives a lease to read. It asks the file
// system nothing. The kernel tells of a close before it counts a writer less, and in
// between it writes what is left.
func closedFor(fd int) (t told, ok bool) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return told{}, false
	}
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
	if err == nil {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
	}
	return told{st.Ino, err != unix.EAGAIN}, true
}
