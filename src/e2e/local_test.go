package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// localCases hold on any read-only file system that has the tree of
// makeLocalTree in dir.
var localCases = map[string]func(t *testing.T, dir string){
	"attributes":                attributes,
	"a file of every size":      everySize,
	"reads at any offset":       anyOffset,
	"a file with holes":         holes,
	"symlinks":                  symlinks,
	"names of any bytes":        anyNames,
	"a directory of 100,000":    largeDirectory,
	"inode numbers":             inodeNumbers,
	"memory maps":               memoryMaps,
	"programs and scripts run":  programs,
	"O_DIRECT":                  direct,
	"permissions":               permissions,
	"errors":                    wrongUses,
	"nothing can be written":    nothingWritten,
	"many readers at once":      manyReaders,
	"sendfile and splice":       sendfile,
	"locks for readers":         readLocks,
	"sizes on disk":             diskUsage,
	"an open file outlives all": deepAndOpen,
}

// TestLikeALocalDisk runs the same cases on the tree as it was published, mounted
// read-only, and on the mount.
func TestLikeALocalDisk(t *testing.T) {
	dir := makeLocalTree(t)
	native := filepath.Join(shortDir(t), "native")
	if err := os.Mkdir(native, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dir, native, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(native, unix.MNT_DETACH)
	if err := unix.Mount("", native, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	store := newStore(t, "e2e|local(1)", dir)
	c := newClient(t, store.url())
	mount := c.mount("e2e|local(1)")
	c.start()
	for _, fs := range []struct{ name, dir string }{{"native", native}, {"mount", mount}} {
		t.Run(fs.name, func(t *testing.T) {
			for _, name := range slices.Sorted(maps.Keys(localCases)) {
				t.Run(name, func(t *testing.T) { localCases[name](t, fs.dir) })
			}
		})
	}
	sameTree(t, native, mount)
	c.stop()
	if w := c.warnings(); len(w) > 0 {
		t.Errorf("warnings: %s", w)
	}
}

func attributes(t *testing.T, dir string) {
	for name, n := range localTree {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		size, mode := int64(len(n.data)), uint32(n.mode.Perm())
		switch {
		case n.mode&os.ModeSymlink != 0:
			mode = unix.S_IFLNK | 0o777
			size = int64(len(n.target))
		case n.mode.IsDir():
			mode |= unix.S_IFDIR
			size = st.Size
		default:
			mode |= unix.S_IFREG
		}
		if n.mode&os.ModeSticky != 0 {
			mode |= unix.S_ISVTX
		}
		if st.Mode != mode || st.Size != size || st.Uid != 0 || st.Gid != 0 || st.Rdev != 0 {
			t.Errorf("%q: mode %o, size %d, owner %d:%d, want mode %o, size %d and root", name, st.Mode, st.Size, st.Uid, st.Gid, mode, size)
		}
		if got := time.Unix(st.Mtim.Unix()); !n.mtime.IsZero() && !got.Equal(n.mtime) {
			t.Errorf("%q: mtime %v, want %v", name, got.UTC(), n.mtime)
		}
	}
}

func everySize(t *testing.T, dir string) {
	for _, n := range sizes {
		wantContent(t, time.Minute, filepath.Join(dir, sizeName(n)), content(n))
	}
}

func anyOffset(t *testing.T, dir string) {
	for _, size := range []int{4097, 1<<20 + 1, 5 << 20} {
		f := openFile(t, filepath.Join(dir, sizeName(size)))
		want := content(size)
		r := rand.New(rand.NewPCG(1, uint64(size)))
		for i := range 200 {
			off, n := r.IntN(size+10), 1+r.IntN(300_000)
			if i%10 == 0 {
				off = max(0, size-r.IntN(3)) // at the end
			}
			buf := bytes.Repeat([]byte{0xaa}, n)
			got, err := unix.Pread(int(f.Fd()), buf, int64(off))
			if err != nil {
				t.Fatalf("pread %d at %d of %d: %v", n, off, size, err)
			}
			w := want[min(off, size):min(off+n, size)]
			if !bytes.Equal(buf[:got], w) {
				t.Fatalf("pread %d at %d of %d: %d bytes, want %d, or other ones", n, off, size, got, len(w))
			}
		}
	}
}

func holes(t *testing.T, dir string) {
	want := make([]byte, 12<<20)
	copy(want[1<<20:], content(3000))
	copy(want[5<<20+123:], content(3000))
	wantContent(t, time.Minute, filepath.Join(dir, "sizes/sparse"), want)
	f := openFile(t, filepath.Join(dir, sizeName(4097)))
	for _, seek := range []struct {
		whence    int
		off, want int64
	}{{unix.SEEK_DATA, 0, 0}, {unix.SEEK_HOLE, 0, 4097}, {unix.SEEK_DATA, 4000, 4000}} {
		if got, err := unix.Seek(int(f.Fd()), seek.off, seek.whence); err != nil || got != seek.want {
			t.Errorf("lseek to %d, whence %d: %d, %v, want %d", seek.off, seek.whence, got, err, seek.want)
		}
	}
}

func symlinks(t *testing.T, dir string) {
	for name, n := range localTree {
		if n.mode&os.ModeSymlink == 0 {
			continue
		}
		if got, err := os.Readlink(filepath.Join(dir, name)); err != nil || got != n.target {
			t.Errorf("readlink %s: %q, %v, want %q", name, got, err, n.target)
		}
	}
	wantContent(t, time.Second, filepath.Join(dir, "links/relative"), []byte("for all\n"))
	wantContent(t, time.Second, filepath.Join(dir, "links/dir/readable"), []byte("for all\n"))
	wantError(t, time.Second, filepath.Join(dir, "links/dangling"), syscall.ENOENT)
	wantError(t, time.Second, filepath.Join(dir, "links/loop"), syscall.ELOOP)
}

func anyNames(t *testing.T, dir string) {
	var want []string
	for name, n := range localTree {
		if base, ok := strings.CutPrefix(name, "names/"); ok {
			want = append(want, base)
			wantContent(t, time.Second, filepath.Join(dir, name), n.data)
		}
	}
	got, err := os.ReadDir(filepath.Join(dir, "names"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if !slices.EqualFunc(got, want, func(e os.DirEntry, name string) bool { return e.Name() == name && e.Type().IsRegular() }) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// dirent is what getdents64(2) says of one name.
type dirent struct {
	ino  uint64
	next int64 // where to seek for the entry after this
	kind byte
	name string
}

func getdents(t *testing.T, fd int, size int) []dirent {
	t.Helper()
	buf := make([]byte, size)
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		t.Fatal(err)
	}
	var all []dirent
	// struct linux_dirent64: inode, offset, length of it all, kind, name.
	for b := buf[:n]; len(b) > 0; {
		size := binary.NativeEndian.Uint16(b[16:])
		name, _, _ := bytes.Cut(b[19:size], []byte{0})
		all = append(all, dirent{binary.NativeEndian.Uint64(b), int64(binary.NativeEndian.Uint64(b[8:])), b[18], string(name)})
		b = b[size:]
	}
	return all
}

func largeDirectory(t *testing.T, dir string) {
	fd, err := unix.Open(filepath.Join(dir, "crowd"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	list := func() (all []dirent) {
		for {
			some := getdents(t, fd, 10_000)
			if len(some) == 0 {
				return all
			}
			all = append(all, some...)
		}
	}
	all := list()
	seen := map[string]bool{}
	for _, e := range all {
		seen[e.name] = true
	}
	for i := range crowd {
		delete(seen, fmt.Sprintf(crowdName, i))
	}
	if len(all) != crowd+2 || len(seen) != 2 || !seen["."] || !seen[".."] {
		t.Fatalf("%d entries, want %d; beside those there should be: %v", len(all), crowd+2, seen)
	}
	// telldir and seekdir.
	for _, i := range []int{0, 1, 2, 777, crowd / 2, crowd - 1, crowd} {
		if _, err := unix.Seek(fd, all[i].next, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if some := getdents(t, fd, 300); len(some) == 0 || some[0] != all[i+1] {
			t.Errorf("after %q: %+v, want %+v", all[i].name, some, all[i+1])
		}
	}
	if _, err := unix.Seek(fd, 0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if again := list(); !slices.Equal(all, again) {
		t.Error("another listing after rewinding")
	}
	for _, name := range []string{"entry-100000", "entry-0", "z"} {
		if _, err := os.Lstat(filepath.Join(dir, "crowd", name)); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("lstat %s: %v, want ENOENT", name, err)
		}
	}
}

// inodeNumbers must be one a file, and the same wherever they are told.
func inodeNumbers(t *testing.T, dir string) {
	seen := map[uint64]string{}
	filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() == "crowd" { // has links to one file where it was made
			return filepath.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		if other := seen[st.Ino]; other != "" {
			t.Errorf("%q and %q have the same inode number", path, other)
		}
		seen[st.Ino] = path
		if !e.IsDir() {
			return nil
		}
		fd, err := unix.Open(path, unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		for _, d := range getdents(t, fd, 100_000) {
			var of unix.Stat_t
			if err := unix.Lstat(filepath.Join(path, d.name), &of); err != nil {
				t.Fatal(err)
			}
			if path == dir && d.name == ".." {
				continue // is on another file system
			}
			if of.Ino != d.ino {
				t.Errorf("%q in %q: inode %d as an entry, %d by itself", d.name, path, d.ino, of.Ino)
			}
			if want := byte(of.Mode >> 12); d.kind != want {
				t.Errorf("%q in %q: kind %d as an entry, %d by itself", d.name, path, d.kind, want)
			}
		}
		return nil
	})
}

func memoryMaps(t *testing.T, dir string) {
	const size = 5 << 20
	f := openFile(t, filepath.Join(dir, sizeName(size)))
	want := content(size)
	for name, how := range map[string]struct{ prot, flags int }{
		"shared":               {unix.PROT_READ, unix.MAP_SHARED},
		"private":              {unix.PROT_READ, unix.MAP_PRIVATE},
		"private, to write to": {unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE},
	} {
		m, err := unix.Mmap(int(f.Fd()), 0, size, how.prot, how.flags)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(m, want) {
			t.Errorf("%s: other content", name)
		}
		if how.prot&unix.PROT_WRITE != 0 {
			m[12345]++
		}
		if err := unix.Munmap(m); err != nil {
			t.Error(err)
		}
	}
	if m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, syscall.EACCES) {
		t.Errorf("map for shared writing: %v, want EACCES", err)
		unix.Munmap(m)
	}
	wantContent(t, time.Minute, f.Name(), want) // what was written to a private map stays there
}

func programs(t *testing.T, dir string) {
	if out := run(t, time.Minute, filepath.Join(dir, "bin/program"), "version"); !strings.HasPrefix(out, "ays ") {
		t.Errorf("got %q", out)
	}
	if out := run(t, time.Minute, filepath.Join(dir, "bin/script"), "me"); out != "script got me\n" {
		t.Errorf("got %q", out)
	}
	if err := exec.Command(filepath.Join(dir, "modes/readable")).Run(); !errors.Is(err, syscall.EACCES) {
		t.Errorf("run what is not executable: %v, want EACCES", err)
	}
}

func direct(t *testing.T, dir string) {
	const size = 5 << 20
	fd, err := unix.Open(filepath.Join(dir, sizeName(size)), unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	// O_DIRECT wants memory that begins with a page.
	buf, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(buf)
	want := content(size)
	for _, r := range []struct{ off, n int }{{0, 4096}, {4096, 1 << 20}, {1<<20 - 4096, 8192}, {size - 8192, 1 << 20}, {size, 4096}} {
		n, err := unix.Pread(fd, buf[:r.n], int64(r.off))
		if err != nil || !bytes.Equal(buf[:n], want[r.off:min(r.off+r.n, size)]) {
			t.Errorf("read %d at %d: got %d, %v, or other content", r.n, r.off, n, err)
		}
	}
}

// permissions are those of the files, for everybody on the machine.
func permissions(t *testing.T, dir string) {
	as := func(args ...string) error {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		_, err := try(t, 10*time.Second, cmd)
		return err
	}
	for _, file := range []string{"modes/readable", "links/relative", sizeName(1)} {
		if err := as("cat", filepath.Join(dir, file)); err != nil {
			t.Errorf("nobody reads %s: %v", file, err)
		}
	}
	if err := as("ls", filepath.Join(dir, "modes")); err != nil {
		t.Errorf("nobody lists modes: %v", err)
	}
	for _, args := range [][]string{{"cat", "modes/private"}, {"cat", "modes/none"}, {"cat", "modes/executable"}, {"ls", "modes/dir"}} {
		if as(args[0], filepath.Join(dir, args[1])) == nil {
			t.Errorf("nobody can %s %s", args[0], args[1])
		}
	}
	wantContent(t, time.Second, filepath.Join(dir, "modes/none"), []byte("x")) // root can
}

func wrongUses(t *testing.T, dir string) {
	in := func(name string) string { return filepath.Join(dir, name) }
	fd, err := unix.Open(in("modes"), unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 100)
	for name, c := range map[string]struct {
		f    func() error
		want syscall.Errno
	}{
		"read a directory":      {func() error { _, err := unix.Read(fd, buf); return err }, syscall.EISDIR},
		"a file as a directory": {func() error { _, err := os.Lstat(in("modes/readable/x")); return err }, syscall.ENOTDIR},
		"list a file":           {func() error { _, err := unix.Open(in("modes/readable"), unix.O_DIRECTORY, 0); return err }, syscall.ENOTDIR},
		"no such name":          {func() error { _, err := os.Lstat(in("modes/nothing")); return err }, syscall.ENOENT},
		"no such name, again":   {func() error { _, err := os.Lstat(in("modes/nothing")); return err }, syscall.ENOENT},
		"a name too long":       {func() error { _, err := os.Lstat(in("modes/" + strings.Repeat("x", 256))); return err }, syscall.ENAMETOOLONG},
		"readlink of a file":    {func() error { _, err := unix.Readlink(in("modes/readable"), buf); return err }, syscall.EINVAL},
		"open without O_NOFOLLOW's leave": {func() error {
			_, err := unix.Open(in("links/relative"), unix.O_NOFOLLOW, 0)
			return err
		}, syscall.ELOOP},
		"an attribute that there is not": {func() error { return attributeMissing(in("modes/readable")) }, syscall.ENODATA},
	} {
		if err := c.f(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// attributeMissing asks for an extended attribute. Not to have any is as good
// an answer as not to have this one.
func attributeMissing(file string) error {
	_, err := unix.Getxattr(file, "user.nothing", nil)
	if errors.Is(err, syscall.ENOTSUP) {
		return syscall.ENODATA
	}
	return err
}

func nothingWritten(t *testing.T, dir string) {
	in := func(name string) string { return filepath.Join(dir, name) }
	file, empty := in("modes/readable"), in("empty")
	open := func(path string, flags int) func() error {
		return func() error { _, err := unix.Open(path, flags, 0o644); return err }
	}
	now := []unix.Timespec{{Sec: 1}, {Sec: 1}}
	for name, f := range map[string]func() error{
		"open to read and write": open(file, unix.O_RDWR),
		"open to write":          open(file, unix.O_WRONLY),
		"open to truncate":       open(file, unix.O_WRONLY|unix.O_TRUNC),
		"open to append":         open(file, unix.O_WRONLY|unix.O_APPEND),
		"create":                 open(in("new"), unix.O_CREAT|unix.O_RDWR),
		"temporary file":         open(in("empty"), unix.O_TMPFILE|unix.O_RDWR),
		"truncate":               func() error { return unix.Truncate(file, 1) },
		"mkdir":                  func() error { return unix.Mkdir(in("new"), 0o755) },
		"mknod":                  func() error { return unix.Mknod(in("new"), unix.S_IFIFO|0o644, 0) },
		"symlink":                func() error { return unix.Symlink("x", in("new")) },
		"link":                   func() error { return unix.Link(file, in("new")) },
		"unlink":                 func() error { return unix.Unlink(file) },
		"rmdir":                  func() error { return unix.Rmdir(empty) },
		"rename":                 func() error { return unix.Rename(file, in("new")) },
		"rename a directory":     func() error { return unix.Rename(empty, in("new")) },
		"chmod":                  func() error { return unix.Chmod(file, 0o777) },
		"chmod the root":         func() error { return unix.Chmod(dir, 0o777) },
		"chown":                  func() error { return unix.Chown(file, 1, 1) },
		"utimes":                 func() error { return unix.UtimesNano(file, now) },
		"setxattr":               func() error { return unix.Setxattr(file, "user.x", []byte("x"), 0) },
		"removexattr":            func() error { return unix.Removexattr(file, "user.x") },
		"access":                 func() error { return unix.Access(file, unix.W_OK) },
	} {
		if err := f(); !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v, want EROFS", name, err)
		}
	}
	wantContent(t, time.Second, file, []byte("for all\n"))
}

func manyReaders(t *testing.T, dir string) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range sizes {
				n := sizes[(i+j)%len(sizes)]
				if got, err := os.ReadFile(filepath.Join(dir, sizeName(n))); err != nil || !bytes.Equal(got, content(n)) {
					t.Errorf("file of %d bytes: %v, or other content", n, err)
				}
			}
		})
	}
	wg.Wait()
}

func sendfile(t *testing.T, dir string) {
	const size = 1<<20 + 1
	in := openFile(t, filepath.Join(dir, sizeName(size)))
	for name, pass := range map[string]func(out int) (int64, error){
		"sendfile": func(out int) (int64, error) {
			var off int64
			n, err := unix.Sendfile(out, int(in.Fd()), &off, size)
			return int64(n), err
		},
		"copy_file_range": func(out int) (int64, error) {
			var off int64
			n, err := unix.CopyFileRange(int(in.Fd()), &off, out, nil, size, 0)
			return int64(n), err
		},
	} {
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		n, err := pass(int(out.Fd()))
		if errors.Is(err, syscall.EXDEV) && name == "copy_file_range" {
			continue // between two kinds of file system the kernel may refuse
		}
		got, rerr := os.ReadFile(out.Name())
		if err != nil || rerr != nil || n != int64(len(got)) || n == 0 || !bytes.Equal(got, content(size)[:n]) {
			t.Errorf("%s: %d bytes, %v, %v, or other content", name, n, err, rerr)
		}
	}
}

func readLocks(t *testing.T, dir string) {
	file := filepath.Join(dir, "modes/readable")
	f := openFile(t, file)
	other := openFile(t, file)
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Errorf("flock: %v", err)
	}
	if err := unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("a second flock: %v, want EWOULDBLOCK", err)
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}); err != nil {
		t.Errorf("fcntl lock: %v", err)
	}
}

// diskUsage is what du(1) adds up: without it a tree would seem to be empty.
func diskUsage(t *testing.T, dir string) {
	for _, n := range sizes {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, sizeName(n)), &st); err != nil {
			t.Fatal(err)
		}
		if used := st.Blocks * 512; used < int64(n) || used > int64(n)+64<<10 || st.Blksize < 4096 {
			t.Errorf("file of %d bytes: %d on disk, in blocks of %d", n, used, st.Blksize)
		}
	}
	var st unix.Statfs_t
	within(t, time.Second, "statfs", func() { unix.Statfs(dir, &st) })
	if st.Blocks == 0 || st.Bsize < 512 || st.Namelen != 255 {
		t.Errorf("statfs: %d blocks of %d, names of %d", st.Blocks, st.Bsize, st.Namelen)
	}
}

// deepAndOpen works from a directory deep in the tree, and from open files.
func deepAndOpen(t *testing.T, dir string) {
	fd, err := unix.Open(filepath.Join(dir, "a/b/c/d/e/f/g/h/i/j/k"), unix.O_RDONLY|unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for path, size := range map[string]int{"deep": 5, "../../../../../../../../../../../" + sizeName(4096): 4096} {
		f, err := unix.Openat(fd, path, unix.O_RDONLY, 0)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		buf := make([]byte, 5000)
		if n, err := unix.Read(f, buf); n != size || err != nil {
			t.Errorf("read %s: %d, %v, want %d", path, n, err, size)
		}
		unix.Close(f)
	}
}
