package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/resp"
	"github.com/aysfs/aysfs/src/server"
	"github.com/aysfs/aysfs/src/watch"
)

// Options are what a daemon is made of.
type Options struct {
	Config  *config.Server
	File    string // of the config, to be read again
	Version string
	Log     *slog.Logger
	Level   *slog.LevelVar // of Log
}

// Daemon is a running cache.
type Daemon struct {
	opts   Options
	log    *slog.Logger
	data   *data
	server *server.Server
	certs  *certificates // nil: without TLS
	failed error         // why the file of now is not in force; Reload's

	mu  sync.Mutex
	cfg *config.Server // in force; written by Reload alone

	listener net.Listener
	http     *http.Server
	served   chan error
	resp     *resp.Server
	control  *control.Server
}

// Start opens the data and the listeners, and answers from then on. The control
// socket and RESP are done without where they can't be had.
func Start(ctx context.Context, opts Options) (*Daemon, error) {
	d := &Daemon{opts: opts, cfg: opts.Config, log: opts.Log, served: make(chan error, 1)}
	if err := d.start(ctx); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// limitMemory has the collector work harder where the heap gets larger than what the
// config allows, an object or two of the largest, and what connections need. Heap
// beyond that is garbage of those that were as large.
func limitMemory(cfg *config.Server) {
	const connectionsNeed = 64 << 20
	debug.SetMemoryLimit(cfg.Main.Memory + 2*cfg.HTTP.MaxObject + connectionsNeed)
}

func (d *Daemon) start(ctx context.Context) error {
	cfg := d.cfg
	limitMemory(cfg)
	id := cfg.Main.ID
	if id == "" {
		var err error
		if id, err = os.Hostname(); err != nil {
			return fmt.Errorf("no [main] id, and no host name: %w", err)
		}
	}
	var err error
	if cfg.HTTP.TLSCert != "" {
		if d.certs, err = loadCertificates(cfg.HTTP); err != nil {
			return err
		}
	}
	if d.data, err = openData(ctx, cfg, d.log); err != nil {
		return err
	}
	if d.server, err = server.New(ctx, server.Options{
		Config: cfg, ID: id, Version: d.opts.Version, Data: d.data.db, Disk: d.data.disk(), Log: d.log,
	}); err != nil {
		return err
	}
	if d.listener, err = listen(cfg.HTTP, d.log); err != nil {
		return err
	}
	d.http = newHTTP(cfg.HTTP, d.server, d.certs, d.log)
	go func() {
		if d.certs != nil {
			d.served <- d.http.ServeTLS(d.listener, "", "")
		} else {
			d.served <- d.http.Serve(d.listener)
		}
	}()
	d.serveRESP()
	if d.control, err = control.Serve(cfg.Main.Control, d.server.Root(), d.log); err != nil {
		d.log.Warn("going on without the control socket", "op", "start", "err", err)
	}
	return nil
}

// serveRESP answers RESP over the embedded ledis, if the config wants it.
func (d *Daemon) serveRESP() {
	l := d.cfg.Ledis
	if d.data.embedded == nil || l.Port == 0 {
		return
	}
	ln, err := resp.Listen(l.Bind, l.Port)
	if err != nil {
		d.log.Error("going on without ledis' port", "op", "start", "err", err)
		return
	}
	d.resp = d.data.resp(l, d.server, d.opts.Version, d.log)
	go func() {
		if err := d.resp.Serve(ln); err != nil {
			d.log.Error("ledis' port failed", "op", "resp", "err", err)
		}
	}()
}

// Addr is where HTTP is answered.
func (d *Daemon) Addr() net.Addr { return d.listener.Addr() }

// Run answers until ctx is done or the listener fails. Each value of reload has
// the config read again, and so has a change of its file or of the certificate.
func (d *Daemon) Run(ctx context.Context, reload <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := watch.Files(ctx, d.files, d.log)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-d.served:
			return fmt.Errorf("serve HTTP: %w", err)
		case <-reload:
			d.Reload()
		case _, more := <-changed:
			if !more {
				return nil // ctx is done
			}
			d.Reload()
		}
	}
}

// drainFor is how long requests may go on once the daemon is to stop.
const drainFor = 15 * time.Second

// Stop lets requests under way end, and closes everything.
func (d *Daemon) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), drainFor)
	defer cancel()
	if err := d.http.Shutdown(ctx); err != nil && !errors.Is(err, http.ErrServerClosed) {
		d.log.Warn("requests were still under way", "op", "stop", "err", err)
	}
	d.close()
}

// close closes what there is.
func (d *Daemon) close() {
	if d.http != nil {
		d.http.Close()
	} else if d.listener != nil {
		d.listener.Close()
	}
	if d.control != nil {
		d.control.Close()
	}
	if d.resp != nil {
		d.resp.Close()
	}
	if d.server != nil {
		d.server.Close()
	}
	if d.data != nil {
		if err := d.data.db.Close(); err != nil {
			d.log.Error("close the data", "op", "stop", "err", err)
		}
	}
}
