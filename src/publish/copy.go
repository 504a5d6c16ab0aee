package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
)

// CopyOptions say what to copy from where to where.
type CopyOptions struct {
	Source  tier.Source // of blobs
	Heads   store.Store
	To      string // a directory, made if absent, or the file URL of one
	Trees   []object.TreeName
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

// Copy makes a directory store have the heads of trees as another store has them,
// signatures and serials included, with all that these need. Only what is missing
// is fetched, and checked against its digest: a copy that was cut off goes on where
// it was when it is made again. Past heads come first, so that there is something
// to roll back to; those that can't be had any more are left out, with a
// warning. A tree's newest head is put in place after all else, so that no client
// sees half a tree. One that is older than what is there is an error.
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
	head, err := object.OpenHeadOf(name, raw, o.Keys)
	if err != nil {
		return err
	}
	to, treeLock, err := lockedHeads(ctx, dir, name, o.Log)
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
	if err := copyPast(ctx, o, dir, to, current, head.Serial, codec, res); err != nil {
		return err
	}
	if err := copyHead(ctx, o, dir, head, codec, res, func() error { return to.install(raw, current, currentRaw) }); err != nil {
		return err
	}
	copyProfile(ctx, o, to)
	return listTrees(context.WithoutCancel(ctx), dir)
}

// copyHead copies what a head needs, and then has it put in place, before gc may
// remove any of that.
func copyHead(ctx context.Context, o *CopyOptions, dir string, head *object.Head, codec *object.Codec, res *CopyResult, put func() error) (err error) {
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
	if err := put(); err != nil {
		return err
	}
	res.NewBlobs += st.newBlobs.Load()
	res.NewBytes += st.newBytes.Load()
	return nil
}

// copyPast copies the heads below newest that are not there, oldest first: where it
// was cut off, the next copy finds the highest that is there and goes on.
func copyPast(ctx context.Context, o *CopyOptions, dir string, to heads, current *object.Head, newest int64, codec *object.Codec, res *CopyResult) error {
	there := func(serial int64) bool {
		_, err := os.Stat(to.past(serial))
		return err == nil || current != nil && current.Serial == serial
	}
	serials, err := store.Past(ctx, o.Heads, to.tree, newest, there)
	if err != nil && !errors.Is(err, tier.ErrAbsent) {
		return fmt.Errorf("look for past heads: %w", err)
	}
	for _, serial := range slices.Backward(serials) {
		if there(serial) {
			continue
		}
		raw, err := o.Heads.HeadAt(ctx, to.tree, serial)
		var head *object.Head
		if err == nil {
			head, err = object.OpenHeadOf(to.tree, raw, o.Keys)
		}
		if err == nil && head.Serial != serial {
			err = fmt.Errorf("%w: it has serial %d", object.ErrHead, head.Serial)
		}
		if err == nil {
			err = copyHead(ctx, o, dir, head, codec, res, func() error {
				return errors.Join(writeFile(to.past(serial), to.path(headTemp), raw), syncDir(to.dir))
			})
		}
		switch {
		case err == nil:
		case ctx.Err() == nil && wrong(err):
			o.Log.Warn("a past head is left out", "tree", to.tree.String(), "serial", serial, "err", err)
		default:
			return fmt.Errorf("past head, serial %d: %w", serial, err)
		}
	}
	return nil
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
