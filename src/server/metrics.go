package server

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/aysfs/aysfs/src/control"
)

// getMetrics answers in the text format of
// https://prometheus.io/docs/instrumenting/exposition_formats/
// Nothing in it tells what is in a private store but its name.
func (s *Server) getMetrics(c *call) {
	c.w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	c.w.Header().Set("Cache-Control", "no-store")
	c.send(s.metrics(c.rights), "")
}

func (s *Server) metrics(who rights) []byte {
	var m metrics
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	clients, mounts := s.announced.counts()
	open, most := control.Descriptors()

	m.head("ays_cache_info", "gauge", "The cache and its version.")
	m.value("ays_cache_info", 1, "id", s.opts.ID, "version", s.opts.Version)
	loaded, configErr := s.configRead.get()
	usable := 1
	if configErr != nil {
		usable = 0
	}
	for _, v := range []struct {
		name, kind, help string
		value            any
	}{
		{"ays_cache_config_ok", "gauge", "Whether the config's file can be used.", usable},
		{"ays_cache_config_loaded_time_seconds", "gauge", "When the config in force was read, since 1970.", loaded.Unix()},
		{"ays_cache_start_time_seconds", "gauge", "When it started, since 1970.", s.since.Unix()},
		{"ays_cache_blob_hits_total", "counter", "Blobs that were here.", s.hits.total.Load()},
		{"ays_cache_blob_misses_total", "counter", "Blobs that were not here, or not for who asked.", s.misses.total.Load()},
		{"ays_cache_sent_bytes_total", "counter", "Bytes of bodies sent.", s.sent.total.Load()},
		{"ays_cache_requests_under_way", "gauge", "Requests being answered.", s.under.Load()},
		{"ays_cache_loops_total", "counter", "Requests that had been here before.", s.loops.Load()},
		{"ays_cache_clients", "gauge", "Clients remembered.", clients},
		{"ays_cache_mounts", "gauge", "Mounts remembered.", mounts},
		{"ays_cache_stores", "gauge", "Stores known.", len(s.stores.now.Load().ordered)},
		{"ays_cache_memory_heap_bytes", "gauge", "Live and not yet collected heap.", mem.HeapAlloc},
		{"ays_cache_goroutines", "gauge", "Goroutines.", runtime.NumGoroutine()},
		{"ays_cache_open_files", "gauge", "Descriptors that the process has open, connections among them.", open},
		{"ays_cache_max_files", "gauge", "Most descriptors that the process may have open.", most},
	} {
		m.head(v.name, v.kind, v.help)
		m.value(v.name, v.value)
	}

	m.head("ays_cache_requests_total", "counter", "Requests by route and class of status.")
	for r := range routes {
		for class := range s.routes[r] {
			if n := s.routes[r][class].Load(); n > 0 {
				m.value("ays_cache_requests_total", n, "route", r.String(), "status", fmt.Sprintf("%dxx", class))
			}
		}
	}
	m.head("ays_cache_request_seconds_total", "counter", "Time that answers took.")
	for r := range routes {
		m.value("ays_cache_request_seconds_total", time.Duration(s.nanos[r].Load()).Seconds(), "route", r.String())
	}

	list := s.stores.now.Load().ordered
	m.head("ays_cache_store_answers_total", "counter", "How stores answered.")
	for _, st := range list {
		for a := range answers {
			m.value("ays_cache_store_answers_total", st.trouble.counts[a].Load(), "store", st.name, "answer", a.String())
		}
	}
	m.head("ays_cache_store_bytes_total", "counter", "Bytes that stores gave, in stored form.")
	for _, st := range list {
		m.value("ays_cache_store_bytes_total", st.trouble.bytes.Load(), "store", st.name)
	}
	m.head("ays_cache_store_seconds_total", "counter", "Time that stores took to answer.")
	for _, st := range list {
		m.value("ays_cache_store_seconds_total", time.Duration(st.trouble.nanos.Load()).Seconds(), "store", st.name)
	}
	m.head("ays_cache_store_up", "gauge", "Whether the store's last answer was one.")
	for _, st := range list {
		up := 1
		if st.down.Load() {
			up = 0
		}
		m.value("ays_cache_store_up", up, "store", st.name)
	}

	usage := s.usage(who)
	m.head("ays_cache_domain_blobs", "gauge", "Blobs kept.")
	for _, u := range usage {
		m.value("ays_cache_domain_blobs", u.Blobs, "domain", u.Domain)
	}
	m.head("ays_cache_domain_disk_bytes", "gauge", "Bytes that the domain takes on disk.")
	for _, u := range usage {
		m.value("ays_cache_domain_disk_bytes", u.Bytes, "domain", u.Domain)
	}
	return m.Bytes()
}

type metrics struct{ bytes.Buffer }

func (m *metrics) head(name, kind, help string) {
	fmt.Fprintf(m, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// labelEscapes are those of the exposition format.
var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (m *metrics) value(name string, v any, labels ...string) {
	m.WriteString(name)
	for i := 0; i < len(labels); i += 2 {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		fmt.Fprintf(m, `%s%s="%s"`, sep, labels[i], labelEscapes.Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		m.WriteByte('}')
	}
	fmt.Fprintln(m, "", v)
}
