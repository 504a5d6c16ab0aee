package disk

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/tier"
)

var (
	bucketHeads  = []byte("heads")
	bucketValues = []byte("values")
)

const (
	// maxValue bounds a head or a value in bytes.
	maxValue = 64 << 10
	headsMap = 4 << 20
)

// errNoHeads is told where the reason was logged before.
var errNoHeads = fmt.Errorf("the cache's heads.db cannot be used: %w", tier.ErrUnavailable)

// heads keeps what a client needs to start with no network at all. Unlike the
// segments it is synced with every change.
type heads struct {
	path     string
	readOnly bool
	log      *slog.Logger
	onDisk   atomic.Int64

	mu   sync.RWMutex // held to replace the file
	db   *bolt.DB
	file *os.File
}

// openHeads opens the file, or makes a new one if it is damaged. Where it can't
// be used at all, puts fail and gets find nothing.
func openHeads(dir *directory, log *slog.Logger) *heads {
	x := &heads{path: filepath.Join(dir.path, headsFile), readOnly: dir.readOnly, log: log}
	err := x.open()
	if err != nil && !isPassing(err) && !x.readOnly && !errors.Is(err, unix.ENOSPC) {
		x.log.Warn("disk cache: heads are damaged and start anew", "err", err)
		err = x.replace()
	}
	if err != nil {
		x.log.Warn("disk cache: heads cannot be kept", "err", err)
	}
	return x
}

// open opens the file; its page tree is walked, to find damage now.
func (x *heads) open() error {
	var db *bolt.DB
	var file *os.File
	err := guard(func() (err error) {
		db, err = bolt.Open(x.path, 0o600, &bolt.Options{
			Timeout: boltTimeout, PageSize: pageSize, NoStatistics: true,
			InitialMmapSize: headsMap, ReadOnly: x.readOnly,
			OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
				f, err = os.OpenFile(name, flag, mode)
				file = f
				return f, err
			},
		})
		if err != nil {
			return err
		}
		db.AllocSize = pageSize
		err = db.View(func(tx *bolt.Tx) error {
			for _, name := range [][]byte{bucketHeads, bucketValues} {
				if b := tx.Bucket(name); b != nil {
					if err := b.ForEach(func(_, _ []byte) error { return nil }); err != nil {
						return err
					}
				}
			}
			return nil
		})
		return err
	})
	if err != nil {
		if file != nil {
			file.Close() // bolt may hold its own locks by now: the map is lost
		}
		return fmt.Errorf("open %s: %w", x.path, err)
	}
	x.db, x.file = db, file
	x.measure()
	return nil
}

// replace starts a new file. mu is held, or nobody else knows x yet.
func (x *heads) replace() error {
	if err := os.Remove(x.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove: %w", err)
	}
	return x.open()
}

func (x *heads) measure() {
	if fi, err := os.Stat(x.path); err == nil {
		x.onDisk.Store(onDisk(fi))
	}
}

func (x *heads) size() int64 {
	if x == nil {
		return 0
	}
	return x.onDisk.Load()
}

// put stores a value, durably; nil removes it.
func (x *heads) put(bucket []byte, key string, value []byte) error {
	if x == nil || x.readOnly {
		return errNoHeads
	}
	if len(value) > maxValue || key == "" || len(key) > bolt.MaxKeySize {
		return fmt.Errorf("keep %.80q: key of %d bytes, value of %d, at most %d", key, len(key), len(value), maxValue)
	}
	if old, err := x.get(bucket, key); value != nil && err == nil && bytes.Equal(old, value) {
		return nil
	}
	err := x.update(bucket, key, value)
	if d := (*damage)(nil); errors.As(err, &d) {
		if err = x.renew(err); err == nil {
			err = x.update(bucket, key, value)
		}
	}
	if err != nil {
		return fmt.Errorf("keep %.80q: %w", key, err)
	}
	return nil
}

func (x *heads) update(bucket []byte, key string, value []byte) error {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.db == nil {
		return errNoHeads
	}
	defer x.measure()
	return guard(func() error {
		return x.db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(bucket)
			if err != nil {
				return err
			}
			if value == nil {
				return b.Delete([]byte(key))
			}
			return b.Put([]byte(key), value)
		})
	})
}

func (x *heads) get(bucket []byte, key string) ([]byte, error) {
	if x == nil {
		return nil, tier.ErrAbsent
	}
	var value []byte
	x.mu.RLock()
	err := errNoHeads
	if x.db != nil {
		err = guard(func() error {
			return x.db.View(func(tx *bolt.Tx) error {
				if b := tx.Bucket(bucket); b != nil {
					value = bytes.Clone(b.Get([]byte(key)))
				}
				return nil
			})
		})
	}
	x.mu.RUnlock()
	if d := (*damage)(nil); errors.As(err, &d) && !x.readOnly {
		_ = x.renew(err) // it has logged; the answer is the same
	}
	if err != nil || value == nil {
		return nil, tier.ErrAbsent
	}
	return value, nil
}

// renew replaces a file that proved to be damaged.
func (x *heads) renew(why error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.db == nil {
		return errNoHeads
	}
	x.log.Warn("disk cache: heads are damaged and start anew", "err", why)
	// bolt may hold its own locks for ever; so the map is left behind.
	x.file.Close()
	x.db, x.file = nil, nil
	if err := x.replace(); err != nil {
		x.log.Warn("disk cache: heads cannot be kept", "err", err)
		return err
	}
	return nil
}

func (x *heads) close() error {
	if x == nil {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.db == nil {
		return nil
	}
	db := x.db
	x.db, x.file = nil, nil
	return guard(db.Close)
}
