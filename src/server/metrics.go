package server

import (
	"fmt"
	"runtime"
	"time"

	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/metrics"
)

// getMetrics answers a scraper. Nothing in it tells what is in a private store but its
// name.
func (s *Server) getMetrics(c *call) {
	c.w.Header().Set("Content-Type", metrics.ContentType)
	c.w.Header().Set("Cache-Control", "no-store")
	c.send(s.metrics(c.rights), "")
}

func (s *Server) metrics(who rights) []byte {
	var m metrics.Text
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	clients, mounts := s.announced.counts()
	open, most := control.Descriptors()

	m.Many("ays_cache_info", metrics.Gauge, "The cache and its version.")(1, "id", s.opts.ID, "version", s.opts.Version)
	loaded, configErr := s.configRead.get()
	m.One("ays_cache_config_ok", metrics.Gauge, "Whether the config's file can be used.", configErr == nil)
	m.One("ays_cache_config_loaded_time_seconds", metrics.Gauge, "When the config in force was read, since 1970.", loaded.Unix())
	m.One("ays_cache_start_time_seconds", metrics.Gauge, "When it started, since 1970.", s.since.Unix())
	m.One("ays_cache_blob_hits_total", metrics.Counter, "Blobs that were here.", s.hits.total.Load())
	m.One("ays_cache_blob_misses_total", metrics.Counter, "Blobs that were not here, or not for who asked.", s.misses.total.Load())
	m.One("ays_cache_sent_bytes_total", metrics.Counter, "Bytes of bodies sent.", s.sent.total.Load())
	m.One("ays_cache_requests_under_way", metrics.Gauge, "Requests being answered.", s.under.Load())
	m.One("ays_cache_loops_total", metrics.Counter, "Requests that had been here before.", s.loops.Load())
	m.One("ays_cache_clients", metrics.Gauge, "Clients remembered.", clients)
	m.One("ays_cache_mounts", metrics.Gauge, "Mounts remembered.", mounts)
	m.One("ays_cache_stores", metrics.Gauge, "Stores known.", len(s.stores.now.Load().ordered))
	m.One("ays_cache_memory_heap_bytes", metrics.Gauge, "Live and not yet collected heap.", mem.HeapAlloc)
	m.One("ays_cache_goroutines", metrics.Gauge, "Goroutines.", runtime.NumGoroutine())
	m.One("ays_cache_open_files", metrics.Gauge, "Descriptors that the process has open, connections among them.", open)
	m.One("ays_cache_max_files", metrics.Gauge, "Most descriptors that the process may have open.", most)

	requests := m.Many("ays_cache_requests_total", metrics.Counter, "Requests by route and class of status.")
	for r := range routes {
		for class := range s.routes[r] {
			if n := s.routes[r][class].Load(); n > 0 {
				requests(n, "route", r.String(), "status", fmt.Sprintf("%dxx", class))
			}
		}
	}
	took := m.Many("ays_cache_request_seconds_total", metrics.Counter, "Time that answers took.")
	for r := range routes {
		took(time.Duration(s.nanos[r].Load()).Seconds(), "route", r.String())
	}

	list := s.stores.now.Load().ordered
	answered := m.Many("ays_cache_store_answers_total", metrics.Counter, "How stores answered.")
	for _, st := range list {
		for a := range answers {
			answered(st.trouble.counts[a].Load(), "store", st.name, "answer", a.String())
		}
	}
	given := m.Many("ays_cache_store_bytes_total", metrics.Counter, "Bytes that stores gave, in stored form.")
	for _, st := range list {
		given(st.trouble.bytes.Load(), "store", st.name)
	}
	storeTook := m.Many("ays_cache_store_seconds_total", metrics.Counter, "Time that stores took to answer.")
	for _, st := range list {
		storeTook(time.Duration(st.trouble.nanos.Load()).Seconds(), "store", st.name)
	}
	up := m.Many("ays_cache_store_up", metrics.Gauge, "Whether the store's last answer was one.")
	for _, st := range list {
		up(!st.down.Load(), "store", st.name)
	}

	usage := s.usage(who)
	blobs := m.Many("ays_cache_domain_blobs", metrics.Gauge, "Blobs kept.")
	for _, u := range usage {
		blobs(u.Blobs, "domain", u.Domain)
	}
	takes := m.Many("ays_cache_domain_disk_bytes", metrics.Gauge, "Bytes that the domain takes on disk.")
	for _, u := range usage {
		takes(u.Bytes, "domain", u.Domain)
	}
	return m.Bytes()
}
