package ledisbolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	bolt "go.etcd.io/bbolt"
)

const (
	// The most that main.bolt may have, in bytes. What is mapped beyond its end
	// costs address space alone.
	mainMap64 = 16 << 30
	mainMap32 = 256 << 20
	mainAlloc = 4 << 20

	// compactTx is how many bytes Compact writes in one transaction.
	compactTx = 8 << 20
)

// sizeValue is a number as ledis writes it.
func sizeValue(n int) []byte {
	if n == 0 {
		return nil // ledis has no key for an empty hash
	}
	return binary.LittleEndian.AppendUint64(nil, uint64(n))
}

func (s *Store) newMain(path string) *boltFile {
	f := &boltFile{path: path, pool: s.pool, alloc: mainAlloc, mapSize: mainMap64}
	if is32Bit {
		f.mapSize = mainMap32
	}
	if fi, err := os.Stat(path); err == nil {
		f.size.Store(onDisk(fi))
	}
	return f
}

// writeMain writes to main.bolt, all or nothing.
func (s *Store) writeMain(ws []write) error {
	if len(ws) == 0 {
		return nil
	}
	if err := s.unmarkClean(); err != nil {
		return err
	}
	slices.SortFunc(ws, func(a, b write) int { return strings.Compare(a.key, b.key) })
	put := func(kv *bolt.Bucket) error {
		for _, w := range ws {
			var err error
			if w.value == nil {
				err = deleteValue(kv, w.key)
			} else {
				err = s.crc.putValue(kv, w.key, w.value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	err := s.main.update(put)
	if errors.Is(err, errNoSense) {
		if err = s.moveMainAside(err); err == nil {
			err = s.main.update(put)
		}
	}
	return err
}

// replaceMain is moveMainAside for a reader that came upon pages of main that
// make no sense. It does not wait for that.
func (s *Store) replaceMain(main *boltFile, why error) {
	go func() {
		s.writing.Lock()
		defer s.writing.Unlock()
		s.mu.RLock()
		present := s.main == main && !s.closed
		s.mu.RUnlock()
		if !present {
			return
		}
		if err := s.moveMainAside(why); err != nil {
			s.log.Error("go on without what is damaged", "op", "get", "err", err)
		}
	}()
}

// moveMainAside goes on with an empty main.bolt, as Open does. writing is held.
func (s *Store) moveMainAside(why error) error {
	s.log.Error("damaged file moved aside, to "+filepath.Base(s.mainPath())+".damaged", "op", "write", "err", why)
	if err := s.unmarkClean(); err != nil {
		return fmt.Errorf("move %s aside: %w", s.mainPath(), err)
	}
	if err := os.Rename(s.mainPath(), s.mainPath()+".damaged"); err != nil {
		return fmt.Errorf("move %s aside: %w", s.mainPath(), err)
	}
	s.mu.Lock()
	old := s.main
	s.main = s.newMain(s.mainPath())
	s.mu.Unlock()
	old.retire(true)
	return nil
}

// forgetMain removes a damaged value of main.bolt that was found at an epoch,
// unless there is a newer one. It does not wait for that.
func (s *Store) forgetMain(key string, epoch uint64, why error) {
	s.log.Warn("damaged value removed", "op", "get", "err", why)
	go func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, newer := s.inMemory([]byte(key)); !newer && !s.closed && s.epoch == epoch {
			s.active.set(key, op{del: true})
		}
	}()
}

func (s *Store) cleanPath() string { return filepath.Join(s.dir, "main.clean") }

// markClean notes which transaction main.bolt was closed after, so that the
// next Open need not check all of it.
func (s *Store) markClean() error {
	snap, err := s.main.acquire()
	if err != nil {
		return err
	}
	defer snap.release()
	return os.WriteFile(s.cleanPath(), []byte(strconv.Itoa(snap.tx.ID())), 0o600)
}

func (s *Store) unmarkClean() error {
	if err := os.Remove(s.cleanPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// loadMain opens main.bolt. If it is damaged it is moved aside, to
// main.bolt.damaged, and the store starts without it.
func (s *Store) loadMain() error {
	_ = os.Remove(s.mainPath() + ".tmp") // of a Compact that was cut off
	s.main = s.newMain(s.mainPath())
	err := s.verifyMain()
	if !errors.Is(err, ErrDamaged) {
		return err
	}
	s.damage = append(s.damage, fmt.Errorf("moved aside, to %s.damaged: %w", filepath.Base(s.mainPath()), err))
	s.main.retire(true)
	if err := os.Rename(s.mainPath(), s.mainPath()+".damaged"); err != nil {
		return err
	}
	s.main = s.newMain(s.mainPath())
	return s.verifyMain()
}

// verifyMain reads all of main.bolt, unless it was closed properly. Values that
// are not as they were written are removed, and noted as damage; ErrDamaged
// says that the file itself is no good.
func (s *Store) verifyMain() error {
	snap, err := s.main.acquire()
	if err != nil {
		return err
	}
	defer snap.release()
	if b, err := os.ReadFile(s.cleanPath()); err == nil && string(b) == strconv.Itoa(snap.tx.ID()) {
		return nil
	}
	var bad []string
	err = guard(func() error {
		for err := range snap.tx.Check() {
			return fmt.Errorf("%s: %w: %w", snap.f.path, ErrDamaged, err)
		}
		c := snap.kv.Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			at, err := snap.locateAt(k, v)
			if err == nil {
				var value []byte
				if value, err = snap.read(at); err == nil {
					err = s.crc.check(snap, at, k, value)
				}
			}
			if errors.Is(err, ErrDamaged) {
				s.damage = append(s.damage, fmt.Errorf("removed: %w", err))
				bad = append(bad, string(k))
				continue
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || len(bad) == 0 {
		return err
	}
	return s.main.update(func(kv *bolt.Bucket) error {
		for _, k := range bad {
			if err := deleteValue(kv, k); err != nil {
				return err
			}
		}
		return nil
	})
}

// Compact writes main.bolt anew, without the space that deleted keys left in
// it. Commits wait for it once their buffer is full; reads don't.
func (s *Store) Compact() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.flushLocked(); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	tmp := s.mainPath() + ".tmp"
	if err := s.compactTo(tmp); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("compact: %w", err)
	}
	if err := s.unmarkClean(); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	if err := os.Rename(tmp, s.mainPath()); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	s.mu.Lock()
	old := s.main
	s.main = s.newMain(s.mainPath())
	s.mu.Unlock()
	old.retire(true)
	if err := syncDir(s.dir); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	return nil
}

func (s *Store) compactTo(path string) error {
	snap, err := s.main.acquire()
	if err != nil {
		return err
	}
	defer snap.release()
	dst, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: boltTimeout, PageSize: pageSize})
	if err != nil {
		return err
	}
	dst.AllocSize = mainAlloc
	err = guard(func() error { return bolt.Compact(dst, snap.h.db, compactTx) })
	return errors.Join(err, dst.Close())
}
