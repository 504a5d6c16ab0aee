package client

import (
	"os"
	"runtime"

	"github.com/aysfs/aysfs/src/control"
)

// Status says how the client is doing. It waits for nothing.
func (c *Client) Status() control.Status {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	s := control.Status{
		ID: c.cfg.Main.ID, Version: c.version, Since: c.since, Config: c.file, PID: os.Getpid(),
		Memory: control.Memory{
			Limit: c.cfg.Main.Memory, Heap: int64(mem.HeapAlloc), Metadata: c.metadata.Size(),
			Resident: resident(), Routines: runtime.NumGoroutine(),
		},
	}
	for _, m := range c.mounts {
		s.Mounts = append(s.Mounts, c.mountStatus(m))
	}
	for _, cfg := range c.cfg.Stores {
		st := c.stores[cfg.Name]
		t := st.blobs.Status()
		s.Stores = append(s.Stores, control.Store{Name: cfg.Name, URL: cfg.URL.Redacted(), Tier: t})
		s.Cache.HitBytes += t.Near.CacheBytes
	}
	s.Cache.Bypassed = c.noCache
	if c.cache != nil {
		d := c.cache.Stats()
		s.Cache = control.Cache{
			Path: c.cfg.Disk.Path, Blobs: d.Blobs, Bytes: d.Bytes, Disk: d.Disk, MaxSize: d.MaxDisk,
			Hits: d.Hits, Misses: d.Misses, HitBytes: s.Cache.HitBytes, Dropped: d.Dropped,
			Evicted: d.EvictedBytes, Corrupt: d.Corrupt, Bypassed: d.Bypassed,
		}
	}
	return s
}

func (c *Client) mountStatus(m *mount) control.Mount {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := control.Mount{
		Name: m.name(), Path: m.cfg.Path, Store: m.cfg.Store, Source: c.stores[m.cfg.Store].cfg.URL.Redacted(),
		Tree: m.cfg.ID, Remote: m.cfg.Remote, Catalog: m.note,
	}
	if m.fs == nil {
		s.Error = "not tried yet"
		if m.err != nil {
			s.Error = m.err.Error()
		}
		return s
	}
	h := m.fs.View().Head()
	if m.doubt != nil {
		s.Problem = m.doubt.Error()
	}
	s.Since, s.Fresh, s.Inodes = m.since, m.fresh, m.fs.Inodes()
	s.Tree, s.Serial, s.Root, s.Time = h.Tree.String(), h.Serial, h.Root.String(), h.Time
	s.Files, s.Bytes = h.Counts.Files, h.Counts.Bytes
	return s
}
