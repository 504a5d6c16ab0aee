package fs

import (
	"syscall"
	"time"
	"unsafe"

	"github.com/jacobsa/fuse/fuseops"
	"github.com/jacobsa/fuse/fuseutil"

	"github.com/aysfs/aysfs/src/object"
)

// direntWriter says one entry of a directory, which is number pos in its listing;
// "." and ".." are numbers below 0. It returns 0 when that does not fit, and less where
// the entry is not to be said. e comes by value: a pointer would be garbage for each.
type direntWriter func(buf []byte, dir uint64, pos int, e object.Entry, d fuseutil.Dirent) (int, error)

func writeDirent(buf []byte, dir uint64, pos int, e object.Entry, d fuseutil.Dirent) (int, error) {
	if pos >= 0 {
		d.Inode = fuseops.InodeID(idOf(dir, hashName(e.Name), &e))
	}
	return fuseutil.WriteDirent(buf, d), nil
}

// direntPlus is fuse_direntplus without its name (include/uapi/linux/fuse.h). The
// library's writer of it asks for the time twice and converts more than the rest of an
// answer takes.
type direntPlus struct {
	nodeID, generation             uint64
	entryValid, attrValid          uint64
	entryValidNsec, attrValidNsec  uint32
	ino, size, blocks              uint64
	atime, mtime, ctime            uint64
	atimeNsec, mtimeNsec           uint32
	ctimeNsec, mode, nlink         uint32
	uid, gid, rdev, blksize, flags uint32
	direntIno, off                 uint64
	nameLen, kind                  uint32
}

const (
	direntPlusHeader = int(unsafe.Sizeof(direntPlus{}))
	// validSeconds is forever, too.
	validSeconds = 1 << 35
)

func direntPlusSize(name int) int { return (direntPlusHeader + name + 7) &^ 7 }

// writeDirentPlusBare leaves it to the kernel to look the entry up.
func writeDirentPlusBare(buf []byte, dir uint64, pos int, e object.Entry, d fuseutil.Dirent) (int, error) {
	if pos >= 0 {
		d.Inode = fuseops.InodeID(idOf(dir, hashName(e.Name), &e))
	}
	return putDirentPlus(buf, &direntPlus{mode: syscall.S_IFDIR}, &d), nil
}

func (f *FS) writeDirentPlus(buf []byte, dir uint64, pos int, e object.Entry, d fuseutil.Dirent) (int, error) {
	if pos < 0 {
		return writeDirentPlusBare(buf, dir, pos, e, d)
	}
	if len(buf) < direntPlusSize(len(d.Name)) {
		return 0, nil
	}
	id, err := f.table.acquire(dir, pos, &e)
	if err != nil {
		return 0, err
	}
	d.Inode = fuseops.InodeID(id)
	sec, nsec := seconds(e.Mtime)
	return putDirentPlus(buf, &direntPlus{
		nodeID: id, entryValid: validSeconds, attrValid: validSeconds,
		ino: id, size: uint64(e.Size), blocks: (uint64(e.Size) + 511) / 512,
		atime: sec, mtime: sec, ctime: sec, atimeNsec: nsec, mtimeNsec: nsec, ctimeNsec: nsec,
		mode: unixMode(e.Kind, e.Mode), nlink: 1,
	}, &d), nil
}

// putDirentPlus returns 0 where p and the name of d do not fit.
func putDirentPlus(buf []byte, p *direntPlus, d *fuseutil.Dirent) int {
	n := direntPlusSize(len(d.Name))
	if n > len(buf) {
		return 0
	}
	p.direntIno, p.off = uint64(d.Inode), uint64(d.Offset)
	p.nameLen, p.kind = uint32(len(d.Name)), uint32(d.Type)
	copy(buf, unsafe.Slice((*byte)(unsafe.Pointer(p)), direntPlusHeader))
	end := direntPlusHeader + copy(buf[direntPlusHeader:], d.Name)
	clear(buf[end:n])
	return n
}

// seconds splits nanoseconds since 1970 as the kernel wants them.
func seconds(ns int64) (sec uint64, nsec uint32) {
	ns = tellable(ns)
	return uint64(ns / int64(time.Second)), uint32(ns % int64(time.Second))
}

// tellable leaves fractions of a second out before 1970: the library can't tell them,
// and what a lookup says and what a listing says must be the same.
func tellable(ns int64) int64 {
	if rest := ns % int64(time.Second); rest < 0 {
		return ns - rest - int64(time.Second)
	}
	return ns
}

func unixMode(k object.Kind, mode uint16) uint32 {
	switch k {
	case object.Dir:
		return syscall.S_IFDIR | uint32(mode)
	case object.Symlink:
		return syscall.S_IFLNK | uint32(mode)
	}
	return syscall.S_IFREG | uint32(mode)
}

func direntType(k object.Kind) fuseutil.DirentType {
	switch k {
	case object.Dir:
		return fuseutil.DT_Directory
	case object.Symlink:
		return fuseutil.DT_Link
	}
	return fuseutil.DT_File
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
