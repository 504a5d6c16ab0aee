package overlay

import (
	"container/list"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/debug"
)

// spool is the directory of one mount's file contents: those that are being
// written, those that stay on this machine, and what was read from redis last.
type spool struct {
	dir   string
	lock  *os.File
	limit int64 // of what is kept of redis, in bytes

	mu     sync.Mutex
	size   int64
	kept   map[string]*list.Element // by file name
	recent *list.List               // of *kept, the last used first
}

type kept struct {
	name string
	size int64
}

// lockFile is locked by who has the directory that it is in.
const lockFile = "lock"

// newSpool makes a directory in parent, and removes those that others left there,
// who are no more.
func newSpool(parent string, limit int64) (*spool, error) {
	s := &spool{limit: limit, kept: make(map[string]*list.Element), recent: list.New()}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("make the spool directory: %w", err)
	}
	// Whoever else may write there could have this process write elsewhere.
	var st unix.Stat_t
	if err := unix.Lstat(parent, &st); err != nil {
		return nil, fmt.Errorf("look at the spool directory: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("the spool directory %s must be a directory that this user has, and nobody else may write to: remove it", parent)
	}
	turn, err := lock(parent, unix.LOCK_EX)
	if err != nil {
		return nil, fmt.Errorf("lock the spool directory: %w", err)
	}
	defer turn.Close()
	old, err := filepath.Glob(filepath.Join(parent, "*", lockFile))
	if err != nil {
		return nil, fmt.Errorf("look for old spools: %w", err)
	}
	for _, file := range old {
		if f, err := lock(filepath.Dir(file), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			err = os.RemoveAll(filepath.Dir(file))
			f.Close()
			if err != nil {
				return nil, fmt.Errorf("remove an old spool: %w", err)
			}
		}
	}
	if s.dir, err = os.MkdirTemp(parent, ""); err != nil {
		return nil, fmt.Errorf("make a spool: %w", err)
	}
	if s.lock, err = lock(s.dir, unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock a spool: %w", err)
	}
	return s, nil
}

func lock(dir string, how int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for err = unix.Flock(int(f.Fd()), how); err == unix.EINTR; {
		err = unix.Flock(int(f.Fd()), how)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (s *spool) close() error { return errors.Join(os.RemoveAll(s.dir), s.lock.Close()) }

func (s *spool) path(id uint64) string { return filepath.Join(s.dir, strconv.FormatUint(id, 10)) }

// create makes the empty content of a node, or empties it.
func (s *spool) create(id uint64) (*os.File, error) {
	return os.OpenFile(s.path(id), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
}

func (s *spool) open(id uint64) (*os.File, error) { return os.OpenFile(s.path(id), os.O_RDWR, 0) }

func (s *spool) remove(id uint64) { os.Remove(s.path(id)) }

func keptName(c debug.Change) string { return fmt.Sprintf("%s-%d", c.MD5, c.Size) }

// get opens a content that was kept. Who has it open keeps it, whatever becomes
// of its name.
func (s *spool) get(c debug.Change) (*os.File, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.kept[keptName(c)]
	if e == nil {
		return nil, false
	}
	f, err := os.Open(filepath.Join(s.dir, keptName(c)))
	if err != nil {
		s.drop(e)
		return nil, false
	}
	s.recent.MoveToFront(e)
	return f, true
}

// fetch keeps a content that copy writes, and opens it.
func (s *spool) fetch(c debug.Change, copy func(io.Writer) error) (*os.File, error) {
	f, err := os.CreateTemp(s.dir, "new-*")
	if err != nil {
		return nil, err
	}
	if err = copy(f); err == nil {
		err = s.keep(c, f.Name())
	}
	if err != nil {
		os.Remove(f.Name())
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// keep takes over a file that has the content c.
func (s *spool) keep(c debug.Change, file string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Rename(file, filepath.Join(s.dir, keptName(c))); err != nil {
		return err
	}
	if e := s.kept[keptName(c)]; e != nil {
		s.recent.MoveToFront(e)
		return nil
	}
	s.kept[keptName(c)] = s.recent.PushFront(&kept{keptName(c), c.Size})
	s.size += c.Size
	for s.size > s.limit && s.recent.Len() > 1 {
		s.drop(s.recent.Back())
	}
	return nil
}

// shrink gives up all that is kept of redis, where the disk is full. It is false
// where there was nothing.
func (s *spool) shrink() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	any := s.recent.Len() > 0
	for s.recent.Len() > 0 {
		s.drop(s.recent.Back())
	}
	return any
}

func (s *spool) drop(e *list.Element) {
	k := s.recent.Remove(e).(*kept)
	delete(s.kept, k.name)
	s.size -= k.size
	os.Remove(filepath.Join(s.dir, k.name))
}
