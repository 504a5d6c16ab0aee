package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

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

// HeadReader has heads under the keys that a HeadStore has them under, or
// tier.ErrAbsent.
type HeadReader interface {
	Head(key string) ([]byte, error)
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

// ErrAnother says that a store offers another head than one of the same serial
// that was already seen from it. It is an ErrOlder: a serial comes once.
var ErrAnother = fmt.Errorf("it says another thing than the head of this serial did before: %w", ErrOlder)

// Heads finds the heads of one store's trees.
type Heads struct {
	Store  string // name of the store
	Source tier.HeadSource
	Kept   HeadStore   // nil: heads are not kept over restarts
	Seed   HeadReader  // that came with the machine; nil for none
	Near   HeadCache   // asked last, where there is nothing else; nil for none; not without Keys
	Keys   object.Keys // none: signatures are not asked for
	Log    *slog.Logger

	refused sync.Map // trees whose head in Seed doesn't pass, and that this was logged of
}

// Found is what a look for a tree's newest head came to.
type Found struct {
	Head  *object.Head // nil: there is none
	Fresh bool         // it is the store's
	Err   error        // where it isn't: why
	near  bool         // somebody else on this machine had it
}

// Look returns the newest head of the tree with the platform of name or, if
// there is none, of the tree for every platform. Where the store can't be asked,
// says that there is none, or has one that can't be trusted, it is the one that was
// kept: a machine that starts shows what one that runs goes on showing. Where the
// store can't be asked it may also be one that somebody else on this machine had.
func (h *Heads) Look(ctx context.Context, name object.TreeName) Found {
	var errs []error
	for _, n := range Candidates(name) {
		head, err := h.newest(ctx, n)
		if err == nil {
			return Found{Head: head, Fresh: true}
		}
		errs = append(errs, err)
		if !errors.Is(err, tier.ErrAbsent) {
			break
		}
	}
	last := errs[len(errs)-1]
	// Which of the candidates exists is known from before.
	if known := h.Known(name); known != nil {
		return Found{Head: known, Err: last}
	}
	if h.Near != nil && errors.Is(last, tier.ErrUnavailable) {
		for _, n := range Candidates(name) {
			if head := h.near(n); head != nil {
				return Found{Head: head, Err: last, near: true}
			}
		}
	}
	return Found{Err: fmt.Errorf("find %v in store %s: %w", name, h.Store, errors.Join(errs...))}
}

// Newest is Look and Tell; fresh tells whether the head is the store's. Without a
// head there is an error.
func (h *Heads) Newest(ctx context.Context, name object.TreeName) (head *object.Head, fresh bool, err error) {
	f := h.Look(ctx, name)
	if f.Head == nil {
		return nil, false, f.Err
	}
	h.Tell(f)
	return f.Head, f.Fresh, nil
}

// Tell logs why a head that was found is not the store's.
func (h *Heads) Tell(f Found) {
	if f.Fresh {
		return
	}
	what := "using the head kept from before"
	if f.near {
		what = "using a head from a local cache"
	}
	h.Log.Warn(what, "op", "head", "tree", f.Head.Tree.String(), "serial", f.Head.Serial, "err", f.Err)
}

// Known returns the head that there is without asking the store, or nil.
func (h *Heads) Known(name object.TreeName) *object.Head {
	for _, n := range Candidates(name) {
		if head, _ := h.kept(n); head != nil {
			return head
		}
	}
	return nil
}

// Candidates are the trees that a lookup of name may be answered with.
func Candidates(name object.TreeName) []object.TreeName {
	if name.Platform == "" {
		return []object.TreeName{name}
	}
	anywhere := name
	anywhere.Platform = ""
	return []object.TreeName{name, anywhere}
}

// Key is what a HeadStore has the head of a tree under.
func (h *Heads) Key(n object.TreeName) string { return h.Store + "/" + n.Dir() }

// newest asks the store for one tree's head and keeps it.
func (h *Heads) newest(ctx context.Context, n object.TreeName) (*object.Head, error) {
	kept, raw := h.kept(n)
	got, err := h.Source.Head(ctx, n, raw)
	if err != nil {
		return nil, err
	}
	if kept != nil && bytes.Equal(got, raw) {
		h.share(n, got)
		return kept, nil
	}
	head, err := h.open(n, got)
	if err != nil {
		return nil, err
	}
	if kept != nil && head.Serial < kept.Serial {
		return nil, fmt.Errorf("head of %v: serial %d, had %d: %w", n, head.Serial, kept.Serial, ErrOlder)
	}
	// A publisher gives a serial once. With a lost key, which is good until this
	// serial, anybody can.
	if len(h.Keys) > 0 && kept != nil && head.Serial == kept.Serial && head.Text() != kept.Text() {
		return nil, fmt.Errorf("head of %v: serial %d: %w", n, head.Serial, ErrAnother)
	}
	h.keep(n, got)
	h.share(n, got)
	return head, nil
}

func (h *Heads) keep(n object.TreeName, got []byte) {
	if h.Kept != nil {
		if err := h.Kept.PutHead(h.Key(n), got); err != nil && !errors.Is(err, tier.ErrUnavailable) {
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

// kept returns the newest head that this machine had from before, kept or as it was
// delivered, if it still passes.
func (h *Heads) kept(n object.TreeName) (head *object.Head, raw []byte) {
	if h.Kept != nil {
		var err error
		if head, raw, err = h.had(n, h.Kept); err != nil {
			h.Log.Warn("dropping a head kept from before", "op", "head", "tree", n.String(), "err", err)
		}
	}
	if h.Seed == nil {
		return head, raw
	}
	baked, note, err := h.had(n, h.Seed)
	if err != nil {
		if _, told := h.refused.LoadOrStore(n, true); !told { // it stays there
			h.Log.Warn("not using the seed's head", "op", "head", "tree", n.String(), "err", err)
		}
		return head, raw
	}
	if baked != nil && (head == nil || baked.Serial > head.Serial) {
		return baked, note
	}
	return head, raw
}

// had returns the head that somebody has. None is no error; one that doesn't pass is.
func (h *Heads) had(n object.TreeName, from HeadReader) (*object.Head, []byte, error) {
	raw, err := from.Head(h.Key(n))
	if err != nil {
		return nil, nil, nil
	}
	head, err := h.open(n, raw)
	if err != nil {
		return nil, nil, err
	}
	return head, raw, nil
}

func (h *Heads) open(n object.TreeName, raw []byte) (*object.Head, error) {
	head, err := object.OpenHeadOf(n, raw, h.Keys)
	if err != nil {
		return nil, fmt.Errorf("head of %v: %w", n, err)
	}
	return head, nil
}
