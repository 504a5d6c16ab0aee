package publish

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/aysfs/aysfs/src/object"
)

// maxZstdWindow is what a compressed archive may want to be unpacked with, in
// bytes: as much as zstd --long does.
const maxZstdWindow = 128 << 20

// readTar reads a tree out of a tar archive, plain or compressed.
func (r *reader) readTar(ctx context.Context, path string) (*dir, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("archive to publish: %w", err)
	}
	defer f.Close()
	return r.build(ctx, func(b *builder) error {
		if err := b.archive(f, false); err != nil {
			return fmt.Errorf("archive %s: %w", path, err)
		}
		return nil
	})
}

// unpacked is what a stream holds, which may be compressed with gzip or zstd.
func unpacked(f io.Reader) (io.Reader, func(), error) {
	in := bufio.NewReaderSize(f, 1<<20)
	magic, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, fmt.Errorf("gzip: %w", err)
		}
		return z, func() {}, nil
	case object.Compressed(magic):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, nil, fmt.Errorf("zstd: %w", err)
		}
		return z, z.Close, nil
	}
	return in, func() {}, nil
}

// archive adds what is in a tar archive. That of an image's layer also says, by
// names that start with .wh., what of earlier layers is gone.
func (b *builder) archive(f io.Reader, whiteouts bool) error {
	plain, done, err := unpacked(f)
	if err != nil {
		return err
	}
	defer done()
	checked := &checkedReader{r: plain}
	in := tar.NewReader(checked)
	for {
		if b.ctx.Err() != nil {
			return context.Cause(b.ctx)
		}
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("tar: %w", err)
		}
		if err := b.member(h, in, whiteouts); err != nil {
			return err
		}
	}
	// To the end, for what compression says of the whole.
	if _, err := io.Copy(io.Discard, checked); err != nil {
		return fmt.Errorf("read to the end: %w", err)
	}
	if !checked.zeroTail() {
		return errors.New("it has no end: it was cut off, or is no tar archive")
	}
	return nil
}

// member adds one member of an archive. What is wrong with it alone goes to the
// problems.
func (b *builder) member(h *tar.Header, in io.Reader, whiteouts bool) error {
	names, err := cleanPath(h.Name)
	if err != nil {
		return b.r.problems.add(h.Name, err)
	}
	if whiteouts && len(names) > 0 && strings.HasPrefix(names[len(names)-1], whiteout) {
		b.whiteout(names)
		return nil
	}
	path := strings.Join(names, "/")
	n := &node{mtime: nanoseconds(h.ModTime.Unix(), int64(h.ModTime.Nanosecond()))}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		n.kind, n.mode = object.File, b.perm(path, h.Mode)
		if n.content, err = b.file(in, h.Size); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
	case tar.TypeLink:
		to, err := cleanPath(h.Linkname)
		if err != nil {
			return b.r.problems.add(path, fmt.Errorf("hard link: %w", err))
		}
		old := b.find(to)
		if old == nil || old.kind == object.Dir {
			return b.r.problems.add(path, fmt.Errorf("hard link to %q, which is no file before it in the archive", h.Linkname))
		}
		linked := *old
		n = &linked
	case tar.TypeSymlink:
		if len(h.Linkname) == 0 || len(h.Linkname) > object.MaxTarget {
			return b.r.problems.add(path, fmt.Errorf("symlink to a target of %d bytes, at most %d", len(h.Linkname), object.MaxTarget))
		}
		n.kind, n.mode, n.target = object.Symlink, 0o777, []byte(h.Linkname)
	case tar.TypeDir:
		n.kind, n.mode = object.Dir, b.perm(path, h.Mode)
	case tar.TypeXGlobalHeader:
		return nil
	default:
		b.r.skipped++
		b.r.warn("skipped: only files, directories and symlinks are published", "path", path, "kind", tarKind(h.Typeflag))
		return nil
	}
	if err := b.add(names, n); err != nil {
		return b.r.problems.add(path, err)
	}
	return nil
}

func tarKind(t byte) string {
	switch t {
	case tar.TypeChar, tar.TypeBlock:
		return "device"
	case tar.TypeFifo:
		return "pipe"
	}
	return fmt.Sprintf("tar type %q", t)
}
