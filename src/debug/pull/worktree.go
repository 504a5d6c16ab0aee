package pull

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/debug"
)

// ownDir is where what was pulled is remembered.
const ownDir = ".aysfs"

// besideMark is between a file's name and the MD5 of what is set beside it.
const besideMark = ".aysfs-"

const maxName = 255

var (
	errNoDir = errors.New("is no directory here")
	errMoved = errors.New("it was changed here while it was pulled")
)

// worktree is the directory that is pulled into. While it is open, no other is
// for the same directory.
type worktree struct {
	root *os.Root
	dir  string // for messages
	past string // the file with what was pulled
	lock *os.File
}

// openWorktree opens dir, and makes what is missing unless it is to stay as it
// is. It waits for others to close theirs.
func openWorktree(ctx context.Context, dir, mount string, readOnly bool) (_ *worktree, err error) {
	if !readOnly {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	w := &worktree{root: root, dir: dir, past: ownDir + "/" + pastName(mount)}
	if readOnly {
		return w, nil
	}
	defer func() {
		if err != nil {
			w.close()
			err = fmt.Errorf("prepare %s: %w", dir, err)
		}
	}()
	if err := root.Mkdir(ownDir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	// git ignores what such a file says, and the file itself.
	if err := root.WriteFile(ownDir+"/.gitignore", []byte("*\n"), 0o644); err != nil {
		return nil, err
	}
	if w.lock, err = root.OpenFile(ownDir+"/lock", os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(w.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return w, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("lock it: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (w *worktree) close() {
	if w.lock != nil {
		w.lock.Close()
	}
	w.root.Close()
}

// reserved tells why a path is never written; empty if it may be.
func reserved(p string) string {
	for i, name := range strings.Split(p, "/") {
		plain := plainly(name)
		switch {
		case plain == ".git", plain == "git~1":
			return "it would be git's own"
		case i == 0 && plain == ownDir:
			return "it would be ours"
		}
	}
	return ""
}

// plainly is the name that some file systems take others for: those that differ in
// case, in dots and blanks at the end, in a stream of the file's or in characters
// that nobody sees.
func plainly(name string) string {
	name, _, _ = strings.Cut(name, ":")
	name = strings.Map(func(c rune) rune {
		if unicode.Is(unicode.Cf, c) {
			return -1
		}
		return unicode.ToLower(c)
	}, name)
	return strings.TrimRight(name, ". ")
}

// local is what a path is here.
type local struct {
	kind uint32 // of debug's; 0: nothing is there
	md5  string // as debug has it
	perm uint32
}

// other is the kind of what is neither file nor directory nor symlink.
const other = debug.ModeKind

func (l local) absent() bool { return l.kind == 0 }

// is tells whether it is what it is there, but for the mode.
func (l local) is(c debug.Change) bool {
	if c.Removed() {
		return l.absent()
	}
	return l.kind == c.Kind() && l.md5 == c.MD5
}

// different says how it differs.
func (l local) different() string {
	switch l.kind {
	case debug.ModeDir:
		return "a directory with something in it"
	case other:
		return "something else"
	}
	return "changed"
}

// look looks at a path, without following symlinks. errNoDir says that it is
// below something that is no directory.
func (w *worktree) look(p string) (local, error) {
	for i, c := range p {
		if c != '/' {
			continue
		}
		info, err := w.root.Lstat(p[:i])
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return local{}, nil
		case err != nil:
			return local{}, err
		case info.Mode()&fs.ModeSymlink != 0:
			return local{}, fmt.Errorf("%s is a symlink here", Printable(p[:i]))
		case !info.IsDir():
			return local{}, fmt.Errorf("%s %w", Printable(p[:i]), errNoDir)
		}
	}
	info, err := w.root.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return local{}, nil
	} else if err != nil {
		return local{}, err
	}
	l := local{kind: other, perm: uint32(info.Mode().Perm())}
	switch info.Mode().Type() {
	case fs.ModeDir:
		l.kind, l.md5 = debug.ModeDir, debug.EmptyMD5
	case fs.ModeSymlink:
		l.kind = debug.ModeLink
		target, err := w.root.Readlink(p)
		if err != nil {
			return local{}, err
		}
		sum := md5.Sum([]byte(target))
		l.md5 = hex.EncodeToString(sum[:])
	case 0:
		l.kind = debug.ModeFile
		f, err := w.root.Open(p)
		if err != nil {
			return local{}, err
		}
		defer f.Close()
		sum := md5.New()
		if _, err := io.Copy(sum, f); err != nil {
			return local{}, err
		}
		l.md5 = hex.EncodeToString(sum.Sum(nil))
	}
	return l, nil
}

// empty tells whether a directory is, but for the paths in gone.
func (w *worktree) empty(p string, gone map[string]bool) (bool, error) {
	d, err := w.root.Open(p)
	if err != nil {
		return false, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	for _, n := range names {
		if !gone[p+"/"+n] {
			return false, nil
		}
	}
	return err == nil, err
}

// newName is what a file is called before it gets its name.
const newName = ownDir + "/new"

// put makes p, of which have is here, what c says, with its content out of
// redis. errMoved says that it is not have any more.
func (w *worktree) put(ctx context.Context, s *debug.Store, c debug.Change, p string, have local, perm uint32) error {
	if err := w.root.RemoveAll(newName); err != nil {
		return err
	}
	file := !c.Removed() && c.Kind() == debug.ModeFile
	link := !c.Removed() && c.Kind() == debug.ModeLink
	switch {
	case file:
		f, err := w.root.OpenFile(newName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		err = s.Copy(ctx, f, c.MD5, c.Size)
		if err == nil {
			err = f.Chmod(fs.FileMode(perm))
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	case link:
		if c.Size > maxTarget {
			return fmt.Errorf("a symlink to a name of %d bytes", c.Size)
		}
		target, err := s.Content(ctx, c.MD5, c.Size)
		if err != nil {
			return err
		}
		if err := w.root.Symlink(string(target), newName); err != nil {
			return err
		}
	}
	// Getting the content took its time, and somebody works here.
	if now, err := w.look(p); err != nil {
		return err
	} else if now != have {
		return errMoved
	}
	if c.Removed() || have.kind == debug.ModeDir || c.Kind() == debug.ModeDir && !have.absent() {
		if err := w.root.Remove(p); err != nil {
			return err
		}
	}
	if c.Removed() {
		return nil
	}
	if dir := path.Dir(p); dir != "." {
		if err := w.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if c.Kind() == debug.ModeDir {
		if err := w.root.Mkdir(p, 0o755); err != nil {
			return err
		}
		return w.root.Chmod(p, fs.FileMode(perm))
	}
	return w.root.Rename(newName, p)
}

// maxTarget is the longest target that a symlink may have.
const maxTarget = 4095

// besideName is the path for what c is there, beside c's; there tells that it
// is there already.
func (w *worktree) besideName(c debug.Change) (name string, there bool, err error) {
	dir, base := path.Split(c.Path)
	for _, n := range []int{8, len(c.MD5)} {
		mark := besideMark + c.MD5[:n]
		name = dir + base[:min(len(base), maxName-len(mark))] + mark
		have, err := w.look(name)
		if err != nil || have.absent() || have.is(c) {
			return name, have.is(c), err
		}
	}
	return "", false, fmt.Errorf("changed there and here, but %s is in the way of what it is there", Printable(name))
}
