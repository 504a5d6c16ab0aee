package publish

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	// Registers the algorithm that chunker names.
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/object"
)

// chunker is the algorithm that cuts large files. Another one, or another
// version of it, would cut all of them anew and so publish them again.
const chunker = "fastcdc-v1.0.0"

// errChanged says that a file is no longer what it was when it was opened.
var errChanged = errors.New("changed while it was read")

// storeError is what went wrong in the store, as opposed to the tree.
type storeError struct{ error }

func (e storeError) Unwrap() error { return e.error }

// filePool holds what bounds the memory for files' content.
type filePool struct {
	blobs   sync.Pool     // of *[]byte, MaxBlob+1 bytes
	windows sync.Pool     // of *[]byte that the chunker looks at
	chunks  chan struct{} // one for each chunk being stored
}

func newFilePool(chunks int) *filePool {
	return &filePool{
		blobs:   sync.Pool{New: func() any { b := make([]byte, object.MaxBlob+1); return &b }},
		windows: sync.Pool{New: func() any { b := make([]byte, 2*object.MaxChunk); return &b }},
		chunks:  make(chan struct{}, chunks),
	}
}

// file reads a file, stores its content and completes its entry. What is wrong
// with the file goes to the problems, what is wrong with the store is returned.
func (r *reader) file(ctx context.Context, j fileJob) error {
	defer j.dir.release()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := r.readFile(ctx, j); err != nil {
		var se storeError
		if errors.As(err, &se) || ctx.Err() != nil {
			return err
		}
		return r.problems.add(j.path(), err)
	}
	r.meter.files.Add(1)
	return r.done(j.dir)
}

func (r *reader) readFile(ctx context.Context, j fileJob) error {
	path, e := j.path(), j.entry()
	// What was a file a moment ago may be a pipe by now: don't wait for its
	// writer.
	fd, err := r.openIn(j.dir, string(e.Name), unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
			return errChanged
		}
		return err
	}
	defer unix.Close(fd)
	looked := time.Now()
	before, err := fstatFD(fd)
	if err != nil {
		return err
	}
	if before.Mode&unix.S_IFMT != unix.S_IFREG {
		return errChanged
	}
	e.Kind, e.Mode, e.Mtime, e.Size = object.File, r.mode(path, &before), mtime(before.Mtim), before.Size
	if e.Size <= object.MaxBlob {
		err = r.readBlob(bareFile(fd), e)
	} else {
		err = r.readChunks(ctx, &sparseReader{fd: fd}, e)
	}
	if err != nil {
		return err
	}
	after, err := fstatFD(fd)
	if err != nil {
		return err
	}
	if after.Size != before.Size || after.Mtim != before.Mtim {
		return errChanged
	}
	if id := identityOf(&before); id.settled(looked) && before.Ctim == after.Ctim {
		j.dir.read[j.slot] = id
	}
	r.fresh.Add(1)
	r.bytes.Add(e.Size)
	return nil
}

// maxFile bounds a file in bytes: a hole costs no more than a word to make, and
// years to sum.
const maxFile = 1 << 40

// readBlob stores a file of up to MaxBlob bytes.
func (r *reader) readBlob(f io.Reader, e *object.Entry) error {
	buf := r.files.blobs.Get().(*[]byte)
	defer r.files.blobs.Put(buf)
	// One byte more than there should be, to notice a file that grows.
	n, err := io.ReadFull(f, (*buf)[:e.Size+1])
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	if int64(n) != e.Size {
		return errChanged
	}
	r.meter.bytes.Add(e.Size)
	if e.Digest, err = r.store.put((*buf)[:n]); err != nil {
		return storeError{err}
	}
	return nil
}

// readChunks cuts a file, stores the chunks side by side, and then their list.
func (r *reader) readChunks(ctx context.Context, f io.Reader, e *object.Entry) error {
	if e.Size > maxFile {
		return fmt.Errorf("it has %d bytes, more than %d", e.Size, int64(maxFile))
	}
	window := r.files.windows.Get().(*[]byte)
	defer r.files.windows.Put(window)
	cutter, err := chunkers.NewChunkerBuffer(chunker, f, &chunkers.ChunkerOpts{
		MinSize: object.MinChunk, NormalSize: object.MeanChunk, MaxSize: object.MaxChunk,
	}, *window)
	if err != nil {
		return fmt.Errorf("set up %s: %w", chunker, err)
	}
	list := &object.ChunkList{}
	whole := sha256.New()
	// Each chunk has a cell of its own, for list.Chunks moves as it grows.
	var cells []*object.Chunk
	g, ctx := errgroup.WithContext(ctx)
	cut := func() error {
		for {
			chunk, err := cutter.Next()
			if err != nil && err != io.EOF {
				return err
			}
			if len(chunk) > 0 {
				if list.Size += int64(len(chunk)); list.Size > e.Size {
					return errChanged
				}
				whole.Write(chunk)
				cell := &object.Chunk{Size: int64(len(chunk))}
				cells = append(cells, cell)
				if err := r.storeChunk(ctx, g, chunk, cell); err != nil {
					return err
				}
			}
			if err == io.EOF {
				return nil
			}
		}
	}
	cutErr := cut()
	if err := g.Wait(); err != nil {
		return err
	}
	if cutErr != nil {
		return cutErr
	}
	if list.Size != e.Size {
		return errChanged
	}
	list.Chunks = make([]object.Chunk, len(cells))
	for i, c := range cells {
		list.Chunks[i] = *c
	}
	whole.Sum(list.SHA256[:0])
	e.Chunked = true
	if e.Digest, err = r.store.put(object.EncodeChunkList(list)); err != nil {
		return storeError{err}
	}
	return nil
}

// storeChunk stores a copy of chunk in the background, once there is a place
// for it.
func (r *reader) storeChunk(ctx context.Context, g *errgroup.Group, chunk []byte, cell *object.Chunk) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d, ok, err := r.zero.put(r.store, chunk); err != nil {
		return storeError{err}
	} else if ok {
		cell.Digest = d
		r.meter.bytes.Add(int64(len(chunk)))
		return nil
	}
	select {
	case r.files.chunks <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	buf := r.files.blobs.Get().(*[]byte)
	n := copy(*buf, chunk)
	g.Go(func() error {
		defer func() {
			r.files.blobs.Put(buf)
			<-r.files.chunks
		}()
		var err error
		if cell.Digest, err = r.store.put((*buf)[:n]); err != nil {
			return storeError{err}
		}
		r.meter.bytes.Add(int64(n))
		return nil
	})
	return nil
}
