package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"

	"github.com/aysfs/aysfs/src/debug"
	"github.com/aysfs/aysfs/src/tier"
)

// maxDiff is how large a content may be in bytes to be compared.
const maxDiff = 4 << 20

// Options say what to tell.
type Options struct {
	Store *debug.Store
	Last  int64 // only that many entries, the last; 0: all
	Patch bool  // show what was changed, too
	// Base gives the content that a path has in the published tree, of at most
	// limit bytes: ErrTooLarge if it has more, ErrNone if there is no such file.
	// nil: the tree is not known, and first changes are shown as
	// whole files.
	Base func(ctx context.Context, path string, limit int64) ([]byte, error)
}

// What a Base may say of a path.
var (
	ErrTooLarge = fmt.Errorf("more than %d bytes", maxDiff)
	ErrNone     = errors.New("the tree has no such file")
)

// Write writes the log to w, oldest entry first. It returns how many contents
// could not be shown although they should be there.
func Write(ctx context.Context, w io.Writer, o Options) (missing int, err error) {
	skip := int64(0)
	if o.Last > 0 {
		n, err := o.Store.Count(ctx)
		if err != nil {
			return 0, err
		}
		skip = n.Entries - o.Last
	}
	before := make(map[string]string) // path -> MD5
	err = o.Store.Log(ctx, func(e debug.Entry) error {
		was, known := before[e.Path]
		before[e.Path] = e.MD5
		if e.Index < skip {
			return nil
		}
		what, who := "changed", e.Who
		if e.MD5 == "" {
			what = "removed"
		}
		if who == "" {
			who = "?"
		}
		if _, err := fmt.Fprintf(w, "%s  %s  %s  %s  %s\n", e.Time.UTC().Format(time.DateTime), printable(who), what, printable(e.Path), e.MD5); err != nil || !o.Patch {
			return err
		}
		text, err := o.diff(ctx, e, was, known)
		if errors.Is(err, tier.ErrAbsent) || errors.Is(err, tier.ErrCorrupt) {
			missing++
			text, err = "can't be shown: "+err.Error()+"\n", nil
		}
		if err != nil {
			return err
		}
		_, err = io.WriteString(w, text+"\n")
		return err
	})
	return missing, err
}

// diff shows the change from was, if known, or the tree's, to e.
func (o Options) diff(ctx context.Context, e debug.Entry, was string, known bool) (string, error) {
	if known && was == e.MD5 {
		return "the same content as before\n", nil
	}
	remark := ""
	from, to := label("a/", e.Path), label("b/", e.Path)
	var old, now []byte
	var err error
	switch {
	case known && was == "":
		from = "/dev/null"
	case known:
		old, err = o.content(ctx, was)
	case o.Base == nil:
		from, remark = "/dev/null", "no store was named: shown as if it was new\n"
	default:
		if old, err = o.Base(ctx, e.Path, maxDiff); errors.Is(err, ErrNone) {
			from, err = "/dev/null", nil
		}
	}
	if err == nil && e.MD5 == "" {
		to = "/dev/null"
	} else if err == nil {
		now, err = o.content(ctx, e.MD5)
	}
	switch {
	case errors.Is(err, ErrTooLarge):
		return remark + err.Error() + ": not compared\n", nil
	case err != nil:
		return "", err
	case binary(old) || binary(now):
		return remark + fmt.Sprintf("binary: %d bytes, then %d\n", len(old), len(now)), nil
	case from == to:
		return remark + "nothing was there before\n", nil
	case bytes.Equal(old, now):
		return remark + "the same content as before\n", nil
	}
	return remark + udiff.Unified(from, to, string(old), string(now)), nil
}

func (o Options) content(ctx context.Context, md5 string) ([]byte, error) {
	n, err := o.Store.Size(ctx, md5)
	if err != nil {
		return nil, err
	}
	if n > maxDiff {
		return nil, fmt.Errorf("%d bytes: %w", n, ErrTooLarge)
	}
	return o.Store.Content(ctx, md5, n)
}

// binary tells whether a content is nothing to be read.
func binary(b []byte) bool { return bytes.IndexByte(b, 0) >= 0 || !utf8.Valid(b) }

// label is a path as patch and git take it, on one line.
func label(side, path string) string {
	if strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '"' || r == '\\' || r == utf8.RuneError }) {
		return strconv.Quote(side + path)
	}
	return side + path
}

func printable(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` {
		return q
	}
	return s
}
