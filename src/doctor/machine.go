package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/config"
	mounts "github.com/aysfs/aysfs/src/fs"
	"github.com/aysfs/aysfs/src/tier/disk"
)

func fuseDevice(path string) Finding {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
		return Finding{OK, path, "can be opened", ""}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return Finding{Fail, path, err.Error(), "run modprobe fuse; in a container, pass the device in: --device /dev/fuse"}
	}
	return Finding{Fail, path, err.Error(), "run as root; in a container, with --cap-add SYS_ADMIN and --device /dev/fuse"}
}

// configMode looks at who may read a config that has passwords.
func configMode(file string, cfg *config.Client) []Finding {
	secret := false
	for _, s := range cfg.Stores {
		secret = secret || s.Secret.Reveal() != ""
	}
	for _, g := range cfg.Grid {
		secret = secret || g.Passwd.Reveal() != ""
	}
	for _, l := range cfg.Local {
		secret = secret || l.Passwd.Reveal() != ""
	}
	for _, d := range cfg.Debug {
		secret = secret || d.Passwd.Reveal() != ""
	}
	st, err := os.Stat(file)
	if err != nil || !secret || st.Mode().Perm()&0o004 == 0 {
		return nil
	}
	return []Finding{{Warn, "config " + file, "anybody may read the passwords in it", "run: chmod 640 " + file}}
}

// fewDescriptors is how many descriptors a client with many segments and
// connections may come near to.
const fewDescriptors = 4096

func descriptors() Finding {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return Finding{Warn, "open files", err.Error(), "look at ulimit -Hn"}
	}
	if l.Max < fewDescriptors {
		return Finding{Warn, "open files", fmt.Sprintf("at most %d", l.Max), fmt.Sprintf("raise the hard limit to %d or more: ulimit -Hn, LimitNOFILE", fewDescriptors)}
	}
	return Finding{OK, "open files", fmt.Sprintf("at most %d", l.Max), ""}
}

// idle looks at what a virtual machine's processors do when there is nothing to do.
// Each request from the kernel wakes one on the way to the client and one on the way
// back; the hypervisor takes some 20 us for each that has gone to sleep, which is
// several times what the request takes otherwise. sys is where sysfs is.
func idle(sys string) []Finding {
	driver, err := os.ReadFile(filepath.Join(sys, "devices/system/cpu/cpuidle/current_driver"))
	if err != nil || strings.TrimSpace(string(driver)) != "haltpoll" {
		return nil
	}
	at := filepath.Join(sys, "module/haltpoll/parameters/guest_halt_poll_ns")
	ns, err := os.ReadFile(at)
	if err != nil {
		return nil
	}
	if strings.TrimSpace(string(ns)) == "0" {
		return []Finding{{Warn, "idle processors", "sleep at once, which makes each request of the kernel up to 40 us slower",
			"echo 200000 > " + at + " is Linux's default; the kernel's command line sets it by haltpoll.guest_halt_poll_ns"}}
	}
	return []Finding{{OK, "idle processors", "look for work before they sleep", ""}}
}

// cacheDisk looks at where the disk cache is, or will be made.
func cacheDisk(d *config.Disk) []Finding {
	if d == nil {
		return []Finding{{OK, "disk cache", "none, as max_size says", ""}}
	}
	about := "disk cache " + d.Path
	at, err := nearest(d.Path)
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return []Finding{{Fail, about, at + " is not a directory", "remove it, or set [cache.disk] path to another"}}
	case err != nil:
		return []Finding{{Fail, about, err.Error(), "set [cache.disk] path to a directory that can be used"}}
	}
	if at == d.Path {
		if err := disk.CheckPrivate(at); err != nil {
			return []Finding{{Fail, about, err.Error(), "without, nothing is kept: what others put there would be taken for what was fetched"}}
		}
	}
	if err := unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
		return []Finding{{Fail, about, fmt.Sprintf("%s can't be written to: %v", at, err), "mount it writable, run as root, or set [cache.disk] path to another; without, nothing is kept"}}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return []Finding{{Fail, about, err.Error(), "look at the file system that it is on"}}
	}
	total, free := int64(st.Blocks)*int64(st.Bsize), int64(st.Bavail)*int64(st.Bsize)
	room := fmt.Sprintf("%d of %d MiB free, min_free keeps %d, max_size %d", free>>20, total>>20, d.MinFree.Of(total)>>20, d.MaxSize>>20)
	switch {
	case free < d.MinFree.Of(total):
		return []Finding{{Warn, about, room, "make room, or lower [cache.disk] min_free: as it is, the cache only shrinks"}}
	case d.MaxSize > total:
		return []Finding{{Warn, about, room, "lower [cache.disk] max_size: the file system is smaller, and min_free will bound the cache"}}
	}
	return []Finding{{OK, about, room, ""}}
}

// mountPoint looks at where something is to be mounted; nested where that is in another
// mount, which has the directory then.
func mountPoint(path string, nested bool) []Finding {
	about := "mount " + path
	state, err := mounts.StateOf(path)
	switch {
	case err != nil:
		return []Finding{{Warn, about, err.Error(), "mount proc on /proc"}}
	case state == mounts.Stale:
		return []Finding{{Fail, about, "stale: the process that served it is gone", "start aysfs, which clears it, or run: umount -l " + path}}
	case state == mounts.Stuck:
		return []Finding{{Fail, about, "it does not answer", "run: umount -l " + path + ", and start aysfs again"}}
	case state == mounts.Alive:
		return []Finding{{OK, about, "mounted, and it answers", ""}}
	case nested:
		return []Finding{{OK, about, "not mounted; the mount that it lies in will have the directory", ""}}
	}
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{canBeMade(about, path)}
	case err != nil:
		return []Finding{{Fail, about, err.Error(), "set the mount's path to a directory that can be used"}}
	case !st.IsDir():
		return []Finding{{Fail, about, "it is not a directory", "remove it, or name the directory itself as the mount's path"}}
	}
	if names, err := os.ReadDir(path); err == nil && len(names) > 0 {
		return []Finding{{Fail, about, fmt.Sprintf("not mounted, and the directory is not empty (%q)", names[0].Name()), "empty it: aysfs does not mount over files"}}
	}
	return []Finding{{OK, about, "not mounted; the directory is empty", ""}}
}

// canBeMade tells whether the directory path, which is not there, can be.
func canBeMade(about, path string) Finding {
	at, err := nearest(path)
	if err == nil {
		err = unix.Access(at, unix.W_OK|unix.X_OK)
	}
	if err != nil {
		return Finding{Fail, about, fmt.Sprintf("it is not there and can't be made in %s: %v", at, err), "make it, in the image where the file system is read-only, or set the mount's path to another"}
	}
	return Finding{OK, about, "not mounted; the directory will be made", ""}
}

// nearest is the path itself, or the nearest directory above it that is there. The error
// tells why that can't be looked at, or is not a directory.
func nearest(path string) (string, error) {
	for at := path; ; at = filepath.Dir(at) {
		st, err := os.Stat(at)
		switch {
		case err == nil && !st.IsDir():
			return at, unix.ENOTDIR
		case err == nil, !errors.Is(err, fs.ErrNotExist), at == "/":
			return at, err
		}
	}
}
