package client

import (
	"context"
	"net"
	"path/filepath"
	"regexp"
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
func (c *Client) layer(cfg config.Mount, main config.Main) *overlay.Options {
	d := cfg.Redis
	if d == nil {
		return nil
	}
	return &overlay.Options{
		Remote: debug.New(debug.Options{
			Addr: net.JoinHostPort(d.Addr, strconv.Itoa(d.Port)), Passwd: d.Passwd.Reveal(), Mount: cfg.Name,
			Client: main.ID, Timeout: min(main.IOTimeout, debugTimeout), Log: c.log,
		}),
		Filter: cfg.DebugFilter, Spool: c.spool(), MaxSize: d.MaxSize, Every: debugEvery,
		Timeout: main.IOTimeout, Log: c.log.With("op", "debug", "mount", cfg.Path),
	}
}

// spool is where what is written to mounts lies on this machine: with the disk
// cache, or where things that are large and temporary go.
func (c *Client) spool() string {
	if d := c.config().Disk; d != nil {
		return filepath.Join(d.Path, disk.GuestDir)
	}
	return "/var/tmp/aysfs-debug"
}

func sameFilter(a, b []*regexp.Regexp) bool {
	return slices.EqualFunc(a, b, func(x, y *regexp.Regexp) bool { return x.String() == y.String() })
}

// refilter has a mount go by the filter of its config, if it does not yet. A change
// under way that waits for redis is waited for. What fails is tried again by the
// next reload.
func (c *Client) refilter(m *mount) {
	m.mounting.Lock()
	defer m.mounting.Unlock()
	m.mu.Lock()
	f, cfg, same := m.fs, m.cfg, sameFilter(m.cfg.DebugFilter, m.filter) && !m.refilter
	m.mu.Unlock()
	if f == nil || f.Layer() == nil || same {
		return
	}
	ctx, cancel := context.WithTimeout(m.life, 2*c.config().Main.IOTimeout)
	defer cancel()
	err := f.SetDebugFilter(ctx, cfg.DebugFilter)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.filter, m.refilter = cfg.DebugFilter, err != nil
	if err != nil && m.life.Err() == nil {
		c.log.Warn("a debug filter is not wholly in force; reload once more", "op", "reload", "mount", m.path, "err", err)
	}
}
