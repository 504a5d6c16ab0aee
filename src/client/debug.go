package client

import (
	"crypto/sha256"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/debug"
	"github.com/aysfs/aysfs/src/overlay"
	"github.com/aysfs/aysfs/src/tier/disk"
)

const (
	// debugEvery is how often a debug mount looks at what others changed: what
	// they do is to show within a second.
	debugEvery = 300 * time.Millisecond
	// debugTimeout is how long redis may be silent before it counts as away.
	debugTimeout = 5 * time.Second
)

// layer is what a mount with debug has over its tree; nil for one without.
func (c *Client) layer(m *mount) *overlay.Options {
	i := slices.IndexFunc(c.cfg.Debug, func(d config.Debug) bool { return d.Name == m.cfg.Debug })
	if m.cfg.Debug == "" || i < 0 {
		return nil
	}
	d := c.cfg.Debug[i]
	store := debug.New(debug.Options{
		Addr: net.JoinHostPort(d.Addr, strconv.Itoa(d.Port)), Passwd: d.Passwd.Reveal(), Mount: m.cfg.Name,
		Client: c.cfg.Main.ID, Timeout: min(c.cfg.Main.IOTimeout, debugTimeout), Log: c.log,
	})
	return &overlay.Options{
		Remote: store, Filter: m.cfg.DebugFilter, Spool: c.spool(m.cfg.Path), MaxSize: d.MaxSize, Every: debugEvery,
		Timeout: c.cfg.Main.IOTimeout, Log: c.log.With("op", "debug", "mount", m.cfg.Path),
	}
}

// spool is where what is written to a mount lies on this machine: with the disk
// cache, or where things that are large and temporary go.
func (c *Client) spool(path string) string {
	sum := sha256.Sum256([]byte(path))
	dir := filepath.Join("/var/tmp", "aysfs-debug")
	if c.cfg.Disk != nil {
		dir = filepath.Join(c.cfg.Disk.Path, disk.GuestDir)
	}
	return filepath.Join(dir, fmt.Sprintf("%x", sum[:8]))
}
