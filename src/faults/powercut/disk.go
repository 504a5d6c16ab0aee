package powercut

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jacobsa/fuse"
	"github.com/jacobsa/fuse/fuseops"
	"github.com/jacobsa/fuse/fuseutil"
	"golang.org/x/sys/unix"
)

// A Disk is an image that is mounted.
type Disk struct {
	dir    string
	server *fuse.MountedFileSystem
	file   *device
	// patience is how long Close waits for those who still use it.
	patience time.Duration
}

// Mount mounts an image below dir, which is empty, with options of ext4's. What
// its journal has to mend is mended.
func Mount(dir string, image *Image, options string) (_ *Disk, err error) {
	d := &Disk{dir: dir, patience: 5 * time.Second, file: &device{now: image.clone(), moment: &Moment{stable: image.clone()}}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("mount a disk whose power can be cut: %w", err), d.Close())
		}
	}()
	for _, name := range []string{d.devices(), d.Path()} {
		if err := os.Mkdir(name, 0o755); err != nil {
			return nil, err
		}
	}
	d.server, err = fuse.Mount(d.devices(), ending{fuseutil.NewFileSystemServer(d.file)}, &fuse.MountConfig{
		FSName: "powercut", DisableWritebackCaching: true,
	})
	if err != nil {
		return nil, err
	}
	loop, err := attach(filepath.Join(d.devices(), deviceName))
	if err != nil {
		return nil, err
	}
	defer loop.Close() // the mount holds it from then on
	if err := unix.Mount(loop.Name(), d.Path(), "ext4", unix.MS_NOATIME, options); err != nil {
		return nil, fmt.Errorf("ext4 with %q: %w", options, err)
	}
	return d, nil
}

// ending takes an end of the connection in the middle of a request for one.
type ending struct{ fuse.Server }

// ServeOps is the library's, which panics then.
func (s ending) ServeOps(c *fuse.Connection) {
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); !ok || !errors.Is(err, unix.ECONNABORTED) {
				panic(p)
			}
		}
	}()
	s.Server.ServeOps(c)
}

// attach makes a loop device of a file. It goes when it is closed.
func attach(name string) (*os.File, error) {
	// os.OpenFile would have the runtime poll the file, which this very process has
	// to answer.
	file, err := unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer unix.Close(file)
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for try := 0; ; try++ {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a loop device: %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{
			Fd: uint32(file), Size: blockSize, Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) || try == 100 { // somebody else may have taken it
			return nil, fmt.Errorf("set up %s: %w", loop.Name(), err)
		}
		time.Sleep(time.Millisecond)
	}
}

func (d *Disk) devices() string { return filepath.Join(d.dir, "device") }

// Path is where its file system is mounted.
func (d *Disk) Path() string { return filepath.Join(d.dir, "mount") }

// Watch has f called in the middle of every write and flush: it was made, and
// nobody was told yet. Nothing else is written meanwhile, so f must not use the
// file system; it may call now. nil ends it.
func (d *Disk) Watch(f func(now func() *Moment)) {
	d.file.mu.Lock()
	defer d.file.mu.Unlock()
	d.file.watch = f
}

// Now is the moment.
func (d *Disk) Now() *Moment {
	d.file.mu.Lock()
	defer d.file.mu.Unlock()
	return d.file.moment.clone()
}

// Close unmounts it. Whoever still uses it makes that an error; it goes with them.
func (d *Disk) Close() error {
	err := d.unmount(d.Path())
	if d.server != nil {
		if e := d.unmount(d.devices()); e != nil {
			return errors.Join(err, e)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if e := d.server.Join(ctx); e != nil {
			err = errors.Join(err, fmt.Errorf("the end of the disk: %w", e))
		}
	}
	if err == nil {
		err = errors.Join(os.Remove(d.Path()), os.Remove(d.devices()))
	}
	return err
}

// unmount waits for those who are about to let go.
func (d *Disk) unmount(path string) error {
	var err error
	for end := time.Now().Add(d.patience); ; time.Sleep(2 * time.Millisecond) {
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil // it never was
		}
		if err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("unmount %s: %w", path, err), unix.Unmount(path, unix.MNT_DETACH))
	}
	return nil
}

const (
	deviceName  = "disk"
	deviceInode = fuseops.RootInodeID + 1
)

// device is the file system with the one file.
type device struct {
	fuseutil.NotImplementedFileSystem

	mu     sync.Mutex
	now    *Image  // as it is read; guarded by mu, a clone of our own
	moment *Moment // its stable image likewise
	watch  func(func() *Moment)
}

// changed is called with mu held.
func (v *device) changed() {
	if v.watch != nil {
		v.watch(v.moment.clone)
	}
}

func (v *device) attributes(inode fuseops.InodeID) fuseops.InodeAttributes {
	a := fuseops.InodeAttributes{Nlink: 1, Mode: 0o600, Size: uint64(v.now.size), Atime: time.Unix(1, 0), Mtime: time.Unix(1, 0), Ctime: time.Unix(1, 0), Crtime: time.Unix(1, 0)}
	if inode == fuseops.RootInodeID {
		a.Mode, a.Size = os.ModeDir|0o700, 0
	}
	return a
}

// valid is how long the kernel may keep what it is told: nothing changes.
const valid = 24 * time.Hour

func (v *device) StatFS(context.Context, *fuseops.StatFSOp) error { return nil }

func (v *device) LookUpInode(_ context.Context, op *fuseops.LookUpInodeOp) error {
	if op.Parent != fuseops.RootInodeID || op.Name != deviceName {
		return fuse.ENOENT
	}
	until := time.Now().Add(valid)
	op.Entry = fuseops.ChildInodeEntry{
		Child: deviceInode, Attributes: v.attributes(deviceInode), AttributesExpiration: until, EntryExpiration: until,
	}
	return nil
}

func (v *device) GetInodeAttributes(_ context.Context, op *fuseops.GetInodeAttributesOp) error {
	op.Attributes, op.AttributesExpiration = v.attributes(op.Inode), time.Now().Add(valid)
	return nil
}

func (v *device) SetInodeAttributes(_ context.Context, op *fuseops.SetInodeAttributesOp) error {
	if op.Size != nil && *op.Size != uint64(v.now.size) {
		return fuse.EINVAL
	}
	op.Attributes, op.AttributesExpiration = v.attributes(op.Inode), time.Now().Add(valid)
	return nil
}

func (v *device) ForgetInode(context.Context, *fuseops.ForgetInodeOp) error { return nil }
func (v *device) OpenFile(context.Context, *fuseops.OpenFileOp) error       { return nil }
func (v *device) FlushFile(context.Context, *fuseops.FlushFileOp) error     { return nil }
func (v *device) ReleaseFileHandle(context.Context, *fuseops.ReleaseFileHandleOp) error {
	return nil
}

func (v *device) ReadFile(_ context.Context, op *fuseops.ReadFileOp) error {
	to := op.Dst
	if to == nil {
		to = make([]byte, op.Size)
		op.Data = [][]byte{to}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	op.BytesRead = v.now.read(op.Offset, to[:min(int64(len(to)), op.Size)])
	if op.Data != nil {
		op.Data[0] = to[:op.BytesRead]
	}
	return nil
}

func (v *device) WriteFile(_ context.Context, op *fuseops.WriteFileOp) error {
	if op.Offset+int64(len(op.Data)) > v.now.size {
		return unix.ENOSPC
	}
	data := append([]byte(nil), op.Data...)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now.write(op.Offset, data)
	v.moment.loose = append(v.moment.loose, change{op.Offset, data})
	v.changed()
	return nil
}

// SyncFile is a flush of the disk.
func (v *device) SyncFile(context.Context, *fuseops.SyncFileOp) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range v.moment.loose {
		v.moment.stable.write(c.off, c.data)
	}
	v.moment.loose = nil
	v.changed()
	return nil
}
