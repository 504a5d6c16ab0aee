package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
)

// GCOptions say what a store is to keep.
type GCOptions struct {
	Store string // a directory, or the file URL of one
	// The newest head of each tree is kept, and so are the Keep newest of it, and
	// those that were the newest at any time in the last KeepWithin. With both 0
	// all heads are.
	Keep       int
	KeepWithin time.Duration
	DryRun     bool         // remove nothing
	Log        *slog.Logger // nil drops it
	Now        func() time.Time
}

// GCResult says what was removed, or with DryRun would be.
type GCResult struct {
	Trees, Heads         int64 // kept
	PrunedHeads          int64
	Blobs, Bytes         int64 // kept
	Removed, RemovedSize int64 // blobs, and bytes of these
	// Young is how many blobs no kept head reaches that stay all the same: a
	// publish that is under way may be about to.
	Young   int64
	Elapsed time.Duration
}

// sweepBatch is how many blobs are removed in one go, while publishes that look
// for blobs wait.
const sweepBatch = 256

// GC removes the blobs that no kept head reaches, and the heads that are not
// kept. It may run beside publishes and may be killed at any moment: what is
// left then is garbage to the next. Where something that a kept head needs is missing,
// or can't be read and leads to more, nothing is removed.
//
// First it notes since when the oldest publish has been alive, then it finds all
// that kept heads reach, then it looks whether that is there and removes the heads
// that are not kept, and at last the blobs that were not found and are older than that publish. Memory is bounded:
// digests are sorted in files, below <domain>/.tmp.
func GC(ctx context.Context, o GCOptions) (res GCResult, err error) {
	start := time.Now()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Keep < 0 || o.KeepWithin < 0 {
		return res, errors.New("what is to be kept can't be less than nothing")
	}
	dir, err := existingStore(o.Store)
	if err != nil {
		return res, err
	}
	md := filepath.Join(dir, "md")
	if _, err := os.Stat(md); err != nil {
		return res, fmt.Errorf("%s is no store that was published to: %w", dir, err)
	}
	l, err := lock(ctx, filepath.Join(md, ".gc"), func() { o.Log.Info("waiting for another gc of the same store") })
	if err != nil {
		return res, err
	}
	defer l.Close()
	c := &collection{GCOptions: o, dir: dir, md: md, domains: map[string]*sweeper{}, res: &res}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.open(ctx); err != nil {
		return res, err
	}
	if err := c.mark(ctx); err != nil {
		return res, fmt.Errorf("nothing was removed: %w", err)
	}
	for name, s := range c.domains {
		if err := s.whole(ctx); err != nil {
			return res, fmt.Errorf("nothing was removed: domain %s: %w", name, err)
		}
	}
	if err := c.prune(); err != nil {
		return res, err
	}
	for _, s := range c.domains {
		if err := s.sweep(ctx, o.DryRun, &res); err != nil {
			return res, fmt.Errorf("domain %s: %w", filepath.Base(s.blobs), err)
		}
	}
	res.Elapsed = time.Since(start)
	return res, nil
}

// collection is one call of GC.
type collection struct {
	GCOptions
	dir, md string
	domains map[string]*sweeper
	dirs    []string // of trees' heads
	pruned  []string // files of heads that are not kept
	res     *GCResult
}

// open gets ready to sweep every domain there is.
func (c *collection) open(ctx context.Context) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if object.ValidateDomain(e.Name()) != nil {
			continue
		}
		if e.Type()&fs.ModeSymlink != 0 {
			// It may be another domain, whose blobs are none of its own trees'.
			c.Log.Warn("left alone: it is a symlink", "domain", e.Name())
		}
		if !e.IsDir() {
			continue
		}
		blobs := filepath.Join(c.dir, e.Name())
		ours, err := hasBlobs(blobs)
		if err != nil {
			return fmt.Errorf("domain %s: %w", e.Name(), err)
		}
		if !ours {
			continue
		}
		s, err := openSweeper(ctx, blobs)
		if err != nil {
			return fmt.Errorf("domain %s: %w", e.Name(), err)
		}
		c.domains[e.Name()] = s
	}
	return nil
}

func (c *collection) close() error {
	var errs []error
	for _, s := range c.domains {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// mark finds what the heads that are kept reach.
func (c *collection) mark(ctx context.Context) error {
	codec, err := object.NewCodec(runtime.GOMAXPROCS(0))
	if err != nil {
		return err
	}
	r := newReach(fetcher(store.OpenDir(c.dir, c.dir), codec), func(ref tier.Ref) error {
		if s := c.domains[ref.Domain]; s != nil {
			return s.marks.add(ref.Digest)
		}
		// Its first publish may have come after open: nothing of it is removed.
		if ours, err := hasBlobs(filepath.Join(c.dir, ref.Domain)); ours || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return fmt.Errorf("domain %s: %w", ref.Domain, tier.ErrAbsent)
	})
	trees, err := c.trees(ctx)
	if err != nil {
		return err
	}
	for _, tree := range trees {
		t := headsOf(c.dir, tree)
		kept, err := c.kept(ctx, t)
		if err != nil {
			return err
		}
		for _, h := range kept {
			if err := r.head(ctx, h); err != nil {
				return fmt.Errorf("%w; \"ays verify -repair\" may mend it", err)
			}
		}
		c.dirs = append(c.dirs, t.dir)
		c.res.Trees++
		c.res.Heads += int64(len(kept))
	}
	return nil
}

// trees are all that have a directory of heads, those without a newest one included.
func (c *collection) trees(ctx context.Context) ([]object.TreeName, error) {
	trees, err := store.OpenDir(c.dir, c.dir).TreeDirs(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for trees: %w", err)
	}
	// A publish makes the directory of heads before that of blobs.
	if _, err := os.Stat(filepath.Join(c.md, object.TreesFile)); len(trees) == 0 && len(c.domains) > 0 && err != nil {
		return nil, fmt.Errorf("%s is empty: what belongs there may be on a disk that is not mounted", c.md)
	}
	return trees, nil
}

// kept returns a tree's heads that are to be kept, newest first, and notes the
// files of the others.
func (c *collection) kept(ctx context.Context, t heads) ([]*object.Head, error) {
	// The newest is read before the others are looked for: one that is replaced
	// meanwhile is seen as either.
	newest, _, err := t.current()
	if err != nil {
		return nil, err
	}
	var all []*object.Head
	if newest != nil {
		all = append(all, newest)
	}
	serials, err := store.OpenDir(c.dir, c.dir).Serials(ctx, t.tree)
	if err != nil {
		return nil, fmt.Errorf("older heads of %v: %w", t.tree, err)
	}
	for i := len(serials) - 1; i >= 0; i-- {
		if newest != nil && serials[i] == newest.Serial {
			continue // a publish that was cut off kept what it did not replace
		}
		h, err := t.older(serials[i])
		if err != nil {
			return nil, err
		}
		all = append(all, h)
	}
	if c.Keep == 0 && c.KeepWithin == 0 {
		return all, nil
	}
	var kept []*object.Head
	for i, h := range all {
		// How long it was the newest is told by the one after it.
		recent := i > 0 && c.KeepWithin > 0 && !all[i-1].Time.Before(c.Now().Add(-c.KeepWithin))
		if i == 0 || i < c.Keep || recent {
			kept = append(kept, h)
			continue
		}
		c.pruned = append(c.pruned, t.past(h.Serial))
	}
	return kept, nil
}

// prune removes the heads that are not kept, for good: none may come back after
// a crash, when its blobs are gone.
func (c *collection) prune() error {
	c.res.PrunedHeads = int64(len(c.pruned))
	if c.DryRun {
		return nil
	}
	dirs := map[string]bool{}
	for _, path := range c.pruned {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old head: %w", err)
		}
		dirs[filepath.Dir(path)] = true
	}
	for dir := range dirs {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	for _, dir := range c.dirs {
		if err := clearHeadTemp(dir); err != nil {
			return err
		}
	}
	return nil
}

// clearHeadTemp removes a head that a publish was killed over before it had its
// name.
func clearHeadTemp(dir string) error {
	path := filepath.Join(dir, headTemp)
	if _, err := os.Lstat(path); err != nil {
		return nil
	}
	l, err := tryLock(filepath.Join(dir, ".lock"))
	if errors.Is(err, errLocked) {
		return nil // its publish is alive
	}
	if err != nil {
		return err
	}
	defer l.Close()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clear what a dead publish left: %w", err)
	}
	return nil
}

// hasBlobs tells whether a directory is one that blobs are in: others in a
// store's directory are none of our business.
func hasBlobs(dir string) (bool, error) {
	if _, err := os.Stat(filepath.Join(dir, ".tmp")); err == nil {
		return true, nil
	}
	found := false
	err := eachBlob(dir, func(digest.Digest) error {
		found = true
		return io.EOF
	})
	if found {
		err = nil
	}
	return found, err
}

// sweeper removes blobs of one domain.
type sweeper struct {
	blobs, tmp   string
	lock         *os.File
	guard        *guard
	oldest       time.Time // what was changed since then stays
	marks, names *sorter
}

func openSweeper(ctx context.Context, blobs string) (*sweeper, error) {
	tmp := filepath.Join(blobs, ".tmp")
	if err := mkdirAll(tmp); err != nil { // a mirror has none
		return nil, err
	}
	guard, err := lock(ctx, filepath.Join(tmp, "lock"), nil)
	if err != nil {
		return nil, err
	}
	defer guard.Close()
	if err := clearDead(tmp); err != nil {
		return nil, fmt.Errorf("clear what a dead publish left: %w", err)
	}
	s := &sweeper{blobs: blobs}
	if s.tmp, err = os.MkdirTemp(tmp, "gc-"); err != nil {
		return nil, err
	}
	s.marks, s.names = newSorter(s.tmp), newSorter(s.tmp)
	if s.lock, err = tryLock(filepath.Join(s.tmp, "lock")); err != nil {
		return nil, err
	}
	if s.guard, err = openGuard(tmp); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if s.oldest, err = oldestLock(tmp); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// oldestLock is when the oldest of those who are alive made its lock, by the file
// system's clock. We are one of them.
func oldestLock(tmp string) (time.Time, error) {
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return time.Time{}, err
	}
	var oldest time.Time
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		info, err := os.Lstat(filepath.Join(tmp, e.Name(), "lock"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // just now done: its head is there
		}
		if err != nil {
			return oldest, err
		}
		if oldest.IsZero() || info.ModTime().Before(oldest) {
			oldest = info.ModTime()
		}
	}
	return oldest, nil
}

func (s *sweeper) close() error {
	s.marks.close()
	s.names.close()
	if s.guard != nil {
		s.guard.close()
	}
	err := removeTemp(s.tmp)
	s.lock.Close()
	return err
}

// whole lists the blobs that there are, and fails if one that is marked is missing.
// It was there before its head, so that the list has it.
func (s *sweeper) whole(ctx context.Context) error {
	if err := eachBlob(s.blobs, s.names.add); err != nil {
		return err
	}
	var first digest.Digest
	missing := 0
	err := s.compare(func(d digest.Digest, named, marked bool) error {
		if named {
			return context.Cause(ctx)
		}
		if missing++; missing == 1 {
			first = d
		}
		return nil
	})
	if err == nil && missing > 0 {
		err = fmt.Errorf("%d blobs that kept heads need are missing, %v the first: \"ays verify\" tells of which files, and with -repair may mend it", missing, first)
	}
	return err
}

// compare calls each for every blob that is there, is marked, or both.
func (s *sweeper) compare(each func(d digest.Digest, named, marked bool) error) error {
	names, marks := s.names.sorted(), s.marks.sorted()
	name, named, err := names.next()
	mark, marked, markErr := marks.next()
	for err == nil && markErr == nil && (named || marked) {
		c := compareDigests(name, mark)
		hasName, hasMark := named && (!marked || c <= 0), marked && (!named || c >= 0)
		d := mark
		if hasName {
			d = name
		}
		if err := each(d, hasName, hasMark); err != nil {
			return err
		}
		if hasName {
			name, named, err = names.next()
		}
		if hasMark {
			mark, marked, markErr = marks.next()
		}
	}
	return errors.Join(err, markErr)
}

// sweep removes the blobs that are not marked.
func (s *sweeper) sweep(ctx context.Context, dryRun bool, res *GCResult) error {
	defer s.names.close()
	defer s.marks.close()
	var batch []digest.Digest
	flush := func() error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := s.guard.hold(unix.LOCK_EX, func() error { return s.remove(batch, dryRun, res) })
		batch = batch[:0]
		return err
	}
	err := s.compare(func(d digest.Digest, named, marked bool) error {
		switch {
		case !named:
		case marked:
			res.Blobs++
			if st, err := os.Lstat(filepath.Join(s.blobs, d.String())); err == nil {
				res.Bytes += st.Size()
			}
		default:
			if batch = append(batch, d); len(batch) == sweepBatch {
				return flush()
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// remove removes blobs that are not marked, unless they are young. It is called
// with the lock.
func (s *sweeper) remove(blobs []digest.Digest, dryRun bool, res *GCResult) error {
	for _, d := range blobs {
		path := filepath.Join(s.blobs, d.String())
		var st unix.Stat_t
		err := unix.Lstat(path, &st)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at blob %v: %w", d, err)
		}
		if !time.Unix(st.Mtim.Unix()).Before(s.oldest) || !time.Unix(st.Ctim.Unix()).Before(s.oldest) {
			res.Young++
			continue
		}
		if !dryRun {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("remove blob: %w", err)
			}
		}
		res.Removed++
		res.RemovedSize += st.Size
	}
	return nil
}

// eachBlob calls each for every blob in a directory, in no order.
func eachBlob(dir string, each func(digest.Digest) error) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(4096)
		for _, n := range names {
			if len(n) != 2*digest.Size || strings.ToLower(n) != n {
				continue
			}
			d, err := digest.Parse(n)
			if err != nil {
				continue // not put there by us
			}
			if err := each(d); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list blobs: %w", err)
		}
	}
}
