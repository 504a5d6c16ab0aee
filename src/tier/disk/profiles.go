package disk

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/tier"
)

// profileRE is what profiles are called: by the digest of their key.
var profileRE = regexp.MustCompile(`^profile-[0-9a-f]{32}(\.tmp)?$`)

const (
	// maxProfiles is how many are kept, maxProfile how many bytes one has, and
	// profilesShare the part of the cache that all of them take.
	maxProfiles   = 64
	maxProfile    = 256 << 10
	profilesShare = 32
)

// profiles keeps a small file for each tree that was mounted. They are hints, and
// not synced: whoever reads one checks it.
type profiles struct {
	path   string
	max    func() int64 // bytes of all
	onDisk atomic.Int64

	mu sync.Mutex // held by who changes them
}

func openProfiles(dir *directory, most func() int64) *profiles {
	p := &profiles{path: dir.path, max: most}
	if all, err := p.list(); err == nil {
		p.measure(all)
	}
	return p
}

func (p *profiles) size() int64 {
	if p == nil {
		return 0
	}
	return p.onDisk.Load()
}

func (p *profiles) file(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(p.path, "profile-"+hex.EncodeToString(sum[:16]))
}

type profileFile struct {
	path string
	size int64 // on the disk
	used time.Time
}

// list returns all files, the one written last at the end.
func (p *profiles) list() ([]profileFile, error) {
	entries, err := os.ReadDir(p.path)
	if err != nil {
		return nil, err
	}
	var all []profileFile
	for _, e := range entries {
		if !profileRE.MatchString(e.Name()) {
			continue
		}
		if fi, err := e.Info(); err == nil {
			all = append(all, profileFile{filepath.Join(p.path, e.Name()), onDisk(fi), fi.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b profileFile) int { return a.used.Compare(b.used) })
	return all, nil
}

func (p *profiles) measure(all []profileFile) {
	n := int64(0)
	for _, f := range all {
		n += f.size
	}
	p.onDisk.Store(n)
}

// get is tier.ErrAbsent where there is none that can be read.
func (p *profiles) get(key string) ([]byte, error) {
	if p == nil {
		return nil, tier.ErrAbsent
	}
	f, err := os.OpenFile(p.file(key), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, tier.ErrAbsent
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() || fi.Size() > maxProfile {
		return nil, tier.ErrAbsent
	}
	b := make([]byte, fi.Size())
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("%w: %w", tier.ErrAbsent, err)
	}
	return b, nil
}

// put keeps a profile in place of the one there was. Those written longest ago
// have to go for it.
func (p *profiles) put(key string, b []byte) error {
	if len(b) > maxProfile || int64(len(b)) > p.max() {
		return fmt.Errorf("a profile of %d bytes: at most %d are kept", len(b), min(maxProfile, p.max()))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	path := p.file(key)
	err := os.WriteFile(path+".tmp", b, 0o600)
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		return errors.Join(err, remove(path+".tmp"))
	}
	all, err := p.list()
	if err != nil {
		return err
	}
	p.measure(all)
	for len(all) > 1 && (len(all) > maxProfiles || p.onDisk.Load() > p.max()) {
		if err := remove(all[0].path); err != nil {
			return err
		}
		all = all[1:]
		p.measure(all)
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// PutProfile keeps what programs need of a tree, up to 256 KiB. It may be gone after
// a crash, or when others were put.
func (c *Cache) PutProfile(tree string, profile []byte) error {
	if c.profiles == nil || c.dir.readOnly {
		return fmt.Errorf("keep a profile: %w: the disk cache takes nothing", tier.ErrUnavailable)
	}
	if spare, _ := c.spare(); spare < int64(len(profile)) {
		return fmt.Errorf("keep a profile: %w", errFull)
	}
	if err := c.profiles.put(tree, profile); err != nil {
		return fmt.Errorf("keep a profile: %w", err)
	}
	return nil
}

// Profile returns what PutProfile kept, or tier.ErrAbsent. It is to be checked.
func (c *Cache) Profile(tree string) ([]byte, error) { return c.profiles.get(tree) }
