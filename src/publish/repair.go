package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// Healer is a source that answers from a directory store, and mends in it what is
// missing or wrong with what another store has. It also answers with heads.
type Healer struct {
	Dir    string // of the store
	Local  Store  // the same
	Other  Store
	Keys   object.Keys // that heads are opened with
	codec  *object.Codec
	mended atomic.Int64

	mu     sync.Mutex
	stores map[string]*dirStore // by domain; guarded by mu
}

// Store is what a healer asks: blobs and heads.
type Store interface {
	tier.Source
	tier.HeadSource
}

// NewHealer returns a healer of the store in the directory dir, which is also
// local. Close must be called once verification is over.
func NewHealer(dir string, local, other Store, keys object.Keys) (*Healer, error) {
	dir, err := existingStore(dir)
	if err != nil {
		return nil, err
	}
	codec, err := object.NewCodec(runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, err
	}
	return &Healer{
		Dir: dir, Local: local, Other: other, Keys: keys,
		codec: codec, stores: map[string]*dirStore{},
	}, nil
}

// Name is that of the store that is mended.
func (h *Healer) Name() string { return h.Local.Name() }

// Purge does nothing: Get has mended what was wrong.
func (h *Healer) Purge(context.Context, tier.Ref) error { return nil }

// Get answers from the store if what it has is right, else from the other one,
// after which the store has it too.
func (h *Healer) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	stored, _, err := fetchChecked(ctx, h.Local, h.codec, ref)
	if err == nil || !wrong(err) {
		return stored, err
	}
	good, _, otherErr := fetchChecked(ctx, h.Other, h.codec, ref)
	if otherErr != nil {
		if ctx.Err() == nil {
			err = fmt.Errorf("%w; and %v can't mend it: %v", err, h.Other.Name(), otherErr)
		}
		return nil, err
	}
	st, err := h.store(ctx, ref.Domain)
	if err != nil {
		return nil, err
	}
	if err := st.putStored(ref.Digest, good); err != nil {
		return nil, err
	}
	h.mended.Add(1)
	return good, nil
}

func (h *Healer) store(ctx context.Context, domain string) (*dirStore, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if st := h.stores[domain]; st != nil {
		return st, nil
	}
	st, err := openDirStore(ctx, h.Dir, domain, h.codec)
	if err != nil {
		return nil, err
	}
	h.stores[domain] = st
	return st, nil
}

// Head answers with the store's head if it is one, else with the other's, unless
// the store had a newer one before.
func (h *Healer) Head(ctx context.Context, name object.TreeName, since []byte) ([]byte, error) {
	raw, err := h.Local.Head(ctx, name, since)
	if err == nil {
		if _, err = openHeadOf(name, raw, h.Keys); err == nil {
			return raw, nil
		}
	}
	if !wrong(err) {
		return nil, err
	}
	good, otherErr := h.Other.Head(ctx, name, nil)
	if otherErr != nil {
		return nil, fmt.Errorf("%w; and %v can't mend it: %v", err, h.Other.Name(), otherErr)
	}
	head, otherErr := openHeadOf(name, good, h.Keys)
	if otherErr != nil {
		return nil, fmt.Errorf("%w; and %v can't mend it: %v", err, h.Other.Name(), otherErr)
	}
	t := heads{dir: filepath.Join(h.Dir, filepath.FromSlash(name.Dir())), tree: name}
	if err := mkdirAll(t.dir); err != nil {
		return nil, err
	}
	l, lockErr := t.lock(ctx, slog.New(slog.DiscardHandler))
	if lockErr != nil {
		return nil, lockErr
	}
	defer l.Close()
	last, lastErr := t.lastSerial(nil)
	if lastErr != nil {
		return nil, lastErr
	}
	// A publish may have put one there meanwhile. And one that lacks the right
	// signature is no older for that.
	if now, nowErr := h.Local.Head(ctx, name, nil); nowErr == nil {
		if _, nowErr := openHeadOf(name, now, h.Keys); nowErr == nil {
			return now, nil
		}
		if unsigned, nowErr := openHeadOf(name, now, nil); nowErr == nil {
			last = max(last, unsigned.Serial)
		}
	}
	if head.Serial < last {
		return nil, fmt.Errorf("%w; and that of %v, serial %d, is older than %d, which was here", err, h.Other.Name(), head.Serial, last)
	}
	if err := t.install(good, nil, nil); err != nil {
		return nil, err
	}
	h.mended.Add(1)
	return good, listTrees(context.WithoutCancel(ctx), h.Dir)
}

// Close makes what was mended last, and returns how many objects that are.
func (h *Healer) Close() (mended int64, err error) {
	var errs []error
	for _, st := range h.stores {
		errs = append(errs, st.finish(), st.close())
	}
	return h.mended.Load(), errors.Join(errs...)
}
