package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// driver is a way to make trees appear. A new one goes into drivers, and that is
// all.
type driver interface {
	// absent says why it can't be measured on this machine; empty if it can.
	absent() string
	// remote tells whether trees come over the link. Only then is there a cold
	// condition.
	remote() bool
	// prepare makes of a tree what mount needs, once.
	prepare(ctx context.Context, t *tree) error
	// mount makes a tree appear: with keep to a machine that has had it before,
	// else to one that has not.
	mount(ctx context.Context, t *tree, keep bool) (*mounted, error)
}

// site is what drivers work with.
type site struct {
	dir    string // for images, caches, mount points
	bin    string // with our own programs
	server *server
}

func (s *site) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// drivers make the file systems, in the order of the table's columns. The first
// is what the others are compared with.
var drivers = []struct {
	name string
	make func(*site) driver
}{
	{"native", func(*site) driver { return native{} }},
	{"aysfs", func(s *site) driver { return &aysfs{site: s} }},
	{"aysfs-profile", func(s *site) driver { return &aysfs{site: s, profile: true} }},
	{"aysfs-debug", func(s *site) driver { return &aysfs{site: s, debug: true} }},
	{"squashfuse", func(s *site) driver { return &squashfs{site: s, fuse: true} }},
	{"squashfs", func(s *site) driver { return &squashfs{site: s} }},
	{"rclone", func(s *site) driver { return &rclone{site: s} }},
}

const (
	reference = "native"
	subject   = "aysfs"
)

// quickDrivers leaves out those that take minutes.
var quickDrivers = []string{"native", "aysfs", "aysfs-profile", "aysfs-debug", "squashfuse", "squashfs"}

func driverNames() (names []string) {
	for _, d := range drivers {
		names = append(names, d.name)
	}
	return names
}

// mounted is a tree that has appeared.
type mounted struct {
	dir    string
	client *process // that serves it; nil for none
}

// unmount takes it away. The client ends by itself or is made to.
func (m *mounted) unmount(d driver) {
	if _, ok := d.(native); ok {
		return
	}
	if m.client != nil {
		m.client.stop()
	}
	unmount(m.dir)
}

// mountPoint makes an empty directory.
func (s *site) mountPoint(driver string, t *tree) (string, error) {
	dir := s.path("mnt", driver, t.name)
	return dir, os.MkdirAll(dir, 0o755)
}

// mountByDaemon starts a program that mounts at dir and stays, and waits until
// it is ready. Without ready that is when there is a mount.
func (s *site) mountByDaemon(ctx context.Context, dir string, cmd *exec.Cmd, ready func() bool) (*mounted, error) {
	if ready == nil {
		ready = func() bool { return isMounted(dir) }
	}
	p, err := startProcess(s.dir, cmd)
	if err != nil {
		return nil, err
	}
	if err := p.until(ctx, "mounted", ready); err != nil {
		p.stop()
		unmount(dir)
		return nil, err
	}
	return &mounted{dir: dir, client: p}, nil
}

// missing says which program is not there.
func missing(programs ...string) string {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Sprintf("%s is not installed", p)
		}
	}
	return ""
}

// native is the tree where it lies.
type native struct{}

func (native) absent() string                       { return "" }
func (native) remote() bool                         { return false }
func (native) prepare(context.Context, *tree) error { return nil }
func (native) mount(_ context.Context, t *tree, _ bool) (*mounted, error) {
	return &mounted{dir: t.dir}, nil
}
