package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// CopyOptions say what to copy from where to where.
type CopyOptions struct {
	Source tier.Source // of blobs
	Heads  tier.HeadSource
	To     string // a directory, made if absent, or the file URL of one
	Trees  []object.TreeName
	// Profile reads the profile of a tree; nil: profiles are not copied.
	Profile func(context.Context, object.TreeName) ([]byte, error)
	Keys    object.Keys  // any of which must have signed the heads; none: signatures are not looked at
	Workers int          // blobs fetched at once; 0 chooses
	Log     *slog.Logger // nil drops it
}

// CopyResult says what was copied.
type CopyResult struct {
	Trees, Unchanged   int64 // Unchanged are those of Trees that were there already
	NewBlobs, NewBytes int64 // what the other store did not have, as it is stored
	Elapsed            time.Duration
}

// Copy makes a directory store have the newest heads of trees as another store
// has them, signatures and serials included, with all that these need. Only what
// is missing is fetched, and checked against its digest: a copy that was cut off
// goes on where it was when it is made again. A tree's head is put in place
// after all else, so that no client sees half a tree. One that is older
// than what is there is an error.
func Copy(ctx context.Context, o CopyOptions) (res CopyResult, err error) {
	start := time.Now()
	if o.Workers == 0 {
		o.Workers = verifyWorkers
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := storeDir(o.To)
	if err != nil {
		return res, err
	}
	if dir, err = resolve(dir); err != nil {
		return res, fmt.Errorf("store: %w", err)
	}
	codec, err := object.NewCodec(runtime.GOMAXPROCS(0))
	if err != nil {
		return res, err
	}
	for _, t := range o.Trees {
		if err := copyTree(ctx, &o, dir, t, codec, &res); err != nil {
			return res, fmt.Errorf("copy %v: %w", t, err)
		}
		res.Trees++
	}
	res.Elapsed = time.Since(start)
	return res, nil
}

func copyTree(ctx context.Context, o *CopyOptions, dir string, name object.TreeName, codec *object.Codec, res *CopyResult) (err error) {
	raw, err := o.Heads.Head(ctx, name, nil)
	if err != nil {
		return err
	}
	head, err := openHeadOf(name, raw, o.Keys)
	if err != nil {
		return err
	}
	to := heads{dir: filepath.Join(dir, filepath.FromSlash(name.Dir())), tree: name}
	if err := mkdirAll(to.dir); err != nil {
		return fmt.Errorf("prepare store: %w", err)
	}
	treeLock, err := to.lock(ctx, o.Log)
	if err != nil {
		return err
	}
	defer treeLock.Close()
	current, currentRaw, err := to.current()
	if err != nil {
		return err
	}
	if bytes.Equal(raw, currentRaw) {
		copyProfile(ctx, o, to)
		res.Unchanged++
		return nil
	}
	last, err := to.lastSerial(current)
	if err != nil {
		return err
	}
	if last >= head.Serial {
		return fmt.Errorf("serial %d: there is, or was, %d in the store it is to go to, and clients refuse to go back", head.Serial, last)
	}
	st, err := openDirStore(ctx, dir, head.Domain, codec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	c := &copier{from: o.Source, to: st}
	if err := c.head(ctx, head, o.Workers); err != nil {
		return err
	}
	if err := st.finish(); err != nil {
		return err
	}
	if err := to.install(raw, current, currentRaw); err != nil {
		return err
	}
	copyProfile(ctx, o, to)
	res.NewBlobs += st.newBlobs.Load()
	res.NewBytes += st.newBytes.Load()
	return listTrees(context.WithoutCancel(ctx), dir)
}

// openHeadOf opens the head of the tree name.
func openHeadOf(name object.TreeName, raw []byte, keys object.Keys) (*object.Head, error) {
	h, err := object.OpenHead(raw, keys)
	if err != nil {
		return nil, fmt.Errorf("head: %w", err)
	}
	if h.Tree != name {
		return nil, fmt.Errorf("head: %w: it is that of %v", object.ErrHead, h.Tree)
	}
	return h, nil
}

// copier fetches what one store lacks from another.
type copier struct {
	from tier.Source
	to   *dirStore
}

// head copies all that a head needs.
func (c *copier) head(ctx context.Context, h *object.Head, workers int) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	r := newReach(c.fetch, func(ref tier.Ref) error {
		if gctx.Err() != nil {
			return context.Cause(gctx)
		}
		there, err := c.to.has(ref.Digest)
		if err != nil || there {
			return err
		}
		g.Go(func() error { return c.copy(gctx, ref) })
		return nil
	})
	err := r.head(gctx, h)
	if e := g.Wait(); e != nil {
		return e // err is that the others were to stop
	}
	return err
}

// fetch reads an object, from here if it is here and whole.
func (c *copier) fetch(ctx context.Context, ref tier.Ref) ([]byte, error) {
	if there, err := c.to.has(ref.Digest); err != nil {
		return nil, err
	} else if there {
		if plain, err := c.to.read(ref); err == nil {
			return plain, nil
		}
	}
	stored, plain, err := fetchChecked(ctx, c.from, c.to.codec, ref)
	if err != nil {
		return nil, err
	}
	return plain, c.to.putStored(ref.Digest, stored)
}

func (c *copier) copy(ctx context.Context, ref tier.Ref) error {
	if claimed, err := c.to.batch.claim(ref.Digest); err != nil || !claimed {
		return err
	}
	stored, _, err := fetchChecked(ctx, c.from, c.to.codec, ref)
	if err != nil {
		c.to.batch.disclaim(ref.Digest)
		return err
	}
	return c.to.addStored(ref.Digest, stored)
}

// fetchChecked returns an object as the source has it, and its plain bytes.
func fetchChecked(ctx context.Context, from tier.Source, codec *object.Codec, ref tier.Ref) (stored, plain []byte, err error) {
	if stored, err = from.Get(ctx, ref); err != nil {
		return nil, nil, err
	}
	if plain, err = codec.Unpack(ref.Digest, stored, ref.Max()); err != nil {
		return nil, nil, tier.Corrupt(from.Name(), ref, err)
	}
	return stored, plain, nil
}
