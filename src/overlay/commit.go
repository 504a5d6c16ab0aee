package overlay

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/aysfs/aysfs/src/debug"
	"github.com/aysfs/aysfs/src/object"
)

// Commit sends a shared node to redis, if redis doesn't have it yet. Where that
// fails, redis has what it had, or all of it.
func (n *Node) Commit(ctx context.Context) error {
	l := n.layer
	l.mu.RLock()
	dirty := n.dirty && !n.gone
	l.mu.RUnlock()
	if !dirty {
		return nil
	}
	if err := l.begin(ctx); err != nil {
		return l.failed(n, err)
	}
	defer l.end()
	return l.commit(ctx, n)
}

// commit is Commit with the change lock held.
func (l *Layer) commit(ctx context.Context, n *Node) error {
	l.mu.RLock()
	path, dirty, ours, torn := n.path, n.dirty && !n.gone, l.matches(n.path), n.torn
	l.mu.RUnlock()
	if !dirty {
		return nil
	}
	if torn != nil {
		return l.failed(n, torn)
	}
	if !ours {
		return l.failed(n, syscall.EROFS)
	}
	c, edit, err := l.send(ctx, n, path)
	if err != nil {
		return l.failed(n, err)
	}
	l.mu.Lock()
	other := l.nodes[path]
	l.sent(n, c, edit)
	l.mu.Unlock()
	if other != n {
		l.tell([]string{path})
	}
	return nil
}

// failed notes that a node's writer is being told of err.
func (l *Layer) failed(n *Node, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	n.failed = err
	return err
}

// send records what n has in it as the content of path, in one transaction with
// more. It returns what was sent, and which edit of the node that is.
func (l *Layer) send(ctx context.Context, n *Node, path string, more ...debug.File) (debug.Change, uint64, error) {
	f := debug.File{Change: debug.Change{Path: path, MD5: debug.EmptyMD5}}
	sum := md5.New()
	switch n.Kind {
	case object.Symlink:
		target, err := n.Readlink(ctx)
		if err != nil {
			return f.Change, 0, err
		}
		r := strings.NewReader(target)
		f.Data, f.Size = r, r.Size()
		io.Copy(sum, r)
	case object.File:
		// Nobody may write until redis has it all.
		n.io.RLock()
		for n.file == nil || n.source == fromTree {
			n.io.RUnlock()
			if err := n.load(ctx); err != nil {
				return f.Change, 0, err
			}
			n.io.RLock() // by now it may have been closed as idle
		}
		defer n.io.RUnlock()
		if n.size > l.opt.MaxSize {
			return f.Change, 0, syscall.EFBIG
		}
		f.Data, f.Size = n.file, n.size
		if k, err := io.Copy(sum, io.NewSectionReader(n.file, 0, n.size)); err != nil || k != n.size {
			return f.Change, 0, fmt.Errorf("read the spool: %d of %d bytes, %w", k, n.size, err)
		}
	}
	f.MD5 = hex.EncodeToString(sum.Sum(nil))
	f.Mode = l.modeFor(ctx, n, path)
	l.mu.RLock()
	edit := n.edit
	l.mu.RUnlock()
	return f.Change, edit, l.opt.Remote.Record(ctx, append([]debug.File{f}, more...))
}

// modeFor is the mode that redis is to have of n at path: none where it goes
// without saying.
func (l *Layer) modeFor(ctx context.Context, n *Node, path string) uint32 {
	mode := n.Attr().Mode
	switch n.Kind {
	case object.Dir:
		return debug.ModeDir | mode
	case object.Symlink:
		return debug.ModeLink | 0o777
	}
	tree, ok, err := l.opt.Lower.Entry(ctx, path)
	usual := uint32(0o644)
	if ok && tree.Kind == object.File {
		usual = uint32(tree.Mode)
	}
	if err == nil && mode == usual {
		return 0
	}
	return debug.ModeFile | mode
}

// sent notes that redis has the given edit of a node, which is what its path
// shows from now on. l.mu is held.
func (l *Layer) sent(n *Node, c debug.Change, edit uint64) {
	l.shared[c.Path] = state{Change: c, time: n.mtime}
	n.change = c
	n.shared = true
	if n.edit == edit {
		n.dirty, n.failed = false, nil
		delete(l.late, n)
	}
	l.nodes[c.Path] = n
	l.refresh(c.Path)
	l.touch(Dir(c.Path))
}

// removed notes that redis says that nothing is at path. l.mu is held.
func (l *Layer) removed(path string) {
	l.shared[path] = state{Change: debug.Change{Path: path}}
	l.refresh(path)
}
