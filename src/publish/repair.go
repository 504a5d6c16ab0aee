package publish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
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
	stores map[string]*dirStore       // by domain; guarded by mu
	owed   map[object.TreeName]lacked // heads that PutHeads is to put there; guarded by mu
}

// lacked is a head that the store lacks.
type lacked struct {
	raw  []byte
	head *object.Head
	err  error // what is there instead
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
		codec: codec, stores: map[string]*dirStore{}, owed: map[object.TreeName]lacked{},
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
	if err == nil {
		if err = h.keep(ctx, ref); err == nil {
			return stored, nil
		}
	}
	if !wrong(err) {
		return nil, err
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

// keep has gc leave a blob that is right alone for as long as no head may reach it,
// as that is yet to be put there.
func (h *Healer) keep(ctx context.Context, ref tier.Ref) error {
	if !h.Owes() {
		return nil
	}
	st, err := h.store(ctx, ref.Domain)
	if err != nil {
		return err
	}
	if there, err := st.has(ref.Digest); err != nil || there {
		return err
	}
	return fmt.Errorf("%v is another user's, or gone by now: %w", ref, tier.ErrAbsent)
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
// the store had a newer one before. PutHeads puts that there, once there is what it
// reaches.
func (h *Healer) Head(ctx context.Context, name object.TreeName, since []byte) ([]byte, error) {
	raw, err := h.Local.Head(ctx, name, since)
	if err == nil {
		if _, err = object.OpenHeadOf(name, raw, h.Keys); err == nil {
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
	head, otherErr := object.OpenHeadOf(name, good, h.Keys)
	if otherErr != nil {
		return nil, fmt.Errorf("%w; and %v can't mend it: %v", err, h.Other.Name(), otherErr)
	}
	l := lacked{good, head, err}
	if now, err := h.instead(ctx, name, l); now != nil || err != nil {
		return now, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.owed[name] = l
	return good, nil
}

// instead returns the head that has come to stand where one was lacking, and an error
// where the one that is to be put there would be a step back.
func (h *Healer) instead(ctx context.Context, name object.TreeName, l lacked) ([]byte, error) {
	last, err := headsOf(h.Dir, name).lastSerial(nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// A publish may have put one there meanwhile. And one that lacks the right
	// signature is no older for that.
	if now, err := h.Local.Head(ctx, name, nil); err == nil {
		if _, err := object.OpenHeadOf(name, now, h.Keys); err == nil {
			return now, nil
		}
		if unsigned, err := object.OpenHeadOf(name, now, nil); err == nil {
			last = max(last, unsigned.Serial)
		}
	}
	if l.head.Serial < last {
		return nil, fmt.Errorf("%w; and that of %v, serial %d, is older than %d, which was here", l.err, h.Other.Name(), l.head.Serial, last)
	}
	return nil, nil
}

// Owes tells whether PutHeads has something to do.
func (h *Healer) Owes() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.owed) > 0
}

// PutHeads puts the heads there that were lacking. It is for when all that they
// reach was asked for, and is there.
func (h *Healer) PutHeads(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.owed) == 0 {
		return nil
	}
	for _, st := range h.stores {
		if err := st.finish(); err != nil {
			return err
		}
	}
	for name, l := range h.owed {
		if err := h.putHead(ctx, name, l); err != nil {
			return fmt.Errorf("mend the head of %v: %w", name, err)
		}
	}
	return listTrees(context.WithoutCancel(ctx), h.Dir)
}

func (h *Healer) putHead(ctx context.Context, name object.TreeName, l lacked) error {
	t := headsOf(h.Dir, name)
	if err := mkdirAll(t.dir); err != nil {
		return err
	}
	turn, err := t.lock(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer turn.Close()
	if now, err := h.instead(ctx, name, l); now != nil || err != nil {
		return err
	}
	if err := t.install(l.raw, nil, nil); err != nil {
		return err
	}
	h.mended.Add(1)
	return nil
}

// Close makes what was mended last, and returns how many objects that are.
func (h *Healer) Close() (mended int64, err error) {
	var errs []error
	for _, st := range h.stores {
		errs = append(errs, st.finish(), st.close())
	}
	return h.mended.Load(), errors.Join(errs...)
}
