package publish

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strings"
)

// An OCI image layout has these two files, and blobs below blobsDir.
const (
	layoutFile = "oci-layout"
	indexFile  = "index.json"
	blobsDir   = "blobs"
)

const (
	sniffed       = 64 << 10  // bytes at the start of an archive
	maxManifest   = 4 << 20   // bytes of JSON, as registries have it
	maxNested     = 8         // indexes in indexes
	maxCandidates = 10_000    // images in a layout
	maxLayoutTar  = 1_000_000 // files in an archive of a layout
)

// layout gives the files of an image layout.
type layout struct {
	open  func(name string) (io.ReadCloser, error)
	close func() error
}

func openLayoutDir(dir string) (*layout, error) {
	root, err := os.OpenRoot(dir) // no symlink leads out of it
	if err != nil {
		return nil, fmt.Errorf("image layout: %w", err)
	}
	return &layout{
		open:  func(name string) (io.ReadCloser, error) { return root.Open(name) },
		close: root.Close,
	}, nil
}

// looksLikeLayout guesses from the first name in a tar archive, but for that of the
// root. Whether it is the archive of a layout shows when all names are known.
func looksLikeLayout(b *bufio.Reader) bool {
	start, _ := b.Peek(sniffed)
	archive := tar.NewReader(bytes.NewReader(start))
	for {
		h, err := archive.Next()
		if err != nil {
			return false
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return false
		}
		if name != "" {
			first, _, _ := strings.Cut(name, "/")
			return name == layoutFile || name == indexFile || name == "manifest.json" || first == blobsDir
		}
	}
}

// readLayoutTar reads the archive of a layout, or of a tree after all.
func (r *reader) readLayoutTar(ctx context.Context, f *os.File, o *Options) (*dir, error) {
	all := io.NewSectionReader(f, 0, 1<<62)
	files, err := tarIndex(ctx, all)
	if err != nil {
		return nil, err
	}
	_, hasLayout := files[layoutFile]
	_, hasIndex := files[indexFile]
	if hasLayout && hasIndex {
		return r.readImage(ctx, &layout{open: func(name string) (io.ReadCloser, error) {
			at, ok := files[name]
			if !ok {
				return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
			}
			return io.NopCloser(io.NewSectionReader(f, at.start, at.size)), nil
		}}, o.choice())
	}
	if o.Format == OCI {
		return nil, fmt.Errorf("no image layout: it has not both %s and %s", layoutFile, indexFile)
	}
	if _, err := all.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return r.importTree(ctx, func(ctx context.Context, t *importer) error {
		return t.tar(ctx, contextReader{ctx, bufio.NewReaderSize(all, 1<<20)}, false)
	})
}

// extent is where a file lies in an archive.
type extent struct{ start, size int64 }

// tarIndex finds the files of an archive.
func tarIndex(ctx context.Context, in io.ReadSeeker) (map[string]extent, error) {
	files := map[string]extent{}
	archive := tar.NewReader(in) // seeks over the files
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		h, err := archive.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read tar archive: %w", err)
		}
		start, err := in.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		// A name that is no path is the tree's problem, if it is one.
		if name, err := cleanName(h.Name); err == nil && h.Typeflag == tar.TypeReg {
			files[name] = extent{start, h.Size}
		}
		if len(files) > maxLayoutTar {
			return nil, fmt.Errorf("an image layout with more than %d files", maxLayoutTar)
		}
	}
}

// descriptor, index and manifest are those of the OCI image specification, as far
// as they are needed. Docker's own have the same fields.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *ociPlatform      `json:"platform"`
	Annotations map[string]string `json:"annotations"`

	outer string // the reference name of the index that it is in
}

type ociPlatform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

func (p *ociPlatform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

const refName = "org.opencontainers.image.ref.name"

// name is how a person would choose it.
func (d *descriptor) name() string {
	ref := d.Annotations[refName]
	switch {
	case d.Platform != nil && ref != "":
		return ref + " for " + d.Platform.String()
	case d.Platform != nil:
		return d.Platform.String()
	case ref != "":
		return ref
	}
	return d.Digest
}

// choice is which image of a layout is wanted.
type choice struct{ image, platform string }

func (o *Options) choice() choice { return choice{o.Image, o.Tree.Platform} }

// readImage applies the layers of an image.
func (r *reader) readImage(ctx context.Context, l *layout, want choice) (*dir, error) {
	var version struct {
		Version string `json:"imageLayoutVersion"`
	}
	raw, err := l.read(layoutFile)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &version); err != nil {
		return nil, fmt.Errorf("%s: %w", layoutFile, err)
	}
	if !strings.HasPrefix(version.Version, "1.") {
		return nil, fmt.Errorf("image layout of version %q, want 1.x", version.Version)
	}
	if raw, err = l.read(indexFile); err != nil {
		return nil, err
	}
	images, err := l.images(raw, 0, "")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", indexFile, err)
	}
	image, err := want.of(images)
	if err != nil {
		return nil, err
	}
	layers, err := l.layers(image)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", image.Digest, err)
	}
	return r.importTree(ctx, func(ctx context.Context, t *importer) error {
		t.layered = true
		for i := range layers {
			t.layer = i
			if err := t.applyLayer(ctx, l, &layers[i]); err != nil {
				return fmt.Errorf("layer %d, %s: %w", i+1, layers[i].Digest, err)
			}
		}
		return nil
	})
}

// read returns a small file.
func (l *layout) read(name string) ([]byte, error) {
	f, err := l.open(name)
	if err != nil {
		if name == layoutFile || name == indexFile {
			err = fmt.Errorf("no OCI image layout: %w", err)
		}
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("image layout, %s: %w", name, err)
	}
	if len(b) > maxManifest {
		return nil, fmt.Errorf("image layout, %s: more than %d bytes", name, maxManifest)
	}
	return b, nil
}

// blobName is the file that a digest stands for, and what it is made with.
func blobName(digest string) (name string, sum []byte, h hash.Hash, err error) {
	algorithm, text, _ := strings.Cut(digest, ":")
	switch algorithm {
	case "sha256":
		h = sha256.New()
	case "sha512":
		h = sha512.New()
	default:
		return "", nil, nil, fmt.Errorf("digest %.200q: want sha256 or sha512", digest)
	}
	if sum, err = hex.DecodeString(text); err != nil || len(sum) != h.Size() || strings.ToLower(text) != text {
		return "", nil, nil, fmt.Errorf("digest %.200q is malformed", digest)
	}
	return blobsDir + "/" + algorithm + "/" + text, sum, h, nil
}

// blob returns a small blob, checked against its digest.
func (l *layout) blob(d *descriptor) ([]byte, error) {
	name, sum, h, err := blobName(d.Digest)
	if err != nil {
		return nil, err
	}
	b, err := l.read(name)
	if err != nil {
		return nil, err
	}
	if h.Write(b); !bytes.Equal(h.Sum(nil), sum) {
		return nil, fmt.Errorf("image layout, %s: wrong digest", name)
	}
	return b, nil
}

func (d *descriptor) isIndex() bool {
	return d.MediaType == "application/vnd.oci.image.index.v1+json" ||
		d.MediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}

func (d *descriptor) isManifest() bool {
	return d.MediaType == "application/vnd.oci.image.manifest.v1+json" ||
		d.MediaType == "application/vnd.docker.distribution.manifest.v2+json"
}

// images lists the images of an index, and of those in it.
func (l *layout) images(raw []byte, depth int, outer string) (found []descriptor, err error) {
	var index struct {
		Manifests []descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, err
	}
	for i := range index.Manifests {
		d := &index.Manifests[i]
		d.outer = outer
		switch {
		case d.isIndex() && depth >= maxNested:
			return nil, fmt.Errorf("more than %d indexes in each other", maxNested)
		case d.isIndex():
			b, err := l.blob(d)
			if err != nil {
				return nil, err
			}
			more, err := l.images(b, depth+1, cmp.Or(d.Annotations[refName], outer))
			if err != nil {
				return nil, fmt.Errorf("index %s: %w", d.Digest, err)
			}
			found = append(found, more...)
		case d.isManifest() && !d.isAttestation():
			if d.Platform == nil {
				d.Platform = l.platform(d)
			}
			found = append(found, *d)
		}
		if len(found) > maxCandidates {
			return nil, fmt.Errorf("more than %d images", maxCandidates)
		}
	}
	return found, nil
}

// platform is what an image says itself that it is for; nil if that can't be
// known.
func (l *layout) platform(image *descriptor) *ociPlatform {
	raw, err := l.blob(image)
	if err != nil {
		return nil // no matter, unless this is the image that is wanted
	}
	var manifest struct {
		Config descriptor `json:"config"`
	}
	if json.Unmarshal(raw, &manifest) != nil {
		return nil
	}
	if raw, err = l.blob(&manifest.Config); err != nil {
		return nil
	}
	p := &ociPlatform{}
	if json.Unmarshal(raw, p) != nil || p.OS == "" || p.Architecture == "" {
		return nil
	}
	return p
}

// isAttestation tells what builders put beside an image, which is none.
func (d *descriptor) isAttestation() bool {
	return d.Annotations["vnd.docker.reference.type"] != "" || d.Platform != nil && d.Platform.OS == "unknown"
}

// of chooses an image.
func (c choice) of(images []descriptor) (*descriptor, error) {
	var names []string
	for i := range images {
		names = append(names, images[i].name())
	}
	all := strings.Join(names, ", ")
	var fit []*descriptor
	seen := map[string]bool{} // one image may have several names
	for i := range images {
		d := &images[i]
		ok := true
		switch {
		case c.image != "":
			ok = c.image == d.Digest || c.image == d.Annotations[refName] || c.image == d.outer || d.Platform != nil && samePlatform(c.image, d.Platform)
		case c.platform != "" && len(images) > 1:
			ok = d.Platform != nil && samePlatform(c.platform, d.Platform)
		case c.platform != "" && d.Platform != nil && strings.HasPrefix(plainPlatform(c.platform), d.Platform.OS+"-"):
			// A platform of the publisher's own naming says nothing against the
			// only image, but linux-amd64 does against that for another.
			ok = samePlatform(c.platform, d.Platform)
		}
		if ok && !seen[d.Digest] {
			seen[d.Digest] = true
			fit = append(fit, d)
		}
	}
	switch {
	case len(images) == 0:
		return nil, errors.New("the layout has no image")
	case len(fit) == 1:
		return fit[0], nil
	case len(fit) == 0 && c.image != "":
		return nil, fmt.Errorf("the layout has no image %q; it has %s", c.image, all)
	case len(fit) == 0:
		return nil, fmt.Errorf("the layout has no image for platform %s; choose one with -image, of %s", c.platform, all)
	}
	return nil, fmt.Errorf("%d images would do; choose one with -image, by digest if need be: %s", len(fit), all)
}

// plainPlatform spells a platform with dashes and with Go's names.
func plainPlatform(name string) string {
	name = strings.ToLower(name)
	name = strings.NewReplacer("x86_64", "amd64", "aarch64", "arm64").Replace(name)
	return strings.NewReplacer("/", "-", "_", "-", ".", "-").Replace(name)
}

// samePlatform tells whether a name like linux-arm-v7 or linux/amd64 is p's.
func samePlatform(name string, p *ociPlatform) bool {
	name = plainPlatform(name)
	full := plainPlatform(p.String())
	return name == full || name == plainPlatform(p.OS+"/"+p.Architecture)
}

// layers reads the manifest of an image.
func (l *layout) layers(image *descriptor) ([]descriptor, error) {
	raw, err := l.blob(image)
	if err != nil {
		return nil, err
	}
	var manifest struct {
		Layers []descriptor `json:"layers"`
	}
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return nil, err
	}
	for i := range manifest.Layers {
		d := &manifest.Layers[i]
		// Of OCI and Docker, with and without compression, distributable or not.
		if t := d.MediaType; !strings.Contains(t, "image.layer.") && !strings.Contains(t, "image.rootfs.") || strings.HasSuffix(t, "+encrypted") {
			return nil, fmt.Errorf("layer %d is %q, which is no file system", i+1, t)
		}
	}
	return manifest.Layers, nil
}

// applyLayer reads a layer and checks its digest.
func (t *importer) applyLayer(ctx context.Context, l *layout, d *descriptor) error {
	name, sum, h, err := blobName(d.Digest)
	if err != nil {
		return err
	}
	f, err := l.open(name)
	if err != nil {
		return fmt.Errorf("image layout: %w", err)
	}
	defer f.Close()
	checked := &counter{r: io.TeeReader(contextReader{ctx, f}, h)}
	plain, _, err := decompress(checked)
	if err == nil {
		defer plain.Close()
		err = t.tar(ctx, bufio.NewReaderSize(plain, 1<<20), true)
	}
	if err != nil && (ctx.Err() != nil || errors.Is(err, errTooMany)) {
		return err
	}
	// A wrong digest is why anything else was wrong.
	if _, cerr := io.Copy(io.Discard, checked); cerr != nil {
		return errors.Join(err, cerr)
	}
	if !bytes.Equal(h.Sum(nil), sum) || checked.n != d.Size {
		return fmt.Errorf("wrong digest or size: %d bytes, the manifest says %d", checked.n, d.Size)
	}
	return err
}
