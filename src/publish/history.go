package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
)

// RepublishOptions say which head to give which tree.
type RepublishOptions struct {
	Store   string // a directory, or the file URL of one
	From    object.TreeName
	Serial  int64           // of From's head; 0 for the newest
	To      object.TreeName // From itself for a rollback
	Keys    object.Keys     // any of which must have signed that head; none: signatures are not looked at
	Signers []note.Signer   // none leaves the new head unsigned
	Public  object.Keys     // as in Options
	Log     *slog.Logger    // nil drops it
	Now     func() time.Time
}

// Republish makes what a tree was at some serial the newest head of a tree, of
// the same or of another one, under a new serial of that. No blob is copied, but
// all that the head needs must be there.
func Republish(ctx context.Context, o RepublishOptions) (res Result, err error) {
	start := time.Now()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	for _, t := range []object.TreeName{o.From, o.To} {
		if err := t.Validate(); err != nil {
			return res, err
		}
	}
	dir, err := existingStore(o.Store)
	if err != nil {
		return res, err
	}
	head, raw, err := o.read(ctx, dir)
	if err != nil {
		return res, err
	}
	to, treeLock, err := lockedHeads(ctx, dir, o.To, o.Log)
	if err != nil {
		return res, err
	}
	defer treeLock.Close()
	_, currentRaw, err := to.current()
	if err != nil {
		return res, err
	}
	if len(o.Signers) == 0 && (isSigned(raw) || isSigned(currentRaw)) {
		warnUnsigned(o.Log, o.To)
	}
	codec, err := object.NewCodec(runtime.GOMAXPROCS(0))
	if err != nil {
		return res, err
	}
	st, err := openDirStore(ctx, dir, head.Domain, codec)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	if err := st.keep(ctx, dir, head); err != nil {
		return res, fmt.Errorf("serial %d of %v can't be published again: %w", head.Serial, o.From, err)
	}
	if err := st.finish(); err != nil {
		return res, err
	}
	head.Tree = o.To
	changed, err := to.replace(head, o.Now(), o.Signers, o.Public)
	if err != nil {
		return res, err
	}
	if err := listTrees(context.WithoutCancel(ctx), dir); err != nil {
		return res, err
	}
	if err := lendProfile(headsOf(dir, o.From), to); err != nil {
		o.Log.Warn("the profile was not given along", "tree", o.To.String(), "err", err)
	}
	return Result{
		Tree: o.To, Domain: head.Domain, Unchanged: !changed, Serial: head.Serial, Time: head.Time,
		Root: head.Root, Counts: head.Counts, Elapsed: time.Since(start),
	}, nil
}

// read finds the head to publish again, and the note it is in.
func (o *RepublishOptions) read(ctx context.Context, dir string) (h *object.Head, raw []byte, err error) {
	st := store.OpenDir(dir, dir)
	if o.Serial == 0 {
		raw, err = st.Head(ctx, o.From, nil)
	} else {
		raw, err = st.HeadAt(ctx, o.From, o.Serial)
	}
	switch {
	case errors.Is(err, tier.ErrAbsent) && o.Serial == 0:
		return nil, nil, fmt.Errorf("%v was never published here; \"ays ls\" lists what was: %w", o.From, err)
	case errors.Is(err, tier.ErrAbsent):
		return nil, nil, fmt.Errorf("%v has no head with serial %d here; \"ays log\" lists those there are: %w", o.From, o.Serial, err)
	case err != nil:
		return nil, nil, fmt.Errorf("head of %v: %w", o.From, err)
	}
	h, err = object.OpenHead(raw, o.Keys)
	if err != nil {
		return nil, nil, fmt.Errorf("head of %v: %w", o.From, err)
	}
	if h.Tree != o.From || o.Serial != 0 && h.Serial != o.Serial {
		return nil, nil, fmt.Errorf("head of %v, serial %d: %w: it is that of %v, serial %d", o.From, o.Serial, object.ErrHead, h.Tree, h.Serial)
	}
	return h, raw, nil
}

// keep makes sure that all a head needs is there and stays.
func (s *dirStore) keep(ctx context.Context, dir string, h *object.Head) error {
	fetch := fetcher(store.OpenDir(dir, dir), s.codec)
	return newReach(fetch, func(ref tier.Ref) error {
		there, err := s.guard.freshen(filepath.Join(s.blobs, ref.Digest.String()))
		if err == nil && !there {
			err = fmt.Errorf("blob %v: %w", ref.Digest, tier.ErrAbsent)
		}
		return err
	}).head(ctx, h)
}
