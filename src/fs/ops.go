package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"github.com/jacobsa/fuse/fuseops"
	"github.com/jacobsa/fuse/fuseutil"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/overlay"
)

// forever is when the kernel may stop believing what it was told: a tree that
// changes says so by notification. A time of its own for every answer would cost as
// much as the rest of it.
var forever = time.Unix(1<<35, 0)

// answer does what op asks for. Where that takes more than memory, and wait is
// nil, it does nothing and returns errWait.
func (f *FS) answer(wait context.Context, t *turn, op any) error {
	if f.debug != nil {
		switch err := f.debug.answer(wait, t, op); {
		case errors.Is(err, overlay.ErrStale):
			return syscall.ESTALE // the kernel looks again
		case err != errTree:
			return err
		}
	}
	switch op := op.(type) {
	case *fuseops.LookUpInodeOp:
		return f.lookUp(wait, t, op)
	case *fuseops.GetInodeAttributesOp:
		return f.getAttributes(t, op)
	case *fuseops.ReadDirPlusOp:
		return f.readDir(wait, t, &op.ReadDirOp, f.plus, writeDirentPlusBare)
	case *fuseops.ReadDirOp:
		return f.readDir(wait, t, op, writeDirent, writeDirent)
	case *fuseops.ReadFileOp:
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
	// Opens, releases and flushes of files among them: ENOSYS tells the kernel not to
	// ask again. Nothing is kept for a handle.
	return syscall.ENOSYS
}

// listing returns the listing of a directory that the kernel holds, and the
// directory. With them it takes the request's turn: until that ends, both are what
// is shown.
func (f *FS) listing(wait context.Context, t *turn, id uint64) (*object.Listing, inode, error) {
	var loaded *object.Listing
	var of digest.Digest
	f.needs.note(id, needListing, 0)
	for {
		t.begin(&f.mover.turn)
		s := f.now.Load()
		r, ok := f.table.get(id)
		switch {
		case !ok:
			return nil, r, syscall.ESTALE
		case r.kind != object.Dir:
			return nil, r, syscall.ENOTDIR
		case s.view == nil:
			return nil, r, errPending
		case loaded != nil && of == r.digest:
			return loaded, r, nil
		}
		if l, ok := s.cached(r.digest); ok {
			return l, r, nil
		}
		t.end()
		if wait == nil {
			return nil, r, errWait
		}
		var err error
		if loaded, err = f.load(wait, s, r); err != nil {
			if now, ok := f.table.get(id); wait.Err() == nil && ok && now.digest != r.digest {
				continue
			}
			return nil, r, err
		}
		of = r.digest
	}
}

// nameOf tells people which file r is: by its path, if that is known quickly.
func (f *FS) nameOf(r inode) string {
	ctx, cancel := context.WithTimeout(f.life, 100*time.Millisecond)
	defer cancel()
	if _, path, _, err := f.whereShown(ctx, f.now.Load(), r); err == nil {
		return strconv.Quote(path)
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

func (f *FS) lookUp(wait context.Context, t *turn, op *fuseops.LookUpInodeOp) error {
	if len(op.Name) > object.MaxName {
		return syscall.ENAMETOOLONG // the kernel itself lets longer ones through
	}
	l, dir, err := f.listing(wait, t, uint64(op.Parent))
	if err != nil {
		return err
	}
	name := unsafe.Slice(unsafe.StringData(op.Name), len(op.Name))
	i, ok := l.Find(name)
	if s := f.now.Load(); !ok && len(s.past) > 0 {
		if found, err := f.lookUpPast(wait, t, s, dir, op, name); found || err != nil {
			return err
		}
		t.begin(&f.mover.turn)
		if f.now.Load().number != s.number {
			return f.lookUp(wait, t, op)
		}
	}
	op.Entry.EntryExpiration = forever
	if !ok {
		// An answer without an inode lets the kernel remember that there is none.
		return nil
	}
	e := l.At(i)
	return f.enter(&op.Entry, uint64(op.Parent), i, &e)
}

// lookUpPast answers a thread that looks up what it was told of when it listed
// the directory, and what has left the tree since. The kernel is not to remember that.
func (f *FS) lookUpPast(wait context.Context, t *turn, s *shown, dir inode, op *fuseops.LookUpInodeOp, name []byte) (found bool, err error) {
	number, sure := f.walkers.since(op.OpContext.Pid, dir.id)
	for _, p := range s.past {
		if time.Since(p.ended) > walkGrace {
			break
		}
		d, ok := p.lists[dir.id]
		if !ok {
			continue
		}
		t.end() // it may take long, and is not remembered
		if p.number < number {
			if sure {
				break
			}
			if wait == nil {
				return false, errWait
			}
			if !holdsDirectory(op.OpContext.Pid, f.cfg.Path) {
				break
			}
			number = 0
		}
		l, err := f.loadPast(wait, s, dir, d)
		if err == errWait {
			return false, err
		}
		if err != nil {
			return false, nil // what is gone can't be said to fail
		}
		if i, ok := l.Find(name); ok {
			e := l.At(i)
			id, err := f.table.acquireGone(dir.id, i, &e)
			if err != nil {
				return false, err
			}
			op.Entry.Child = fuseops.InodeID(id)
			op.Entry.Attributes = attributes(e.Kind, e.Mode, e.Size, e.Mtime)
			op.Entry.AttributesExpiration = forever
			return true, nil
		}
	}
	return false, nil
}

// enter tells the kernel of an entry, which counts as a lookup of it.
func (f *FS) enter(out *fuseops.ChildInodeEntry, parent uint64, pos int, e *object.Entry) error {
	id, err := f.table.acquire(parent, pos, e)
	if err != nil {
		return err
	}
	out.Child = fuseops.InodeID(id)
	out.Attributes = attributes(e.Kind, e.Mode, e.Size, e.Mtime)
	out.AttributesExpiration, out.EntryExpiration = forever, forever
	return nil
}

func (f *FS) getAttributes(t *turn, op *fuseops.GetInodeAttributesOp) error {
	t.begin(&f.mover.turn)
	r, ok := f.table.get(uint64(op.Inode))
	if !ok {
		return syscall.ESTALE
	}
	op.Attributes = attributes(r.kind, r.mode, r.size, r.mtime)
	op.AttributesExpiration = forever
	return nil
}

func attributes(kind object.Kind, mode uint16, size, mtime int64) fuseops.InodeAttributes {
	t := time.Unix(0, tellable(mtime))
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

// An offset in a directory tells what comes next, and in the low digits of the
// number of the tree that was shown when the reading began. It takes 31 bits:
// programs built for 32 may have no room for more.
const (
	firstEntry = 2 // "." and ".." come before
	tagShift   = 24
	tags       = 1 << 7
)

// begun is the number of the tree in which the reading that has come to off began,
// or of what is shown where that is no longer remembered.
func (s *shown) begun(off uint64) uint64 {
	ago := (s.number - off>>tagShift) % tags
	if off == 0 || ago == 0 || len(s.past) == 0 || s.number-ago < s.past[len(s.past)-1].number || ago > s.number {
		return s.number
	}
	return s.number - ago
}

// readDir fills op.Dst from op.Offset on by write. Entries of a listing that is no
// longer shown are said by bare, which the kernel remembers nothing of.
func (f *FS) readDir(wait context.Context, t *turn, op *fuseops.ReadDirOp, write, bare direntWriter) error {
	l, r, err := f.listing(wait, t, uint64(op.Inode))
	if err != nil {
		return err
	}
	dir, s := uint64(op.Inode), f.now.Load()
	// Who reads on does so in the listing in which the reading began.
	number := s.begun(uint64(op.Offset))
	if d := s.listAt(number, &r); d != r.digest {
		t.end()
		if l, err = f.loadPast(wait, s, r, d); err != nil {
			return err
		}
		write = bare
	} else {
		number = s.number
	}
	f.walkers.read(op.OpContext.Pid, dir, number, s.changed(dir))
	for off := uint64(op.Offset) & (1<<tagShift - 1); ; off++ {
		d := fuseutil.Dirent{Offset: fuseops.DirOffset((off + 1) | number%tags<<tagShift)}
		var n int
		switch i := off - firstEntry; {
		case off < firstEntry:
			d.Inode, d.Type, d.Name = op.Inode, fuseutil.DT_Directory, ".."[:off+1]
			if off == 1 {
				if r, ok := f.table.get(dir); ok {
					d.Inode = fuseops.InodeID(r.parent)
				}
			}
			n, err = write(op.Dst[op.BytesRead:], dir, -1, object.Entry{}, d)
		case i < uint64(l.Len()):
			e := l.At(int(i))
			d.Name, d.Type = unsafe.String(&e.Name[0], len(e.Name)), direntType(e.Kind)
			n, err = write(op.Dst[op.BytesRead:], dir, int(i), e, d)
		default:
			return nil
		}
		if err != nil || n == 0 {
			return err
		}
		op.BytesRead += max(n, 0)
	}
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

func (f *FS) readSymlink(wait context.Context, op *fuseops.ReadSymlinkOp) error {
	r, ok := f.table.get(uint64(op.Inode))
	if !ok {
		return syscall.ESTALE
	}
	if r.kind != object.Symlink {
		return syscall.EINVAL
	}
	s := f.now.Load()
	if dir, ok := f.table.get(r.parent); ok {
		if l, ok := s.cached(dir.digest); ok {
			if i, ok := position(l, &r); ok {
				if e := l.At(i); e.Kind == object.Symlink && content(&e) == r.digest {
					op.Target = string(e.Target)
					return nil
				}
			}
		}
	}
	if wait == nil {
		return errWait
	}
	_, _, e, err := f.whereShown(wait, s, r)
	if err != nil {
		return err
	}
	op.Target = string(e.Target)
	return nil
}

func (f *FS) statFS(op *fuseops.StatFSOp) error {
	op.BlockSize, op.IoSize = 4096, 1<<20
	s := f.now.Load()
	if s.view == nil {
		return nil
	}
	c := s.view.Head().Counts
	op.Blocks = uint64(c.Bytes+4095) / 4096
	op.Inodes = uint64(c.Files + c.Dirs + c.Symlinks)
	return nil
}
