package fs

import (
	"context"
	"strconv"
	"syscall"

	"github.com/jacobsa/fuse/fuseops"

	"github.com/aysfs/aysfs/src/object"
)

// The attributes that a file tells of itself where [main] xattr is on.
const (
	xattrDigest = "user.aysfs.digest"
	xattrTree   = "user.aysfs.tree"
	xattrSerial = "user.aysfs.serial"
	xattrTier   = "user.aysfs.tier"
)

func (f *FS) getXattr(wait context.Context, op *fuseops.GetXattrOp) error {
	if !f.cfg.Xattr {
		return syscall.ENOSYS
	}
	r, ok := f.table.get(uint64(op.Inode))
	if !ok {
		return syscall.ESTALE
	}
	s := f.now.Load()
	if s.view == nil {
		return syscall.ENODATA
	}
	var v string
	switch op.Name {
	case xattrTree:
		v = s.view.Head().Tree.String()
	case xattrSerial:
		v = strconv.FormatInt(s.view.Head().Serial, 10)
	case xattrDigest:
		if r.kind == object.Symlink {
			return syscall.ENODATA
		}
		v = r.digest.String()
	case xattrTier:
		if r.kind != object.File || r.size == 0 {
			return syscall.ENODATA
		}
		if wait == nil {
			return errWait
		}
		ref := s.view.BlobRef(r.digest, r.size)
		if r.chunked {
			list, err := s.chunks(wait, r.digest, r.size)
			if err != nil {
				return err
			}
			ref = s.view.BlobRef(list.Chunks[0].Digest, list.Chunks[0].Size)
		}
		v = s.blobs.Origin(ref)
	default:
		return syscall.ENODATA
	}
	op.BytesRead = len(v)
	return giveXattr(op.Dst, v)
}

// giveXattr copies an answer to where there is room for it. Without any only its size is
// asked for.
func giveXattr(to []byte, v string) error {
	if len(to) != 0 && len(to) < len(v) {
		return syscall.ERANGE
	}
	copy(to, v)
	return nil
}

func (f *FS) listXattr(op *fuseops.ListXattrOp) error {
	if !f.cfg.Xattr {
		return syscall.ENOSYS
	}
	r, ok := f.table.get(uint64(op.Inode))
	if !ok {
		return syscall.ESTALE
	}
	names := xattrTree + "\x00" + xattrSerial + "\x00"
	if r.kind != object.Symlink {
		names += xattrDigest + "\x00"
	}
	if r.kind == object.File && r.size != 0 {
		names += xattrTier + "\x00"
	}
	op.BytesRead = len(names)
	return giveXattr(op.Dst, names)
}
