package client

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tree"
)

// How long a path may take to be found, and how long each object's tiers may take
// to answer. Together they stay below what the control socket allows an answer.
const (
	explainFind  = 10 * time.Second
	explainProbe = 5 * time.Second
)

// Explain says where what is at an absolute path comes from. It asks every tier for
// one or two blobs, and changes nothing. Symlinks are not followed. Where no mount
// shows the path the error is control.ErrNotShown.
func (c *Client) Explain(ctx context.Context, path string) (*control.Explanation, error) {
	path = filepath.Clean(path)
	m := c.mountOf(path)
	if m == nil {
		return nil, fmt.Errorf("%w: %s is in no mount of this client", control.ErrNotShown, path)
	}
	cfg, _ := m.config()
	f, _ := m.showing()
	if f == nil || f.View() == nil {
		return nil, fmt.Errorf("%w: the mount at %s shows no tree yet; \"ays status\" tells why", control.ErrNotShown, m.path)
	}
	c.explaining.Lock()
	defer c.explaining.Unlock()

	v := f.View()
	inside := strings.TrimPrefix(strings.TrimPrefix(path, m.path), "/")
	find, cancel := context.WithTimeout(ctx, explainFind)
	defer cancel()
	e, dir, err := entryAt(find, v, inside)
	if err != nil {
		return nil, err
	}
	h := v.Head()
	x := &control.Explanation{
		Path: path, Mount: m.path, Inside: v.Full(inside), Tree: h.Tree.String(), Serial: h.Serial, Domain: h.Domain, Store: cfg.Store,
		Kind: e.Kind.String(), Mode: fmt.Sprintf("%04o", e.Mode), Size: e.Size, Mtime: time.Unix(0, e.Mtime), Target: string(e.Target),
	}
	if f.Layer() != nil {
		x.Note = "the mount has debug: this is the tree's, whatever was changed over it"
	}
	switch {
	case e.Kind == object.File && e.Size == 0:
	case e.Kind == object.File && e.Chunked:
		x.Digest = e.Digest.String()
		x.Objects = m.explainChunked(ctx, v, e, x)
	case e.Kind == object.File:
		x.Digest = e.Digest.String()
		x.Objects = append(x.Objects, m.explainObject(ctx, "content", v.BlobRef(e.Digest, e.Size)))
	case e.Kind == object.Dir:
		x.Digest, dir = e.Digest.String(), inside
		if v.Grafted(e.Digest) != nil {
			x.Note = strings.TrimPrefix(x.Note+"; this directory has places for other mounts that the tree's has not", "; ")
		}
	}
	if len(x.Objects) == 0 {
		ref, err := v.CatalogRef(find, v.Full(dir))
		if err != nil {
			return nil, err
		}
		x.Objects = append(x.Objects, m.explainObject(ctx, "catalog", ref))
	}
	return x, nil
}

// mountOf is the innermost mount that a path lies in, or nil.
func (c *Client) mountOf(path string) (in *mount) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.mounts {
		if (path == m.path || strings.HasPrefix(path, m.path+"/")) && (in == nil || len(m.path) > len(in.path)) {
			in = m
		}
	}
	return in
}

// entryAt finds the entry at path, and the directory that it is in.
func entryAt(ctx context.Context, v *tree.View, path string) (e object.Entry, dir string, err error) {
	e = v.Root()
	at := ""
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		switch e.Kind {
		case object.Symlink:
			return e, "", fmt.Errorf("%w: %q is a symlink to %q: name what it leads to", control.ErrNotShown, at, e.Target)
		case object.File:
			return e, "", fmt.Errorf("%w: %q is a file", control.ErrNotShown, at)
		}
		l, err := v.Listing(ctx, at, e.Digest)
		if err != nil {
			return e, "", fmt.Errorf("list %q: %w", at, err)
		}
		i, ok := l.Find([]byte(name))
		if !ok {
			return e, "", fmt.Errorf("%w: serial %d of %v has no %q", control.ErrNotShown, v.Head().Serial, v.Head().Tree, object.Join(at, name))
		}
		e, dir, at = l.At(i), at, object.Join(at, name)
	}
	return e, dir, nil
}

// explainChunked tells of a file's chunk list and its first chunk, and how many of
// the others are on this machine.
func (m *mount) explainChunked(ctx context.Context, v *tree.View, e object.Entry, x *control.Explanation) []control.Explained {
	list := m.explainObject(ctx, "chunk list", v.ChunkListRef(e.Digest, e.Size))
	get, cancel := context.WithTimeout(ctx, explainProbe)
	defer cancel()
	chunks, err := v.Chunks(get, e.Digest, e.Size)
	if err != nil {
		list.Error = err.Error()
		return []control.Explained{list}
	}
	x.Chunks = len(chunks.Chunks)
	for _, c := range chunks.Chunks {
		if ctx.Err() != nil {
			break
		}
		if m.origin.Has(v.BlobRef(c.Digest, c.Size)) {
			x.ChunksHere++
		}
	}
	first := chunks.Chunks[0]
	return []control.Explained{list, m.explainObject(ctx, "first chunk", v.BlobRef(first.Digest, first.Size))}
}

func (m *mount) explainObject(ctx context.Context, what string, ref tier.Ref) control.Explained {
	ctx, cancel := context.WithTimeout(ctx, explainProbe)
	defer cancel()
	ch := m.origin.use()
	defer ch.users.Done()
	return control.Explained{
		What: what, Digest: ref.Digest.String(), Here: ch.blobs.Has(ref), From: m.origin.Origin(ref), Tiers: ch.blobs.Probe(ctx, ref),
	}
}
