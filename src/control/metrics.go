package control

import "github.com/aysfs/aysfs/src/metrics"

// metrics is s for a scraper.
func (s Status) metrics() []byte {
	var m metrics.Text
	s.processMetrics(&m)
	s.mountMetrics(&m)
	s.cacheMetrics(&m)
	s.tierMetrics(&m)
	return m.Bytes()
}

func (s Status) processMetrics(m *metrics.Text) {
	m.Many("aysfs_info", metrics.Gauge, "The client and its version.")(1, "id", s.ID, "version", s.Version)
	m.One("aysfs_start_time_seconds", metrics.Gauge, "When the client started, since 1970.", s.Since.Unix())
	if k := s.Keeper; k != nil {
		m.One("aysfs_restarts_total", metrics.Counter, "Times that the serving process died and another one went on.", k.Restarts)
		m.One("aysfs_upgrades_total", metrics.Counter, "Times that the serving process was replaced.", k.Upgrades)
	}
	m.One("aysfs_config_ok", metrics.Gauge, "Whether the config's file can be used.", s.ConfigError == "")
	m.One("aysfs_config_loaded_time_seconds", metrics.Gauge, "When the config in force was read, since 1970.", s.Loaded.Unix())
	m.One("aysfs_memory_limit_bytes", metrics.Gauge, "The configured bound.", s.Memory.Limit)
	m.One("aysfs_memory_heap_bytes", metrics.Gauge, "Live and not yet collected heap.", s.Memory.Heap)
	m.One("aysfs_memory_metadata_bytes", metrics.Gauge, "Decoded listings and chunk lists.", s.Memory.Metadata)
	m.One("aysfs_memory_resident_bytes", metrics.Gauge, "Resident memory of the process, mapped cache pages included.", s.Memory.Resident)
	m.One("aysfs_goroutines", metrics.Gauge, "Goroutines.", s.Memory.Routines)
	m.One("aysfs_open_files", metrics.Gauge, "Descriptors that the process has open.", s.Files.Open)
	m.One("aysfs_max_files", metrics.Gauge, "Most descriptors that the process may have open.", s.Files.Most)
}

func (s Status) mountMetrics(m *metrics.Text) {
	up := m.Many("aysfs_mount_up", metrics.Gauge, "Whether the mount is there.")
	for _, v := range s.Mounts {
		up(v.Error == "", "mount", v.Path, "tree", v.Tree)
	}
	serial := m.Many("aysfs_mount_serial", metrics.Gauge, "Serial of the tree that the mount shows.")
	for _, v := range s.Mounts {
		serial(v.Serial, "mount", v.Path, "tree", v.Tree)
	}
	current := m.Many("aysfs_mount_current", metrics.Gauge, "Whether the mount shows its store's newest head, as far as is known.")
	for _, v := range s.Mounts {
		current(v.Error == "" && v.Problem == "", "mount", v.Path)
	}
	moves := m.Many("aysfs_mount_moves_total", metrics.Counter, "Moves from one tree to the next.")
	for _, v := range s.Mounts {
		moves(v.Moves, "mount", v.Path)
	}
	inodes := m.Many("aysfs_mount_inodes", metrics.Gauge, "Inodes of the mount that the kernel holds.")
	for _, v := range s.Mounts {
		inodes(v.Inodes, "mount", v.Path)
	}
	prefetched := m.Many("aysfs_prefetched_objects", metrics.Gauge, "Objects that were brought near ahead of need for what the mount shows.")
	for _, v := range s.Mounts {
		for _, b := range []struct {
			stage string
			of    *Bringing
		}{{"metadata", v.PrefetchMetadata}, {"profile", v.PrefetchProfile}, {"tree", v.PrefetchTree}} {
			if b.of != nil {
				prefetched(b.of.Objects, "mount", v.Path, "stage", b.stage)
			}
		}
	}
}

func (s Status) cacheMetrics(m *metrics.Text) {
	c := s.Cache
	m.One("aysfs_cache_blobs", metrics.Gauge, "Blobs in the disk cache.", c.Blobs)
	m.One("aysfs_cache_bytes", metrics.Gauge, "Plain bytes of the blobs in the disk cache.", c.Bytes)
	m.One("aysfs_cache_disk_bytes", metrics.Gauge, "Bytes that the disk cache takes on disk.", c.Disk)
	m.One("aysfs_cache_max_bytes", metrics.Gauge, "Most bytes that the disk cache may take on disk.", c.MaxSize)
	m.One("aysfs_cache_hits_total", metrics.Counter, "Blobs answered by the disk cache.", c.Hits)
	m.One("aysfs_cache_hit_bytes_total", metrics.Counter, "Bytes answered by the disk cache.", c.HitBytes)
	m.One("aysfs_cache_misses_total", metrics.Counter, "Blobs that the disk cache did not have.", c.Misses)
	m.One("aysfs_cache_dropped_total", metrics.Counter, "Blobs not kept for want of room or time.", c.Dropped)
	m.One("aysfs_cache_evicted_bytes_total", metrics.Counter, "Bytes given back to the file system.", c.Evicted)
	m.One("aysfs_cache_corrupt_total", metrics.Counter, "Blobs in the disk cache that failed their digest.", c.Corrupt)
	if c := s.Seed; c != nil {
		m.One("aysfs_seed_blobs", metrics.Gauge, "Blobs in the seed.", c.Blobs)
		m.One("aysfs_seed_bytes", metrics.Gauge, "Plain bytes of the blobs in the seed.", c.Bytes)
		m.One("aysfs_seed_disk_bytes", metrics.Gauge, "Bytes that the seed takes on disk.", c.Disk)
		m.One("aysfs_seed_hits_total", metrics.Counter, "Blobs answered by the seed.", c.Hits)
		m.One("aysfs_seed_hit_bytes_total", metrics.Counter, "Bytes answered by the seed.", c.HitBytes)
		m.One("aysfs_seed_misses_total", metrics.Counter, "Blobs that the seed did not have either.", c.Misses)
		m.One("aysfs_seed_corrupt_total", metrics.Counter, "Blobs in the seed that failed their digest.", c.Corrupt)
		m.One("aysfs_seed_damaged_files", metrics.Gauge, "Files of the seed that can't be used.", c.Damaged)
	}
}

func (s Status) tierMetrics(m *metrics.Text) {
	fetching := m.Many("aysfs_fetching", metrics.Gauge, "Fetches under way.")
	for _, st := range s.Stores {
		fetching(len(st.Tier.Fetching), "store", st.Name)
	}
	answers := m.Many("aysfs_tier_answers_total", metrics.Counter, "How tiers answered.")
	for _, st := range s.Stores {
		for _, t := range st.Tier.Sources {
			for _, v := range []struct {
				how string
				n   int64
			}{{"hit", t.Hits}, {"absent", t.Absent}, {"error", t.Errors}, {"corrupt", t.Corrupt}, {"cancelled", t.Cancelled}} {
				answers(v.n, "store", st.Name, "tier", t.Tier, "answer", v.how)
			}
		}
	}
	given := m.Many("aysfs_tier_bytes_total", metrics.Counter, "Bytes that tiers gave, in stored form.")
	for _, st := range s.Stores {
		for _, t := range st.Tier.Sources {
			given(t.Bytes, "store", st.Name, "tier", t.Tier)
		}
	}
	took := m.Many("aysfs_tier_seconds_total", metrics.Counter, "Time that tiers took to answer.")
	for _, st := range s.Stores {
		for _, t := range st.Tier.Sources {
			took(t.Latency.Seconds(), "store", st.Name, "tier", t.Tier)
		}
	}
}
