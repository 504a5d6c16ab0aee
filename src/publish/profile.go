package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/profile"
	"github.com/aysfs/aysfs/src/tier"
)

// profileTemp is what a profile is called until it is on the disk.
const profileTemp = "." + profile.File + ".tmp"

// PutProfile puts a profile beside the head of a tree in a directory store. change
// makes it of the one that is there, which is nil where there is none.
func PutProfile(ctx context.Context, store string, tree object.TreeName, log *slog.Logger, change func(old *profile.Profile) (*profile.Profile, error)) error {
	if err := tree.Validate(); err != nil {
		return err
	}
	dir, err := existingStore(store)
	if err != nil {
		return err
	}
	t := headsOf(dir, tree)
	if _, err := os.Stat(t.path("head")); err != nil {
		return fmt.Errorf("%v is not published here: %w", tree, err)
	}
	lock, err := t.lock(ctx, log)
	if err != nil {
		return err
	}
	defer lock.Close()
	old, err := t.profile()
	if err != nil && !errors.Is(err, profile.ErrFormat) {
		return err
	}
	p, err := change(old)
	if err != nil {
		return err
	}
	b, err := p.Encode()
	if err != nil {
		return err
	}
	return t.putProfile(b)
}

// profile returns the tree's profile; nil if it has none.
func (t heads) profile() (*profile.Profile, error) {
	b, err := os.ReadFile(t.path(profile.File))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the profile: %w", err)
	}
	p, err := profile.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("read the profile %s: %w", t.path(profile.File), err)
	}
	return p, nil
}

// putProfile puts a profile in place of the one there was, unless it is the same.
func (t heads) putProfile(b []byte) error {
	if old, err := os.ReadFile(t.path(profile.File)); err == nil && bytes.Equal(old, b) {
		return nil
	}
	if err := writeFile(t.path(profile.File), t.path(profileTemp), b); err != nil {
		return fmt.Errorf("put the profile: %w", err)
	}
	return syncDir(t.dir)
}

// copyProfile makes a tree have the profile that another store has. A copy without is
// as good, so what is wrong with it is no error.
func copyProfile(ctx context.Context, o *CopyOptions, to heads) {
	b, err := o.Heads.Profile(ctx, to.tree)
	if err == nil {
		if _, err = profile.Parse(b); err == nil {
			err = to.putProfile(b)
		}
	}
	if err != nil && !errors.Is(err, tier.ErrAbsent) {
		o.Log.Warn("the profile was not copied", "tree", to.tree.String(), "err", err)
	}
}

// lendProfile gives a tree that has no profile that of another one.
func lendProfile(from, to heads) error {
	if p, err := to.profile(); p != nil || err != nil {
		return err
	}
	p, err := from.profile()
	if p == nil || err != nil {
		return err
	}
	b, err := p.Encode()
	if err != nil {
		return err
	}
	return to.putProfile(b)
}
