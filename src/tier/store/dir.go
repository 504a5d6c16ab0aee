package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/profile"
	"github.com/aysfs/aysfs/src/tier"
)

// Dir is a store in a directory.
type Dir struct {
	name, root string
	// slots bounds the goroutines that touch the directory, so that one on a
	// server which hangs leaves no more of them behind than these.
	slots chan struct{}
}

const dirSlots = 64

// OpenDir returns the store in the directory root, which need not be there yet.
func OpenDir(name, root string) *Dir {
	return &Dir{name: "store " + name, root: root, slots: make(chan struct{}, dirSlots)}
}

// Name tells the store apart.
func (d *Dir) Name() string { return d.name }

// Close does nothing: reads that hang end when the disk lets them.
func (d *Dir) Close() error { return nil }

// Purge leaves the store as it is: it is the publisher's.
func (d *Dir) Purge(context.Context, tier.Ref) error { return nil }

// Get reads a blob.
func (d *Dir) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	if err := checkRef(d.name, ref); err != nil {
		return nil, err
	}
	return d.read(ctx, ref.Domain+"/"+ref.Digest.String(), ref.Max())
}

// Head reads a tree's newest head.
func (d *Dir) Head(ctx context.Context, tree object.TreeName, since []byte) ([]byte, error) {
	if err := checkTree(d.name, tree); err != nil {
		return nil, err
	}
	b, err := d.read(ctx, tree.Dir()+"/head", object.MaxHead)
	if err == nil && since != nil && bytes.Equal(b, since) {
		return since, nil
	}
	return b, err
}

// Ask is nil: a file is read at once.
func (d *Dir) Ask(tier.Ref, func([]byte, bool)) tier.Asked { return nil }

// HeadAt reads the head that a tree had at a serial.
func (d *Dir) HeadAt(ctx context.Context, tree object.TreeName, serial int64) ([]byte, error) {
	if err := checkTree(d.name, tree); err != nil {
		return nil, err
	}
	return headAt(serial, func(file string) ([]byte, error) {
		return d.read(ctx, tree.Dir()+"/"+file, object.MaxHead)
	})
}

// Profile reads what programs need of a tree.
func (d *Dir) Profile(ctx context.Context, tree object.TreeName) ([]byte, error) {
	if err := checkTree(d.name, tree); err != nil {
		return nil, err
	}
	return d.read(ctx, tree.Dir()+"/"+profile.File, profile.MaxBytes)
}

// Trees looks for heads below md.
func (d *Dir) Trees(ctx context.Context) ([]object.TreeName, error) {
	return inTime(ctx, d, "md", func() ([]object.TreeName, error) {
		trees, err := d.treesBelow(ctx, "md", nil)
		return slices.DeleteFunc(trees, func(t object.TreeName) bool {
			info, err := os.Lstat(filepath.Join(d.root, t.Dir(), "head"))
			return err != nil || info.IsDir()
		}), err
	})
}

// TreeDirs is Trees with those that have no head, or none any more, but a directory for
// heads.
func (d *Dir) TreeDirs(ctx context.Context) ([]object.TreeName, error) {
	return inTime(ctx, d, "md", func() ([]object.TreeName, error) { return d.treesBelow(ctx, "md", nil) })
}

// deepestTree is how many directories lead to one of heads.
const deepestTree = 3

// treesBelow adds the trees whose heads are below a directory. As who publishes and who
// serves the store do, it follows symlinks: those that lead nowhere are an error, for
// what they are to lead to may be on a disk that is not mounted.
func (d *Dir) treesBelow(ctx context.Context, dir string, trees []object.TreeName) ([]object.TreeName, error) {
	entries, err := os.ReadDir(filepath.Join(d.root, dir))
	if dir == "md" && errors.Is(err, fs.ErrNotExist) {
		return trees, nil // nothing was published yet
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if e.Type().IsRegular() {
			continue
		}
		path := dir + "/" + e.Name()
		info, err := os.Stat(filepath.Join(d.root, path))
		switch {
		case errors.Is(err, fs.ErrNotExist) && e.Type()&fs.ModeSymlink != 0:
			return nil, fmt.Errorf("the symlink %s leads nowhere", filepath.Join(d.root, path))
		case errors.Is(err, fs.ErrNotExist):
			continue // gone by now
		case err != nil:
			return nil, err
		case !info.IsDir():
			continue
		}
		// What isn't the name of a tree is on the way to one, or not ours.
		if tree, err := object.ParseTreeDir(path); err == nil {
			trees = append(trees, tree)
		}
		if strings.Count(path, "/") < deepestTree {
			if trees, err = d.treesBelow(ctx, path, trees); err != nil {
				return nil, err
			}
		}
	}
	if dir == "md" {
		sortTrees(trees)
	}
	return trees, nil
}

// Serials returns the serials of the older heads of a tree that are kept,
// lowest first.
func (d *Dir) Serials(ctx context.Context, tree object.TreeName) ([]int64, error) {
	if err := checkTree(d.name, tree); err != nil {
		return nil, err
	}
	return inTime(ctx, d, tree.Dir(), func() ([]int64, error) {
		entries, err := os.ReadDir(filepath.Join(d.root, tree.Dir()))
		var serials []int64
		for _, e := range entries {
			digits, ok := strings.CutPrefix(e.Name(), "head.")
			n, err := strconv.ParseInt(digits, 10, 64)
			if ok && err == nil && n > 0 && strconv.FormatInt(n, 10) == digits {
				serials = append(serials, n)
			}
		}
		slices.Sort(serials)
		return serials, err
	})
}

// read returns a file's content, which may be up to limit bytes.
func (d *Dir) read(ctx context.Context, path string, limit int64) ([]byte, error) {
	return inTime(ctx, d, path, func() ([]byte, error) { return readFile(filepath.Join(d.root, path), limit) })
}

func readFile(path string, limit int64) ([]byte, error) {
	// Without O_NONBLOCK opening a pipe would wait for somebody to write to it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s: %w: it is no regular file but %v", path, tier.ErrCorrupt, st.Mode())
	case st.Size() > limit:
		return nil, fmt.Errorf("%s: %w", path, tooLarge(st.Size(), limit))
	}
	b := make([]byte, st.Size())
	n, err := io.ReadFull(f, b)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%s: %w: it was cut from %d to %d bytes meanwhile", path, tier.ErrCorrupt, len(b), n)
	}
	return b[:n], err
}

func tooLarge(size, limit int64) error {
	return fmt.Errorf("%w: %w: %d bytes, at most %d", tier.ErrCorrupt, object.ErrTooLarge, size, limit)
}

// inTime runs do in a goroutine of its own, and leaves it alone when ctx is
// done: a read from a network file system whose server is gone can't be
// cancelled. path is what do is about, for messages.
func inTime[T any](ctx context.Context, d *Dir, path string, do func() (T, error)) (T, error) {
	var none T
	gone := func() error {
		return fmt.Errorf("%s: read %s: %w", d.name, filepath.Join(d.root, path), tier.Unavailable(context.Cause(ctx)))
	}
	if ctx.Err() != nil {
		return none, gone()
	}
	select {
	case d.slots <- struct{}{}:
	case <-ctx.Done():
		return none, gone()
	}
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-d.slots }()
		v, err := do()
		done <- result{v, d.classify(err)}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return none, fmt.Errorf("%s: %w", d.name, r.err)
		}
		return r.v, nil
	case <-ctx.Done():
		return none, gone()
	}
}

// classify says which of the tiers' errors a file error is.
func (d *Dir) classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", tier.ErrDenied, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		// Absence can be told only where the store itself is there: it may be
		// on a disk that is not mounted.
		if _, rootErr := os.Stat(d.root); rootErr != nil {
			return fmt.Errorf("%w: its directory can't be read: %w", tier.ErrUnavailable, rootErr)
		}
		return fmt.Errorf("%w: %w", tier.ErrAbsent, err)
	}
	return tier.Unavailable(err)
}

func sortTrees(trees []object.TreeName) {
	slices.SortFunc(trees, func(a, b object.TreeName) int { return strings.Compare(a.Dir(), b.Dir()) })
}
