package control

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// writeMetrics writes s in the text format of
// https://prometheus.io/docs/instrumenting/exposition_formats/
func writeMetrics(w io.Writer, s Status) {
	m := metrics{bufio.NewWriter(w)}
	defer m.w.Flush()
	gauge, counter := "gauge", "counter"

	m.head("aysfs_info", gauge, "The client and its version.")
	m.value("aysfs_info", 1, "id", s.ID, "version", s.Version)
	m.head("aysfs_start_time_seconds", gauge, "When the client started, since 1970.")
	m.value("aysfs_start_time_seconds", s.Since.Unix())

	if k := s.Keeper; k != nil {
		m.head("aysfs_restarts_total", counter, "Times that the serving process died and another one went on.")
		m.value("aysfs_restarts_total", k.Restarts)
		m.head("aysfs_upgrades_total", counter, "Times that the serving process was replaced.")
		m.value("aysfs_upgrades_total", k.Upgrades)
	}

	usable := 1
	if s.ConfigError != "" {
		usable = 0
	}
	m.head("aysfs_config_ok", gauge, "Whether the config's file can be used.")
	m.value("aysfs_config_ok", usable)
	m.head("aysfs_config_loaded_time_seconds", gauge, "When the config in force was read, since 1970.")
	m.value("aysfs_config_loaded_time_seconds", s.Loaded.Unix())

	m.head("aysfs_mount_up", gauge, "Whether the mount is there.")
	for _, v := range s.Mounts {
		up := 0
		if v.Error == "" {
			up = 1
		}
		m.value("aysfs_mount_up", up, "mount", v.Path, "tree", v.Tree)
	}
	m.head("aysfs_mount_serial", gauge, "Serial of the tree that the mount shows.")
	for _, v := range s.Mounts {
		m.value("aysfs_mount_serial", v.Serial, "mount", v.Path, "tree", v.Tree)
	}
	m.head("aysfs_mount_current", gauge, "Whether the mount shows its store's newest head, as far as is known.")
	for _, v := range s.Mounts {
		current := 0
		if v.Error == "" && v.Problem == "" {
			current = 1
		}
		m.value("aysfs_mount_current", current, "mount", v.Path)
	}
	m.head("aysfs_mount_moves_total", counter, "Moves from one tree to the next.")
	for _, v := range s.Mounts {
		m.value("aysfs_mount_moves_total", v.Moves, "mount", v.Path)
	}
	m.head("aysfs_mount_inodes", gauge, "Inodes of the mount that the kernel holds.")
	for _, v := range s.Mounts {
		m.value("aysfs_mount_inodes", v.Inodes, "mount", v.Path)
	}

	m.head("aysfs_prefetched_objects", gauge, "Objects that were brought near ahead of need for what the mount shows.")
	for _, v := range s.Mounts {
		for _, b := range []struct {
			stage string
			of    *Bringing
		}{{"metadata", v.PrefetchMetadata}, {"profile", v.PrefetchProfile}, {"tree", v.PrefetchTree}} {
			if b.of != nil {
				m.value("aysfs_prefetched_objects", b.of.Objects, "mount", v.Path, "stage", b.stage)
			}
		}
	}

	c := s.Cache
	m.all([]metric{
		{"aysfs_cache_blobs", gauge, "Blobs in the disk cache.", c.Blobs},
		{"aysfs_cache_bytes", gauge, "Plain bytes of the blobs in the disk cache.", c.Bytes},
		{"aysfs_cache_disk_bytes", gauge, "Bytes that the disk cache takes on disk.", c.Disk},
		{"aysfs_cache_max_bytes", gauge, "Most bytes that the disk cache may take on disk.", c.MaxSize},
		{"aysfs_cache_hits_total", counter, "Blobs answered by the disk cache.", c.Hits},
		{"aysfs_cache_hit_bytes_total", counter, "Bytes answered by the disk cache.", c.HitBytes},
		{"aysfs_cache_misses_total", counter, "Blobs that the disk cache did not have.", c.Misses},
		{"aysfs_cache_dropped_total", counter, "Blobs not kept for want of room or time.", c.Dropped},
		{"aysfs_cache_evicted_bytes_total", counter, "Bytes given back to the file system.", c.Evicted},
		{"aysfs_cache_corrupt_total", counter, "Blobs in the disk cache that failed their digest.", c.Corrupt},
		{"aysfs_memory_limit_bytes", gauge, "The configured bound.", s.Memory.Limit},
		{"aysfs_memory_heap_bytes", gauge, "Live and not yet collected heap.", s.Memory.Heap},
		{"aysfs_memory_metadata_bytes", gauge, "Decoded listings and chunk lists.", s.Memory.Metadata},
		{"aysfs_memory_resident_bytes", gauge, "Resident memory of the process, mapped cache pages included.", s.Memory.Resident},
		{"aysfs_goroutines", gauge, "Goroutines.", int64(s.Memory.Routines)},
		{"aysfs_open_files", gauge, "Descriptors that the process has open.", s.Files.Open},
		{"aysfs_max_files", gauge, "Most descriptors that the process may have open.", s.Files.Most},
	})

	if c := s.Seed; c != nil {
		m.all([]metric{
			{"aysfs_seed_blobs", gauge, "Blobs in the seed.", c.Blobs},
			{"aysfs_seed_bytes", gauge, "Plain bytes of the blobs in the seed.", c.Bytes},
			{"aysfs_seed_disk_bytes", gauge, "Bytes that the seed takes on disk.", c.Disk},
			{"aysfs_seed_hits_total", counter, "Blobs answered by the seed.", c.Hits},
			{"aysfs_seed_hit_bytes_total", counter, "Bytes answered by the seed.", c.HitBytes},
			{"aysfs_seed_misses_total", counter, "Blobs that the seed did not have either.", c.Misses},
			{"aysfs_seed_corrupt_total", counter, "Blobs in the seed that failed their digest.", c.Corrupt},
			{"aysfs_seed_damaged_files", gauge, "Files of the seed that can't be used.", c.Damaged},
		})
	}

	m.head("aysfs_fetching", gauge, "Fetches under way.")
	for _, st := range s.Stores {
		m.value("aysfs_fetching", len(st.Tier.Fetching), "store", st.Name)
	}
	m.head("aysfs_tier_answers_total", counter, "How tiers answered.")
	for _, st := range s.Stores {
		for _, t := range st.Tier.Sources {
			for _, v := range []struct {
				how string
				n   int64
			}{{"hit", t.Hits}, {"absent", t.Absent}, {"error", t.Errors}, {"corrupt", t.Corrupt}, {"cancelled", t.Cancelled}} {
				m.value("aysfs_tier_answers_total", v.n, "store", st.Name, "tier", t.Tier, "answer", v.how)
			}
		}
	}
	m.head("aysfs_tier_bytes_total", counter, "Bytes that tiers gave, in stored form.")
	for _, st := range s.Stores {
		for _, t := range st.Tier.Sources {
			m.value("aysfs_tier_bytes_total", t.Bytes, "store", st.Name, "tier", t.Tier)
		}
	}
	m.head("aysfs_tier_seconds_total", counter, "Time that tiers took to answer.")
	for _, st := range s.Stores {
		for _, t := range st.Tier.Sources {
			m.value("aysfs_tier_seconds_total", t.Latency.Seconds(), "store", st.Name, "tier", t.Tier)
		}
	}
}

type metrics struct{ w *bufio.Writer }

// metric is one that has a single value.
type metric struct {
	name, kind, help string
	value            int64
}

func (m metrics) all(of []metric) {
	for _, v := range of {
		m.head(v.name, v.kind, v.help)
		m.value(v.name, v.value)
	}
}

func (m metrics) head(name, kind, help string) {
	fmt.Fprintf(m.w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// labelEscapes are those of the exposition format.
var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (m metrics) value(name string, v any, labels ...string) {
	fmt.Fprint(m.w, name)
	for i := 0; i < len(labels); i += 2 {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		fmt.Fprintf(m.w, `%s%s="%s"`, sep, labels[i], labelEscapes.Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		fmt.Fprint(m.w, "}")
	}
	fmt.Fprintln(m.w, "", v)
}
