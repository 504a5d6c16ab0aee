package main

import (
	"context"
	"os"
	"os/exec"
)

// rclone mounts the plain tree from the same server, over the same link.
type rclone struct{ *site }

func (d *rclone) absent() string { return missing("rclone", "fusermount3") }
func (d *rclone) from() origin   { return kept }

func (d *rclone) prepare(ctx context.Context, t *tree) error { return d.servePlain(ctx, t) }

func (d *rclone) mount(ctx context.Context, t *tree, keep bool) (*mounted, error) {
	cache, err := d.cacheDir("rclone", t, keep)
	if err != nil {
		return nil, err
	}
	dir, err := d.mountPoint("rclone", t)
	if err != nil {
		return nil, err
	}
	return d.mountByDaemon(ctx, dir, rcloneMount(d.server, plainDir+"/"+t.name, cache, dir), nil)
}

// rcloneMount mounts a directory of the server's, nothing of which changes.
func rcloneMount(s *server, from, cache, dir string) *exec.Cmd {
	args := []string{"mount", ":http:", dir, "--http-url", s.url + "/" + from + "/",
		"--read-only", "--file-perms", "0755", "--config", os.DevNull, "--cache-dir", cache, "--vfs-cache-mode", "full",
		"--dir-cache-time", "1000h", "--attr-timeout", "1h", "--poll-interval", "0"}
	if s.ca != "" {
		args = append(args, "--ca-cert", s.ca)
	}
	return exec.Command("rclone", args...)
}
