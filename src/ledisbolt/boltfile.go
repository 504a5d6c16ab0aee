package ledisbolt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	pageSize    = 4096
	boltTimeout = time.Second
	is32Bit     = ^uint(0)>>32 == 0
)

var (
	bucketName = []byte("kv")

	// ErrInUse says that another process, or a View of a store that was closed,
	// has a file open.
	ErrInUse = errors.New("in use")
	// ErrDamaged says that a file or a value is not as it was written.
	ErrDamaged = errors.New("damaged")

	// errNoSense is ErrDamaged of a whole file: its pages can't be followed.
	errNoSense = fmt.Errorf("%w: its pages make no sense", ErrDamaged)

	errGone = errors.New("file is gone")
)

// guard runs fn, which looks into bolt's pages. bolt panics on pages that make
// no sense, and a page that the file no longer has is a fault: both come back
// as ErrDamaged.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errNoSense, p)
		}
	}()
	return fn()
}

// boltFile is one bolt file with one bucket. It is opened when it is needed,
// and closed when too many are open.
type boltFile struct {
	path string
	pool *filePool
	// mapSize is what bolt maps, in bytes: a power of two, or a multiple of 1 GiB.
	// The file never outgrows it: bolt would wait for all readers then, and there
	// is always one, the newest snapshot. A commit fails instead.
	mapSize int64
	alloc   int // bytes by which the file grows

	size    atomic.Int64 // bytes on disk
	free    atomic.Int64 // bytes of these that bolt could use again
	lastUse atomic.Int64

	mu    sync.Mutex
	h     *handle // GUARDED_BY(mu); nil while closed
	gone  bool    // GUARDED_BY(mu); unlinked
	known bool    // GUARDED_BY(mu); it has been open before
}

// handle is an open file. Its fields are guarded by boltFile.mu.
type handle struct {
	db     *bolt.DB
	addr   uintptr // of the map
	mapped int64
	file   *os.File // db's own
	snap   *snapshot
	snaps  int // that have not ended
	broken bool
	held   int64 // bytes on disk that filePool.held has for it
}

// snapshot is a read transaction that readers share. bolt's read transactions
// keep no state as long as they are only read from, so any number of goroutines
// may look through one. It stays open until the last of them releases it.
type snapshot struct {
	f    *boltFile
	h    *handle
	tx   *bolt.Tx
	kv   *bolt.Bucket
	refs int // GUARDED_BY(f.mu); one is the handle's own while this is the newest
}

// acquire returns the newest snapshot, to be released. errGone says that the
// file was unlinked; ErrDamaged that it can't be used.
func (f *boltFile) acquire() (*snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone {
		return nil, errGone
	}
	f.lastUse.Store(f.pool.clock.Add(1))
	if f.h == nil {
		if err := f.open(); err != nil {
			return nil, fmt.Errorf("open %s: %w", f.path, err)
		}
	}
	f.h.snap.refs++
	return f.h.snap, nil
}

func (s *snapshot) release() {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	s.drop()
}

// drop gives a reference back. f.mu is held.
func (s *snapshot) drop() {
	if s.refs--; s.refs > 0 {
		return
	}
	h := s.h
	if !h.broken {
		if err := guard(s.tx.Rollback); err != nil {
			h.broken = true
		}
	}
	if h.snaps--; h.snaps > 0 {
		return
	}
	s.f.pool.closed(s.f, h)
	if h.broken {
		// bolt may have panicked while it held locks: then Close would wait for
		// ever. The descriptor at least need not stay.
		_ = h.file.Close()
		return
	}
	_ = h.db.Close() // only of consequence to writes, which were synced
	s.f.pool.held.Add(-h.held)
}

// open is called with f.mu held.
func (f *boltFile) open() (err error) {
	h := &handle{mapped: mapped(max(f.mapSize, f.size.Load()))}
	if err := f.pool.reserve(f, h); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		f.pool.closed(f, h)
		if h.file != nil {
			_ = h.file.Close() // again, if bolt has
		}
	}()
	opt := &bolt.Options{
		Timeout: boltTimeout, PageSize: pageSize, InitialMmapSize: int(f.mapSize),
		MaxSize: int(f.mapSize), FreelistType: bolt.FreelistMapType,
		OpenFile: func(name string, flag int, mode fs.FileMode) (*os.File, error) {
			file, err := os.OpenFile(name, flag, mode)
			h.file = file
			return file, err
		},
	}
	err = guard(func() error {
		if h.db, err = bolt.Open(f.path, 0o600, opt); err != nil {
			return err
		}
		h.db.AllocSize = f.alloc
		if err := f.complete(h); err != nil {
			return err
		}
		h.addr = h.db.Info().Data
		h.snap, err = f.begin(h)
		return err
	})
	if err != nil {
		return opening(err)
	}
	f.h, f.known = h, true
	return f.measure()
}

// complete checks that the file is as long as it says, and gives a new one its
// bucket.
func (f *boltFile) complete(h *handle) error {
	fi, err := h.file.Stat()
	if err != nil {
		return err
	}
	var isNew bool
	err = h.db.View(func(tx *bolt.Tx) error {
		if fi.Size() < tx.Size() {
			return fmt.Errorf("%w: %d bytes, want %d", ErrDamaged, fi.Size(), tx.Size())
		}
		isNew = tx.Bucket(bucketName) == nil
		return nil
	})
	if err != nil || !isNew {
		return err
	}
	if f.known {
		return fmt.Errorf("%w: it is empty now", ErrDamaged)
	}
	err = h.db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket(bucketName)
		return err
	})
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(f.path))
}

// opening makes ErrDamaged or ErrInUse of what bolt says about a file.
func opening(err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%w: %w", ErrInUse, err)
	case errors.Is(err, ErrDamaged):
		return err
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return err // which says nothing of the content
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// begin starts a snapshot. f.mu is held.
func (f *boltFile) begin(h *handle) (*snapshot, error) {
	tx, err := h.db.Begin(false)
	if err != nil {
		return nil, err
	}
	s := &snapshot{f: f, h: h, tx: tx, refs: 1}
	if s.kv = tx.Bucket(bucketName); s.kv == nil {
		_ = tx.Rollback()
		return nil, fmt.Errorf("%w: no bucket %q", ErrDamaged, bucketName)
	}
	h.snaps++
	return s, nil
}

// update changes the file in one synced transaction; what acquire returns from
// then on has seen it. Only one goroutine calls it at a time.
func (f *boltFile) update(fn func(kv *bolt.Bucket) error) error {
	s, err := f.acquire() // which also keeps the file open
	if err != nil {
		return err
	}
	defer s.release()
	stuck := true
	err = guard(func() error {
		err := s.h.db.Update(func(tx *bolt.Tx) error { return fn(tx.Bucket(bucketName)) })
		stuck = false
		return err
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if stuck {
		s.h.broken = true
	}
	if errors.Is(err, bolterrors.ErrMaxSizeReached) {
		err = fmt.Errorf("%w: %w", ErrFull, err)
	}
	if err == nil && f.h != s.h {
		err = errGone // a reader found it damaged
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	err = guard(func() error {
		fresh, err := f.begin(s.h)
		if err == nil {
			s.h.snap.drop()
			s.h.snap = fresh
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read back %s: %w", f.path, err)
	}
	return f.measure()
}

// measure notes what the file takes on disk, and what is free in it. f.mu is held.
func (f *boltFile) measure() error {
	fi, err := f.h.file.Stat()
	if err != nil {
		return fmt.Errorf("measure %s: %w", f.path, err)
	}
	f.size.Store(onDisk(fi))
	f.free.Store(int64(f.h.db.Stats().FreePageN) * pageSize)
	return nil
}

// retire closes the file once its last reader is done. No one can acquire it
// again, if gone; else it is opened anew.
func (f *boltFile) retire(gone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = f.gone || gone
	if f.h != nil {
		h := f.h
		f.h = nil
		if gone {
			h.held = f.size.Load()
			f.pool.held.Add(h.held)
		}
		h.snap.drop()
	}
}

// idle closes the file if nobody reads from it.
func (f *boltFile) idle() bool {
	// One that is being opened is not idle; and waiting for it, while holding
	// another one's lock, could be a deadlock.
	if !f.mu.TryLock() {
		return false
	}
	defer f.mu.Unlock()
	if f.h == nil || f.h.snaps > 1 || f.h.snap.refs > 1 {
		return false
	}
	h := f.h
	f.h = nil
	h.snap.drop()
	return true
}

// onDisk is what a file takes on disk: for one with holes, its blocks.
func onDisk(fi fs.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return int64(st.Blocks) * 512
	}
	return fi.Size()
}

// mapped is what bolt maps for a file of size bytes.
func mapped(size int64) int64 {
	m := int64(32 << 10)
	for m < size && m < 1<<30 {
		m *= 2
	}
	for m < size {
		m += 1 << 30
	}
	return m
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// filePool bounds how many files are open, and how much of the address space
// they take.
type filePool struct {
	maxOpen   int
	maxMapped int64
	clock     atomic.Int64
	held      atomic.Int64 // bytes on disk of files that are unlinked, but not closed: somebody looks at them

	mu     sync.Mutex
	open   map[*handle]*boltFile // GUARDED_BY(mu)
	mapped int64                 // GUARDED_BY(mu)
}

var errTooMany = errors.New("too many files are being read")

// reserve makes room for one more, closing the ones that nobody reads from, the
// least recently used first.
func (p *filePool) reserve(f *boltFile, h *handle) error {
	for {
		p.mu.Lock()
		if len(p.open) == 0 || len(p.open) < p.maxOpen && p.mapped+h.mapped <= p.maxMapped {
			p.open[h] = f
			p.mapped += h.mapped
			p.mu.Unlock()
			return nil
		}
		files := make([]*boltFile, 0, len(p.open))
		for _, other := range p.open {
			if other != f {
				files = append(files, other)
			}
		}
		p.mu.Unlock()
		if !closeIdle(files) {
			return errTooMany
		}
	}
}

func closeIdle(files []*boltFile) bool {
	for len(files) > 0 {
		oldest := 0
		for i, f := range files {
			if f.lastUse.Load() < files[oldest].lastUse.Load() {
				oldest = i
			}
		}
		if files[oldest].idle() {
			return true
		}
		files[oldest] = files[len(files)-1]
		files = files[:len(files)-1]
	}
	return false
}

func (p *filePool) closed(f *boltFile, h *handle) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[h] == f {
		delete(p.open, h)
		p.mapped -= h.mapped
	}
}
