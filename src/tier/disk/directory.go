package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	formatWord = "aysfs disk cache "
	format     = formatWord + "1\n"

	versionFile = "VERSION"
	lockFile    = "lock"
	headsFile   = "heads.db"
	cleanFile   = "clean"

	// lockPatience is how long to wait for a process that is about to end.
	lockPatience = 3 * time.Second
)

// GuestDir is a name in the cache's directory that it leaves to others, for what
// needs a disk, too.
const GuestDir = "debug"

// ours tells the files that a cache of any version has. Others are left alone.
func ours(name string) bool {
	switch name {
	case versionFile, lockFile, headsFile, cleanFile, cleanFile + ".tmp":
		return true
	}
	_, ok := segmentID(name)
	return ok || profileRE.MatchString(name)
}

// directory is the locked place of a cache.
type directory struct {
	path     string
	lock     *os.File
	readOnly bool
	// Why it is read-only, or why it can't be used at all.
	readOnlyWhy, unusable error
	notes                 []string // for the log
}

// openDirectory makes or checks the directory and locks it. The error is for
// what a person must put right.
func openDirectory(path string) (*directory, error) {
	d := &directory{path: path}
	err := os.MkdirAll(path, 0o700)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, err
	}
	if err == nil {
		if err = CheckPrivate(path); err != nil && closeUp(path) == nil {
			err = CheckPrivate(path)
		}
	}
	if err != nil {
		d.unusable = err
		return d, nil
	}
	known, err := d.isOurs()
	if errors.Is(err, ErrForeign) {
		return nil, err
	}
	if err != nil {
		d.unusable = err
		return d, nil
	}
	if err := d.takeLock(known); err != nil {
		if errors.Is(err, ErrInUse) {
			return nil, err
		}
		d.unusable = err
		return d, nil
	}
	if known || d.readOnly {
		if !known {
			d.unusable = fmt.Errorf("nothing to read: %w", d.readOnlyWhy)
		}
		return d, nil
	}
	if err := d.rebuild(); err != nil {
		d.unusable = err
	}
	return d, nil
}

// CheckPrivate says what is wrong with a directory that other users may put files
// into. A cache that was closed cleanly is taken at its word, and so would theirs be.
func CheckPrivate(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if uid := int(st.Uid); uid != 0 && uid != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("other users may write to %s (mode %04o, of user %d): chmod 700 it if it is empty, remove it if not, or set [cache.disk] path to another", path, st.Mode&0o7777, st.Uid)
	}
	return nil
}

// closeUp takes from others the right to write to a file system of its own that is
// empty, as a new tmpfs is: nobody has made use of that right. One that is there for
// all stays as it is, and is ErrForeign.
func closeUp(path string) error {
	var st, parent unix.Stat_t
	if err := errors.Join(unix.Lstat(path, &st), unix.Stat(filepath.Dir(path), &parent)); err != nil {
		return err
	}
	name := filepath.Base(path)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Dev == parent.Dev || int(st.Uid) != os.Geteuid() || name == "tmp" || name == "shm" {
		return ErrForeign
	}
	d := directory{path: path}
	for range 2 { // also when nobody can add anything any more
		names, err := d.names()
		if err != nil {
			return err
		}
		if len(names) > 0 && !slices.Equal(names, []string{"lost+found"}) {
			return ErrForeign
		}
		if err := os.Chmod(path, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// isOurs tells whether there is a cache of this version. It is ErrForeign when
// there is something else.
func (d *directory) isOurs() (bool, error) {
	names, err := d.names()
	if err != nil {
		return false, err
	}
	b, err := os.ReadFile(filepath.Join(d.path, versionFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if strings.HasPrefix(string(b), formatWord) {
		return string(b) == format, nil
	}
	for _, name := range names {
		if !ours(name) && name != "lost+found" && name != GuestDir {
			return false, fmt.Errorf("%w: it has %q", ErrForeign, name)
		}
	}
	return false, nil
}

func (d *directory) names() ([]string, error) {
	f, err := os.Open(d.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// takeLock keeps other processes out. Where nothing can be written there is
// no need to, nor a way; that makes the directory read-only.
func (d *directory) takeLock(known bool) error {
	path := filepath.Join(d.path, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if known && (errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) {
		d.readOnly, d.readOnlyWhy = true, err
		if f, err = os.Open(path); err != nil {
			return nil
		}
	}
	if err != nil {
		return err
	}
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			d.lock = f
			return nil
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return fmt.Errorf("lock %s: %w", path, err)
		}
		if time.Since(start) > lockPatience {
			f.Close()
			return ErrInUse
		}
	}
}

// rebuild removes what another version left and starts anew.
func (d *directory) rebuild() error {
	names, err := d.names()
	if err != nil {
		return err
	}
	removed := 0
	for _, name := range names {
		if !ours(name) || name == lockFile {
			continue
		}
		if err := os.Remove(filepath.Join(d.path, name)); err != nil {
			return err
		}
		removed++
	}
	if removed > 0 {
		d.notes = append(d.notes, "a cache of another version was removed")
	}
	if err := writeSynced(filepath.Join(d.path, versionFile), []byte(format)); err != nil {
		return err
	}
	return d.sync()
}

// lockDir keeps others that lock a directory this way out of it, by a lock on
// the directory itself: nothing is left in it.
func lockDir(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// sync makes names that were added or removed durable.
func (d *directory) sync() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func (d *directory) close() {
	if d.lock != nil {
		d.lock.Close()
	}
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func statOf(fi fs.FileInfo) *syscall.Stat_t {
	st, _ := fi.Sys().(*syscall.Stat_t)
	return st
}
