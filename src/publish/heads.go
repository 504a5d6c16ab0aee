package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/object"
)

// headTemp is what a head is called until it is on the disk.
const headTemp = ".head.tmp"

// heads is the directory of one tree's heads. Whoever uses it holds its lock.
type heads struct {
	dir  string
	tree object.TreeName
}

// headsOf are those of a tree in a store's directory.
func headsOf(store string, tree object.TreeName) heads {
	return heads{dir: filepath.Join(store, filepath.FromSlash(tree.Dir())), tree: tree}
}

// lockedHeads is headsOf with the lock, and makes the directory if need be.
func lockedHeads(ctx context.Context, store string, tree object.TreeName, log *slog.Logger) (heads, *os.File, error) {
	t := headsOf(store, tree)
	if err := mkdirAll(t.dir); err != nil {
		return t, nil, fmt.Errorf("prepare store: %w", err)
	}
	l, err := t.lock(ctx, log)
	return t, l, err
}

func (t heads) path(name string) string { return filepath.Join(t.dir, name) }

// past is the path of the head that is kept of a serial.
func (t heads) past(serial int64) string { return t.path(fmt.Sprintf("head.%d", serial)) }

// lock waits until nobody else changes the tree's heads.
func (t heads) lock(ctx context.Context, log *slog.Logger) (*os.File, error) {
	return lock(ctx, t.path(".lock"), func() {
		log.Info("waiting for another publish of the same tree", "tree", t.tree.String())
	})
}

// current returns the newest head and the note it is in; nothing if the tree
// was never published.
func (t heads) current() (*object.Head, []byte, error) {
	h, raw, err := t.read("current", t.path("head"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	return h, raw, err
}

// older returns the head that was kept of a serial.
func (t heads) older(serial int64) (*object.Head, error) {
	h, _, err := t.read("older", t.past(serial))
	return h, err
}

// read returns a head of the tree, and the note it is in; which is for messages.
func (t heads) read(which, path string) (*object.Head, []byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read the %s head: %w", which, err)
	}
	h, err := object.OpenHead(raw, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("read the %s head %s: %w", which, path, err)
	}
	if h.Tree != t.tree {
		return nil, nil, fmt.Errorf("the %s head %s is that of another tree, %v", which, path, h.Tree)
	}
	return h, raw, nil
}

// lastSerial is the highest that the tree ever had, 0 for none. Clients refuse
// to go back, so a serial is not used twice, even if heads were moved by hand.
func (t heads) lastSerial(current *object.Head) (int64, error) {
	var last int64
	if current != nil {
		last = current.Serial
	}
	names, err := os.ReadDir(t.dir)
	if err != nil {
		return 0, fmt.Errorf("look for older heads: %w", err)
	}
	for _, n := range names {
		if s, ok := strings.CutPrefix(n.Name(), "head."); ok {
			if serial, err := strconv.ParseInt(s, 10, 64); err == nil {
				last = max(last, serial)
			}
		}
	}
	return last, nil
}

// replace makes h the newest head, with the next serial, unless it says nothing
// new: then it becomes the one there is, and changed is false.
func (t heads) replace(h *object.Head, now time.Time, signers []note.Signer, public object.Keys) (changed bool, err error) {
	current, currentRaw, err := t.current()
	if err != nil {
		return false, err
	}
	last, err := t.lastSerial(current)
	if err != nil {
		return false, err
	}
	raw, err := next(h, current, currentRaw, last, now, signers, public)
	if err != nil || raw == nil {
		return false, err
	}
	return true, t.install(raw, current, currentRaw)
}

// next signs h as the head after the current one, with the serial after last. If it
// says nothing new it becomes the current one, and the note is nil.
func next(h, current *object.Head, currentRaw []byte, last int64, now time.Time, signers []note.Signer, public object.Keys) ([]byte, error) {
	if current != nil {
		// What says anything new has a new serial before it is signed: there are
		// never two signed heads of one.
		h.Serial, h.Time = current.Serial, current.Time
		if h.Text() == current.Text() {
			same, err := signedBy(currentRaw, h, signers, public)
			if err != nil || same {
				return nil, err
			}
		}
	}
	h.Serial, h.Time = last+1, now.UTC().Truncate(time.Second)
	return h.Sign(signers...)
}

// install puts a head in place, and keeps the one there was, if any.
func (t heads) install(raw []byte, current *object.Head, currentRaw []byte) error {
	if current != nil {
		old := t.past(current.Serial)
		if err := writeFile(old, t.path(headTemp), currentRaw); err != nil {
			return fmt.Errorf("keep the current head: %w", err)
		}
	}
	if err := writeFile(t.path("head"), t.path(headTemp), raw); err != nil {
		return fmt.Errorf("replace the head: %w", err)
	}
	return syncDir(t.dir)
}

// signedBy tells whether a note is a head with the signatures of the signers and
// no others. Where their public keys are not known, they sign it once more:
// Ed25519 signatures are the same each time.
func signedBy(raw []byte, h *object.Head, signers []note.Signer, public object.Keys) (bool, error) {
	if len(signers) == 0 || len(public) < len(signers) {
		again, err := h.Sign(signers...)
		return bytes.Equal(again, raw), err
	}
	verifiers := make([]note.Verifier, len(public))
	for i, k := range public {
		verifiers[i] = k
	}
	n, err := note.Open(raw, note.VerifierList(verifiers...))
	return err == nil && n.Text == h.Text() && len(n.Sigs) == len(public) && len(n.UnverifiedSigs) == 0, nil
}

// isSigned tells whether a head's note has signatures, whoever's they are.
func isSigned(raw []byte) bool { return bytes.Contains(raw, []byte("\n\n")) }

// warnUnsigned tells of a tree whose head was signed that the next one won't be.
func warnUnsigned(log *slog.Logger, tree object.TreeName) {
	log.Warn("the tree's head is signed, the new one will not be: clients that have a key refuse it", "tree", tree.String())
}

// listTrees brings md/trees up to date: the directories of all trees that have
// a head, one a line, sorted. It looks at all, so that the list is right again
// after whatever was done to the store by hand.
func listTrees(ctx context.Context, store string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("the head is in place, but the list of trees, which the next publish mends, may be an old one: %w", err)
		}
	}()
	md := filepath.Join(store, "md")
	l, err := lock(ctx, filepath.Join(md, ".lock"), nil)
	if err != nil {
		return err
	}
	defer l.Close()
	var dirs []string
	for _, pattern := range []string{"*/*/head", "*/*/*/head"} {
		found, err := fs.Glob(os.DirFS(md), pattern)
		if err != nil {
			return err
		}
		for _, head := range found {
			dir := "md/" + strings.TrimSuffix(head, "/head")
			if _, err := object.ParseTreeDir(dir); err == nil {
				dirs = append(dirs, dir)
			}
		}
	}
	slices.Sort(dirs)
	list := []byte(strings.Join(append(dirs, ""), "\n"))
	path := filepath.Join(md, object.TreesFile)
	old, err := os.ReadFile(path)
	switch {
	case err == nil && bytes.Equal(old, list):
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := writeFile(path, filepath.Join(md, ".trees.tmp"), list); err != nil {
		return err
	}
	return syncDir(md)
}
