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

	"github.com/aysfs/aysfs/src/debug"
)

// spool is the directory of one mount's file contents: those that are being
// written, those that stay on this machine, and what was read from redis last.
type spool struct {
	dir   string
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

// newSpool makes the directory anew: what a predecessor left there goes.
func newSpool(dir string, limit int64) (*spool, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("clear the spool directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the spool directory: %w", err)
	}
	return &spool{dir: dir, limit: limit, kept: make(map[string]*list.Element), recent: list.New()}, nil
}

func (s *spool) close() error { return os.RemoveAll(s.dir) }

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
