package fs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/jacobsa/fuse/fuseops"
	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/overlay"
)

// The kernel's way with files that are written, where neither opens nor closes are
// asked for, and it keeps what is written until the close:
//
//	write     asks for the attribute security.capability, and has it removed where
//	          there is one: there, a write is refused
//	close     sends what was written, and then the time of the last write, by which
//	          the file is sent to redis; an error of either is the close's
//	fsync     the same, and then asks for fsync
//	later     fanotify says that the last writer has closed it: what could not be
//	          sent is given up, and what the kernel sent no time for is sent now;
//	          where it can't say which was the last, some time later
//
// The kernel sends no time where a write falls into the same tick of its clock as
// the time it had before; so an answer to a change of a time waits for the next tick.

const (
	capability = "security.capability"
	// capabilitySize is what a file seems to have of it, where writes are refused.
	capabilitySize = 20
	// longTick is longer than any kernel's.
	longTick = 20 * time.Millisecond
	// closedAfter is when a file counts as closed that was not changed since, where
	// nobody tells of closes, or not whether it was the last.
	closedAfter = 2 * time.Second
)

// begin notes that a node is being changed by who will close it.
func (d *layered) begin(n *overlay.Node) error {
	d.writingMu.Lock()
	defer d.writingMu.Unlock()
	if w := d.writing[n.ID]; w != nil {
		w.last = time.Now()
		return nil
	}
	if err := n.Open(); err != nil {
		return err
	}
	d.writing[n.ID] = &writer{node: n, last: time.Now()}
	return nil
}

// writer is a node that somebody may have open for writing.
type writer struct {
	node *overlay.Node
	last time.Time // something was changed
}

// closed notes that nobody has a node open for writing.
func (d *layered) closed(id uint64) {
	d.writingMu.Lock()
	w := d.writing[id]
	delete(d.writing, id)
	delete(d.doubted, id)
	d.writingMu.Unlock()
	if w != nil {
		w.node.Close()
	}
}

// doubt notes that a node was closed, maybe by the last who had it open for writing.
func (d *layered) doubt(id uint64) {
	if id < overlay.FirstID {
		return
	}
	d.writingMu.Lock()
	defer d.writingMu.Unlock()
	d.doubted[id] = time.Now()
}

// closeOld closes what was not changed for some time, or all.
func (d *layered) closeOld(age time.Duration) {
	d.writingMu.Lock()
	var old []uint64
	for id, w := range d.writing {
		if time.Since(w.last) >= age {
			old = append(old, id)
		}
	}
	d.writingMu.Unlock()
	for _, id := range old {
		d.closed(id)
	}
}

// closeDoubted closes what was neither closed by anybody nor changed for some time.
func (d *layered) closeDoubted(age time.Duration) {
	d.writingMu.Lock()
	var old []uint64
	for id, at := range d.doubted {
		if w := d.writing[id]; time.Since(at) >= age && (w == nil || time.Since(w.last) >= age) {
			old = append(old, id)
		}
	}
	d.writingMu.Unlock()
	for _, id := range old {
		d.closed(id)
	}
}

// followCloses has files sent or given up when their writers are gone, until the
// mount ends.
func (d *layered) followCloses() {
	c, err := watchCloses(d.fs.cfg.Path)
	if err == nil {
		stop := context.AfterFunc(d.fs.life, func() { c.close() })
		over := make(chan struct{})
		d.fs.background.Go(func() { d.every(closedAfter/2, over, func() { d.closeDoubted(closedAfter) }) })
		err = d.readCloses(c)
		close(over)
		stop()
		c.close()
	}
	if d.fs.life.Err() != nil {
		return
	}
	d.fs.log.Warn("nobody tells of files being closed: an empty file, or one that could not be sent, counts as closed later",
		"op", "debug", "mount", d.fs.cfg.Path, "after", closedAfter, "err", err)
	d.every(closedAfter/2, nil, func() { d.closeOld(closedAfter) })
}

// every does something from time to time, until it is over or the mount ends.
func (d *layered) every(pause time.Duration, over <-chan struct{}, do func()) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			do()
		case <-over:
			return
		case <-d.fs.life.Done():
			return
		}
	}
}

func (d *layered) readCloses(c *closes) error {
	for {
		all, err := c.next()
		for _, t := range all {
			if t.last {
				d.closed(t.id)
			} else {
				d.doubt(t.id)
			}
		}
		if err != nil {
			return err
		}
	}
}

func (d *layered) write(wait context.Context, op *fuseops.WriteFileOp) error {
	n, ok := d.node(op.Inode)
	if !ok {
		// A map that was written: of a write the kernel had asked.
		d.drop(op)
		return syscall.EROFS
	}
	err := d.begin(n)
	if err == nil {
		err = n.WriteAt(wait, op.Data, op.Offset)
	}
	if err == syscall.EFBIG {
		// The node knows, and says so at the close and at the next write; from here
		// the kernel would make it EIO.
		return nil
	}
	if err != nil {
		d.drop(op)
	}
	return err
}

// drop has the kernel give up what it keeps of a write that failed.
func (d *layered) drop(op *fuseops.WriteFileOp) {
	d.newsMu.Lock()
	d.dropped = append(d.dropped, span{op.Inode, op.Offset, int64(len(op.Data))})
	d.newsMu.Unlock()
	signal(d.wake)
}

// span is some bytes of an inode.
type span struct {
	id     fuseops.InodeID
	off, n int64
}

// gate answers a query for an attribute; with that of a capability a writer asks
// whether it may write.
func (d *layered) gate(wait context.Context, op *fuseops.GetXattrOp) error {
	n, ok := d.node(op.Inode)
	if op.Name == capability {
		// With room for a value it is not a writer that asks.
		if len(op.Dst) == 0 && (ok && n.Torn() != nil && !isCall(op.OpContext.Pid, opens, cuts) || !ok && d.isTreeFile(op.Inode)) {
			op.BytesRead = capabilitySize
			return nil
		}
		return syscall.ENODATA
	}
	if !d.fs.cfg.Xattr {
		return syscall.EOPNOTSUPP // ENOSYS would be the last question
	}
	if op.Inode >= overlay.FirstID {
		return syscall.ENODATA
	}
	return d.fs.getXattr(wait, op)
}

// refuse answers a writer that the gate held up.
func (d *layered) refuse(op *fuseops.RemoveXattrOp) error {
	if op.Name != capability {
		return syscall.EOPNOTSUPP
	}
	if n, ok := d.node(op.Inode); ok {
		if err := n.Torn(); err != nil {
			return err
		}
		return syscall.ENODATA
	}
	return syscall.EROFS
}

func (d *layered) isTreeFile(id fuseops.InodeID) bool {
	r, ok := d.fs.table.get(uint64(id))
	return ok && r.kind == object.File
}

// isFlush tells whether the kernel itself sends the time of the last write to a
// file. Where a program sets a time, no open file comes with that.
func isFlush(op *fuseops.SetInodeAttributesOp) bool {
	return op.Handle != nil && op.Mtime != nil && op.Size == nil && op.Mode == nil
}

// flush sends a file that a program closes or syncs. What the kernel writes back by
// itself is not complete.
func (d *layered) flush(wait context.Context, n *overlay.Node, pid uint32) error {
	if !n.Dirty() || isKernelThread(pid) {
		return nil
	}
	return n.Commit(wait)
}

// isKernelThread tells that by proc(5); of a process that can't be looked at it is
// false.
func isKernelThread(pid uint32) bool {
	const kthread = 0x00200000 // PF_KTHREAD in include/linux/sched.h
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(b[bytes.LastIndexByte(b, ')')+1:], []byte(" "))
	fields := bytes.Fields(rest)
	if len(fields) < 7 {
		return false
	}
	flags, _ := strconv.ParseUint(string(fields[6]), 10, 64)
	return flags&kthread != 0
}

// opens are the numbers of open, creat, openat and openat2, cuts those of truncate and
// ftruncate, on amd64, arm and arm64, and of 32-bit programs on the first. None is
// among both.
var (
	opens = []string{"2", "85", "257", "5", "8", "322", "295", "56", "437"}
	cuts  = []string{"76", "77", "92", "93", "193", "194", "45", "46"}
)

// isCall tells whether a thread is in one of some system calls, by proc(5). Of a
// thread that can't be looked at it is false.
func isCall(pid uint32, numbers ...[]string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	if err != nil {
		return false
	}
	number, _, _ := bytes.Cut(b, []byte(" "))
	for _, n := range numbers {
		if slices.Contains(n, string(number)) {
			return true
		}
	}
	return false
}

// truncate sets a file's size. Whoever has it open sends it by closing it.
func (d *layered) truncate(wait context.Context, n *overlay.Node, op *fuseops.SetInodeAttributesOp) error {
	if *op.Size > 1<<62 {
		return syscall.EFBIG
	}
	if op.Handle != nil || isCall(op.OpContext.Pid, opens) {
		if err := d.reachable(n); err != nil {
			return err
		}
		if err := d.begin(n); err != nil {
			return err
		}
	}
	return n.Truncate(wait, int64(*op.Size))
}

// reachable is an error where redis is known not to answer: the kernel may tell of no
// close that could.
func (d *layered) reachable(n *overlay.Node) error {
	err := d.layer.Trouble()
	if path, ok := n.Path(); err != nil && ok && d.layer.Matches(path) {
		return fmt.Errorf("change %q: redis does not answer: %w", path, err)
	}
	return nil
}

// nextTick waits until the kernel's clock has left the time t.
func nextTick(wait context.Context, t time.Time) {
	for range int(longTick / time.Millisecond) {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
			return
		}
		if d := t.Sub(time.Unix(now.Unix())); d < 0 || d > longTick {
			return
		}
		select {
		case <-time.After(time.Millisecond):
		case <-wait.Done():
			return
		}
	}
}
