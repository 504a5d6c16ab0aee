package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/jacobsa/fuse"
	"github.com/jacobsa/fuse/fuseops"
)

var (
	// errWait says that an answer takes more than what is in memory.
	errWait = errors.New("not in memory")
	// errDisk is errWait where the disk of this machine has begun to read it.
	errDisk = errors.New("not yet read from the disk")
)

// noWait is the context of an answer that must not take more.
var noWait context.Context

// lookWait is noWait for an answer that was tried before.
var lookWait = context.WithValue(context.Background(), lookKey{}, nil)

// diskWait is that of an answer that takes no more than the disk of this machine.
var diskWait = context.WithValue(context.Background(), diskKey{}, nil)

type (
	lookKey struct{}
	diskKey struct{}
)

// inMemory tells whether an answer must do with what is in memory.
func inMemory(wait context.Context) bool { return wait == noWait || wait == lookWait }

// isLocal tells whether an answer must do without the network.
func isLocal(wait context.Context) bool { return inMemory(wait) || wait == diskWait }

const (
	// maxServers bounds the goroutines that serve one mount; requests beyond
	// them wait in a queue while the memory's answers still go out.
	maxServers = 256
	// spareServers stay when there is nothing to do.
	spareServers = 8
)

// request is one op read from the kernel, and the library's context that the
// reply needs.
type request struct {
	ctx  context.Context
	op   any
	turn turn      // held by what the kernel remembers, until it has it
	came time.Time // for what may have to wait: io_timeout counts from then
}

// server serves one connection. One goroutine at a time reads from it: the
// reader. It answers itself what memory can answer. With anything else it hands
// the reading on to another goroutine and stays with the request, so that no
// request changes hands on its way.
type server struct {
	fs     *FS
	conn   *fuse.Connection
	coming coming // the reader's

	mu      sync.Mutex
	wake    *sync.Cond
	reading bool // somebody reads, or has been told to
	servers int  // goroutines
	idle    int  // of these, waiting
	backlog []request
	ended   bool
}

// ServeOps implements fuse.Server. It returns when the connection has ended and
// every request was answered.
func (f *FS) ServeOps(conn *fuse.Connection) {
	<-f.wire.ready
	s := &server{fs: f, conn: conn, servers: 1, coming: newComing(conn)}
	s.wake = sync.NewCond(&s.mu)
	f.mover.serving.Store(true)
	var all sync.WaitGroup
	all.Go(func() { s.serve(&all) })
	all.Wait()
	f.ended()
}

// serve is one goroutine's life.
func (s *server) serve(all *sync.WaitGroup) {
	// A mapped file that was cut short under a read must not end the process.
	debug.SetPanicOnFault(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case !s.reading && !s.ended:
			// Before all else: while nobody reads, not even what is in memory
			// is answered.
			s.reading = true
			s.mu.Unlock()
			r, more := s.read()
			r.came = time.Now()
			s.mu.Lock()
			s.reading = false
			switch {
			case !more:
				s.ended = true
				s.wake.Broadcast()
				continue
			case s.idle > 0:
				s.wake.Signal()
			case s.servers < maxServers:
				s.servers++
				all.Go(func() { s.serve(all) })
			default:
				s.backlog = append(s.backlog, r)
				context.AfterFunc(r.ctx, func() { s.takeBack(r) })
				continue
			}
			s.answerUnlocked(r)
		case len(s.backlog) > 0:
			r := s.backlog[0]
			s.backlog = s.backlog[1:]
			s.answerUnlocked(r)
		case s.ended, s.idle >= spareServers:
			s.servers--
			return
		default:
			s.idle++
			s.wake.Wait()
			s.idle--
		}
	}
}

// takeBack answers a request whose caller was interrupted, and wants to end, while it
// waits in the backlog.
func (s *server) takeBack(r request) {
	ctx, cancel := context.WithDeadline(s.fs.life, r.came.Add(s.fs.timeout()))
	defer cancel()
	waits := func() int {
		return slices.IndexFunc(s.backlog, func(b request) bool { return b.op == r.op })
	}
	s.mu.Lock()
	at := waits()
	s.mu.Unlock()
	if at < 0 || !given(ctx, pidOf(r.op)) {
		return
	}
	s.mu.Lock()
	at = waits()
	if at >= 0 {
		s.backlog = slices.Delete(s.backlog, at, at+1)
	}
	s.mu.Unlock()
	if at >= 0 {
		s.reply(&r, context.Canceled)
	}
}

// answerUnlocked answers r; s.mu is held before and after.
func (s *server) answerUnlocked(r request) {
	s.mu.Unlock()
	defer s.mu.Lock()
	s.answerSlowly(r)
}

// read answers requests out of memory until one takes more, and returns that.
// It is false when the connection has ended.
func (s *server) read() (request, bool) {
	for {
		if s.coming.some() && (s.coming.due() || !s.coming.requested(0)) {
			if r, more := s.settle(); more {
				return r, true
			}
			continue
		}
		if s.coming.briefly != s.coming.some() {
			s.coming.wait(!s.coming.some())
		}
		ctx, op, err := s.conn.ReadOp()
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNABORTED): // the latter with a request half read
			return request{}, false
		case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.EINTR):
			// The request was taken back before it was read, or there was none.
			if !s.coming.briefly && s.coming.device != 0 {
				s.coming.wait(true)
			}
			continue
		default:
			s.fs.log.Error("the connection to the kernel failed", "op", "serve", "mount", s.fs.cfg.Path, "err", err)
			return request{}, false
		}
		r := request{ctx: ctx, op: op}
		switch err := s.answer(noWait, &r); {
		case err == errWait, err == errDisk && !s.coming.add(r):
			return r, true
		case err != errDisk:
			s.reply(&r, err)
		}
	}
}

// settle answers the oldest of the reads that are coming, or looks out for a request
// for a moment. It is true with a read that takes more.
func (s *server) settle() (request, bool) {
	r := s.coming.oldest()
	switch err := s.answer(lookWait, r); {
	case err == errDisk && !s.coming.late():
		s.coming.lookOut()
		return request{}, false
	case err == errDisk || err == errWait:
		return s.coming.take(), true
	default:
		taken := s.coming.take()
		s.reply(&taken, err)
		return request{}, false
	}
}

// answer runs the handler; a panic in it costs this request an EIO.
func (s *server) answer(wait context.Context, r *request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return s.fs.answer(wait, &r.turn, r.op)
}

// answerSlowly answers a request that may have to wait for a disk or a network,
// for as long as io_timeout allows and its caller lives. That counts from when it
// was read from the kernel, also where it had to wait for its turn.
func (s *server) answerSlowly(r request) {
	limit, slow := s.fs.timeout(), time.Duration(0)
	op, isRead := r.op.(*fuseops.ReadFileOp)
	if isRead {
		// Most reads end here, without a timer and what else a context takes.
		if err := s.answer(diskWait, &r); err != errWait {
			s.reply(&r, err)
			return
		}
		limit, slow = s.fs.readLimit(op)
	}
	ctx, cancel := context.WithDeadline(s.fs.life, r.came.Add(limit))
	defer cancel()
	if slow > 0 {
		early, end := context.WithCancelCause(ctx)
		ctx = early
		defer end(nil)
		defer time.AfterFunc(time.Until(r.came.Add(slow)), func() {
			if s.fs.now.Load().blobs.Arrived(r.came) {
				end(errSlow)
			}
		}).Stop()
	}
	stop := context.AfterFunc(r.ctx, func() {
		if !given(ctx, pidOf(r.op)) {
			return
		}
		cancel()
	})
	err := s.answer(ctx, &r)
	stop()
	if isRead && time.Since(r.came) >= limit {
		s.fs.losses.spent(uint64(op.Inode), op.Offset, op.Size)
	}
	s.reply(&r, err)
}

func (s *server) reply(r *request, err error) {
	defer r.turn.end()
	if err != nil {
		s.fs.failed(r.op, err)
	}
	if err := s.conn.Reply(r.ctx, s.fs.errno(err)); err != nil {
		s.fs.undo(r.op)
	}
}

// pidOf is the thread that waits for an op.
func pidOf(op any) uint32 {
	switch op := op.(type) {
	case *fuseops.LookUpInodeOp:
		return op.OpContext.Pid
	case *fuseops.ReadFileOp:
		return op.OpContext.Pid
	case *fuseops.ReadDirOp:
		return op.OpContext.Pid
	case *fuseops.ReadDirPlusOp:
		return op.OpContext.Pid
	case *fuseops.ReadSymlinkOp:
		return op.OpContext.Pid
	case *fuseops.GetXattrOp:
		return op.OpContext.Pid
	case *fuseops.CreateFileOp:
		return op.OpContext.Pid
	case *fuseops.WriteFileOp:
		return op.OpContext.Pid
	case *fuseops.SyncFileOp:
		return op.OpContext.Pid
	case *fuseops.SetInodeAttributesOp:
		return op.OpContext.Pid
	case *fuseops.MkDirOp:
		return op.OpContext.Pid
	case *fuseops.MkNodeOp:
		return op.OpContext.Pid
	case *fuseops.CreateSymlinkOp:
		return op.OpContext.Pid
	case *fuseops.RenameOp:
		return op.OpContext.Pid
	case *fuseops.UnlinkOp:
		return op.OpContext.Pid
	case *fuseops.RmDirOp:
		return op.OpContext.Pid
	}
	return 0
}

// interruptPoll is how often an interrupted caller is looked at: the kernel says
// only once that there is a signal, and the one that ends it may come later.
const interruptPoll = 100 * time.Millisecond

// given tells whether a caller that was interrupted wants its request to end. A
// signal that would not stop a read from a local disk, such as the one that Go
// sends its own threads, does not stop one here either. It returns when that is
// known, or ctx ends.
func given(ctx context.Context, pid uint32) bool {
	for ctx.Err() == nil {
		if wantsOut(pid) {
			return true
		}
		select {
		case <-ctx.Done():
		case <-time.After(interruptPoll):
		}
	}
	return false
}
