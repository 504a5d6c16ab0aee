package fs

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fsType is how /proc/mounts names what is mounted here, after "fuse.".
const fsType = "aysfs"

// fuseType is fsType as the table of mounts has it.
const fuseType = "fuse." + fsType

// What the kernel is asked for, beyond what the library's protocol has.
const (
	readAheadKB   = 4096
	maxBackground = 128
)

// ErrMountPoint says that nothing can be mounted at a path as it is.
var ErrMountPoint = errors.New("not usable as a mount point")

// Mount makes the file system visible at its path. It is served until it is
// unmounted; Done tells.
func (f *FS) Mount() error {
	path := f.cfg.Path
	if err := clearStale(path, f.log); err != nil {
		return err
	}
	if err := makeMountPoint(path, f.cfg.Nested); err != nil {
		return err
	}
	dev, err := f.mount()
	if err != nil {
		return fmt.Errorf("mount at %s: %w%s", path, err, mountHint())
	}
	f.mounts, _ = os.Open(mountTableFile)
	if err := f.wire.connect(dev, f); err != nil {
		f.mounts.Close()
		unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		return fmt.Errorf("mount at %s: %w", path, err)
	}
	f.device = f.tune()
	f.kept.give(f, f.device)
	if f.debug != nil {
		f.debug.run()
	}
	return nil
}

// mount is mount(2), and returns the descriptor of the connection.
func (f *FS) mount() (dev int, err error) {
	if dev, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return 0, fmt.Errorf("open /dev/fuse: %w", err)
	}
	name, flags := f.cfg.Name, uintptr(unix.MS_NODEV|unix.MS_NOSUID)
	if name == "" {
		name = fsType
	}
	if f.debug == nil {
		flags |= unix.MS_RDONLY // what is read-only in a debug mount says so itself
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,default_permissions,allow_other", dev, os.Getuid(), os.Getgid())
	if err := unix.Mount(name, f.cfg.Path, fuseType, flags, options); err != nil {
		unix.Close(dev)
		return 0, err
	}
	return dev, nil
}

// mountHint says what is missing where nothing can be mounted at all.
func mountHint() string {
	d, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "; there is no /dev/fuse: load the kernel's module (modprobe fuse) or give the container the device"
	case err != nil:
		return fmt.Sprintf("; /dev/fuse can't be opened (%v): the device must be allowed, and this must run as root", err)
	}
	d.Close()
	if os.Geteuid() != 0 {
		return "; mounting needs root, or CAP_SYS_ADMIN in a container"
	}
	return ""
}

// Unmount takes the file system away from its path, at once where nobody uses
// it, else as soon as the last user has gone; lazy tells which. What somebody else
// has mounted over it stays, and so does this then, which is an error.
func (f *FS) Unmount() (lazy bool, err error) {
	f.kept.detach(f)
	defer func() {
		if !lazy {
			f.kept.drop()
		}
	}()
	own, over, err := f.mounted()
	switch {
	case err != nil:
		return false, fmt.Errorf("unmount %s: %w", f.cfg.Path, err)
	case own.path == "":
		return !f.wire.over(), nil // somebody else was faster
	case over.path != "":
		return true, fmt.Errorf("unmount %s: something else (%s) is mounted over it, and stays; once that is gone, run: umount -l %[1]s", own.path, over.kind)
	}
	err = unix.Unmount(own.path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		lazy = true
		err = unix.Unmount(own.path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		return false, nil // somebody else was faster
	case err != nil:
		return lazy, fmt.Errorf("unmount %s: %w", own.path, err)
	case !lazy:
		f.end() // what is still under way is read-ahead, which nobody waits for
	}
	return lazy, nil
}

// Gone tells whether somebody else has taken the mount away, also where it goes on for
// who is in it, or in another mount namespace.
func (f *FS) Gone() bool {
	own, _, err := f.mounted()
	return err == nil && own.path == ""
}

// mounted is f's entry in the table of mounts, empty if there is none, and that of
// another file system over it. The table's path is not that of the config where that
// leads through a symbolic link. Where f is mounted at several, it is the config's, or
// the first.
func (f *FS) mounted() (own, over mountEntry, err error) {
	all, err := mountTable(f.mounts)
	if err != nil {
		return own, over, err
	}
	for _, m := range all {
		// The kernel gives a device's number away again: f's may be another's by now.
		if m.kind != fuseType || m.device != f.device && (f.device != "" || m.path != f.cfg.Path) {
			continue
		}
		if own.path == "" || m.path == f.cfg.Path {
			own = m
		}
	}
	for _, m := range all {
		if m.parent == own.id && m.path == own.path && m.device != own.device {
			over = m
		}
	}
	return own, over, nil
}

// tune sets what the library can't: how far the kernel reads ahead, and how many
// requests of that kind it has under way. Where /sys is read-only this process
// reads ahead alone. It returns the device, MAJOR:MINOR.
func (f *FS) tune() string {
	var st unix.Stat_t
	if err := unix.Stat(f.cfg.Path, &st); err != nil {
		f.log.Warn("can't look at the new mount", "op", "mount", "err", err)
		return ""
	}
	major, minor := unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))
	connections, err := openConnections()
	if err != nil {
		f.log.Debug("kernel setting left as it is", "op", "mount", "err", err)
	} else {
		defer unix.Close(connections)
	}
	for _, k := range []struct {
		dir   int
		file  string
		value int
	}{
		{unix.AT_FDCWD, fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", major, minor), readAheadKB},
		{connections, fmt.Sprintf("%d/max_background", minor), maxBackground},
		{connections, fmt.Sprintf("%d/congestion_threshold", minor), maxBackground * 3 / 4},
	} {
		if k.dir == -1 {
			continue
		}
		if err := writeSetting(k.dir, k.file, k.value); err != nil {
			f.log.Debug("kernel setting left as it is", "op", "mount", "err", err)
		}
	}
	return fmt.Sprintf("%d:%d", major, minor)
}

// openConnections opens the directory in which the kernel has the settings of FUSE
// connections; -1 with an error. Systemd mounts it; on images without, this is a mount
// of its own that is at no path, and goes when it is closed.
func openConnections() (int, error) {
	const (
		dir          = "/sys/fs/fuse/connections"
		fusectlMagic = 0x65735543
	)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == fusectlMagic {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("open %s: %w", dir, err)
		}
		return fd, nil
	}
	context, err := unix.Fsopen("fusectl", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open fusectl: %w", err)
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, fmt.Errorf("make a mount of fusectl: %w", err)
	}
	fd, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, fmt.Errorf("mount fusectl: %w", err)
	}
	return fd, nil
}

// writeSetting writes a number to a file of the kernel's, in a directory.
func writeSetting(dir int, file string, value int) error {
	fd, err := unix.Openat(dir, file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, strconv.AppendInt(nil, int64(value), 10)); err != nil {
		return fmt.Errorf("write %d to %s: %w", value, file, err)
	}
	return nil
}

// statTimeout is how long the path may take to answer before a mount.
const statTimeout = 5 * time.Second

// maxStale is how many dead mounts one on the other are taken away.
const maxStale = 16

// clearStale takes away what a killed predecessor left at path.
func clearStale(path string, log *slog.Logger) error {
	for range maxStale {
		err := statWithin(path, statTimeout)
		switch {
		case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ECONNABORTED):
			if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				return fmt.Errorf("take away the stale mount at %s: %w", path, err)
			}
			log.Info("took away a stale mount", "op", "mount")
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("%s: %w: it does not answer within %v; if a hung file system is mounted there, run: umount -l %s", path, ErrMountPoint, statTimeout, path)
		}
		device, err := mountedHere(realPath(path))
		if err != nil {
			return err
		}
		if device != "" {
			return fmt.Errorf("%s: %w: another aysfs is mounted there and alive; stop it, or run: umount %s", path, ErrMountPoint, path)
		}
		return nil
	}
	return fmt.Errorf("%s: %w: stale mounts keep coming back", path, ErrMountPoint)
}

// statWithin is statfs's error, bounded: a path on a hung file system may never
// answer. It is statfs because the kernel answers a stat of a dead mount out of
// what it remembers.
func statWithin(path string, d time.Duration) error {
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answer <- unix.Statfs(path, &st)
	}()
	select {
	case err := <-answer:
		return err
	case <-time.After(d):
		return os.ErrDeadlineExceeded
	}
}

// realPath is path as the table of mounts has it: without symlinks on the way to it. It
// is path itself where that can't be told within statTimeout.
func realPath(path string) string {
	answer := make(chan string, 1)
	go func() {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			dir = filepath.Dir(path)
		}
		answer <- filepath.Join(dir, filepath.Base(path))
	}()
	select {
	case real := <-answer:
		return real
	case <-time.After(statTimeout):
		return path
	}
}

// mountedHere is the device, MAJOR:MINOR, of the topmost mount at path, as realPath has
// it, if that is of this kind; else it is empty.
func mountedHere(path string) (device string, err error) {
	all, err := mountTable(nil)
	if err != nil {
		return "", err
	}
	for _, m := range all {
		if m.path != path {
			continue
		}
		if device = ""; m.kind == fuseType {
			device = m.device
		}
	}
	return device, nil
}

// mountEntry is one line of the table of mounts.
type mountEntry struct {
	id, parent string // parent is what it lies on
	device     string // MAJOR:MINOR
	path       string
	kind       string // of file system
}

const mountTableFile = "/proc/self/mountinfo"

// mountTable is all that is mounted, by proc_pid_mountinfo(5): of two at one path the
// later one is on top.
// It is read out of opened, which may be nil, where there is no descriptor left.
func mountTable(opened *os.File) ([]mountEntry, error) {
	b, err := os.ReadFile(mountTableFile)
	if errors.Is(err, unix.EMFILE) && opened != nil {
		b, err = io.ReadAll(io.NewSectionReader(opened, 0, math.MaxInt64))
	}
	if err != nil {
		return nil, fmt.Errorf("read the table of mounts: %w", err)
	}
	var all []mountEntry
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 7 {
			continue
		}
		m := mountEntry{id: fields[0], parent: fields[1], device: fields[2], path: unescapeMount(fields[4])}
		if i := slices.Index(fields[6:], "-"); i >= 0 && 6+i+1 < len(fields) {
			m.kind = fields[6+i+1]
		}
		all = append(all, m)
	}
	return all, nil
}

// unescapeMount undoes the octal escapes of mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// makeMountPoint makes sure that path is an empty directory, or, in another
// mount, a directory.
func makeMountPoint(path string, nested bool) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) && !nested {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return fmt.Errorf("make the mount point %s: %w", path, err)
		}
		return nil
	}
	switch {
	case err != nil:
		return fmt.Errorf("look at the mount point %s: %w", path, err)
	case st.Mode()&os.ModeSymlink != 0:
		target, err := filepath.EvalSymlinks(path)
		if err != nil {
			return fmt.Errorf("%s: %w: it is a symbolic link that can't be followed: %w", path, ErrMountPoint, err)
		}
		return fmt.Errorf("%s: %w: it is a symbolic link; name the directory itself in the config (%s)", path, ErrMountPoint, target)
	case !st.IsDir():
		return fmt.Errorf("%s: %w: it is not a directory", path, ErrMountPoint)
	case nested:
		return nil
	}
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("look at the mount point %s: %w", path, err)
	}
	defer d.Close()
	if names, _ := d.Readdirnames(1); len(names) != 0 {
		return fmt.Errorf("%s: %w: the directory is not empty (%q is in it); mounting would hide that", path, ErrMountPoint, names[0])
	}
	return nil
}
