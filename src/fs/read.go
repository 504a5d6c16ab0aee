package fs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
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
	// Ready is Local for what is in memory: it waits for no disk. What is on
	// disk the disk begins to read.
	Ready(ref tier.Ref, off, n int64) (tier.Blob, tier.Nearness)
	// WillNeed has the disk begin to read a blob that is on this machine, and
	// what lies behind it. It is false where there is nothing to read.
	WillNeed(ref tier.Ref) bool
	// Has tells whether a blob is on this machine.
	Has(ref tier.Ref) bool
	// Copy is Get for who looks at the bytes, and does not change them.
	Copy(ctx context.Context, ref tier.Ref) ([]byte, error)
	// Prefetch begins to bring a blob near. It is false where there is no
	// room for that now.
	Prefetch(ref tier.Ref) bool
	// Bring brings blobs near in the order of refs, beside what is more urgent,
	// and returns when they are here; see tier.Chain.
	Bring(ctx context.Context, p tier.Priority, refs iter.Seq[tier.Ref], each func(tier.Ref, error)) error
	// Arrived tells whether anything was brought here since then.
	Arrived(since time.Time) bool
	// Origin names the tier that last gave the blob, or would give it now.
	Origin(ref tier.Ref) string
}

// maxPieces is more than the chunks that one read, of up to 1 MiB and cut into
// pieces of 64 KiB and more, can touch.
const maxPieces = 1<<20/object.MinChunk + 2

// reply collects the bytes of one read, and what to give back when the kernel
// has them. It is used again for another read.
type reply struct {
	data  [maxPieces][]byte
	blobs [maxPieces]tier.Blob
	n     int
	given func() // done, made once
}

var replies sync.Pool // of *reply

func newReply() *reply {
	r, _ := replies.Get().(*reply)
	if r == nil {
		r = &reply{}
		r.given = r.done
	}
	return r
}

func (r *reply) add(b tier.Blob) {
	r.data[r.n], r.blobs[r.n] = b.Data, b
	r.n++
}

func (r *reply) done() {
	for i := range r.n {
		r.blobs[i].Release()
		r.data[i], r.blobs[i] = nil, tier.Blob{}
	}
	r.n = 0
	replies.Put(r)
}

// readFile answers with the bytes where they lie; they are given back by the
// callback, which the library runs after errors too. What is in memory is
// answered without waiting. What is on this machine needs no context: it comes as
// soon as the disk gives it.
func (f *FS) readFile(wait context.Context, op *fuseops.ReadFileOp) error {
	r, ok := f.table.get(uint64(op.Inode))
	if !ok {
		return syscall.ESTALE
	}
	return f.readInode(wait, &r, op)
}

// readInode is readFile for a file of the tree that need not be in the table.
func (f *FS) readInode(wait context.Context, r *inode, op *fuseops.ReadFileOp) error {
	switch {
	case r.kind != object.File:
		return syscall.EISDIR
	case op.Offset < 0:
		return syscall.EINVAL
	case op.Offset >= r.size:
		return nil
	}
	n := min(op.Size, r.size-op.Offset)
	if f.losses.has(r.id, op.Offset, n, false) {
		return errLost
	}
	s := f.now.Load()
	out := newReply()
	var err error
	if r.chunked {
		err = f.readChunks(wait, s, r, op.Offset, n, out)
	} else {
		switch {
		case wait == noWait: // every read begins so
			f.needs.note(r.id, needWhole, 0)
			f.walks.progress(r, op.Offset, n)
			if f.guesses.hit(r.id, worth(r.size)) {
				f.crowds.entered(s, r)
			}
		case !isLocal(wait):
			f.crowds.missed(s, r)
		}
		err = f.readPiece(wait, s, s.view.BlobRef(r.digest, r.size), r.size, op.Offset, n, out)
		if (err == errWait || err == errDisk) && wait == noWait && op.Offset == 0 {
			f.walks.look(r)
		}
		f.note(wait, r.id, 0, r.size, err)
	}
	if err == errWait || err == errDisk {
		out.done()
		return err
	}
	if err == nil && op.Offset == 0 && !isLocal(wait) {
		f.programs.begun(s, r, out.data[0])
	}
	op.Callback = out.given
	if err != nil {
		return fmt.Errorf("read %s: %w", f.nameOf(*r), err)
	}
	op.Data, op.BytesRead = out.data[:out.n], int(n)
	return nil
}

// readPiece adds n bytes at off of a blob of size bytes.
func (f *FS) readPiece(wait context.Context, s *shown, ref tier.Ref, size, off, n int64, out *reply) error {
	var b tier.Blob
	var ok bool
	if inMemory(wait) {
		var near tier.Nearness
		if b, near = s.blobs.Ready(ref, off, n); near == tier.Coming {
			return errDisk
		}
		ok = near == tier.InMemory
	} else {
		b, ok = s.blobs.Local(ref, off, n)
	}
	switch {
	case ok:
	case isLocal(wait):
		return errWait
	default:
		var err error
		if b, err = s.get(wait, ref); err != nil {
			return err
		}
		if int64(len(b.Data)) == size {
			b.Data = b.Data[off : off+n]
		} else {
			b.Data = nil // also where it has as many bytes as are asked for
		}
	}
	if int64(len(b.Data)) != n {
		b.Release()
		return fmt.Errorf("blob %v does not have the %d bytes that the tree says: %w", ref, size, object.ErrFormat)
	}
	out.add(b)
	return nil
}

func (f *FS) readChunks(wait context.Context, s *shown, r *inode, off, n int64, out *reply) error {
	list := s.view.CachedChunks(r.digest, r.size)
	begin := wait == noWait && list != nil
	if list == nil {
		if isLocal(wait) {
			return errWait
		}
		var err error
		if list, err = s.chunks(wait, r.digest, r.size); err != nil {
			f.note(wait, r.id, 0, r.size, err)
			return err
		}
		begin = true
	}
	if begin {
		f.walks.progress(r, off, n)
		f.streams.read(r, list, off, n)
		f.guesses.hit(r.id, n)
	}
	if wait == diskWait && !f.here(s, list, off, n) {
		return errWait // rather than read what is here twice
	}
	if !isLocal(wait) {
		f.guesses.read(n)
		f.getTogether(wait, s, list, off, n)
	}
	for at, rest := off, n; rest > 0; {
		i, start := list.At(at)
		c := list.Chunks[i]
		part := min(rest, start+c.Size-at)
		f.needs.note(r.id, start, c.Size)
		if out.n == maxPieces {
			return fmt.Errorf("chunk list %s: %w: chunks of less than %d bytes", r.digest, object.ErrFormat, object.MinChunk)
		}
		if err := f.readPiece(wait, s, s.view.BlobRef(c.Digest, c.Size), c.Size, at-start, part, out); err != nil {
			f.note(wait, r.id, start, c.Size, err)
			return err
		}
		at, rest = at+part, rest-part
	}
	return nil
}

// getTogether has all chunks of n bytes at off that aren't here fetched side by side,
// while the first is waited for.
func (f *FS) getTogether(wait context.Context, s *shown, list *object.ChunkList, off, n int64) {
	first := true
	for at := off; at < off+n; {
		i, start := list.At(at)
		c := list.Chunks[i]
		at = start + c.Size
		ref := s.view.BlobRef(c.Digest, c.Size)
		if s.blobs.Has(ref) {
			continue
		}
		if first {
			first = false
			continue
		}
		f.background.Go(func() {
			if b, err := s.get(wait, ref); err == nil {
				b.Release()
			}
		})
	}
}

// here tells whether the machine has all chunks of n bytes at off.
func (f *FS) here(s *shown, list *object.ChunkList, off, n int64) bool {
	for at := off; at < off+n; {
		i, start := list.At(at)
		c := list.Chunks[i]
		if !s.blobs.Has(s.view.BlobRef(c.Digest, c.Size)) {
			return false
		}
		at = start + c.Size
	}
	return true
}

// losses remembers the pieces of files that could just not be read. When a
// read-ahead fails the kernel asks once more, for the page alone: that is not to
// wait a second io_timeout, where nothing moves. The pieces around it are none the
// worse.
type losses struct {
	newest atomic.Int64 // when the last one was noted, in nanoseconds since 1970
	mu     sync.Mutex
	last   [maxServers]loss
	next   int
}

type loss struct {
	id       uint64
	off, end int64 // of the blob in the file
	slow     bool  // other things came meanwhile
	when     time.Time
}

// lossMemory is short: what failed a second ago may work now.
const lossMemory = 500 * time.Millisecond

var errLost = fmt.Errorf("it could not be read a moment ago: %w", tier.ErrUnavailable)

// errSlow ends a read before its time: see readLimit.
var errSlow = fmt.Errorf("other things came in most of io_timeout, this did not: %w", context.DeadlineExceeded)

// readLimit is how long a read may take, and after how much of it a read of many
// pages is given up if other things came meanwhile. Nobody may wait for most of
// these pages, and the kernel then asks for the one alone that somebody waits for:
// both together are not to take longer than io_timeout.
func (f *FS) readLimit(op *fuseops.ReadFileOp) (all, slow time.Duration) {
	all = f.timeout()
	if f.losses.has(uint64(op.Inode), op.Offset, op.Size, true) {
		return all / 4, 0
	}
	if op.Size <= pageSize {
		return all, 0
	}
	return all, all - all/4
}

const pageSize = 4096

// note takes note of what came of reading n bytes at off. That a caller left says
// nothing of them; nor does it that time ran out while other things came, but that
// the next try is to be a short one.
func (f *FS) note(ctx context.Context, id uint64, off, n int64, err error) {
	if err == nil || err == errWait || err == errDisk || errors.Is(err, context.Canceled) {
		return
	}
	slow := false
	if errors.Is(err, context.DeadlineExceeded) { // and so there is a context
		end, ok := ctx.Deadline()
		slow = ok && f.now.Load().blobs.Arrived(end.Add(-f.timeout()))
	}
	f.losses.add(id, off, n, slow)
}

func (l *losses) add(id uint64, off, n int64, slow bool) {
	now := time.Now()
	l.newest.Store(now.UnixNano())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last[l.next] = loss{id, off, off + n, slow, now}
	l.next = (l.next + 1) % len(l.last)
}

// spent says that a read of n bytes at off took all of its time: what of it came slowly
// counts as what did not come, also for others, who have waited for this read.
func (l *losses) spent(id uint64, off, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.last {
		if v := &l.last[i]; v.id == id && off < v.end && v.off < off+n {
			v.slow = false
		}
	}
}

// has tells whether some of n bytes at off could just not be read, because nothing
// came or because it came slowly.
func (l *losses) has(id uint64, off, n int64, slow bool) bool {
	if newest := l.newest.Load(); newest == 0 || time.Now().UnixNano()-newest >= int64(lossMemory) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.last {
		v := &l.last[i]
		if v.id == id && v.slow == slow && off < v.end && v.off < off+n && time.Since(v.when) < lossMemory {
			return true
		}
	}
	return false
}
