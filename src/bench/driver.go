package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// driver is a way to make trees appear. A new one goes into drivers, and that is
// all.
type driver interface {
	// absent says why it can't be measured on this machine; empty if it can.
	absent() string
	// from says where trees come from.
	from() origin
	// prepare makes of a tree what mount needs, once.
	prepare(ctx context.Context, t *tree) error
	// mount makes a tree appear: with keep to a machine that has had it before,
	// else to one that has not.
	mount(ctx context.Context, t *tree, keep bool) (*mounted, error)
}

// origin is where a driver has its trees from.
type origin int

const (
	here  origin = iota // the local disk, always
	kept                // the link, and the local disk keeps what came
	fresh               // the link, at every mount again
)

// site is what drivers work with.
type site struct {
	dir    string // for images, caches, mount points
	bin    string // with our own programs
	server *server
}

func (s *site) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// kind is a driver that there is.
type kind struct {
	name string
	make func(*site) driver
	// tree is the only one that it is for; empty: all.
	tree string
	// asked means that it takes part only where it is asked for.
	asked bool
	// peer has only the works for peers, unless works are asked for, and is the
	// last to be measured again.
	peer bool
	// whole means that it fetches all of a tree at the mount, which is therefore
	// counted with whatever is done cold.
	whole bool
}

// drivers are in the order of the tables. The first is what the others are
// compared with.
var drivers = []kind{
	{name: reference, make: func(*site) driver { return native{} }},
	{name: subject, make: func(s *site) driver { return &aysfs{site: s} }},
	{name: profiled, make: func(s *site) driver { return &aysfs{site: s, profile: true} }, tree: "python"},
	{name: "aysfs-debug", make: func(s *site) driver { return &aysfs{site: s, debug: true} }, asked: true},
	{name: "squashfs", make: func(s *site) driver { return &image{site: s, name: "squashfs"} }, peer: true, whole: true},
	{name: "squashfuse", make: func(s *site) driver { return &image{site: s, name: "squashfuse", fuse: true} }, peer: true, whole: true},
	{name: "rclone-image", make: func(s *site) driver { return &streamed{image{site: s, name: "rclone-image"}} }, peer: true, whole: true},
	{name: "desync", make: func(s *site) driver { return &desync{image{site: s, name: "desync"}} }, peer: true},
	{name: "rclone", make: func(s *site) driver { return &rclone{site: s} }, peer: true},
	{name: "sshfs", make: func(s *site) driver { return &sshfs{site: s} }, peer: true},
}

const (
	reference = "native"
	subject   = "aysfs"
	profiled  = "aysfs-profile"
)

// quickDrivers leaves out those that take minutes.
var quickDrivers = []string{reference, subject, profiled, "squashfs", "squashfuse"}

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
	lower  *mounted // what it has its bytes from; nil for none
	stays  bool     // is no mount
}

// unmount takes it away. The client ends by itself or is made to.
func (m *mounted) unmount() {
	if m.stays {
		return
	}
	if m.client != nil {
		m.client.stop()
	}
	unmount(m.dir)
	if m.lower != nil {
		m.lower.unmount()
	}
}

// abort has whoever waits for the mount get an error.
func (m *mounted) abort() {
	for ; m != nil; m = m.lower {
		if m.client != nil {
			m.client.kill()
		}
	}
}

// usage is what all clients take that serve the mount; nil if there are none.
func (m *mounted) usage() (sum *usage) {
	for ; m != nil; m = m.lower {
		if m.client == nil {
			continue
		}
		u, err := m.client.usage()
		if err != nil {
			return nil
		}
		if sum == nil {
			sum = &usage{}
		}
		sum.add(u)
	}
	return sum
}

// lastWords is the end of what the clients said.
func (m *mounted) lastWords() (words string) {
	for ; m != nil; m = m.lower {
		if m.client != nil {
			words += "\n" + m.client.lastWords()
		}
	}
	return words
}

// How long drivers have.
const (
	prepareTime = 2 * time.Minute
	mountTime   = 30 * time.Second
)

// cacheDir is where a driver keeps what came over the link: emptied unless keep.
func (s *site) cacheDir(driver string, t *tree, keep bool) (string, error) {
	dir := s.path("cache", driver, t.name)
	if !keep {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// plainDir is where in the server's files the trees are as they are.
const plainDir = "plain"

func (s *site) plain(t *tree) string { return filepath.Join(s.server.root, plainDir, t.name) }

// servePlain has the server serve a tree as it is.
func (s *site) servePlain(ctx context.Context, t *tree) error {
	if _, err := os.Stat(s.plain(t)); err == nil {
		return nil
	}
	return copyInto(ctx, filepath.Join(s.server.root, plainDir), t.dir)
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
func (native) from() origin                         { return here }
func (native) prepare(context.Context, *tree) error { return nil }
func (native) mount(_ context.Context, t *tree, _ bool) (*mounted, error) {
	return &mounted{dir: t.dir, stays: true}, nil
}
