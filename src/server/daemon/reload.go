package daemon

import (
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/aysfs/aysfs/src/config"
)

// watchEvery is how often it is looked whether the config's file has changed.
const watchEvery = 5 * time.Second

// sight is how the files that a reload reads look from outside.
type sight [3]struct {
	size int64
	time time.Time
}

func (d *Daemon) look() sight {
	var s sight
	for i, path := range []string{d.opts.File, d.cfg.HTTP.TLSCert, d.cfg.HTTP.TLSKey} {
		if path == "" {
			continue
		}
		if st, err := os.Stat(path); err == nil {
			s[i].size, s[i].time = st.Size(), st.ModTime()
		}
	}
	return s
}

// Reload reads the config again, and takes certificates, users, stores, limits of
// requests and the log level from it. What can't be used changes nothing. Nobody's
// connection is closed.
func (d *Daemon) Reload() {
	cfg, err := config.LoadServer(d.opts.File)
	if err != nil {
		d.log.Error("the new config can't be used, the old one stays in force", "op", "reload", "err", err)
		return
	}
	if d.certs != nil && cfg.HTTP.TLSCert != "" {
		if err := d.certs.load(cfg.HTTP); err != nil {
			d.log.Error("the new certificate can't be used, the old config stays in force", "op", "reload", "err", err)
			return
		}
	}
	if err := d.server.Reload(cfg); err != nil {
		d.log.Error("the new config can't be used", "op", "reload", "err", err)
		return
	}
	if keys := needRestart(d.cfg, cfg); len(keys) > 0 {
		d.log.Warn("some changes in the config need a restart", "op", "reload", "keys", strings.Join(keys, ", "))
	}
	if d.opts.Level != nil {
		d.opts.Level.Set(cfg.Main.LogLevel)
	}
	d.cfg = cfg
	d.log.Info("config reloaded", "op", "reload")
}

// needRestart names what differs and is not taken while the daemon runs.
func needRestart(was, now *config.Server) []string {
	var keys []string
	for _, k := range []struct {
		name     string
		was, now any
	}{
		{"main.id", was.Main.ID, now.Main.ID},
		{"main.data", was.Main.Data, now.Main.Data},
		{"main.control", was.Main.Control, now.Main.Control},
		{"main.memory", was.Main.Memory, now.Main.Memory},
		{"main.log", was.Main.Log, now.Main.Log},
		{"http.listen", was.HTTP.Listen, now.HTTP.Listen},
		{"http.tls_cert", was.HTTP.TLSCert == "", now.HTTP.TLSCert == ""},
		{"http.max_connections", was.HTTP.MaxConnections, now.HTTP.MaxConnections},
		{"http.max_header", was.HTTP.MaxHeader, now.HTTP.MaxHeader},
		{"http.max_object", was.HTTP.MaxObject, now.HTTP.MaxObject},
		{"http.header_timeout", was.HTTP.HeaderTimeout, now.HTTP.HeaderTimeout},
		{"http.idle_timeout", was.HTTP.IdleTimeout, now.HTTP.IdleTimeout},
		{"ledis", was.Ledis, now.Ledis},
		{"stor.refresh", was.Stor.Refresh, now.Stor.Refresh},
		{"stor.timeout", was.Stor.Timeout, now.Stor.Timeout},
	} {
		if !reflect.DeepEqual(k.was, k.now) {
			keys = append(keys, k.name)
		}
	}
	return keys
}
