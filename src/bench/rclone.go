package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
)

// rclone mounts the plain tree from the same server, over the same link.
type rclone struct{ *site }

func (d *rclone) absent() string { return missing("rclone", "fusermount3") }
func (d *rclone) remote() bool   { return true }

// plainDir is where in the server's files the trees are as they are.
const plainDir = "plain"

func (d *rclone) prepare(ctx context.Context, t *tree) error {
	return copyInto(ctx, filepath.Join(d.server.root, plainDir), t.dir)
}

func (d *rclone) mount(ctx context.Context, t *tree, keep bool) (*mounted, error) {
	cache := d.path("cache", "rclone", t.name)
	if !keep {
		if err := os.RemoveAll(cache); err != nil {
			return nil, err
		}
	}
	dir, err := d.mountPoint("rclone", t)
	if err != nil {
		return nil, err
	}
	args := []string{"mount", ":http:", dir, "--http-url", d.server.url + "/" + plainDir + "/" + t.name + "/",
		"--read-only", "--file-perms", "0755", "--config", os.DevNull, "--cache-dir", cache, "--vfs-cache-mode", "full",
		"--dir-cache-time", "1000h", "--attr-timeout", "1h", "--poll-interval", "0"}
	if d.server.ca != "" {
		args = append(args, "--ca-cert", d.server.ca)
	}
	return d.mountByDaemon(ctx, dir, exec.Command("rclone", args...), nil)
}
