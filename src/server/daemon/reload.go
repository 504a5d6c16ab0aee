package daemon

import (
	"context"
	"log/slog"
	"reflect"
	"strings"
	"time"

	"github.com/aysfs/aysfs/src/config"
)

// files are those that a reload reads.
func (d *Daemon) files() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := []string{d.opts.File}
	for _, path := range []string{d.cfg.HTTP.TLSCert, d.cfg.HTTP.TLSKey} {
		if path != "" {
			all = append(all, path)
		}
	}
	return all
}

// Reload reads the config again, and takes certificates, users, stores, limits of
// requests and the log level from it. What can't be used changes nothing, and is
// told on the page and in the metrics until it is mended. Nobody's connection is
// closed.
func (d *Daemon) Reload() {
	if err := d.reload(); err != nil {
		level := slog.LevelError
		if d.failed != nil && d.failed.Error() == err.Error() {
			level = slog.LevelDebug // it was told
		}
		d.log.Log(context.Background(), level, "the new config can't be used, the old one stays in force", "op", "reload", "err", err)
		d.failed = err
		d.server.ConfigRead(time.Time{}, err)
		return
	}
	d.failed = nil
	d.server.ConfigRead(time.Now(), nil)
	d.log.Info("config reloaded", "op", "reload")
}

func (d *Daemon) reload() error {
	cfg, err := config.LoadServer(d.opts.File)
	if err != nil {
		return err
	}
	if d.certs != nil && cfg.HTTP.TLSCert != "" {
		if err := d.certs.load(cfg.HTTP); err != nil {
			return err
		}
	}
	if err := d.server.Reload(cfg); err != nil {
		return err
	}
	if keys := needRestart(d.cfg, cfg); len(keys) > 0 {
		d.log.Warn("some changes in the config need a restart", "op", "reload", "keys", strings.Join(keys, ", "))
	}
	if d.opts.Level != nil {
		d.opts.Level.Set(cfg.Main.LogLevel)
	}
	d.mu.Lock()
	d.cfg = cfg
	d.mu.Unlock()
	return nil
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
