package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
)

// image is a tree packed into one file, which a new machine fetches whole and then
// mounts, by the kernel or by a FUSE program.
type image struct {
	*site
	name string
	fuse bool
}

func (d *image) absent() string {
	if d.fuse {
		return missing("mksquashfs", "squashfuse_ll")
	}
	if why := noLoop(); why != "" {
		return why
	}
	return missing("mksquashfs", "mount")
}

// noLoop says why the kernel can't mount an image.
func noLoop() string {
	if b, _ := os.ReadFile("/proc/filesystems"); !bytes.Contains(b, []byte("squashfs\n")) {
		return "the kernel has no squashfs"
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return "there are no loop devices"
	}
	return ""
}

func (d *image) from() origin { return kept }

// imageDir is where in the server's files the images are.
const imageDir = "images"

func imageName(t *tree) string { return t.name + ".squashfs" }

// prepare makes an image for all drivers that have one.
func (d *image) prepare(ctx context.Context, t *tree) error {
	dir := filepath.Join(d.server.root, imageDir)
	file := filepath.Join(dir, imageName(t))
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	part := file + ".part" // only what is whole gets the name
	err := runQuietly(ctx, prepareTime, "mksquashfs", t.dir, part,
		"-noappend", "-comp", "zstd", "-Xcompression-level", "3", "-quiet", "-no-progress")
	if err != nil {
		return err
	}
	return os.Rename(part, file)
}

func (d *image) mount(ctx context.Context, t *tree, keep bool) (*mounted, error) {
	cache, err := d.cacheDir(d.name, t, keep)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(cache, imageName(t))
	if !keep {
		if err := d.server.download(ctx, imageDir+"/"+imageName(t), file); err != nil {
			return nil, err
		}
	}
	return d.mountFile(ctx, t, file, d.fuse)
}

// mountFile mounts the image that is at a path.
func (d *image) mountFile(ctx context.Context, t *tree, file string, fuse bool) (*mounted, error) {
	dir, err := d.mountPoint(d.name, t)
	if err != nil {
		return nil, err
	}
	if fuse {
		return d.mountByDaemon(ctx, dir, exec.Command("squashfuse_ll", "-f", file, dir), nil)
	}
	if err := runQuietly(ctx, mountTime, "mount", "-t", "squashfs", "-o", "loop,ro", file, dir); err != nil {
		return nil, err
	}
	return &mounted{dir: dir}, nil
}

// mountThrough mounts the image that a daemon makes appear under a name in a
// directory. The kernel does it where it can.
func (d *image) mountThrough(ctx context.Context, t *tree, name string, daemon func(dir string) *exec.Cmd) (*mounted, error) {
	dir, err := d.mountPoint(d.name+"-image", t)
	if err != nil {
		return nil, err
	}
	lower, err := d.mountByDaemon(ctx, dir, daemon(dir), nil)
	if err != nil {
		return nil, err
	}
	m, err := d.mountFile(ctx, t, filepath.Join(dir, name), noLoop() != "")
	if err != nil {
		lower.unmount()
		return nil, err
	}
	m.lower = lower
	return m, nil
}

// noSquashfs says why an image can't be mounted at all.
func noSquashfs() string {
	if noLoop() == "" {
		return missing("mksquashfs", "mount")
	}
	return missing("mksquashfs", "squashfuse_ll")
}

// desync has an image in chunks on the server, and shows that as one file of which
// it fetches and keeps what is read.
type desync struct{ image }

func (d *desync) absent() string {
	if why := missing("desync"); why != "" {
		return why
	}
	return noSquashfs()
}

func (d *desync) prepare(ctx context.Context, t *tree) error {
	if err := d.image.prepare(ctx, t); err != nil {
		return err
	}
	dir := filepath.Join(d.server.root, imageDir)
	chunks := filepath.Join(dir, "desync")
	if err := os.MkdirAll(chunks, 0o755); err != nil {
		return err
	}
	return runQuietly(ctx, prepareTime, "desync", "make", "-s", chunks, filepath.Join(dir, t.name+".caibx"), filepath.Join(dir, imageName(t)))
}

func (d *desync) mount(ctx context.Context, t *tree, keep bool) (*mounted, error) {
	cache, err := d.cacheDir(d.name, t, keep)
	if err != nil {
		return nil, err
	}
	return d.mountThrough(ctx, t, t.name, func(dir string) *exec.Cmd {
		url := d.server.url + "/" + imageDir + "/"
		args := []string{"mount-index", "-s", url + "desync", "-c", cache}
		if d.server.ca != "" {
			args = append(args, "--ca-cert", d.server.ca)
		}
		return exec.Command("desync", append(args, url+t.name+".caibx", dir)...)
	})
}

// streamed has an image on the server and shows that as one file by rclone, which
// goes on to fetch the rest while the first of it is read.
type streamed struct{ image }

func (d *streamed) absent() string {
	if why := missing("rclone", "fusermount3"); why != "" {
		return why
	}
	return noSquashfs()
}

func (d *streamed) mount(ctx context.Context, t *tree, keep bool) (*mounted, error) {
	cache, err := d.cacheDir(d.name, t, keep)
	if err != nil {
		return nil, err
	}
	return d.mountThrough(ctx, t, imageName(t), func(dir string) *exec.Cmd {
		return rcloneMount(d.server, imageDir, cache, dir)
	})
}
