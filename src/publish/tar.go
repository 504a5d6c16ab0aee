package publish

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/aysfs/aysfs/src/object"
)

// tarBlock is what archives are counted in.
const tarBlock = 512

// maxZstdWindow bounds the memory for decompressing, as zstd itself does without
// --long.
const maxZstdWindow = 128 << 20

// errCutOff says that an archive ends before its end mark.
var errCutOff = errors.New("cut off: it ends without the mark that ends a tar archive")

// Whiteouts of OCI layers.
const (
	whiteout       = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
	otherWhiteout  = ".wh..wh." // what is left of them is no file of the tree
)

// readArchive reads a tar archive of a tree, or of an image layout.
func (r *reader) readArchive(ctx context.Context, o *Options) (*dir, error) {
	what := o.Root
	var file *os.File // the archive, if its bytes can be had in any order
	var in io.Reader
	if o.Root == "-" {
		what = "standard input"
		if o.Stdin == nil {
			return nil, errors.New("there is no standard input")
		}
		pipe := interruptible(ctx, o.Stdin)
		defer pipe.Close()
		in = pipe
	} else {
		f, err := os.Open(o.Root)
		if err != nil {
			return nil, fmt.Errorf("archive: %w", err)
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			file = f
		}
		in = f
	}
	plain, compressed, err := decompress(contextReader{ctx, in})
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", what, err)
	}
	defer plain.Close()
	start := bufio.NewReaderSize(plain, 1<<20)
	if o.sniff && !looksLikeTar(start) {
		return nil, fmt.Errorf("%s is not a directory, and no tar archive", what)
	}
	var root *dir
	if o.Format == OCI || o.sniff && looksLikeLayout(start) {
		if file == nil || compressed {
			if file, err = r.spool(start); err != nil {
				return nil, fmt.Errorf("archive %s: %w", what, err)
			}
			defer file.Close()
		}
		root, err = r.readLayoutTar(ctx, file, o)
	} else {
		root, err = r.importTree(ctx, func(ctx context.Context, t *importer) error {
			return t.tar(ctx, start, false)
		})
	}
	// Problems of the tree have the paths that it has in itself.
	var te *TreeError
	if err != nil && !errors.As(err, &te) {
		return nil, fmt.Errorf("archive %s: %w", what, err)
	}
	return root, err
}

// looksLikeTar tells whether something begins as a tar archive does.
func looksLikeTar(b *bufio.Reader) bool {
	start, err := b.Peek(sniffed)
	if err != nil && err != io.EOF {
		return true // reading it will tell what is wrong
	}
	_, err = tar.NewReader(bytes.NewReader(start)).Next()
	switch {
	case err == io.EOF:
		return len(start) >= tarBlock // empty, but an archive
	case errors.Is(err, io.ErrUnexpectedEOF):
		return len(start) > tarBlock // more than the first header is there
	}
	return err == nil
}

// interruptible reads from r until ctx is done, even while r waits. What then
// still waits ends with r.
func interruptible(ctx context.Context, r io.Reader) io.ReadCloser {
	pr, pw := io.Pipe()
	context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
	go func() {
		_, err := io.CopyBuffer(pw, struct{ io.Reader }{r}, make([]byte, 256<<10))
		pw.CloseWithError(err)
	}()
	return pr
}

// decompress looks at how r begins.
func decompress(r io.Reader) (plain io.ReadCloser, compressed bool, err error) {
	b := bufio.NewReaderSize(r, 256<<10)
	start, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, false, err
	}
	has := func(magic string) bool { return bytes.HasPrefix(start, []byte(magic)) }
	switch {
	case has("\x1f\x8b"):
		z, err := gzip.NewReader(b)
		return z, true, err
	case has("\x28\xb5\x2f\xfd"), len(start) >= 4 && start[0]&0xf0 == 0x50 && string(start[1:4]) == "\x2a\x4d\x18":
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, true, err
		}
		return z.IOReadCloser(), true, nil
	case has("\xfd7zXZ\x00"):
		return nil, true, errors.New("compressed with xz: decompress it, with xz -dc, and publish - from standard input")
	case has("BZh"):
		return nil, true, errors.New("compressed with bzip2: decompress it, with bzip2 -dc, and publish - from standard input")
	}
	return io.NopCloser(b), false, nil
}

// spool writes all of in to a file of this publish, which has no name.
func (r *reader) spool(in io.Reader) (*os.File, error) {
	f, err := r.store.spool()
	if err != nil {
		return nil, fmt.Errorf("keep the archive: %w", err)
	}
	if _, err := io.Copy(f, in); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// counter counts what is read.
type counter struct {
	r     io.Reader
	n     int64
	zeros int64 // bytes of zero that were read last
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	rest := bytes.TrimRight(b[:n], "\x00")
	if len(rest) > 0 {
		c.zeros = 0
	}
	c.zeros += int64(n - len(rest))
	return n, err
}

// tar reads an archive to its end. In that of a layer, whiteouts hide what lower
// layers have told of, and the end mark may be missing: its digest tells whether
// it is whole.
func (t *importer) tar(ctx context.Context, in io.Reader, layer bool) error {
	counted := &counter{r: in}
	archive := tar.NewReader(counted)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		counted.zeros = 0
		h, err := archive.Next()
		if err == io.EOF {
			// The mark is two blocks of zeros. The padding of what comes before it
			// is less than one.
			if counted.zeros < 2*tarBlock && !layer {
				return errCutOff
			}
			break
		}
		if err != nil {
			return fmt.Errorf("read tar archive at byte %d: %w", counted.n, err)
		}
		err = t.entry(ctx, h, archive, layer)
		if err == nil {
			_, err = io.Copy(io.Discard, archive)
		}
		var se storeError
		if err != nil && (errors.As(err, &se) || errors.Is(err, errTooMany) || ctx.Err() != nil) {
			return err
		} else if err != nil {
			return fmt.Errorf("read tar archive, %q: %w", h.Name, err)
		}
	}
	// A decompressor tells at its end whether all was right.
	_, err := io.Copy(io.Discard, in)
	return err
}

// entry takes one entry of an archive. What is wrong with it alone goes to the
// problems.
func (t *importer) entry(ctx context.Context, h *tar.Header, in io.Reader, layer bool) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	path, err := cleanName(h.Name)
	if err != nil {
		return t.problem(ctx, h.Name, err)
	}
	if layer {
		if dir, name := splitPath(path); strings.HasPrefix(name, whiteout) {
			t.whiteout(dir, name)
			return nil
		}
	}
	n := &node{mode: uint16(h.Mode & object.ModeBits), mtime: nanoseconds(h.ModTime.Unix(), int64(h.ModTime.Nanosecond()))}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		n.kind = object.File
		if n.content, err = t.store(ctx, in, h.Size); err != nil {
			return err
		}
	case tar.TypeDir:
		n.kind = object.Dir
	case tar.TypeSymlink:
		n.kind, n.target = object.Symlink, h.Linkname
		if l := len(n.target); l == 0 || l > object.MaxTarget || strings.IndexByte(n.target, 0) >= 0 {
			return t.problem(ctx, h.Name, fmt.Errorf("a symlink with a target of %d bytes, or with NUL in it", l))
		}
	case tar.TypeLink:
		if n, err = t.link(h.Linkname); err != nil {
			return t.problem(ctx, h.Name, err)
		}
	case tar.TypeChar, tar.TypeBlock:
		n.special = "device"
	case tar.TypeFifo:
		n.special = "pipe"
	default:
		n.special = fmt.Sprintf("tar type %q", h.Typeflag)
	}
	if err := t.put(path, n); err != nil {
		return t.problem(ctx, h.Name, err)
	}
	return nil
}

// whiteout hides what the layers below have of one name, or of all in dir.
func (t *importer) whiteout(dir, name string) {
	parent, err := t.dir(dir, nil)
	if err != nil {
		return // there is nothing to hide
	}
	if name == opaqueWhiteout {
		t.hide(parent)
		return
	}
	if strings.HasPrefix(name, otherWhiteout) {
		return
	}
	name = strings.TrimPrefix(name, whiteout)
	if n := parent.children[name]; n != nil && t.hide(n) {
		delete(parent.children, name)
		t.names--
	}
}

// hide leaves of a node what this layer has told of, whether before or after the
// whiteout, and tells whether that is nothing.
func (t *importer) hide(n *node) bool {
	for name, child := range n.children {
		if t.hide(child) {
			delete(n.children, name)
			t.names--
		}
	}
	return n.layer < t.layer && len(n.children) == 0
}
