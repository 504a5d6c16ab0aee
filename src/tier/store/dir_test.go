package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// A disk that hangs holds up nobody beyond his deadline, and no more than so
// many goroutines.
func TestDirHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := OpenDir("nfs", t.TempDir())
		thaw := make(chan struct{})
		begun := 0
		var mu = make(chan struct{}, 1)
		hang := func() (int, error) {
			mu <- struct{}{}
			begun++
			<-mu
			<-thaw
			return 1, nil
		}
		done := make(chan error)
		for range 3 * dirSlots {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				_, err := inTime(ctx, d, "x", hang)
				if took := time.Since(start); took != time.Second {
					t.Errorf("returned after %v", took)
				}
				done <- err
			}()
		}
		for range 3 * dirSlots {
			if err := <-done; !errors.Is(err, tier.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		if begun != dirSlots {
			t.Errorf("%d reads hang, at most %d may", begun, dirSlots)
		}
		close(thaw)
		synctest.Wait()
		if n, err := inTime(t.Context(), d, "x", hang); n != 1 || err != nil {
			t.Errorf("after the disk came back: %v", err)
		}
	})
}

func TestDirClassify(t *testing.T) {
	here, gone := OpenDir("here", t.TempDir()), OpenDir("gone", filepath.Join(t.TempDir(), "not mounted"))
	for _, tt := range []struct {
		dir  *Dir
		err  error
		want error
	}{
		{here, syscall.ENOENT, tier.ErrAbsent},
		{here, syscall.ENOTDIR, tier.ErrAbsent},
		{gone, syscall.ENOENT, tier.ErrUnavailable},
		{here, syscall.EACCES, tier.ErrDenied},
		{here, syscall.EPERM, tier.ErrDenied},
		{here, syscall.EIO, tier.ErrUnavailable},
		{here, syscall.ESTALE, tier.ErrUnavailable},
		{here, syscall.EMFILE, tier.ErrUnavailable},
	} {
		err := tt.dir.classify(&fs.PathError{Op: "open", Path: "x", Err: tt.err})
		for _, e := range []error{tier.ErrAbsent, tier.ErrCorrupt, tier.ErrDenied, tier.ErrUnavailable} {
			if errors.Is(err, e) != (e == tt.want) {
				t.Errorf("%s, %v: errors.Is(err, %q) is %t: %v", tt.dir.name, tt.err, e, e != tt.want, err)
			}
		}
	}
}

// What lies in a blob's place and is no file is not waited for.
func TestDirOddFiles(t *testing.T) {
	root := t.TempDir()
	ref := tiertest.RefOf([]byte("x"))
	path := filepath.Join(root, ref.Domain, ref.Digest.String())
	make := map[string]func() error{
		"pipe":         func() error { return syscall.Mkfifo(path, 0o600) },
		"directory":    func() error { return os.Mkdir(path, 0o700) },
		"link to null": func() error { return os.Symlink("/dev/null", path) },
	}
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, f := range make {
		if err := f(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if _, err := OpenDir("d", root).Get(ctx, ref); !errors.Is(err, tier.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
