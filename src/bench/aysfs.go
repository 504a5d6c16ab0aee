package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// aysfs is the subject.
type aysfs struct {
	*site
	debug bool // on a debug mount, of which nothing matches
	// profile has what the work on Python needs recorded and published with the tree.
	profile bool
}

func (d *aysfs) absent() string {
	return missing(filepath.Join(d.bin, "aysfs"), filepath.Join(d.bin, "ays"))
}

func (d *aysfs) from() origin { return kept }

// treeID is the name that a tree is published under.
func treeID(t *tree) string { return "bench|" + t.name + "(1)" }

// storeDir is where in the server's files the store is.
const storeDir = "store"

// store is where the driver's trees are.
func (d *aysfs) store() string {
	if d.profile {
		return storeDir + "-profile"
	}
	return storeDir
}

func (d *aysfs) prepare(ctx context.Context, t *tree) error {
	store := filepath.Join(d.server.root, d.store())
	if err := d.publish(ctx, store, t.dir, treeID(t)); err != nil || !d.profile || t.name != "python" {
		return err
	}
	args := []string{"profile", "record", "-replace", "-store", store, "-id", treeID(t), "--", "env"}
	args = append(append(args, pythonEnv("{}")...), pythonCommand("{}")...)
	return runQuietly(ctx, time.Minute, filepath.Join(d.bin, "ays"), args...)
}

func (s *site) publish(ctx context.Context, store, dir, id string) error {
	return runQuietly(ctx, 10*time.Minute, filepath.Join(s.bin, "ays"), "publish", "-store", store, "-id", id, dir)
}

// aysfsConfig has the defaults in all that matters. The disk is often fuller than
// min_free likes while nothing is the matter.
const aysfsConfig = `[main]
id = "bench"
control = %q
log_level = "warn"
[cache.disk]
path = %q
min_free = "1%%"
[[ays.stor]]
name = "store"
url = %q
%s
`

const mountConfig = `[[mount_files]]
name = %q
path = %q
ays.id = %q
stor.name = "store"
`

// debugConfig makes the mount one whose files can be changed. It does without the
// redis, which nothing of what is measured would ask.
const debugConfig = `debug = "bench"
debug_filter = ['etc/.*\.conf']
[[debug]]
name = "bench"
redis.addr = "127.0.0.1"
redis.port = 1
`

func (d *aysfs) mount(ctx context.Context, t *tree, keep bool) (*mounted, error) {
	dir, err := d.mountPoint("aysfs", t)
	if err != nil {
		return nil, err
	}
	mounts := fmt.Sprintf(mountConfig, t.name, dir, treeID(t))
	if d.debug {
		mounts += debugConfig
	}
	return d.start(ctx, d.path("cache", "aysfs", t.name), keep, dir, mounts)
}

// start starts a client with a cache, which is emptied unless keep, and with what its
// config has of mounts, one of them at dir.
func (d *aysfs) start(ctx context.Context, cache string, keep bool, dir, mounts string) (*mounted, error) {
	if !keep {
		if err := os.RemoveAll(cache); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(cache), 0o755); err != nil {
		return nil, err
	}
	ca := ""
	if d.server.ca != "" {
		ca = fmt.Sprintf("ca = %q", d.server.ca)
	}
	file := d.path("aysfs.toml")
	text := fmt.Sprintf(aysfsConfig, d.path("aysfs.sock"), cache, d.server.url+"/"+d.store(), ca) + mounts
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return nil, err
	}
	// It tells when it is ready as it tells a service manager: by then it has
	// also told the kernel how far to read ahead.
	notify := d.path("notify")
	os.Remove(notify)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	cmd := exec.Command(filepath.Join(d.bin, "aysfs"), "-config", file)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify)
	return d.mountByDaemon(ctx, dir, cmd, func() bool {
		conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		n, _ := conn.Read(make([]byte, 16))
		return n > 0
	})
}
