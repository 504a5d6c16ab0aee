package daemon

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/aysfs/aysfs/src/cachedb"
	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/ledisbolt"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/resp"
	"github.com/aysfs/aysfs/src/server"
)

// database is what the server needs, and an end.
type database interface {
	server.Data
	Close() error
}

// data is where the cache keeps what it has.
type data struct {
	db       database
	embedded *cachedb.Embedded // nil: on another machine
}

// openData opens the bolt files below [main] data, or connects to a remote ledis.
func openData(ctx context.Context, cfg *config.Server, log *slog.Logger) (*data, error) {
	l := cfg.Ledis
	if len(l.Addr) > 0 {
		r, err := cachedb.Dial(ctx, cachedb.RemoteOptions{Addrs: l.Addr, Cluster: l.Cluster, Passwd: l.Passwd.Reveal()})
		if err != nil {
			return nil, err
		}
		return &data{db: r}, nil
	}
	e, err := cachedb.Open(cachedb.Options{
		Dir: filepath.Join(cfg.Main.Data, "ledis"), MaxSize: l.MaxSize, MinFree: l.MinFree.Of, Log: log,
		Store: ledisbolt.Options{},
	})
	if err != nil {
		return nil, err
	}
	for _, damage := range e.Damage() {
		log.Error("damaged data was given up", "op", "start", "err", damage)
	}
	return &data{e, e}, nil
}

// disk is nil for data on another machine.
func (d *data) disk() server.Disk {
	if d.embedded == nil {
		return nil
	}
	return disk{d.embedded}
}

// resp is the front for the embedded ledis. Nobody can put a wrong blob there.
// Without a password domains of private stores are not there, either.
func (d *data) resp(l config.Ledis, srv *server.Server, version string, log *slog.Logger) *resp.Server {
	cfg := resp.Config{
		DB: d.embedded.Ledis(), Passwd: l.Passwd.Reveal(), Private: cachedb.Private, EmptyField: cachedb.LedisHeadField,
		Field: d.embedded.Field, Drop: d.embedded.Drop, Version: version, Log: log,
		MaxBulk: object.MaxBlob + 64<<10,
		Check: func(key, field, value []byte) error {
			if domain, ok := cachedb.DomainOf(key); ok {
				return srv.Check(domain, string(field), value)
			}
			return nil
		},
	}
	if cfg.Passwd == "" {
		cfg.Hidden = func(key []byte) bool {
			domain, ok := cachedb.DomainOf(key)
			return ok && srv.Closed(domain)
		}
	}
	return resp.New(cfg)
}

// disk is what the embedded database says of itself.
type disk struct{ *cachedb.Embedded }

// Usage tells what each domain takes.
func (d disk) Usage() []server.Usage {
	var all []server.Usage
	for _, u := range d.Embedded.Usage() {
		all = append(all, server.Usage{Domain: u.Domain, Blobs: int64(u.Blobs), Bytes: u.Bytes})
	}
	return all
}

// Expire gives up what was last fetched before a time.
func (d disk) Expire(ctx context.Context, domain string, before time.Time) (int64, error) {
	return d.Embedded.Expire(ctx, domain, before)
}
