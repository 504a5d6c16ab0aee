package publish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// storeDir is the directory that the name of a store stands for: a path, or a
// file URL.
func storeDir(store string) (string, error) {
	scheme, _, isURL := strings.Cut(store, "://")
	if !isURL {
		if store == "" {
			return "", errors.New("no store given")
		}
		return store, nil
	}
	if scheme != "file" {
		return "", fmt.Errorf("this writes to a directory store, not to %s://: do it where the directory is; an ays_cache has it in published, below its [main] data", scheme)
	}
	u, err := url.Parse(store)
	if err != nil {
		return "", fmt.Errorf("store: %w", err)
	}
	if u.Host != "" && u.Host != "localhost" || u.Path == "" {
		return "", fmt.Errorf("store %q: want file:///DIRECTORY", store)
	}
	return filepath.FromSlash(u.Path), nil
}

// existingStore is storeDir for one that must be there.
func existingStore(store string) (string, error) {
	dir, err := storeDir(store)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return "", fmt.Errorf("store: %w", err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("store: %s is not a directory", dir)
	}
	return dir, nil
}

// dirStore writes the blobs of one publish into one domain of a store.
type dirStore struct {
	blobs string // <store>/<domain>
	tmp   string // this publish's directory for temporary files
	lock  *os.File
	codec *object.Codec
	packs sync.Pool // of *[]byte that packed blobs are made in
	batch *batcher
	guard *guard

	newBlobs, newBytes atomic.Int64
}

// openDirStore makes the domain's directory if need be, and clears what dead
// publishes left there.
func openDirStore(ctx context.Context, dir, domain string, codec *object.Codec) (*dirStore, error) {
	s := &dirStore{
		blobs: filepath.Join(dir, domain),
		codec: codec,
	}
	s.packs.New = func() any { b := make([]byte, 0, object.MaxBlob); return &b }
	tmp := filepath.Join(s.blobs, ".tmp")
	if err := mkdirAll(tmp); err != nil {
		return nil, fmt.Errorf("prepare store: %w", err)
	}
	// Held until our own directory is locked: it is never seen without its
	// lock, and never taken for a dead publish's.
	guard, err := lock(ctx, filepath.Join(tmp, "lock"), nil)
	if err != nil {
		return nil, fmt.Errorf("prepare store: %w", err)
	}
	defer guard.Close()
	if err := clearDead(tmp); err != nil {
		return nil, fmt.Errorf("clear what a dead publish left: %w", err)
	}
	spread(tmp)
	if s.tmp, err = os.MkdirTemp(tmp, "publish-"); err != nil {
		return nil, fmt.Errorf("prepare store: %w", err)
	}
	if s.lock, err = tryLock(filepath.Join(s.tmp, "lock")); err != nil {
		return nil, fmt.Errorf("prepare store: %w", err)
	}
	if s.guard, err = openGuard(tmp); err != nil {
		s.lock.Close()
		return nil, fmt.Errorf("prepare store: %w", err)
	}
	if s.batch, err = newBatcher(s.tmp, s.blobs, s.guard); err != nil {
		s.lock.Close()
		s.guard.close()
		return nil, fmt.Errorf("prepare store: %w", err)
	}
	return s, nil
}

// topDir is FS_TOPDIR_FL, chattr's T.
const topDir = 0x20000

// spread has ext4 look for another part of the disk for each directory that is made in
// dir. Else files are made where others were removed, whose inodes it passes over, one
// by one, for minutes: that takes three times as long as all the rest of a publish.
// Where that can't be had, publishing is as good, if slower.
func spread(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil && flags&topDir == 0 {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|topDir))
	}
}

// clearDead removes the directories in tmp that nobody holds the lock of.
func clearDead(tmp string) error {
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(tmp, e.Name())
		l, err := tryLock(filepath.Join(dir, "lock"))
		if errors.Is(err, errLocked) || errors.Is(err, fs.ErrNotExist) {
			continue // alive, or just now done
		}
		if errors.Is(err, fs.ErrPermission) {
			continue // another user's, for that user or root to clear
		}
		if err != nil {
			return err
		}
		err = removeTemp(dir)
		l.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// removeTemp removes a directory in tmp. Who looks for dead ones may take the lock in
// it for that of one as soon as it is gone, and makes it anew.
func removeTemp(dir string) error {
	for tries := 0; ; tries++ {
		err := os.RemoveAll(dir)
		if !errors.Is(err, unix.ENOTEMPTY) || tries == 100 {
			return err
		}
	}
}

// close gives up what was not finished.
func (s *dirStore) close() error {
	// What is left of the batch has no reason to be told about: either finish
	// has told, or the publish failed of something else.
	_ = s.batch.finish()
	err := removeTemp(s.tmp)
	s.lock.Close()
	s.guard.close()
	return err
}

// put stores a blob, unless it is there or on its way already, and returns its
// digest. It may be on its way until finish returns.
func (s *dirStore) put(plain []byte) (digest.Digest, error) {
	d := digest.Of(plain)
	if claimed, err := s.batch.claim(d); err != nil || !claimed {
		return d, err
	}
	if there, err := s.has(d); err != nil || there {
		s.batch.disclaim(d)
		return d, err
	}
	buf := s.packs.Get().(*[]byte)
	defer s.packs.Put(buf)
	return d, s.addStored(d, s.codec.Pack(plain, *buf))
}

// has tells whether the store has a blob that need not be written. If so, gc leaves it alone as long as
// this store is open, and longer if a head is put in place meanwhile that
// reaches it.
func (s *dirStore) has(d digest.Digest) (bool, error) {
	there, err := s.guard.freshen(filepath.Join(s.blobs, d.String()))
	if errors.Is(err, errForeign) {
		return false, nil // one of our own takes its place
	}
	return there, err
}

// seen is has for a blob that gc leaves alone anyway.
func (s *dirStore) seen(d digest.Digest) (bool, error) {
	_, err := os.Lstat(filepath.Join(s.blobs, d.String()))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// putStored is put for a blob in stored form, whose digest was checked.
func (s *dirStore) putStored(d digest.Digest, stored []byte) error {
	if claimed, err := s.batch.claim(d); err != nil || !claimed {
		return err
	}
	return s.addStored(d, stored)
}

// addStored is putStored for a blob that was claimed.
func (s *dirStore) addStored(d digest.Digest, stored []byte) error {
	if err := s.batch.add(d, stored); err != nil {
		return fmt.Errorf("write blob %v: %w", d, err)
	}
	s.newBlobs.Add(1)
	s.newBytes.Add(int64(len(stored)))
	return nil
}

// read returns the plain bytes of a blob that is there.
func (s *dirStore) read(ref tier.Ref) ([]byte, error) {
	stored, err := os.ReadFile(filepath.Join(s.blobs, ref.Digest.String()))
	if err != nil {
		return nil, err
	}
	return s.codec.Unpack(ref.Digest, stored, ref.Max())
}

func (s *dirStore) spool() (*os.File, error) {
	return nameless(os.Create(filepath.Join(s.tmp, "spool")))
}

// nameless removes the name of a file that was made.
func nameless(f *os.File, err error) (*os.File, error) {
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// added is what was written.
func (s *dirStore) added() (blobs, bytes int64) { return s.newBlobs.Load(), s.newBytes.Load() }

// finish returns once all blobs, and those that another publish may just have
// written, would survive a crash. Nothing can be put afterwards.
func (s *dirStore) finish() error {
	if err := s.batch.finish(); err != nil {
		return err
	}
	return syncDir(s.blobs)
}
