package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// HeadStore keeps the last good head of each tree on this machine.
type HeadStore interface {
	// Head returns what was kept under key, or tier.ErrAbsent.
	Head(key string) ([]byte, error)
	// PutHead keeps a head; it is durable when PutHead returns. Where nothing
	// can be kept at the moment, which is known and was said, it is
	// tier.ErrUnavailable.
	PutHead(key string, note []byte) error
}

// HeadCache keeps heads where they may go at any time, beside this program and
// for others on the machine. It waits for nothing long.
type HeadCache interface {
	// Head returns what was put last, or tier.ErrAbsent. Anybody may have changed
	// it.
	Head(tree object.TreeName) ([]byte, error)
	PutHead(tree object.TreeName, note []byte)
}

// ErrOlder says that a store offers an older head than one that was already
// seen from it.
var ErrOlder = errors.New("the store's head is older than the one already seen")

// Heads finds the heads of one store's trees.
type Heads struct {
	Store  string // name of the store
	Source tier.HeadSource
	Kept   HeadStore   // nil: heads are not kept over restarts
	Near   HeadCache   // asked last, where there is nothing else; nil for none; not without Keys
	Keys   object.Keys // none: signatures are not asked for
	Log    *slog.Logger
}

// Newest returns the newest head of the tree with the platform of name or, if
// there is none, of the tree for every platform. Where the store can't be asked
// it is the one that was kept, or that somebody else on this machine had; fresh
// tells whether it is the store's.
func (h *Heads) Newest(ctx context.Context, name object.TreeName) (head *object.Head, fresh bool, err error) {
	var errs []error
	for _, n := range candidates(name) {
		head, fresh, err := h.newest(ctx, n)
		if err == nil {
			return head, fresh, nil
		}
		errs = append(errs, err)
		if !errors.Is(err, tier.ErrAbsent) {
			break
		}
	}
	// Without a network, which of the candidates exists is known from before.
	for _, n := range candidates(name) {
		if kept, _ := h.kept(n); kept != nil && !errors.Is(errs[len(errs)-1], tier.ErrAbsent) {
			h.Log.Warn("using the head kept from before", "op", "head", "tree", n.String(), "serial", kept.Serial, "err", errs[len(errs)-1])
			return kept, false, nil
		}
	}
	if last := errs[len(errs)-1]; h.Near != nil && errors.Is(last, tier.ErrUnavailable) {
		for _, n := range candidates(name) {
			if head := h.near(n); head != nil {
				h.Log.Warn("using a head from a local cache", "op", "head", "tree", n.String(), "serial", head.Serial, "err", last)
				return head, false, nil
			}
		}
	}
	return nil, false, fmt.Errorf("find %v in store %s: %w", name, h.Store, errors.Join(errs...))
}

// candidates are the trees that a lookup of name may be answered with.
func candidates(name object.TreeName) []object.TreeName {
	if name.Platform == "" {
		return []object.TreeName{name}
	}
	anywhere := name
	anywhere.Platform = ""
	return []object.TreeName{name, anywhere}
}

func (h *Heads) key(n object.TreeName) string { return h.Store + "/" + n.Dir() }

// newest asks the store for one tree's head and keeps it.
func (h *Heads) newest(ctx context.Context, n object.TreeName) (*object.Head, bool, error) {
	kept, raw := h.kept(n)
	got, err := h.Source.Head(ctx, n, raw)
	if err != nil {
		return nil, false, err
	}
	if kept != nil && bytes.Equal(got, raw) {
		h.share(n, got)
		return kept, true, nil
	}
	head, err := h.open(n, got)
	if err != nil {
		return nil, false, err
	}
	if kept != nil && head.Serial < kept.Serial {
		return nil, false, fmt.Errorf("head of %v: serial %d, had %d: %w", n, head.Serial, kept.Serial, ErrOlder)
	}
	h.keep(n, got)
	h.share(n, got)
	return head, true, nil
}

func (h *Heads) keep(n object.TreeName, got []byte) {
	if h.Kept != nil {
		if err := h.Kept.PutHead(h.key(n), got); err != nil && !errors.Is(err, tier.ErrUnavailable) {
			h.Log.Warn("can't keep a head for a start without network", "op", "head", "tree", n.String(), "err", err)
		}
	}
}

func (h *Heads) share(n object.TreeName, got []byte) {
	if h.Near != nil {
		h.Near.PutHead(n, got)
	}
}

// near returns the head that somebody else on this machine had, if it passes, and
// keeps it from then on.
func (h *Heads) near(n object.TreeName) *object.Head {
	raw, err := h.Near.Head(n)
	if errors.Is(err, tier.ErrAbsent) {
		return nil
	}
	var head *object.Head
	if err == nil {
		head, err = h.open(n, raw)
	}
	if err != nil {
		h.Log.Warn("no head from a local cache", "op", "head", "tree", n.String(), "err", err)
		return nil
	}
	h.keep(n, raw)
	return head
}

// kept returns the head kept from before, if it still passes.
func (h *Heads) kept(n object.TreeName) (*object.Head, []byte) {
	if h.Kept == nil {
		return nil, nil
	}
	raw, err := h.Kept.Head(h.key(n))
	if err != nil {
		return nil, nil
	}
	head, err := h.open(n, raw)
	if err != nil {
		h.Log.Warn("dropping a head kept from before", "op", "head", "tree", n.String(), "err", err)
		return nil, nil
	}
	return head, raw
}

func (h *Heads) open(n object.TreeName, raw []byte) (*object.Head, error) {
	head, err := object.OpenHead(raw, h.Keys)
	if err != nil {
		return nil, fmt.Errorf("head of %v: %w", n, err)
	}
	if head.Tree != n {
		return nil, fmt.Errorf("head of %v: %w: it is the head of %v", n, object.ErrHead, head.Tree)
	}
	return head, nil
}
