package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// dir is a directory on its way to a listing.
type dir struct {
	path   string // in the tree; empty for the root
	parent *dir
	slot   int // of this directory in parent's entries
	depth  int

	open *os.File     // nil: it is not kept open
	uses atomic.Int64 // of open: by the walk, and by each file that is to be read

	mode  uint16
	mtime int64

	subdirs []*dir // in name order
	entries []object.Entry
	read    []identity   // of each entry that is a file, and whose later change would show
	left    atomic.Int64 // entries without a digest, and one while they are being read
	listing []byte       // once left is 0
}

// maxOpenDepth is how deep in the tree directories are kept open while their files
// are read and those below them walked: it bounds the descriptors.
const maxOpenDepth = 64

// release gives up one use of the open directory.
func (d *dir) release() {
	if d.open != nil && d.uses.Add(-1) == 0 {
		d.open.Close()
	}
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
	oneFS      bool
	keepSetuid bool
	workers    int
	store      target
	log        *slog.Logger
	meter      *meter
	files      *filePool
	problems   problems
	zero       zeroChunk

	state    *state        // what a publish before has read; nil: nothing
	fresh    atomic.Int64  // files that were read
	top      *os.File      // the root, open while the tree is read
	device   uint64        // that the root is on
	counts   object.Counts // but for Bytes, only the walk itself counts
	skipped  int64
	warnings atomic.Int64
	bytes    atomic.Int64
}

// warn tells of something that is not published as it is.
func (r *reader) warn(msg string, a ...any) {
	r.warnings.Add(1)
	r.log.Warn(msg, a...)
}

// read returns the root directory with the listings of all.
func (r *reader) read(ctx context.Context) (*dir, error) {
	var err error
	if r.top, err = os.Open(r.root); err != nil {
		return nil, fmt.Errorf("directory to publish: %w", err)
	}
	defer r.top.Close()
	st, err := fstat(r.top)
	if err != nil {
		return nil, fmt.Errorf("directory to publish: %w", err)
	}
	r.device = uint64(st.Dev)
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
	err = g.Wait()
	if err != nil && !errors.Is(err, errTooMany) {
		return nil, err
	}
	if err := r.problems.err(); err != nil {
		return nil, err
	}
	r.counts.Bytes = r.bytes.Load()
	return root, nil
}

// found is what a walk has seen of a name.
type found struct {
	name   string
	stat   unix.Stat_t
	target []byte // of a symlink
}

// walk reads a directory and all below it, in name order, and sends its files
// to be read.
func (r *reader) walk(ctx context.Context, d *dir, jobs chan<- fileJob) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.counts.Dirs++
	d.left.Store(1)
	kept, err := r.look(d)
	defer d.release()
	if err != nil {
		return err
	}
	// All entries have their places before the first file is sent: a worker
	// writes to its own.
	d.entries, d.read = make([]object.Entry, len(kept)), make([]identity, len(kept))
	for i := range kept {
		d.entries[i] = object.Entry{Name: []byte(kept[i].name)}
	}
	for i := range kept {
		if err := r.dispatch(ctx, d, i, &kept[i], jobs); err != nil {
			return err
		}
	}
	return r.done(d)
}

// look reads a directory's own mode and time and what is in it, sorted by name,
// without what is not published.
func (r *reader) look(d *dir) ([]found, error) {
	f, err := r.openDir(d)
	if err != nil {
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			err = errChanged
		}
		return nil, r.fail(d, d.path, err)
	}
	if d.depth <= maxOpenDepth {
		d.open = f
		d.uses.Store(1)
	} else {
		defer f.Close()
	}
	st, err := fstat(f)
	if err != nil {
		return nil, r.fail(d, d.path, err)
	}
	d.mode, d.mtime = r.mode(d.path, &st), mtime(st.Mtim)
	if r.oneFS && uint64(st.Dev) != r.device {
		// The mount point stays, empty: what it hides is not to be seen.
		r.log.Info("left out: it is on another file system", "path", d.path)
		return nil, nil
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, r.fail(d, d.path, err)
	}
	slices.Sort(names)
	kept := make([]found, 0, len(names))
	for _, name := range names {
		e := found{name: name}
		path := object.Join(d.path, name)
		if e.stat, err = lstatAt(f, name); err == nil && e.stat.Mode&unix.S_IFMT == unix.S_IFLNK {
			e.target, err = readlinkAt(f, name)
		}
		if err != nil {
			if err := r.fail(d, path, err); err != nil {
				return nil, err
			}
			continue
		}
		switch e.stat.Mode & unix.S_IFMT {
		case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
			kept = append(kept, e)
		default:
			r.skipped++
			r.warn("skipped: only files, directories and symlinks are published",
				"path", path, "kind", kindName(e.stat.Mode))
		}
	}
	return kept, nil
}

// dispatch sees to one entry of a directory, whatever it is.
func (r *reader) dispatch(ctx context.Context, d *dir, slot int, f *found, jobs chan<- fileJob) error {
	e := &d.entries[slot]
	switch f.stat.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		r.counts.Symlinks++
		e.Kind, e.Mode, e.Mtime = object.Symlink, 0o777, mtime(f.stat.Mtim)
		e.Target, e.Size = f.target, int64(len(f.target))
		return nil
	case unix.S_IFDIR:
		d.left.Add(1)
		sub := &dir{path: object.Join(d.path, f.name), parent: d, slot: slot, depth: d.depth + 1}
		d.subdirs = append(d.subdirs, sub)
		return r.walk(ctx, sub, jobs)
	}
	r.counts.Files++
	if ok, err := r.unread(object.Join(d.path, f.name), e, &f.stat); err != nil {
		return err
	} else if ok {
		d.read[slot] = identityOf(&f.stat)
		return nil
	}
	d.left.Add(1)
	d.uses.Add(1)
	select {
	case jobs <- fileJob{d, slot}:
		return nil
	case <-ctx.Done():
		d.release()
		return context.Cause(ctx)
	}
}

// openDir opens a directory, whose parent the walk is in.
func (r *reader) openDir(d *dir) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY
	if d.parent == nil {
		return openBelow(r.top, "", flags)
	}
	name := string(d.parent.entries[d.slot].Name)
	fd, err := r.openIn(d.parent, name, flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openIn opens a name in a directory whose use the caller has. It is not followed
// if it is a symlink.
func (r *reader) openIn(d *dir, name string, flags int) (fd int, err error) {
	if d.open == nil {
		return openPath(r.top, object.Join(d.path, name), flags)
	}
	if fd, err = openat(int(d.open.Fd()), name, flags|unix.O_NOFOLLOW); err != nil {
		return -1, fmt.Errorf("open: %w", err)
	}
	return fd, nil
}

// fail notes a problem in d, which then never gets a listing.
func (r *reader) fail(d *dir, path string, err error) error {
	d.left.Add(1)
	return r.problems.add(path, err)
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
func (r *reader) mode(path string, st *unix.Stat_t) uint16 {
	return r.bits(path, uint16(st.Mode&object.ModeBits))
}

func (r *reader) bits(path string, all uint16) uint16 {
	if all&(unix.S_ISUID|unix.S_ISGID) == 0 || r.keepSetuid {
		return all
	}
	r.warn("dropped setuid or setgid bit", "path", path, "mode", fmt.Sprintf("%04o", all))
	return all &^ (unix.S_ISUID | unix.S_ISGID)
}

// mtime is t in nanoseconds since 1970. Times before that are rounded down to
// whole seconds, and times that 64 bits can't hold are as near as they can be.
func mtime(t unix.Timespec) int64 { return nanoseconds(t.Unix()) }

func nanoseconds(sec, nsec int64) int64 {
	switch {
	case sec > math.MaxInt64/int64(time.Second)-1:
		return math.MaxInt64
	case sec < math.MinInt64/int64(time.Second):
		return math.MinInt64 / int64(time.Second) * int64(time.Second)
	case sec < 0:
		return sec * int64(time.Second)
	}
	return sec*int64(time.Second) + nsec
}

func kindName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFIFO:
		return "pipe"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "device"
	}
	return "special file"
}
