package publish

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// guard keeps gc and those that rely on blobs which are there already from
// treading on each other. Who relies on a blob freshens it: that moves its ctime,
// under a shared lock. gc removes, under the exclusive one, what was neither
// written nor freshened since the oldest publish that is alive began. So a blob is
// either gone when it is looked for, and then written again, or it stays until
// the head is there that reaches it.
type guard struct {
	mu   sync.Mutex // flock knows files, not goroutines: one at a time
	file *os.File
}

// errForeign says that a blob can't be kept from gc by whom we run as.
var errForeign = errors.New("the blob is another user's")

// openGuard takes the directory of a domain's temporary files.
func openGuard(tmp string) (*guard, error) {
	f, err := os.OpenFile(filepath.Join(tmp, "sweep"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	return &guard{file: f}, nil
}

func (g *guard) close() { g.file.Close() }

// freshen tells whether the file path is there, which will then stay. If that is
// not ours to say it is errForeign.
func (g *guard) freshen(path string) (bool, error) {
	// What is gone by now is gone: only what is there must not go meanwhile.
	var st unix.Stat_t
	if unix.Lstat(path, &st) == unix.ENOENT {
		return false, nil
	}
	there := false
	err := g.hold(unix.LOCK_SH, func() error {
		// Only the time of the last access is set: that of the content says when
		// it was published.
		now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_OMIT}}
		err := unix.UtimesNanoAt(unix.AT_FDCWD, path, now, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			return fmt.Errorf("%s: %w", path, errForeign)
		}
		there = err == nil
		return wrapErrno("freshen blob "+path, err)
	})
	return there, err
}

// hold calls f with the lock.
func (g *guard) hold(how int, f func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := flock(g.file, how); err != nil {
		return err
	}
	err := f()
	return errors.Join(err, flock(g.file, unix.LOCK_UN))
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return wrapErrno("lock "+f.Name(), err)
		}
	}
}
