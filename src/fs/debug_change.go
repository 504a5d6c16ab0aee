package fs

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/jacobsa/fuse/fuseops"

	"github.com/aysfs/aysfs/src/overlay"
)

// change answers what changes something, or may wait for redis to do it. What the
// layer can't change is read-only.
func (d *layered) change(wait context.Context, t *turn, op any) error {
	if wait == nil {
		switch op.(type) {
		case *fuseops.SetInodeAttributesOp, *fuseops.MkDirOp, *fuseops.MkNodeOp, *fuseops.CreateFileOp,
			*fuseops.CreateSymlinkOp, *fuseops.RenameOp, *fuseops.RmDirOp, *fuseops.UnlinkOp, *fuseops.WriteFileOp:
			return errWait
		}
	}
	switch op := op.(type) {
	case *fuseops.WriteFileOp:
		return d.write(wait, op)
	case *fuseops.SetInodeAttributesOp:
		return d.setAttributes(wait, t, op)
	case *fuseops.CreateFileOp:
		return d.create(wait, op)
	case *fuseops.MkNodeOp:
		if op.Mode.Type() != 0 {
			return syscall.EPERM
		}
		n, err := d.make(op.Parent, op.Name, func(path string) (*overlay.Node, error) {
			return d.layer.Create(wait, path, uint32(op.Mode.Perm()))
		})
		if err != nil {
			return err
		}
		// Nobody may open it, and so nobody close it.
		if err := n.Commit(wait); err != nil {
			n.Discard()
			d.layer.Forget(n.ID, 1)
			return err
		}
		d.enter(&op.Entry, n)
		return nil
	case *fuseops.MkDirOp:
		n, err := d.make(op.Parent, op.Name, func(path string) (*overlay.Node, error) {
			return d.layer.Mkdir(wait, path, uint32(op.Mode.Perm()))
		})
		if err == nil {
			d.enter(&op.Entry, n)
		}
		return err
	case *fuseops.CreateSymlinkOp:
		n, err := d.make(op.Parent, op.Name, func(path string) (*overlay.Node, error) {
			return d.layer.Symlink(wait, path, op.Target)
		})
		if err == nil {
			d.enter(&op.Entry, n)
		}
		return err
	case *fuseops.CreateLinkOp:
		return syscall.EPERM // as file systems without links say
	case *fuseops.UnlinkOp:
		path, err := d.child(op.Parent, op.Name)
		if err != nil {
			return err
		}
		return d.layer.Unlink(wait, path)
	case *fuseops.RmDirOp:
		path, err := d.child(op.Parent, op.Name)
		if err != nil {
			return err
		}
		return d.layer.Rmdir(wait, path)
	case *fuseops.RenameOp:
		from, err := d.child(op.OldParent, op.OldName)
		if err != nil {
			return err
		}
		to, err := d.child(op.NewParent, op.NewName)
		if err != nil {
			return err
		}
		return d.layer.Rename(wait, from, to)
	}
	return errTree
}

func (d *layered) make(parent fuseops.InodeID, name string, make func(path string) (*overlay.Node, error)) (*overlay.Node, error) {
	path, err := d.child(parent, name)
	if err != nil {
		return nil, err
	}
	return make(path)
}

func (d *layered) create(wait context.Context, op *fuseops.CreateFileOp) error {
	n, err := d.make(op.Parent, op.Name, func(path string) (*overlay.Node, error) {
		if err := d.layer.Trouble(); err != nil && d.layer.Matches(path) {
			return nil, fmt.Errorf("make %q: redis does not answer: %w", path, err)
		}
		return d.layer.Create(wait, path, uint32(op.Mode.Perm()))
	})
	if err == syscall.EEXIST && uint32(op.OpenFlags)&syscall.O_EXCL == 0 {
		// It came into being since the kernel looked: let it look again.
		return syscall.ESTALE
	}
	if err != nil {
		return err
	}
	if err := d.begin(n); err != nil {
		d.layer.Forget(n.ID, 1)
		return err
	}
	d.enter(&op.Entry, n)
	return nil
}

// commit sends a file that a program syncs.
func (d *layered) commit(wait context.Context, id fuseops.InodeID) error {
	n, ok := d.node(id)
	if !ok || !n.Dirty() {
		return nil
	}
	if wait == nil {
		return errWait
	}
	return n.Commit(wait)
}

func (d *layered) read(wait context.Context, op *fuseops.ReadFileOp) error {
	n, ok := d.node(op.Inode)
	if !ok {
		return errTree
	}
	if e, ok := n.InTree(); ok {
		r := inode{id: n.ID}
		r.set(&e)
		return d.fs.readInode(wait, &r, op)
	}
	if isLocal(wait) {
		return errWait
	}
	buf := make([]byte, op.Size)
	k, err := n.ReadAt(wait, buf, op.Offset)
	if err != nil {
		return err
	}
	op.Data, op.BytesRead = [][]byte{buf[:k]}, k
	return nil
}

func (d *layered) setAttributes(wait context.Context, t *turn, op *fuseops.SetInodeAttributesOp) error {
	if op.Inode < overlay.FirstID {
		return d.setTreeAttributes(t, op)
	}
	n, ok := d.node(op.Inode)
	if !ok {
		return syscall.ESTALE
	}
	// That all is root's is how it is in a tree: another owner is left out, as
	// tools that copy files with all that belongs to them expect no refusal.
	if op.Size != nil {
		if err := d.truncate(wait, n, op); err != nil {
			return err
		}
	}
	if op.Mode != nil {
		if err := n.Chmod(wait, uint32(op.Mode.Perm())); err != nil {
			return err
		}
	}
	if op.Mtime != nil {
		n.SetTime(*op.Mtime)
	}
	if isFlush(op) {
		if err := d.flush(wait, n, op.OpContext.Pid); err != nil {
			return err
		}
	}
	// A cut to the size that the kernel knows comes without a time.
	if op.Mtime != nil && (op.Handle != nil || op.Size != nil) {
		nextTick(wait, *op.Mtime)
	}
	op.Attributes = nodeAttributes(n)
	op.AttributesExpiration = forever
	return nil
}

// setTreeAttributes lets the time of a directory be set in which something was
// changed, as copying tools do when they are done.
func (d *layered) setTreeAttributes(t *turn, op *fuseops.SetInodeAttributesOp) error {
	get := fuseops.GetInodeAttributesOp{Inode: op.Inode}
	if err := d.getAttributes(t, &get); err != nil {
		return err
	}
	if op.Size != nil || op.Mode != nil && op.Mode.Perm() != get.Attributes.Mode.Perm() || get.Attributes.Mode.Type() != os.ModeDir {
		return syscall.EROFS
	}
	path, err := d.dir(op.Inode)
	if err != nil {
		return err
	}
	if op.Mtime != nil && !d.layer.SetTouched(path, *op.Mtime) {
		return syscall.EROFS
	}
	if err := d.getAttributes(t, &get); err != nil {
		return err
	}
	op.Attributes, op.AttributesExpiration = get.Attributes, get.AttributesExpiration
	return nil
}

// undo takes back what the kernel did not hear of.
func (d *layered) undo(op any) {
	switch op := op.(type) {
	case *fuseops.LookUpInodeOp:
		d.undoEntry(&op.Entry)
	case *fuseops.ReadDirPlusOp:
		undoDirents(op, d.forget)
	case *fuseops.CreateFileOp:
		d.closed(uint64(op.Entry.Child))
		d.undoEntry(&op.Entry)
	case *fuseops.MkNodeOp:
		d.undoEntry(&op.Entry)
	case *fuseops.MkDirOp:
		d.undoEntry(&op.Entry)
	case *fuseops.CreateSymlinkOp:
		d.undoEntry(&op.Entry)
	}
}

func (d *layered) undoEntry(e *fuseops.ChildInodeEntry) {
	if e.Child != 0 {
		d.forget(uint64(e.Child), 1)
	}
}
