package fs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/jacobsa/fuse/fuseops"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// Blobs is where the content of files comes from.
type Blobs interface {
	// Get returns a blob, from wherever it is nearest.
	Get(ctx context.Context, ref tier.Ref) (tier.Blob, error)
	// Local returns n bytes at off of a blob that is on this machine.
	Local(ref tier.Ref, off, n int64) (tier.Blob, bool)
	// Has tells whether a blob is on this machine.
	Has(ref tier.Ref) bool
	// Prefetch begins to bring a blob near. It is false where there is no
	// room for that now.
	Prefetch(ref tier.Ref) bool
	// Arrived tells whether anything was brought here since then.
	Arrived(since time.Time) bool
	// Origin names the tier that last gave the blob, or would give it now.
	Origin(ref tier.Ref) string
}

// maxPieces is more than the chunks that one read, of up to 1 MiB and cut into
// pieces of 64 KiB and more, can touch.
const maxPieces = 1<<20/object.MinChunk + 2

// reply collects the bytes of one read, and what to give back when the kernel
// has them.
type reply struct {
	data  [maxPieces][]byte
	blobs [maxPieces]tier.Blob
	n     int
}

func (r *reply) add(b tier.Blob) {
	r.data[r.n], r.blobs[r.n] = b.Data, b
	r.n++
}

func (r *reply) release() {
	for i := range r.n {
		r.blobs[i].Release()
	}
}

// readFile answers with the bytes where they lie; they are given back by the
// callback, which the library runs after errors too.
func (f *FS) readFile(ctx context.Context, op *fuseops.ReadFileOp) error {
	r, ok := f.table.get(uint64(op.Inode))
	if !ok {
		return syscall.ESTALE
	}
	return f.readInode(ctx, &r, op)
}

// readInode is readFile for a file of the tree that need not be in the table.
func (f *FS) readInode(ctx context.Context, r *inode, op *fuseops.ReadFileOp) error {
	switch {
	case r.kind != object.File:
		return syscall.EISDIR
	case op.Offset < 0:
		return syscall.EINVAL
	case op.Offset >= r.size:
		return nil
	}
	n := min(op.Size, r.size-op.Offset)
	if f.losses.fresh(r.id, op.Offset, n) {
		return errLost
	}
	s := f.now.Load()
	out := &reply{}
	op.Callback = out.release
	var err error
	if r.chunked {
		err = f.readChunks(ctx, s, r, op.Offset, n, out)
	} else {
		f.needs.note(r.id, needWhole, 0)
		f.walks.read(r, op.Offset)
		err = f.readPiece(ctx, s, s.view.BlobRef(r.digest, r.size), r.size, op.Offset, n, out)
		f.note(ctx, r.id, 0, r.size, err)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", f.nameOf(*r), err)
	}
	op.Data, op.BytesRead = out.data[:out.n], int(n)
	return nil
}

// readPiece adds n bytes at off of a blob of size bytes.
func (f *FS) readPiece(ctx context.Context, s *shown, ref tier.Ref, size, off, n int64, out *reply) error {
	b, ok := s.blobs.Local(ref, off, n)
	if !ok {
		whole, err := s.get(ctx, ref)
		if err != nil {
			return err
		}
		b = whole
		if int64(len(whole.Data)) == size {
			b.Data = whole.Data[off : off+n]
		}
	}
	if int64(len(b.Data)) != n {
		b.Release()
		return fmt.Errorf("blob %v does not have the %d bytes that the tree says: %w", ref, size, object.ErrFormat)
	}
	out.add(b)
	return nil
}

func (f *FS) readChunks(ctx context.Context, s *shown, r *inode, off, n int64, out *reply) error {
	list, err := s.chunks(ctx, r.digest, r.size)
	if err != nil {
		f.note(ctx, r.id, 0, r.size, err)
		return err
	}
	f.streams.read(r, list, off, n)
	for n > 0 {
		i, start := list.At(off)
		c := list.Chunks[i]
		part := min(n, start+c.Size-off)
		f.needs.note(r.id, start, c.Size)
		if out.n == maxPieces {
			return fmt.Errorf("chunk list %s: %w: chunks of less than %d bytes", r.digest, object.ErrFormat, object.MinChunk)
		}
		if err := f.readPiece(ctx, s, s.view.BlobRef(c.Digest, c.Size), c.Size, off-start, part, out); err != nil {
			f.note(ctx, r.id, start, c.Size, err)
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

// losses remembers the pieces of files that could just not be read. When a
// read-ahead fails the kernel asks once more, for the page alone: that is not to
// wait a second io_timeout, where nothing moves. The pieces around it are none the
// worse.
type losses struct {
	mu   sync.Mutex
	last [16]loss
	next int
}

type loss struct {
	id       uint64
	off, end int64 // of the blob in the file
	when     time.Time
}

// lossMemory is short: what failed a second ago may work now.
const lossMemory = 500 * time.Millisecond

var errLost = fmt.Errorf("it could not be read a moment ago: %w", tier.ErrUnavailable)

// note takes note of what came of reading n bytes at off. That a caller left says
// nothing of them; nor does it that time ran out while other things came.
func (f *FS) note(ctx context.Context, id uint64, off, n int64, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	if end, ok := ctx.Deadline(); ok && errors.Is(err, context.DeadlineExceeded) && f.now.Load().blobs.Arrived(end.Add(-f.timeout())) {
		return
	}
	f.losses.add(id, off, n)
}

func (l *losses) add(id uint64, off, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last[l.next] = loss{id, off, off + n, time.Now()}
	l.next = (l.next + 1) % len(l.last)
}

// fresh tells whether some of n bytes at off could just not be read.
func (l *losses) fresh(id uint64, off, n int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.last {
		v := &l.last[i]
		if v.id == id && off < v.end && v.off < off+n && time.Since(v.when) < lossMemory {
			return true
		}
	}
	return false
}
