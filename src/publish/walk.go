package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// dir is a directory on its way to a listing.
type dir struct {
	path   string // in the tree; empty for the root
	parent *dir
	slot   int // of this directory in parent's entries

	mode  uint16
	mtime int64

	subdirs []*dir // in name order
	entries []object.Entry
	left    atomic.Int64 // entries without a digest, and one while they are being read
	listing []byte       // once left is 0
}

// fileJob is a file to be read into its entry.
type fileJob struct {
	dir  *dir
	slot int
}

func (j fileJob) entry() *object.Entry { return &j.dir.entries[j.slot] }
func (j fileJob) path() string         { return object.Join(j.dir.path, string(j.entry().Name)) }

// reader reads one tree.
type reader struct {
	root       string
	keepSetuid bool
	workers    int
	store      *dirStore
	log        *slog.Logger
	meter      *meter
	files      *filePool
	problems   problems

	counts  object.Counts // but for Bytes, only the walk itself counts
	skipped int64
	bytes   atomic.Int64
}

// read returns the root directory with the listings of all.
func (r *reader) read(ctx context.Context) (*dir, error) {
	root := &dir{}
	jobs := make(chan fileJob)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(jobs)
		return r.walk(ctx, root, jobs)
	})
	for range r.workers {
		g.Go(func() error {
			for j := range jobs {
				if err := r.file(ctx, j); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	if err != nil && !errors.Is(err, errTooMany) {
		return nil, err
	}
	if err := r.problems.err(); err != nil {
		return nil, err
	}
	r.counts.Bytes = r.bytes.Load()
	return root, nil
}

// walk reads a directory and all below it, in name order, and sends its files
// to be read.
func (r *reader) walk(ctx context.Context, d *dir, jobs chan<- fileJob) error {
	names, err := r.openDir(d)
	if err != nil {
		return r.problems.add(d.path, err)
	}
	r.counts.Dirs++
	d.left.Store(1)
	// All entries have their places before the first file is sent: a worker
	// writes to its own.
	var kept []fs.FileInfo
	for _, name := range names {
		info, err := name.Info()
		if err != nil {
			if err := r.problems.add(object.Join(d.path, name.Name()), err); err != nil {
				return err
			}
			continue
		}
		if t := info.Mode().Type(); t != 0 && t != fs.ModeDir && t != fs.ModeSymlink {
			r.skipped++
			r.log.Warn("skipped: only files, directories and symlinks are published",
				"path", object.Join(d.path, info.Name()), "kind", kindName(t))
			continue
		}
		kept = append(kept, info)
	}
	d.entries = make([]object.Entry, len(kept))
	for i, info := range kept {
		d.entries[i] = object.Entry{Name: []byte(info.Name())}
	}
	for i, info := range kept {
		if err := r.dispatch(ctx, d, i, info, jobs); err != nil {
			return err
		}
	}
	return r.done(d)
}

// dispatch sees to one entry of a directory, whatever it is.
func (r *reader) dispatch(ctx context.Context, d *dir, slot int, info fs.FileInfo, jobs chan<- fileJob) error {
	e := &d.entries[slot]
	path := object.Join(d.path, info.Name())
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		target, err := os.Readlink(r.root + "/" + path)
		if err != nil {
			return r.fail(d, path, err)
		}
		r.counts.Symlinks++
		e.Kind, e.Mode, e.Mtime = object.Symlink, 0o777, mtime(info.ModTime())
		e.Target, e.Size = []byte(target), int64(len(target))
		return nil
	case fs.ModeDir:
		d.left.Add(1)
		sub := &dir{path: path, parent: d, slot: slot}
		d.subdirs = append(d.subdirs, sub)
		return r.walk(ctx, sub, jobs)
	}
	r.counts.Files++
	d.left.Add(1)
	select {
	case jobs <- fileJob{d, slot}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fail notes a problem in d, which then never gets a listing.
func (r *reader) fail(d *dir, path string, err error) error {
	d.left.Add(1)
	return r.problems.add(path, err)
}

// openDir reads a directory's names, sorted, and its own mode and time.
func (r *reader) openDir(d *dir) ([]fs.DirEntry, error) {
	flags := os.O_RDONLY | syscall.O_DIRECTORY
	if d.parent != nil {
		flags |= syscall.O_NOFOLLOW
	}
	f, err := os.OpenFile(r.root+"/"+d.path, flags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	d.mode, d.mtime = r.mode(d.path, info), mtime(info.ModTime())
	names, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(names, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return names, nil
}

// done notes that one more of d's entries is complete, and makes the listing
// when it was the last, and so on upwards.
func (r *reader) done(d *dir) error {
	for d != nil && d.left.Add(-1) == 0 {
		var err error
		if d.listing, err = object.EncodeListing(d.entries); err != nil {
			return fmt.Errorf("directory %q: %w", d.path, err)
		}
		d.entries = nil
		up := d.parent
		if up != nil {
			e := &up.entries[d.slot]
			e.Kind, e.Mode, e.Mtime = object.Dir, d.mode, d.mtime
			e.Digest, e.Size = digest.Of(d.listing), int64(len(d.listing))
		}
		d = up
	}
	return nil
}

// mode is the permission bits to publish.
func (r *reader) mode(path string, info fs.FileInfo) uint16 {
	m := uint16(info.Mode().Perm())
	if info.Mode()&fs.ModeSticky != 0 {
		m |= syscall.S_ISVTX
	}
	var set uint16
	if info.Mode()&fs.ModeSetuid != 0 {
		set |= syscall.S_ISUID
	}
	if info.Mode()&fs.ModeSetgid != 0 {
		set |= syscall.S_ISGID
	}
	if set != 0 && !r.keepSetuid {
		r.log.Warn("dropped setuid or setgid bit", "path", path, "mode", fmt.Sprintf("%04o", m|set))
		return m
	}
	return m | set
}

// mtime is t in nanoseconds since 1970. Times before that are rounded down to
// whole seconds, and times that 64 bits can't hold are as near as they can be.
func mtime(t time.Time) int64 {
	sec := t.Unix()
	switch {
	case sec > math.MaxInt64/int64(time.Second)-1:
		return math.MaxInt64
	case sec < math.MinInt64/int64(time.Second):
		return math.MinInt64 / int64(time.Second) * int64(time.Second)
	case sec < 0:
		return sec * int64(time.Second)
	}
	return t.UnixNano()
}

func kindName(t fs.FileMode) string {
	switch {
	case t&fs.ModeSocket != 0:
		return "socket"
	case t&fs.ModeNamedPipe != 0:
		return "pipe"
	case t&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}
