package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aysfs/aysfs/src/debug"
	"github.com/aysfs/aysfs/src/object"
)

// source is where a file's content comes from.
type source int

const (
	fromTree source = iota
	fromRedis
	fromHere // a file in the spool that is this node's
)

// Node is a file, a directory or a symbolic link that the layer shows. A file
// keeps its content while the kernel holds it, whatever becomes of its path: what
// others write is another node.
type Node struct {
	layer *Layer
	ID    uint64
	Kind  object.Kind

	// Guarded by Layer.mu.
	path   string
	gone   bool   // nothing leads here any more
	given  bool   // gone, as what was written could not be sent
	shared bool   // it belongs to redis, once it is written
	held   uint64 // by the kernel
	opens  int
	mode   uint32 // permissions
	size   int64
	mtime  time.Time
	target string       // of a link
	dirty  bool         // redis does not have it yet
	change debug.Change // what redis has of it
	edit   uint64       // grows with every change
	failed error        // why the last change did not reach redis; its writer was told
	torn   error        // why a part of what was written is not there; its writer was told

	read atomic.Bool // since the last sweep

	// io guards the content; source and file are written with Layer.mu held, too.
	io     sync.RWMutex
	source source
	entry  object.Entry // in the tree
	file   *os.File     // nil: closed
}

// Attr is what stat tells of a node.
type Attr struct {
	Kind  object.Kind
	Mode  uint32
	Size  int64
	Mtime time.Time
	Gone  bool
}

// Attr returns a node's attributes.
func (n *Node) Attr() Attr {
	n.layer.mu.RLock()
	defer n.layer.mu.RUnlock()
	return Attr{Kind: n.Kind, Mode: n.mode, Size: n.size, Mtime: n.mtime, Gone: n.gone}
}

// Path is where a node is; false where nothing leads to it any more.
func (n *Node) Path() (string, bool) {
	n.layer.mu.RLock()
	defer n.layer.mu.RUnlock()
	return n.path, !n.gone
}

// Readlink is where a link leads to.
func (n *Node) Readlink(ctx context.Context) (string, error) {
	l := n.layer
	l.mu.RLock()
	target, c, known := n.target, n.change, n.source != fromRedis || n.target != ""
	l.mu.RUnlock()
	if known {
		return target, nil
	}
	f, err := l.content(ctx, c)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, min(c.Size, maxTarget)))
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n.target = string(b)
	return n.target, nil
}

// maxTarget is the longest target of a link that the kernel takes.
const maxTarget = 4095

// InTree returns the tree's entry that has a file's content, where that is so.
func (n *Node) InTree() (object.Entry, bool) {
	n.layer.mu.RLock()
	defer n.layer.mu.RUnlock()
	return n.entry, n.source == fromTree && n.Kind == object.File
}

// fromShared makes a node of what redis has.
func (l *Layer) fromShared(path string, s state, tree *lower) *Node {
	n := &Node{
		Kind: kindOf(s.Mode), path: path, shared: true, source: fromRedis, change: s.Change,
		size: s.Size, mode: s.Mode & 0o7777, mtime: s.time,
	}
	if t := l.times[path]; n.Kind == object.Dir && t.After(s.time) {
		n.mtime = t // of what is in it
	}
	if s.Mode == 0 {
		n.mode = 0o644
		if tree != nil && tree.ok && tree.entry.Kind == object.File {
			n.mode = uint32(tree.entry.Mode)
		}
	}
	return n
}

// kindOf is what a mode of redis says of the kind; none is a file.
func kindOf(mode uint32) object.Kind {
	switch mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		return object.Dir
	case syscall.S_IFLNK:
		return object.Symlink
	}
	return object.File
}

// ErrStale says that a node is not what its path shows any more: another look
// shows that.
var ErrStale = errors.New("its path shows something else by now")

// Open begins a change of a file's content by who closes it afterwards. Close ends
// that. It is ErrStale where that is too late.
func (n *Node) Open() error {
	if !n.use() {
		return ErrStale
	}
	return nil
}

// use counts one more that has the node open. It is false where that is too late:
// its path shows something else.
func (n *Node) use() bool {
	n.layer.mu.Lock()
	defer n.layer.mu.Unlock()
	if n.given {
		return false
	}
	n.opens++
	return true
}

// Close ends one Open. What was written and never sent is sent in the
// background; what could not be sent, as its writer knows, is given up.
func (n *Node) Close() {
	l := n.layer
	l.mu.Lock()
	n.opens--
	last := n.opens == 0
	var changed []string
	torn := n.torn
	if last {
		n.torn = nil
	}
	if last && !n.gone && n.shared {
		switch {
		case torn != nil || n.dirty && n.failed != nil:
			changed = l.giveUp(n)
		case n.dirty:
			l.late[n] = true
			l.wake()
		}
	}
	settled := l.settle(n)
	l.mu.Unlock()
	if last {
		n.idle()
	}
	settled()
	l.tell(changed)
}

// Dirty tells whether Commit has something to do.
func (n *Node) Dirty() bool {
	n.layer.mu.RLock()
	defer n.layer.mu.RUnlock()
	return n.dirty && !n.gone
}

// Discard gives up what was written and not sent.
func (n *Node) Discard() {
	l := n.layer
	l.mu.Lock()
	var changed []string
	if n.dirty && !n.gone {
		changed = l.giveUp(n)
	}
	l.mu.Unlock()
	l.tell(changed)
}

// giveUp takes back what was written to a node. l.mu is held.
func (l *Layer) giveUp(n *Node) []string {
	path := n.path
	n.gone, n.given, n.dirty = true, true, false
	if l.nodes[path] == n {
		delete(l.nodes, path)
		l.refresh(path)
		l.touch(Dir(path))
	}
	delete(l.late, n)
	return []string{path}
}

// tell passes on which paths show something else; no lock is held.
func (l *Layer) tell(paths []string) {
	if len(paths) > 0 && l.opt.Changed != nil {
		l.opt.Changed(paths)
	}
}

// ready makes the content readable, unless it is in the tree. n.io is held.
func (n *Node) ready(ctx context.Context) error {
	if n.file != nil || n.Kind != object.File {
		return nil
	}
	var err error
	switch n.source {
	case fromHere:
		n.file, err = n.layer.spool.open(n.ID)
	case fromRedis:
		n.file, err = n.layer.content(ctx, n.recorded())
	}
	return local(err)
}

// recorded is what redis has of a node.
func (n *Node) recorded() debug.Change {
	n.layer.mu.RLock()
	defer n.layer.mu.RUnlock()
	return n.change
}

// idle closes the content of a node that nobody has open.
func (n *Node) idle() {
	n.io.Lock()
	defer n.io.Unlock()
	n.layer.mu.RLock()
	defer n.layer.mu.RUnlock()
	if n.opens == 0 && n.file != nil {
		n.file.Close()
		n.file = nil
	}
}

// content opens what redis has under a digest.
func (l *Layer) content(ctx context.Context, c debug.Change) (*os.File, error) {
	if f, ok := l.spool.get(c); ok {
		return f, nil
	}
	return l.spool.fetch(c, func(w io.Writer) error { return l.opt.Remote.Copy(ctx, w, c.MD5, c.Size) })
}

// local makes an error of the spool's disk one that a program should see.
func local(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return syscall.ENOSPC
	case errors.Is(err, syscall.EDQUOT):
		return syscall.EDQUOT
	}
	return err
}

// ReadAt reads a file that is not in the tree. It reads less than all at the end of
// the file only. A content that redis is known to have and that can't be had is an
// error: the tree's in its place would be an older one, and an edit of that would
// undo another machine's.
func (n *Node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n.io.RLock()
	for n.file == nil {
		n.io.RUnlock()
		n.io.Lock()
		err := n.ready(ctx)
		n.io.Unlock()
		if err != nil {
			return 0, err
		}
		if _, tree := n.InTree(); tree {
			return 0, ErrStale
		}
		n.layer.lend(n)
		n.io.RLock()
	}
	n.read.Store(true)
	defer n.io.RUnlock()
	k, err := n.file.ReadAt(p, off)
	if err == io.EOF {
		err = nil
	}
	return k, err
}

// load makes the content readable here.
func (n *Node) load(ctx context.Context) error {
	n.io.Lock()
	defer n.io.Unlock()
	if n.source == fromTree {
		return n.own(ctx, n.size)
	}
	return n.ready(ctx)
}

// own gives a file a content of its own, of at most keep bytes of what it had.
// n.io is held.
func (n *Node) own(ctx context.Context, keep int64) error {
	if n.source == fromHere {
		if err := n.ready(ctx); err != nil || !n.isSent() {
			return err
		}
		// What redis has is kept: it shows again should this change fail.
		if err := n.layer.spool.keep(n.recorded(), n.layer.spool.path(n.ID)); err != nil {
			return local(err)
		}
		n.layer.mu.Lock()
		n.source = fromRedis
		n.layer.mu.Unlock()
	}
	if n.size > n.layer.opt.MaxSize && keep > n.layer.opt.MaxSize {
		return syscall.EFBIG
	}
	f, err := n.copy(ctx, keep)
	if local(err) == syscall.ENOSPC && n.layer.spool.shrink() {
		f.Close()
		f, err = n.copy(ctx, keep)
	}
	if err != nil && f == nil {
		return local(fmt.Errorf("make a spool file: %w", err))
	}
	if err != nil {
		f.Close()
		n.layer.spool.remove(n.ID)
		return local(err)
	}
	if n.file != nil {
		n.file.Close()
	}
	n.layer.mu.Lock()
	n.file, n.source = f, fromHere
	n.layer.mu.Unlock()
	return nil
}

// copy makes the spool file of a content of the node's own, with what it has now
// where some of that is to stay. Where that fails it may still be there.
func (n *Node) copy(ctx context.Context, keep int64) (*os.File, error) {
	f, err := n.layer.spool.create(n.ID)
	if err != nil || keep == 0 {
		return f, err
	}
	if n.source == fromTree {
		return f, n.layer.opt.Lower.Read(ctx, n.entry, f)
	}
	if err := n.ready(ctx); err != nil {
		return f, err
	}
	_, err = io.Copy(f, io.NewSectionReader(n.file, 0, n.size))
	return f, err
}

// isSent tells whether redis has just what the node has.
func (n *Node) isSent() bool {
	n.layer.mu.RLock()
	defer n.layer.mu.RUnlock()
	return n.shared && !n.dirty && n.change.MD5 != ""
}

// changed notes a change of a node's content or mode.
func (n *Node) changed(size int64) {
	l := n.layer
	l.mu.Lock()
	defer l.mu.Unlock()
	n.size, n.mtime = size, time.Now()
	l.edited(n)
}

// edited makes a shared node one that redis does not have yet. l.mu is held.
func (l *Layer) edited(n *Node) {
	n.edit++
	n.failed = nil
	if !n.shared || n.dirty {
		return
	}
	n.dirty = true
	if !n.gone && l.nodes[n.path] == n {
		l.refresh(n.path)
	}
}

// WriteAt writes to a file that is open. The first write copies what the tree or
// redis has. It is EFBIG where a shared file would get too large.
func (n *Node) WriteAt(ctx context.Context, p []byte, off int64) error {
	n.io.Lock()
	defer n.io.Unlock()
	end := off + int64(len(p))
	if n.isShared() && end > n.layer.opt.MaxSize {
		return n.tear(syscall.EFBIG)
	}
	if err := n.own(ctx, n.size); err != nil {
		return n.tear(err)
	}
	k, err := n.file.WriteAt(p, off)
	if local(err) == syscall.ENOSPC && n.layer.spool.shrink() {
		k, err = n.file.WriteAt(p, off)
	}
	if k > 0 {
		n.changed(max(n.size, off+int64(k)))
	}
	if err != nil {
		return n.tear(local(fmt.Errorf("write to the spool: %w", err)))
	}
	return nil
}

// tear notes that a write failed. What was written so far is then not sent: the
// file becomes what it was when it is closed.
func (n *Node) tear(err error) error {
	n.layer.mu.Lock()
	defer n.layer.mu.Unlock()
	n.torn = err
	return err
}

// Torn is why a part of what was written is not there, until the file is closed or
// emptied; nil where all is.
func (n *Node) Torn() error {
	n.layer.mu.RLock()
	defer n.layer.mu.RUnlock()
	return n.torn
}

func (n *Node) isShared() bool {
	n.layer.mu.RLock()
	defer n.layer.mu.RUnlock()
	return n.shared
}

// Truncate sets a file's size. Where nobody has the file open, it is sent at
// once.
func (n *Node) Truncate(ctx context.Context, size int64) error {
	return n.alone(ctx, func() error {
		n.io.Lock()
		defer n.io.Unlock()
		if n.isShared() && size > n.layer.opt.MaxSize {
			return syscall.EFBIG
		}
		if err := n.own(ctx, min(size, n.size)); err != nil {
			return err
		}
		if err := n.file.Truncate(size); err != nil {
			return local(fmt.Errorf("cut a spool file: %w", err))
		}
		n.changed(size)
		if size == 0 {
			n.tear(nil) // it is whole
		}
		return nil
	})
}

// Chmod sets the permissions of a node.
func (n *Node) Chmod(ctx context.Context, mode uint32) error {
	return n.alone(ctx, func() error {
		n.layer.mu.Lock()
		defer n.layer.mu.Unlock()
		if n.mode != mode {
			n.mode = mode
			n.layer.edited(n)
		}
		return nil
	})
}

// alone runs a change that may come without the file being open: then it is sent
// at once, or given up.
func (n *Node) alone(ctx context.Context, change func() error) error {
	if !n.use() {
		return ErrStale
	}
	defer n.Close()
	n.layer.mu.RLock()
	first := n.opens == 1
	n.layer.mu.RUnlock()
	if err := change(); err != nil || !first {
		return err
	}
	return n.Commit(ctx)
}

// SetTime sets when a node was changed last, on this machine. That outlives the node
// where redis has what it has.
func (n *Node) SetTime(t time.Time) {
	l := n.layer
	l.mu.Lock()
	defer l.mu.Unlock()
	n.mtime = t
	if s, ok := l.shared[n.path]; ok && l.nodes[n.path] == n && s.Change == n.change {
		s.time = t
		l.shared[n.path] = s
		if _, ok := l.times[n.path]; ok {
			l.times[n.path] = t
		}
	}
}
