package object

import (
	"bufio"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/digest"
)

// MaxHead bounds a head, signatures included, in bytes.
const MaxHead = 16 << 10

const headMagic = "aysfs head 1"

// Counts says how much a tree is.
type Counts struct {
	Files    int64 `json:"files"`
	Dirs     int64 `json:"dirs"`
	Symlinks int64 `json:"symlinks"`
	Bytes    int64 `json:"bytes"` // of all files' content
}

// Head is what a tree's name stands for at one serial. It is the only object
// that changes, and the only one that is signed.
type Head struct {
	Tree   TreeName
	Serial int64 // 1 and up, one more each time the tree changes
	Time   time.Time
	Domain string // where the blobs are; never empty

	Root      digest.Digest // listing of the root directory
	RootSize  int64         // bytes of that listing
	RootMode  uint16
	RootMtime int64 // nanoseconds since 1970

	Index     digest.Digest
	IndexSize int64         // bytes
	Catalog   digest.Digest // the one that carries the root: with it a first listing needs no index
	Catalogs  int64         // how many there are
	MaxSize   int64         // bytes of the largest catalog

	Counts Counts
}

// Errors that tell why a head is not to be trusted.
var (
	ErrUnsigned = errors.New("the head is not signed by the configured key")
	ErrHead     = errors.New("malformed head")
)

// Text is the head as it is signed: lines of a word and its values.
func (h *Head) Text() string {
	var b strings.Builder
	line := func(a ...any) { fmt.Fprintln(&b, a...) }
	line(headMagic)
	line("id", h.Tree.ID)
	line("repo", h.Tree.RepoID)
	line("platform", h.Tree.Platform)
	line("serial", h.Serial)
	line("time", h.Time.UTC().Format(time.RFC3339))
	line("domain", h.Domain)
	line("root", h.Root, h.RootSize, fmt.Sprintf("%04o", h.RootMode), h.RootMtime)
	line("index", h.Index, h.IndexSize)
	line("catalog", h.Catalog, h.Catalogs, h.MaxSize)
	line("counts", h.Counts.Files, h.Counts.Dirs, h.Counts.Symlinks, h.Counts.Bytes)
	return b.String()
}

// Sign returns the head as a note with the signatures of the signers, or, with
// none, its text alone. A nil signer counts as none.
func (h *Head) Sign(signers ...note.Signer) ([]byte, error) {
	if _, err := parseHeadText(h.Text()); err != nil {
		return nil, fmt.Errorf("sign head: %w", err)
	}
	signers = slices.DeleteFunc(slices.Clone(signers), func(s note.Signer) bool { return s == nil })
	if len(signers) == 0 {
		return []byte(h.Text()), nil
	}
	b, err := note.Sign(&note.Note{Text: h.Text()}, signers...)
	if err != nil {
		return nil, fmt.Errorf("sign head: %w", err)
	}
	if len(b) > MaxHead {
		return nil, fmt.Errorf("sign head: %d bytes with %d signatures, at most %d", len(b), len(signers), MaxHead)
	}
	return b, nil
}

// OpenHead reads a head. With keys, one without a good signature by any of them
// is ErrUnsigned; without, signatures are not looked at. Whose tree it is the head
// of is for the caller to see: OpenHeadOf does.
func OpenHead(raw []byte, keys Keys) (*Head, error) {
	if len(raw) > MaxHead {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrHead, len(raw), MaxHead)
	}
	if len(keys) == 0 {
		text, _, _ := strings.Cut(string(raw), "\n\n")
		return parseHeadText(strings.TrimSuffix(text, "\n") + "\n")
	}
	return keys.open(raw)
}

// OpenHeadOf is OpenHead for what should be the head of a tree. That of another one is
// ErrHead.
func OpenHeadOf(tree TreeName, raw []byte, keys Keys) (*Head, error) {
	h, err := OpenHead(raw, keys)
	if err == nil && h.Tree != tree {
		return nil, fmt.Errorf("%w: it is the head of %v", ErrHead, h.Tree)
	}
	return h, err
}

func parseHeadText(text string) (*Head, error) {
	h := &Head{}
	sc := bufio.NewScanner(strings.NewReader(text))
	sc.Buffer(nil, MaxHead)
	var err error
	next := func(word string) string {
		if err != nil {
			return ""
		}
		if !sc.Scan() {
			err = fmt.Errorf("%w: no %s line", ErrHead, word)
			return ""
		}
		w, rest, _ := strings.Cut(sc.Text(), " ")
		if w != word {
			err = fmt.Errorf("%w: %.40q where %s should be", ErrHead, sc.Text(), word)
		}
		return rest
	}
	fields := func(word string, n int) []string {
		f := strings.Fields(next(word))
		if err == nil && len(f) != n {
			err = fmt.Errorf("%w: %s has %d values, want %d", ErrHead, word, len(f), n)
		}
		if err != nil {
			return make([]string, n)
		}
		return f
	}
	number := func(word, s string, base int, low, high int64) int64 {
		if err != nil {
			return 0
		}
		v, e := strconv.ParseInt(s, base, 64)
		if e != nil || v < low || v > high {
			err = fmt.Errorf("%w: %s %.40q is not a number from %d to %d", ErrHead, word, s, low, high)
		}
		return v
	}
	sum := func(word, s string) digest.Digest {
		if err != nil {
			return digest.Digest{}
		}
		d, e := digest.Parse(s)
		if e != nil {
			err = fmt.Errorf("%w: %s: %w", ErrHead, word, e)
		}
		return d
	}
	const most = 1<<63 - 1

	if !sc.Scan() || sc.Text() != headMagic {
		return nil, fmt.Errorf("%w: it does not start with %q", ErrHead, headMagic)
	}
	h.Tree = TreeName{ID: next("id"), RepoID: next("repo"), Platform: next("platform")}
	h.Serial = number("serial", next("serial"), 10, 1, most)
	if t := next("time"); err == nil {
		if h.Time, err = time.Parse(time.RFC3339, t); err != nil {
			err = fmt.Errorf("%w: time: %w", ErrHead, err)
		}
	}
	h.Domain = next("domain")
	root := fields("root", 4)
	h.Root, h.RootSize = sum("root", root[0]), number("root size", root[1], 10, 1, MaxMetadata)
	h.RootMode = uint16(number("root mode", root[2], 8, 0, ModeBits))
	h.RootMtime = number("root mtime", root[3], 10, -1<<63, most)
	index := fields("index", 2)
	h.Index, h.IndexSize = sum("index", index[0]), number("index size", index[1], 10, 1, MaxMetadata)
	catalog := fields("catalog", 3)
	h.Catalog, h.Catalogs = sum("catalog", catalog[0]), number("catalogs", catalog[1], 10, 1, MaxMetadata)
	h.MaxSize = number("catalog size", catalog[2], 10, 1, MaxMetadata)
	counts := fields("counts", 4)
	for i, c := range []*int64{&h.Counts.Files, &h.Counts.Dirs, &h.Counts.Symlinks, &h.Counts.Bytes} {
		*c = number("counts", counts[i], 10, 0, most)
	}
	if err != nil {
		return nil, err
	}
	if e := h.Tree.Validate(); e != nil {
		return nil, fmt.Errorf("%w: %w", ErrHead, e)
	}
	if h.Domain == "" {
		return nil, fmt.Errorf("%w: no domain", ErrHead)
	}
	if e := ValidateDomain(h.Domain); e != nil {
		return nil, fmt.Errorf("%w: %w", ErrHead, e)
	}
	return h, nil
}
