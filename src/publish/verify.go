package publish

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/profile"
	"github.com/aysfs/aysfs/src/tier"
)

// verifyWorkers is how many objects are fetched at once: more than cores, for a
// store may be far away.
const verifyWorkers = 16

// VerifyOptions say what to verify.
type VerifyOptions struct {
	Source tier.Source
	Heads  tier.HeadSource
	// Profile reads the profile of a tree; nil: profiles are not looked at.
	Profile  func(context.Context, object.TreeName) ([]byte, error)
	Trees    []object.TreeName
	Keys     object.Keys          // none: signatures are not looked at
	Workers  int                  // objects looked at side by side, each with a few MiB of memory; 0 chooses
	Report   func(Problem)        // called for each problem, one at a time
	Warn     func(Problem)        // called for what costs clients time and no more, one at a time
	Progress func(VerifyProgress) // called now and then; may be nil
}

// Problem is one thing that is wrong in a store.
type Problem struct {
	Tree object.TreeName // the first that is affected
	// Path in the tree of the first file or directory that is affected; empty
	// if Count is 0.
	Path  string
	Count int64 // how many files or directories are affected, in all trees; 0 for a tree as a whole
	Err   error
}

// String is the problem in one line, whatever is in the path.
func (p Problem) String() string {
	switch p.Count {
	case 0:
		return fmt.Sprintf("%v: %v", p.Tree, p.Err)
	case 1:
		return fmt.Sprintf("%v: %q: %v", p.Tree, p.Path, p.Err)
	}
	return fmt.Sprintf("%v: %q and %d more: %v", p.Tree, p.Path, p.Count-1, p.Err)
}

// VerifyProgress says how far a verification has come.
type VerifyProgress struct {
	Trees, TotalTrees int64 // whose metadata is read
	// Files' blobs and chunk lists; the totals grow as trees and lists are
	// read.
	Blobs, TotalBlobs int64
	Bytes, TotalBytes int64 // plain
	Elapsed           time.Duration
}

// VerifyResult says what was looked at.
type VerifyResult struct {
	Trees    int64
	Counts   object.Counts // of all trees together
	Blobs    int64         // different blobs, chunks and chunk lists of files
	Bytes    int64         // of these, plain
	Problems int64
	Warnings int64
	// Replaced are, if there are problems, the trees that have another head by now
	// than the one that was looked at. What only that one needed may have been
	// removed by gc meanwhile.
	Replaced []object.TreeName
	Elapsed  time.Duration
}

// Verify checks all that the heads of trees reach: the heads themselves, the
// index and catalogs, each listing against the digest that its parent names,
// each file's chunk list and blobs against their digests and sizes. An object
// that many files share is looked at once. What is wrong goes to Report; an
// error means that the store could not be looked at.
//
// Chunks are checked one by one: the digest of a whole large file, which a
// chunk list also has, is not computed again.
func Verify(ctx context.Context, o VerifyOptions) (VerifyResult, error) {
	if o.Workers == 0 {
		o.Workers = verifyWorkers
	}
	codec, err := object.NewCodec(runtime.GOMAXPROCS(0))
	if err != nil {
		return VerifyResult{}, err
	}
	v := &verification{
		o: o, fetch: fetcher(o.Source, codec), start: time.Now(), serials: map[object.TreeName]int64{},
		lists: map[blobKey]*blobUse{}, blobs: map[blobKey]*blobUse{},
	}
	v.totalTrees = int64(len(o.Trees))
	stop := v.reportProgress(ctx)
	defer stop()
	for _, name := range o.Trees {
		if err := v.tree(ctx, name); err != nil {
			return VerifyResult{}, fmt.Errorf("%v: %w", name, err)
		}
		v.profile(ctx, name)
		v.trees.Add(1)
	}
	if err := v.content(ctx); err != nil {
		return VerifyResult{}, err
	}
	return VerifyResult{
		Trees: v.trees.Load(), Counts: v.counts,
		Blobs: v.done.Load(), Bytes: v.bytes.Load(),
		Problems: v.problems, Warnings: v.warnings, Replaced: v.replaced(ctx), Elapsed: time.Since(v.start),
	}, nil
}

// verification is one call of Verify.
type verification struct {
	o          VerifyOptions
	fetch      func(context.Context, tier.Ref) ([]byte, error) // a blob's plain bytes, checked against its digest
	start      time.Time
	totalTrees int64

	counts       object.Counts
	warnings     int64
	serials      map[object.TreeName]int64 // of the heads that are looked at
	lists, blobs map[blobKey]*blobUse      // blobs: also written by content, under mu

	trees, done, total, bytes, totalBytes atomic.Int64

	mu       sync.Mutex
	problems int64 // guarded by mu
}

// report tells a problem.
func (v *verification) report(p Problem) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.problems++
	if v.o.Report != nil {
		v.o.Report(p)
	}
}

// replaced returns the trees that have another head by now.
func (v *verification) replaced(ctx context.Context) (trees []object.TreeName) {
	if v.problems == 0 {
		return nil
	}
	for _, name := range v.o.Trees {
		serial, ok := v.serials[name]
		if !ok {
			continue // its head could not be read then
		}
		// One that can't be read now is a problem for the next verification.
		if h, err := v.head(ctx, name); err == nil && h.Serial != serial {
			trees = append(trees, name)
		}
	}
	return trees
}

// profile warns of a profile that clients can't use.
func (v *verification) profile(ctx context.Context, name object.TreeName) {
	if v.o.Profile == nil {
		return
	}
	b, err := v.o.Profile(ctx, name)
	if err == nil {
		_, err = profile.Parse(b)
	}
	if err == nil || errors.Is(err, tier.ErrAbsent) || ctx.Err() != nil {
		return
	}
	v.warnings++
	if v.o.Warn != nil {
		v.o.Warn(Problem{Tree: name, Err: fmt.Errorf("profile: %w", err)})
	}
}

// wrong tells errors that are the store's content's from those that kept us
// from looking at it.
func wrong(err error) bool {
	for _, e := range []error{tier.ErrAbsent, tier.ErrCorrupt, digest.ErrMismatch, object.ErrFormat, object.ErrHead, object.ErrUnsigned} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// reportProgress calls Progress now and then until the returned function is
// called.
func (v *verification) reportProgress(ctx context.Context) (stop func()) {
	if v.o.Progress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		everySoOften(ctx, func() {
			v.o.Progress(VerifyProgress{
				Trees: v.trees.Load(), TotalTrees: v.totalTrees,
				Blobs: v.done.Load(), TotalBlobs: v.total.Load(),
				Bytes: v.bytes.Load(), TotalBytes: v.totalBytes.Load(),
				Elapsed: time.Since(v.start),
			})
		})
	})
	return func() {
		cancel()
		wg.Wait()
	}
}
