// Ays_cache is a grid's cache server: HTTP over ledis, with bolt under it.
//
//	ays_cache [-config FILE] [-check] [-version]
//	ays_cache [-config FILE] start|stop|restart|reload|status|supervise
//
// It runs in the foreground, logs to stderr, reads its config again on SIGHUP and
// when the file changes, and stops cleanly on SIGTERM and SIGINT. It exits with 0
// after a clean stop, 1 if it could not serve, and 2 if its config is wrong. With a
// command it does what an init script must, see package service.
package main

import (
	"os"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/foreground"
	"github.com/aysfs/aysfs/src/server/daemon"
)

// Set by the build.
var (
	version = "devel"
	commit  = "unknown"
)

func main() { os.Exit(run()) }

func run() int {
	p := foreground.Program[*config.Server]{
		Name: "ays_cache", Version: version, Commit: commit, File: "/etc/aysfs/ays_cache.toml", Purpose: "served",
		Load: config.LoadServer, Describe: daemon.Describe, Command: command,
		Stdout: os.Stdout, Stderr: os.Stderr,
	}
	call, code, ok := p.Begin(os.Args)
	if !ok {
		return code
	}
	cfg := call.Config
	log, level := foreground.Log(cfg.Main.Log, cfg.Main.LogLevel)
	ctx, stop, reload := foreground.Signals()
	defer stop()
	d, err := daemon.Start(ctx, daemon.Options{Config: cfg, File: call.File, Version: version, Log: log, Level: level})
	if err != nil {
		log.Error("can't start", "op", "start", "err", err)
		return 1
	}
	log.Info("ready", "op", "start", "version", version, "listen", d.Addr().String())
	if err := control.Notify("READY=1"); err != nil {
		log.Warn("can't tell the service manager that the cache is ready", "op", "start", "err", err)
	}
	err = d.Run(ctx, reload)
	log.Info("stopping", "op", "stop")
	d.Stop()
	if err != nil {
		log.Error("stopped serving", "op", "stop", "err", err)
		return 1
	}
	return 0
}
