package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"time"
)

// squashfs is an image on the local disk, mounted by the kernel or by a FUSE
// program: what a tree costs once it has been copied in whole.
type squashfs struct {
	*site
	fuse bool
}

func (d *squashfs) absent() string {
	if d.fuse {
		return missing("mksquashfs", "squashfuse_ll")
	}
	if b, _ := os.ReadFile("/proc/filesystems"); !bytes.Contains(b, []byte("squashfs\n")) {
		return "the kernel has no squashfs"
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return "there are no loop devices"
	}
	return missing("mksquashfs", "mount")
}

func (d *squashfs) remote() bool { return false }

// image is shared by the two.
func (d *squashfs) image(t *tree) string { return d.path(t.name + ".squashfs") }

func (d *squashfs) prepare(ctx context.Context, t *tree) error {
	if _, err := os.Stat(d.image(t)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return runQuietly(ctx, 10*time.Minute, "mksquashfs", t.dir, d.image(t), "-comp", "zstd", "-Xcompression-level", "3", "-quiet", "-no-progress")
}

func (d *squashfs) mount(ctx context.Context, t *tree, _ bool) (*mounted, error) {
	if d.fuse {
		dir, err := d.mountPoint("squashfuse", t)
		if err != nil {
			return nil, err
		}
		return d.mountByDaemon(ctx, dir, exec.Command("squashfuse_ll", "-f", d.image(t), dir), nil)
	}
	dir, err := d.mountPoint("squashfs", t)
	if err != nil {
		return nil, err
	}
	if err := runQuietly(ctx, time.Minute, "mount", "-t", "squashfs", "-o", "loop,ro", d.image(t), dir); err != nil {
		return nil, err
	}
	return &mounted{dir: dir}, nil
}
