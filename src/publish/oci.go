package publish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// whiteout starts the name of what is gone since earlier layers, opaque is for
// all that is in a directory.
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// maxImageJSON bounds an image's index and manifests, in bytes.
const maxImageJSON = 16 << 20

// maxNested is how deep indexes may lie in indexes.
const maxNested = 4

// descriptor names a blob of an image layout.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
	Platform    *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant"`
	} `json:"platform"`
}

// imageIndex is an index, or a manifest, which has layers instead.
type imageIndex struct {
	Manifests []descriptor `json:"manifests"`
	Layers    []descriptor `json:"layers"`
}

const refName = "org.opencontainers.image.ref.name"

// names are what an image may be asked for by.
func (d *descriptor) names() []string {
	var names []string
	if n := d.Annotations[refName]; n != "" {
		names = append(names, n)
	}
	if p := d.Platform; p != nil && p.OS != "" {
		n := p.OS + "/" + p.Architecture
		if p.Variant != "" {
			n += "/" + p.Variant
		}
		names = append(names, n)
	}
	return names
}

// readOCI reads the file system of an image in an OCI image layout. name chooses
// one where there are more: a reference's name, or os/architecture.
func (r *reader) readOCI(ctx context.Context, layout, name string) (*dir, error) {
	image := ociLayout(layout)
	manifest, err := image.choose(name)
	if err != nil {
		return nil, fmt.Errorf("image in %s: %w", layout, err)
	}
	return r.build(ctx, func(b *builder) error {
		for i, l := range manifest.Layers {
			b.layer = i
			if err := image.layer(b, l); err != nil {
				return fmt.Errorf("image in %s: layer %d, %s: %w", layout, i+1, l.Digest, err)
			}
		}
		return nil
	})
}

// ociLayout is the directory of an image layout.
type ociLayout string

// choose finds the manifest of an image.
func (l ociLayout) choose(name string) (*imageIndex, error) {
	raw, err := os.ReadFile(filepath.Join(string(l), "index.json"))
	if err != nil {
		return nil, fmt.Errorf("it is no OCI image layout: %w", err)
	}
	var top imageIndex
	if err := json.Unmarshal(raw, &top); err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	found, all, err := l.find(top.Manifests, name, false, maxNested)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0:
		return nil, fmt.Errorf("no image %q; there are: %s", name, strings.Join(all, ", "))
	}
	return nil, fmt.Errorf("%d images would do; choose one with -image: %s", len(found), strings.Join(all, ", "))
}

// find returns the manifests that a name is for, all of them if it is empty or
// was found further up, and the names there are.
func (l ociLayout) find(manifests []descriptor, name string, named bool, nested int) (found []*imageIndex, all []string, err error) {
	if nested == 0 {
		return nil, nil, errors.New("indexes in indexes in indexes")
	}
	for _, d := range manifests {
		if p := d.Platform; p != nil && p.OS == "unknown" {
			continue // what builders attest
		}
		all = append(all, d.names()...)
		hit := named || name == ""
		for _, n := range d.names() {
			hit = hit || n == name
		}
		raw, err := l.read(d)
		if err != nil {
			return nil, nil, err
		}
		var x imageIndex
		if err := json.Unmarshal(raw, &x); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", d.Digest, err)
		}
		if len(x.Manifests) > 0 {
			inner, names, err := l.find(x.Manifests, name, hit && name != "", nested-1)
			if err != nil {
				return nil, nil, err
			}
			found, all = append(found, inner...), append(all, names...)
			continue
		}
		if hit {
			found = append(found, &x)
		}
	}
	return found, all, nil
}

// open opens a blob of the layout; check, called once it is read, tells whether
// it was the right one.
func (l ociLayout) open(d descriptor) (r io.Reader, check func() error, done func(), err error) {
	sum, ok := strings.CutPrefix(d.Digest, "sha256:")
	if raw, hexErr := hex.DecodeString(sum); !ok || hexErr != nil || len(raw) != sha256.Size {
		return nil, nil, nil, fmt.Errorf("digest %.80q: only sha256 is known", d.Digest)
	}
	f, err := os.Open(filepath.Join(string(l), "blobs", "sha256", sum))
	if err != nil {
		return nil, nil, nil, err
	}
	h := sha256.New()
	in := io.TeeReader(f, h)
	return in, func() error {
		if _, err := io.Copy(io.Discard, in); err != nil {
			return err
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != sum {
			return fmt.Errorf("its content has the digest sha256:%s", got)
		}
		return nil
	}, func() { f.Close() }, nil
}

func (l ociLayout) read(d descriptor) ([]byte, error) {
	in, check, done, err := l.open(d)
	if err != nil {
		return nil, err
	}
	defer done()
	raw, err := io.ReadAll(io.LimitReader(in, maxImageJSON))
	if err == nil {
		err = check()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, err)
	}
	return raw, nil
}

// layer adds a layer on top of those before it.
func (l ociLayout) layer(b *builder, d descriptor) error {
	in, check, done, err := l.open(d)
	if err != nil {
		return err
	}
	defer done()
	if err := b.archive(in, true); err != nil {
		return err
	}
	return check()
}

// whiteout removes what a name that starts with .wh. says, as far as it came
// with earlier layers.
func (b *builder) whiteout(names []string) {
	last := len(names) - 1
	parent := b.find(names[:last])
	if parent == nil {
		return
	}
	if names[last] == opaque {
		b.without(parent)
		return
	}
	b.remove(parent, strings.TrimPrefix(names[last], whiteout))
}
