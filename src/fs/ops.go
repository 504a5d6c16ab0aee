package fs

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"github.com/jacobsa/fuse/fuseops"
	"github.com/jacobsa/fuse/fuseutil"

	"github.com/aysfs/aysfs/src/object"
)

// forever is when the kernel may stop believing what it was told: a tree that
// changes says so by notification.
const forever = 100 * 365 * 24 * time.Hour

// answer does what op asks for. Where that takes more than memory, and wait is
// nil, it does nothing and returns errWait.
func (f *FS) answer(wait context.Context, op any) error {
	if f.debug != nil {
		if err := f.debug.answer(wait, op); err != errTree {
			return err
		}
	}
	switch op := op.(type) {
	case *fuseops.LookUpInodeOp:
		return f.lookUp(wait, op)
	case *fuseops.GetInodeAttributesOp:
		return f.getAttributes(op)
	case *fuseops.ReadDirPlusOp:
		return f.readDir(wait, &op.ReadDirOp, f.writeDirentPlus)
	case *fuseops.ReadDirOp:
		return f.readDir(wait, op, f.writeDirent)
	case *fuseops.ReadFileOp:
		if wait == nil {
			return errWait
		}
		return f.readFile(wait, op)
	case *fuseops.ReadSymlinkOp:
		return f.readSymlink(wait, op)
	case *fuseops.ForgetInodeOp:
		f.table.forget(uint64(op.Inode), op.N)
		return nil
	case *fuseops.BatchForgetOp:
		for _, e := range op.Entries {
			f.table.forget(uint64(e.Inode), e.N)
		}
		return nil
	case *fuseops.StatFSOp:
		return f.statFS(op)
	case *fuseops.GetXattrOp:
		return f.getXattr(wait, op)
	case *fuseops.ListXattrOp:
		return f.listXattr(op)
	case *fuseops.SetInodeAttributesOp, *fuseops.MkDirOp, *fuseops.MkNodeOp, *fuseops.CreateFileOp,
		*fuseops.CreateSymlinkOp, *fuseops.CreateLinkOp, *fuseops.RenameOp, *fuseops.RmDirOp, *fuseops.UnlinkOp,
		*fuseops.WriteFileOp, *fuseops.SetXattrOp, *fuseops.RemoveXattrOp, *fuseops.FallocateOp:
		return syscall.EROFS
	}
	// Opens, releases and flushes among them: ENOSYS tells the kernel not to
	// ask again. Nothing is kept for a handle.
	return syscall.ENOSYS
}

// listing returns the listing of a directory that the kernel holds.
func (f *FS) listing(wait context.Context, id uint64) (*object.Listing, error) {
	r, ok := f.table.get(id)
	if !ok {
		return nil, syscall.ESTALE
	}
	if r.kind != object.Dir {
		return nil, syscall.ENOTDIR
	}
	if l, ok := f.view.Cached(r.digest); ok {
		return l, nil
	}
	if wait == nil {
		return nil, errWait
	}
	path, err := f.path(wait, r)
	if err != nil {
		return nil, err
	}
	return f.view.Listing(wait, path, r.digest)
}

// path is where a directory is, from the view's root. Records hold hashes of
// names; the names are found in the listings on the way down.
func (f *FS) path(ctx context.Context, r inode) (string, error) {
	var up []inode
	for r.id != rootID {
		up = append(up, r)
		var ok bool
		if r, ok = f.table.get(r.parent); !ok {
			return "", syscall.ESTALE
		}
	}
	path := ""
	for _, child := range slices.Backward(up) {
		l, err := f.view.Listing(ctx, path, r.digest)
		if err != nil {
			return "", err
		}
		i, ok := position(l, &child)
		if !ok {
			return "", syscall.ESTALE
		}
		path = object.Join(path, string(l.At(i).Name))
		r = child
	}
	return path, nil
}

// nameOf tells people which file r is: by its path, if that is known quickly.
func (f *FS) nameOf(r inode) string {
	ctx, cancel := context.WithTimeout(f.life, 100*time.Millisecond)
	defer cancel()
	if dir, ok := f.table.get(r.parent); ok {
		if path, err := f.path(ctx, dir); err == nil {
			if l, ok := f.view.Cached(dir.digest); ok {
				if i, ok := position(l, &r); ok {
					return strconv.Quote(object.Join(path, string(l.At(i).Name)))
				}
			}
		}
	}
	return fmt.Sprintf("inode %d, digest %s", r.id, r.digest)
}

// position finds the entry of r in its parent's listing.
func position(l *object.Listing, r *inode) (int, bool) {
	if i := int(r.pos); i < l.Len() && hashName(l.At(i).Name) == r.name {
		return i, true
	}
	for i := range l.Len() {
		if hashName(l.At(i).Name) == r.name {
			return i, true
		}
	}
	return 0, false
}

func (f *FS) lookUp(wait context.Context, op *fuseops.LookUpInodeOp) error {
	if len(op.Name) > object.MaxName {
		return syscall.ENAMETOOLONG // the kernel itself lets longer ones through
	}
	l, err := f.listing(wait, uint64(op.Parent))
	if err != nil {
		return err
	}
	op.Entry.EntryExpiration = time.Now().Add(forever)
	i, ok := l.Find(unsafe.Slice(unsafe.StringData(op.Name), len(op.Name)))
	if !ok {
		// An answer without an inode lets the kernel remember that there is none.
		return nil
	}
	e := l.At(i)
	return f.enter(&op.Entry, uint64(op.Parent), i, &e)
}

// enter tells the kernel of an entry, which counts as a lookup of it.
func (f *FS) enter(out *fuseops.ChildInodeEntry, parent uint64, pos int, e *object.Entry) error {
	id, err := f.table.acquire(parent, pos, e)
	if err != nil {
		return err
	}
	out.Child = fuseops.InodeID(id)
	out.Attributes = attributes(e.Kind, e.Mode, e.Size, e.Mtime)
	out.AttributesExpiration = time.Now().Add(forever)
	out.EntryExpiration = out.AttributesExpiration
	return nil
}

func (f *FS) getAttributes(op *fuseops.GetInodeAttributesOp) error {
	r, ok := f.table.get(uint64(op.Inode))
	if !ok {
		return syscall.ESTALE
	}
	op.Attributes = attributes(r.kind, r.mode, r.size, r.mtime)
	op.AttributesExpiration = time.Now().Add(forever)
	return nil
}

func attributes(kind object.Kind, mode uint16, size, mtime int64) fuseops.InodeAttributes {
	t := time.Unix(0, mtime)
	a := fuseops.InodeAttributes{
		Size: uint64(size), Nlink: 1, Mode: os.FileMode(mode & 0o777),
		Atime: t, Mtime: t, Ctime: t, Crtime: t,
	}
	for _, b := range []struct {
		bit  uint16
		mode os.FileMode
	}{{syscall.S_ISUID, os.ModeSetuid}, {syscall.S_ISGID, os.ModeSetgid}, {syscall.S_ISVTX, os.ModeSticky}} {
		if mode&b.bit != 0 {
			a.Mode |= b.mode
		}
	}
	switch kind {
	case object.Dir:
		a.Mode |= os.ModeDir
	case object.Symlink:
		a.Mode |= os.ModeSymlink
	}
	return a
}

// firstEntry is the offset of a listing's first entry in a directory: the
// offset tells what comes next, and "." and ".." come before.
const firstEntry = 2

// readDir fills op.Dst from op.Offset on. What it says of an entry is up to
// write, which returns 0 when the entry does not fit.
func (f *FS) readDir(wait context.Context, op *fuseops.ReadDirOp, write func([]byte, uint64, int, *object.Entry, fuseutil.Dirent) (int, error)) error {
	l, err := f.listing(wait, uint64(op.Inode))
	if err != nil {
		return err
	}
	dir := uint64(op.Inode)
	for off := uint64(op.Offset); ; off++ {
		d := fuseutil.Dirent{Offset: fuseops.DirOffset(off + 1)}
		var n int
		switch i := off - firstEntry; {
		case off < firstEntry:
			d.Inode, d.Type, d.Name = op.Inode, fuseutil.DT_Directory, ".."[:off+1]
			if off == 1 {
				if r, ok := f.table.get(dir); ok {
					d.Inode = fuseops.InodeID(r.parent)
				}
			}
			n, err = write(op.Dst[op.BytesRead:], dir, -1, nil, d)
		case i < uint64(l.Len()):
			e := l.At(int(i))
			d.Name, d.Type = unsafe.String(&e.Name[0], len(e.Name)), direntType(e.Kind)
			n, err = write(op.Dst[op.BytesRead:], dir, int(i), &e, d)
		default:
			return nil
		}
		if err != nil || n == 0 {
			return err
		}
		op.BytesRead += n
	}
}

func (f *FS) writeDirent(buf []byte, dir uint64, _ int, e *object.Entry, d fuseutil.Dirent) (int, error) {
	if e != nil {
		d.Inode = fuseops.InodeID(idOf(dir, hashName(e.Name), e))
	}
	return fuseutil.WriteDirent(buf, d), nil
}

func (f *FS) writeDirentPlus(buf []byte, dir uint64, pos int, e *object.Entry, d fuseutil.Dirent) (int, error) {
	p := fuseutil.DirentPlus{Dirent: d}
	if e == nil {
		t := time.Unix(0, 0)
		p.Entry.Attributes = fuseops.InodeAttributes{Mode: os.ModeDir, Atime: t, Mtime: t, Ctime: t, Crtime: t}
		return fuseutil.WriteDirentPlus(buf, p), nil
	}
	if len(buf) < direntPlusSize(len(d.Name)) {
		return 0, nil
	}
	if err := f.enter(&p.Entry, dir, pos, e); err != nil {
		return 0, err
	}
	p.Dirent.Inode = p.Entry.Child
	return fuseutil.WriteDirentPlus(buf, p), nil
}

// direntPlusHeader is the size of fuse_direntplus without its name
// (include/uapi/linux/fuse.h): fuse_entry_out is 128 bytes, fuse_dirent 24.
const direntPlusHeader = 128 + 24

func direntPlusSize(name int) int { return (direntPlusHeader + name + 7) &^ 7 }

func direntType(k object.Kind) fuseutil.DirentType {
	switch k {
	case object.Dir:
		return fuseutil.DT_Directory
	case object.Symlink:
		return fuseutil.DT_Link
	}
	return fuseutil.DT_File
}

// undo takes back the lookups of an answer that the kernel did not take.
func (f *FS) undo(op any) {
	if f.debug != nil {
		f.debug.undo(op)
		return
	}
	switch op := op.(type) {
	case *fuseops.LookUpInodeOp:
		if op.Entry.Child != 0 {
			f.table.forget(uint64(op.Entry.Child), 1)
		}
	case *fuseops.ReadDirPlusOp:
		undoDirents(op, f.table.forget)
	}
}

func undoDirents(op *fuseops.ReadDirPlusOp, forget func(id, n uint64)) {
	for b := op.Dst[:op.BytesRead]; len(b) >= direntPlusHeader; {
		if id := *(*uint64)(unsafe.Pointer(&b[0])); id != 0 {
			forget(id, 1)
		}
		name := int(*(*uint32)(unsafe.Pointer(&b[direntPlusHeader-8])))
		b = b[min(direntPlusSize(name), len(b)):]
	}
}

func (f *FS) readSymlink(wait context.Context, op *fuseops.ReadSymlinkOp) error {
	r, ok := f.table.get(uint64(op.Inode))
	if !ok {
		return syscall.ESTALE
	}
	if r.kind != object.Symlink {
		return syscall.EINVAL
	}
	l, err := f.listing(wait, r.parent)
	if err != nil {
		return err
	}
	i, ok := position(l, &r)
	if !ok {
		return syscall.ESTALE
	}
	op.Target = string(l.At(i).Target)
	return nil
}

func (f *FS) statFS(op *fuseops.StatFSOp) error {
	c := f.view.Head().Counts
	op.BlockSize, op.IoSize = 4096, 1<<20
	op.Blocks = uint64(c.Bytes+4095) / 4096
	op.Inodes = uint64(c.Files + c.Dirs + c.Symlinks)
	return nil
}
