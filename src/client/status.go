package client

import (
	"errors"
	"os"
	"runtime"
	"slices"

	"github.com/aysfs/aysfs/src/control"
)

// Status says how the client is doing. It waits for nothing.
func (c *Client) Status() control.Status {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	open, most := control.Descriptors()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := control.Status{
		ID: c.cfg.Main.ID, Version: c.version, Since: c.since, Config: c.file, Loaded: c.loaded.at,
		NeedRestart: slices.Clone(c.loaded.refused), PID: os.Getpid(),
		Memory: control.Memory{
			Limit: c.cfg.Main.Memory, Heap: int64(mem.HeapAlloc), Metadata: c.metadata.Size(),
			Resident: resident(), Routines: runtime.NumGoroutine(),
		},
		Files: control.Files{Open: open, Most: most},
	}
	if c.left != nil {
		k := c.left.News
		s.Keeper = &k
	}
	if err := c.loaded.err; err != nil {
		s.ConfigError = err.Error()
	}
	for _, m := range c.mounts {
		s.Mounts = append(s.Mounts, m.status())
	}
	for _, cfg := range c.cfg.Stores {
		ch := c.origins[cfg.Name].use()
		t := ch.blobs.Status()
		ch.users.Done()
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
	if c.seed != nil {
		d, given := c.seed.Stats(), c.seed.Given()
		s.Cache.HitBytes -= given
		s.Seed = &control.Seed{
			Path: c.cfg.Seed.Path, Blobs: d.Blobs, Bytes: d.Bytes, Disk: d.Disk,
			Hits: d.Hits, Misses: d.Misses, HitBytes: given, Corrupt: d.Corrupt, Damaged: d.Condemned,
		}
	}
	return s
}

func (m *mount) status() control.Mount {
	ch := m.origin.use()
	source := ch.made.Store.URL.Redacted()
	ch.users.Done()
	learned := m.needs.status()
	brought := func(s stage) *control.Bringing { return m.progress.status(s, m.origin) }
	metadata, profile, whole := brought(stageMetadata), brought(stageProfile), brought(stageTree)
	m.mu.Lock()
	defer m.mu.Unlock()
	s := control.Mount{
		Name: m.name(), Path: m.cfg.Path, Store: m.cfg.Store, Source: source,
		Tree: m.cfg.ID, Remote: m.cfg.Remote, Catalog: m.note, Checked: m.look.at,
		Profile: learned, PrefetchMetadata: metadata, PrefetchProfile: profile, PrefetchTree: whole,
	}
	if m.look.err != nil {
		s.Problem = m.look.err.Error()
	}
	if gone := over(m.fs); gone || m.shown.head == nil {
		err := m.err
		switch {
		case gone:
			err = errOver
		case err == nil:
			err = errors.New("not tried yet")
		}
		s.Error, s.Pending = err.Error(), m.fs != nil && !gone
		return s
	}
	h, moves := m.shown.head, m.fs.Moves()
	s.Since, s.Fresh, s.Inodes = m.since, m.shown.fresh, m.fs.Inodes()
	s.Tree, s.Serial, s.Root, s.Time = h.Tree.String(), h.Serial, h.Root.String(), h.Time
	s.Files, s.Bytes = h.Counts.Files, h.Counts.Bytes
	s.Moves, s.Moved = moves.Count, moves.Last
	if l := m.fs.Layer(); l != nil {
		d := l.Status()
		s.Debug = &control.Debug{Changed: d.Changed, Scratch: d.Scratch, Unsent: d.Unsent}
		if d.Err != nil {
			s.Debug.Error = d.Err.Error()
		}
	}
	return s
}
