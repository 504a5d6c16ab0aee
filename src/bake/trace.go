package bake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/profile"
)

// Trace is the paths whose content is wanted, in order. A path is absolute, as the
// machine will see it, or relative to any of its mounts.
type Trace []Path

// Path is one path of a trace.
type Path struct {
	Name  string
	Below bool // a directory with all that is in it; else of a directory nothing but the listing
}

// maxTrace is the most bytes that a trace may have.
const maxTrace = 64 << 20

// ReadTrace reads a list of paths, one a line, or, if there is a NUL in it, with a
// NUL behind each. A path that ends in a slash stands for all that is below it.
// Empty lines and those that begin with # are passed over. A profile, as `ays profile
// record` makes one, stands for the files in it, of whatever mount has them.
func ReadTrace(file string) (Trace, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTrace+1))
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	if len(text) > maxTrace {
		return nil, fmt.Errorf("trace: %s has more than %d MiB: name fewer paths", file, maxTrace>>20)
	}
	if p, err := profile.Parse(text); err == nil {
		return traceOf(p)
	}
	return parseTrace(text)
}

// traceOf is the files of a profile, from the roots of their mounts.
func traceOf(p *profile.Profile) (Trace, error) {
	var t Trace
	seen := make(map[string]bool)
	for _, n := range p.Needs {
		if n.Block != profile.Listing && !seen[n.Path] {
			seen[n.Path] = true
			t = append(t, Path{Name: n.Path})
		}
	}
	if len(t) == 0 {
		return nil, errors.New("trace: the profile has no file in it")
	}
	return t, nil
}

func parseTrace(text []byte) (Trace, error) {
	end, comment := "\n", "#"
	if bytes.IndexByte(text, 0) >= 0 {
		end, comment = "\x00", ""
	}
	var t Trace
	for name := range strings.SplitSeq(string(text), end) {
		if end == "\n" {
			name = strings.TrimSuffix(name, "\r")
		}
		if name == "" || comment != "" && strings.HasPrefix(name, comment) {
			continue
		}
		t = append(t, Path{path.Clean(name), strings.HasSuffix(name, "/")})
	}
	if len(t) == 0 {
		return nil, fmt.Errorf("trace: there is no path in it")
	}
	return t, nil
}

// place is a file or a directory of a mount.
type place struct {
	mount int
	path  string // in the tree, from what the mount shows
	entry object.Entry
}

// hits is what a path of a trace leads to.
type hits struct {
	places  []place
	outside bool // it lies in no mount
}

// maxLinks is how many symlinks a path may lead through.
const maxLinks = 40

// find looks up a path of the trace.
func (b *baker) find(ctx context.Context, p Path) (hits, error) {
	if strings.HasPrefix(p.Name, "/") {
		return b.lookup(ctx, p.Name, 0)
	}
	var all hits
	for _, s := range b.shown {
		h, err := b.lookup(ctx, path.Join(s.cfg.Path, p.Name), 0)
		if err != nil {
			return all, err
		}
		all.places = append(all.places, h.places...)
	}
	return all, nil
}

// lookup follows an absolute path into the innermost mount that it leads to, through
// symlinks, those between mounts included.
func (b *baker) lookup(ctx context.Context, name string, links int) (hits, error) {
	at := -1
	for i, s := range b.shown {
		if (name == s.cfg.Path || strings.HasPrefix(name, s.cfg.Path+"/")) && (at < 0 || len(s.cfg.Path) > len(b.shown[at].cfg.Path)) {
			at = i
		}
	}
	if at < 0 {
		return hits{outside: true}, nil
	}
	s := b.shown[at]
	dir, e := "", s.view.Root()
	rest := strings.Split(strings.Trim(strings.TrimPrefix(name, s.cfg.Path), "/"), "/")
	if rest[0] == "" {
		return hits{places: []place{{at, "", e}}}, nil
	}
	for i, part := range rest {
		if e.Kind != object.Dir {
			return hits{}, nil
		}
		l, err := s.view.Listing(ctx, dir, e.Digest)
		if err != nil {
			return hits{}, err
		}
		n, ok := l.Find([]byte(part))
		if !ok {
			return hits{}, nil
		}
		if e = l.At(n); e.Kind == object.Symlink {
			if links >= maxLinks {
				return hits{}, nil
			}
			to := string(e.Target)
			if !strings.HasPrefix(to, "/") {
				to = path.Join(s.cfg.Path, dir, to)
			}
			return b.lookup(ctx, path.Join(append([]string{to}, rest[i+1:]...)...), links+1)
		}
		dir = object.Join(dir, part)
	}
	return hits{places: []place{{at, dir, e}}}, nil
}
