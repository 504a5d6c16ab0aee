package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// tree is a directory that is published, and measured on every file system.
type tree struct {
	name  string
	dir   string // where it lies, as the native file system has it
	Files int64  `json:"files"`
	Dirs  int64  `json:"dirs"`
	Bytes int64  `json:"bytes"`
	paths []string
}

// maker fills an empty directory. What can't be made here is errAbsent.
type maker func(ctx context.Context, dir string, quick bool) error

// errAbsent wraps why something can't be measured here.
var errAbsent = errors.New("can't be measured here")

var makers = map[string]maker{"go": makeGo, "big": makeBig, "python": makePython}

// makeTree makes a tree below dir and looks at what it has.
func makeTree(ctx context.Context, dir, name string, quick bool) (*tree, error) {
	t := &tree{name: name, dir: filepath.Join(dir, name)}
	if err := os.MkdirAll(t.dir, 0o755); err != nil {
		return nil, err
	}
	if err := makers[name](ctx, t.dir, quick); err != nil {
		return nil, fmt.Errorf("tree %s: %w", name, err)
	}
	err := filepath.WalkDir(t.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(t.dir, path)
		if err != nil {
			return err
		}
		t.paths = append(t.paths, rel)
		if d.IsDir() {
			t.Dirs++
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		t.Files++
		t.Bytes += info.Size()
		return nil
	})
	return t, err
}

// copyInto copies what is at from, whatever it is, into a directory.
func copyInto(ctx context.Context, dir string, from ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return runQuietly(ctx, 5*time.Minute, "cp", append([]string{"-a", "-t", dir}, from...)...)
}

// makeGo copies the Go toolchain, or a part of its sources.
func makeGo(ctx context.Context, dir string, quick bool) error {
	out, err := output(ctx, 30*time.Second, "go", "env", "GOROOT")
	if err != nil {
		return fmt.Errorf("%w: %w", errAbsent, err)
	}
	root := strings.TrimSpace(string(out))
	if quick {
		return copyInto(ctx, dir, filepath.Join(root, "src/cmd/compile"), filepath.Join(root, "src/net"), filepath.Join(root, "src/runtime"))
	}
	return copyInto(ctx, dir, root+"/.")
}

const (
	bigFile  = "big.bin"
	bigSize  = 500 * 1000 * 1000
	quickBig = 64 * 1000 * 1000
)

// makeBig makes one large file that nothing can compress.
func makeBig(_ context.Context, dir string, quick bool) (err error) {
	f, err := os.Create(filepath.Join(dir, bigFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size := int64(bigSize)
	if quick {
		size = quickBig
	}
	w := bufio.NewWriterSize(f, 1<<20)
	random := rand.NewChaCha8([32]byte{})
	block := make([]byte, 1<<16)
	for size > 0 {
		random.Read(block)
		n, err := w.Write(block[:min(size, int64(len(block)))])
		if err != nil {
			return err
		}
		size -= int64(n)
	}
	return w.Flush()
}

// makePython copies a Python: its program, the libraries that it has of its own,
// and its standard library without tests.
func makePython(ctx context.Context, dir string, _ bool) error {
	if _, err := exec.LookPath("python3"); err != nil {
		return fmt.Errorf("%w: there is no python3", errAbsent)
	}
	out, err := output(ctx, 30*time.Second, "python3", "-c", "import sys; print(sys.base_prefix, '%d.%d' % sys.version_info[:2])")
	if err != nil {
		return fmt.Errorf("%w: %w", errAbsent, err)
	}
	prefix, version, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	python := "python" + version
	if err := copyInto(ctx, filepath.Join(dir, "bin"), filepath.Join(prefix, "bin", python)); err != nil {
		return err
	}
	if err := os.Symlink(python, filepath.Join(dir, "bin/python3")); err != nil {
		return err
	}
	from := []string{filepath.Join(prefix, "lib", python)}
	shared, _ := filepath.Glob(filepath.Join(prefix, "lib/libpython*.so*"))
	if err := copyInto(ctx, filepath.Join(dir, "lib"), append(from, shared...)...); err != nil {
		return err
	}
	leave, _ := filepath.Glob(filepath.Join(dir, "lib", python, "config-*"))
	for _, name := range []string{"test", "site-packages", "dist-packages", "idlelib", "lib2to3"} {
		leave = append(leave, filepath.Join(dir, "lib", python, name))
	}
	for _, d := range leave {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	return nil
}
