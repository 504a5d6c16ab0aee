package overlay

import (
	"context"
	"strings"
	"syscall"
	"time"

	"github.com/aysfs/aysfs/src/debug"
	"github.com/aysfs/aysfs/src/object"
)

// found is what stands at a path, for who is about to change that.
type found struct {
	node *Node // held; nil where the layer has none
	tree lower // what the tree has, visible or not
}

// visible tells whether anything stands there.
func (f *found) visible() bool { return f.node != nil || f.tree.ok }

func (f *found) isDir() bool {
	if f.node != nil {
		return f.node.Kind == object.Dir
	}
	return f.tree.ok && f.tree.entry.Kind == object.Dir
}

// find looks at a path. The change lock is held.
func (l *Layer) find(ctx context.Context, path string) (f found, done func(), err error) {
	n, v, err := l.Look(ctx, path)
	if err != nil {
		return f, nil, err
	}
	done = func() {}
	if n != nil {
		f.node = n
		done = func() { l.Forget(n.ID, 1) }
		return f, done, nil
	}
	if v == Tree {
		f.tree.entry, f.tree.ok, err = l.opt.Lower.Entry(ctx, path)
	}
	return f, done, err
}

// Create makes an empty file. Redis has it once it is committed.
func (l *Layer) Create(ctx context.Context, path string, mode uint32) (*Node, error) {
	return l.add(ctx, &Node{Kind: object.File, path: path, mode: mode & 0o777, source: fromHere})
}

// Mkdir makes a directory; redis has it at once where its path is shared.
func (l *Layer) Mkdir(ctx context.Context, path string, mode uint32) (*Node, error) {
	return l.add(ctx, &Node{Kind: object.Dir, path: path, mode: mode & 0o777, source: fromHere})
}

// Symlink makes a symbolic link; redis has it at once where its path is shared.
func (l *Layer) Symlink(ctx context.Context, path, target string) (*Node, error) {
	return l.add(ctx, &Node{Kind: object.Symlink, path: path, mode: 0o777, source: fromHere, target: target, size: int64(len(target))})
}

// add makes a new node, which is then held.
func (l *Layer) add(ctx context.Context, n *Node) (*Node, error) {
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	defer l.end()
	f, done, err := l.find(ctx, n.path)
	if err != nil {
		return nil, err
	}
	defer done()
	if f.visible() {
		return nil, syscall.EEXIST
	}
	l.mu.Lock()
	n.layer = l
	l.lastID++
	n.ID = l.lastID
	l.mu.Unlock()
	if n.Kind == object.File {
		if n.file, err = l.spool.create(n.ID); err != nil {
			return nil, local(err)
		}
		n.file.Close()
		n.file = nil
	}
	n.mtime = time.Now()
	var sent debug.Change
	if l.Matches(n.path) && n.Kind != object.File {
		if sent, _, err = l.send(ctx, n, n.path); err != nil {
			return nil, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold(n)
	switch {
	case sent.MD5 != "":
		l.sent(n, sent, 0)
	case l.matches(n.path):
		n.shared, n.dirty = true, true
		l.nodes[n.path] = n
	default:
		l.scratch[n.path] = n
	}
	l.refresh(n.path)
	l.touch(Dir(n.path))
	return n, nil
}

// Unlink takes a file or a link away. What of the tree is not shared can't be.
func (l *Layer) Unlink(ctx context.Context, path string) error { return l.remove(ctx, path, false) }

// Rmdir takes an empty directory away.
func (l *Layer) Rmdir(ctx context.Context, path string) error { return l.remove(ctx, path, true) }

// remove takes away what stands at path: an empty directory, or what is none.
func (l *Layer) remove(ctx context.Context, path string, dir bool) error {
	if err := l.begin(ctx); err != nil {
		return err
	}
	defer l.end()
	f, done, err := l.find(ctx, path)
	if err != nil {
		return err
	}
	defer done()
	switch {
	case !f.visible():
		return syscall.ENOENT
	case f.isDir() && !dir:
		return syscall.EISDIR
	case !f.isDir() && dir:
		return syscall.ENOTDIR
	}
	if dir {
		if empty, err := l.empty(ctx, path); err != nil {
			return err
		} else if !empty {
			return syscall.ENOTEMPTY
		}
	}
	return l.take(ctx, path, f)
}

// empty tells whether a directory shows nothing.
func (l *Layer) empty(ctx context.Context, dir string) (bool, error) {
	if len(l.Names(dir, 0, 1)) > 0 {
		return false, nil
	}
	list, err := l.opt.Lower.Listing(ctx, dir)
	if err != nil || list == nil {
		return err == nil, err
	}
	for i := range list.Len() {
		if e := list.At(i); l.Concerns(object.Join(dir, string(e.Name))) != Nothing {
			return false, nil
		}
	}
	return true, nil
}

// take removes what was found at path.
func (l *Layer) take(ctx context.Context, path string, f found) error {
	match := l.Matches(path)
	isScratch := f.node != nil && l.isScratch(f.node)
	if f.node == nil && !match {
		return syscall.EROFS
	}
	record := match && !isScratch && l.elsewhere(ctx, path)
	if record {
		if err := l.opt.Remote.Record(ctx, []debug.File{{Change: debug.Change{Path: path}}}); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keepDir(Dir(path))
	if record {
		l.removed(path)
	}
	if f.node != nil {
		l.detach(f.node)
	}
	l.refresh(path)
	l.touch(Dir(path))
	return nil
}

func (l *Layer) isScratch(n *Node) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.scratch[n.path] == n
}

// elsewhere tells whether redis or the tree has anything at path, so that a
// removal must be said. Where the tree can't be asked, it is.
func (l *Layer) elsewhere(ctx context.Context, path string) bool {
	l.mu.RLock()
	s, known := l.shared[path]
	l.mu.RUnlock()
	if known && s.MD5 != "" {
		return true
	}
	_, ok, err := l.opt.Lower.Entry(ctx, path)
	return ok || err != nil
}

// detach ends that a node is found at its path. l.mu is held.
func (l *Layer) detach(n *Node) {
	if l.scratch[n.path] == n {
		delete(l.scratch, n.path)
	}
	if l.nodes[n.path] == n {
		delete(l.nodes, n.path)
	}
	n.gone, n.dirty = true, false
	delete(l.late, n)
}

// keepDir makes an implied directory one that stays when the last of what it is
// implied by goes: a program that empties a directory removes it next. l.mu is
// held.
func (l *Layer) keepDir(dir string) {
	n := l.nodes[dir]
	if dir == "" || n == nil || n.Kind != object.Dir || n.source == fromHere || l.scratch[dir] != nil || l.shown[dir] {
		return
	}
	delete(l.nodes, dir)
	l.scratch[dir] = n
	l.refresh(dir)
}

// Rename moves a file, or a directory that is on this machine only. What of the
// tree is not shared stays where it is; a directory that others see is to be
// copied, and so EXDEV.
func (l *Layer) Rename(ctx context.Context, from, to string) error {
	if err := l.begin(ctx); err != nil {
		return err
	}
	defer l.end()
	src, done, err := l.find(ctx, from)
	if err != nil {
		return err
	}
	defer done()
	dst, done, err := l.find(ctx, to)
	if err != nil {
		return err
	}
	defer done()
	switch {
	case !src.visible():
		return syscall.ENOENT
	case from == to:
		return nil
	case src.node == nil && (src.isDir() || l.Matches(from)):
		return syscall.EXDEV // a directory or a link of the tree: made anew
	case src.node == nil, dst.node == nil && dst.tree.ok && !l.Matches(to):
		return syscall.EROFS
	case src.node.Kind == object.Dir:
		if dst.visible() && !dst.isDir() {
			return syscall.ENOTDIR
		}
		return l.renameDir(ctx, src.node, from, to, dst)
	case dst.isDir():
		return syscall.EISDIR
	}
	return l.renameFile(ctx, src.node, from, to, dst)
}

func (l *Layer) renameFile(ctx context.Context, n *Node, from, to string, dst found) error {
	defer n.idle()
	l.mu.RLock()
	_, isScratch := l.scratch[from]
	toShared, fromShared := l.matches(to), l.matches(from) && !isScratch
	l.mu.RUnlock()
	var more []debug.File
	if fromShared && l.elsewhere(ctx, from) {
		more = append(more, debug.File{Change: debug.Change{Path: from}})
	}
	var sent debug.Change
	var edit uint64
	var err error
	if toShared {
		sent, edit, err = l.send(ctx, n, to, more...)
	} else {
		// What stays here needs its content here.
		switch n.Kind {
		case object.File:
			n.io.Lock()
			err = n.own(ctx, n.size)
			n.io.Unlock()
		case object.Symlink:
			_, err = n.Readlink(ctx)
		}
		if err == nil && more != nil {
			err = l.opt.Remote.Record(ctx, more)
		}
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keepDir(Dir(from))
	if dst.node != nil {
		l.detach(dst.node)
	}
	delete(l.scratch, from)
	if l.nodes[from] == n {
		delete(l.nodes, from)
	}
	if more != nil {
		l.removed(from)
	}
	n.path = to
	if toShared {
		l.sent(n, sent, edit)
	} else {
		n.shared, n.dirty, n.failed, n.change = false, false, nil, debug.Change{}
		delete(l.late, n)
		l.scratch[to] = n
	}
	for _, p := range []string{from, to} {
		l.refresh(p)
		l.touch(Dir(p))
	}
	return nil
}

// renameDir moves a directory if all in it is scratch and stays so.
func (l *Layer) renameDir(ctx context.Context, n *Node, from, to string, dst found) error {
	if dst.visible() {
		if empty, err := l.empty(ctx, to); err != nil {
			return err
		} else if !empty {
			return syscall.ENOTEMPTY
		}
		if dst.node == nil || !l.isScratch(dst.node) {
			return syscall.EXDEV
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.scratch[from] != n || l.matches(to) {
		return syscall.EXDEV
	}
	var inside []string
	for path := range l.shown {
		rest, ok := strings.CutPrefix(path, from+"/")
		if !ok {
			continue
		}
		if l.scratch[path] == nil || l.matches(to+"/"+rest) {
			return syscall.EXDEV
		}
		inside = append(inside, path)
	}
	if dst.node != nil {
		l.detach(dst.node)
		l.refresh(to)
	}
	for _, path := range append(inside, from) {
		c := l.scratch[path]
		delete(l.scratch, path)
		l.refresh(path)
		c.path = to + strings.TrimPrefix(path, from)
		l.scratch[c.path] = c
		l.refresh(c.path)
	}
	l.touch(Dir(from))
	l.touch(Dir(to))
	return nil
}
