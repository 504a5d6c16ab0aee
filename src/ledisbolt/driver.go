package ledisbolt

import (
	"fmt"
	"path/filepath"
	"sync"

	"github.com/ledisdb/ledisdb/config"
	"github.com/ledisdb/ledisdb/ledis"
	"github.com/ledisdb/ledisdb/store/driver"
	"github.com/syndtr/goleveldb/leveldb"
)

// DriverName is what ledis calls this driver in its configuration.
const DriverName = "bolt"

// Driver opens stores for ledis.
type Driver struct {
	mu     sync.Mutex
	stores map[string]*Store // GUARDED_BY(mu); by path; those that OpenLedis hands over
}

var _ driver.Store = (*Driver)(nil)

// Register tells ledis about the driver, unless that has been done. ledis keeps
// its drivers in a table for the whole process that nothing guards: call it
// before anything uses ledis, not from two goroutines.
func Register() *Driver {
	if known, err := driver.GetStore(&config.Config{DBName: DriverName}); err == nil {
		return known.(*Driver)
	}
	d := &Driver{stores: make(map[string]*Store)}
	driver.Register(d)
	return d
}

// OpenLedis opens ledis on a store. Closing ledis closes the store.
func (d *Driver) OpenLedis(s *Store) (*ledis.Ledis, error) {
	cfg := config.NewConfigDefault() // a Config made otherwise lacks its mutex
	cfg.DBName, cfg.DataDir, cfg.DBPath = DriverName, s.dir, s.dir
	cfg.Databases = 1
	path := filepath.Clean(s.dir)
	d.mu.Lock()
	d.stores[path] = s
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.stores, path)
	}()
	l, err := ledis.Open(cfg)
	if err != nil {
		return nil, fmt.Errorf("open ledis on %s: %w", s.dir, err)
	}
	return l, nil
}

// String is the driver's name.
func (d *Driver) String() string { return DriverName }

// Open is for ledis. A path that OpenLedis doesn't hand over is opened with
// default options.
func (d *Driver) Open(path string, _ *config.Config) (driver.IDB, error) {
	d.mu.Lock()
	s := d.stores[filepath.Clean(path)]
	d.mu.Unlock()
	if s == nil {
		var err error
		if s, err = Open(path, Options{}); err != nil {
			return nil, err
		}
	}
	return db{s}, nil
}

// Repair opens and closes the store, which gives up what is damaged.
func (d *Driver) Repair(path string, _ *config.Config) error {
	s, err := Open(path, Options{})
	if err != nil {
		return err
	}
	return s.Close()
}

// db is a Store as ledis sees it.
type db struct{ s *Store }

func (d db) Close() error                      { return d.s.Close() }
func (d db) Compact() error                    { return d.s.Compact() }
func (d db) Get(key []byte) ([]byte, error)    { return d.s.get(key) }
func (d db) Put(key, value []byte) error       { return d.s.commit([]write{put(key, value)}) }
func (d db) Delete(key []byte) error           { return d.s.commit([]write{{key: string(key)}}) }
func (d db) NewIterator() driver.IIterator     { return &iterator{s: d.s} }
func (d db) NewWriteBatch() driver.IWriteBatch { return &batch{s: d.s} }

func (d db) SyncPut(key, value []byte) error {
	return d.synced(d.Put(key, value))
}

func (d db) SyncDelete(key []byte) error {
	return d.synced(d.Delete(key))
}

func (d db) synced(err error) error {
	if err != nil {
		return err
	}
	return d.s.Sync()
}

func (d db) NewSnapshot() (driver.ISnapshot, error) {
	v, err := d.s.newSnapshot()
	if err != nil {
		return nil, fmt.Errorf("take a snapshot: %w", err)
	}
	return v, nil
}

// NewIterator goes through the state that the snapshot was taken of.
func (v *snapshotOf) NewIterator() driver.IIterator { return &iterator{s: v.s, snap: v} }

// put copies what the caller may use again.
func put(key, value []byte) write {
	return write{string(key), append(make([]byte, 0, len(value)), value...)}
}

// batch is ledis' driver.IWriteBatch. A commit that succeeds leaves it empty.
type batch struct {
	s      *Store
	writes []write
}

func (b *batch) Put(key, value []byte) { b.writes = append(b.writes, put(key, value)) }
func (b *batch) Delete(key []byte)     { b.writes = append(b.writes, write{key: string(key)}) }
func (b *batch) Rollback() error       { b.writes = nil; return nil }
func (b *batch) Close()                { b.writes = nil }

func (b *batch) Commit() error {
	if err := b.s.commit(b.writes); err != nil {
		return err
	}
	b.writes = nil
	return nil
}

func (b *batch) SyncCommit() error {
	if err := b.Commit(); err != nil {
		return err
	}
	return b.s.Sync()
}

// Data is the batch in the format that ledis replicates.
func (b *batch) Data() []byte {
	var l leveldb.Batch
	for _, w := range b.writes {
		if w.value == nil {
			l.Delete([]byte(w.key))
		} else {
			l.Put([]byte(w.key), w.value)
		}
	}
	return l.Dump()
}
