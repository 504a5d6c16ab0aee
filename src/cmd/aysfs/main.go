// Aysfs mounts published trees and keeps them mounted.
//
//	aysfs [-config FILE] [-check] [-version]
//	aysfs [-config FILE] start|stop|restart|reload|upgrade|status|supervise
//
// It runs in the foreground, logs to stderr, reads its config again on SIGHUP and
// when the file changes, and stops cleanly on SIGTERM and SIGINT. It exits with 0
// after a clean stop, 1 if it could not mount anything, and 2 if its config is
// wrong. With a command it does what an init script must, see package service.
// Supervise is for service managers and containers: it also stays in the
// foreground, and the mounts outlive the process that serves them.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/aysfs/aysfs/src/client"
	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/foreground"
)

// Set by the build.
var (
	version = "devel"
	commit  = "unknown"
)

func main() { os.Exit(run()) }

func run() int {
	p := foreground.Program[*config.Client]{
		Name: "aysfs", Version: version, Commit: commit, File: "/etc/aysfs/aysfs.toml", Purpose: "mounted",
		Load: config.LoadClient, Describe: client.Describe, Command: command, Words: []string{workerWord},
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
	opts := client.Options{Config: cfg, File: call.File, Version: version, Log: log, Level: level}
	if call.Word == workerWord {
		return work(ctx, opts, reload)
	}
	c, err := client.New(opts)
	if err != nil {
		log.Error("can't start", "op", "start", "err", err)
		return 1
	}
	defer c.Stop()
	if !start(ctx, c, log, reload) {
		return 1
	}
	<-ctx.Done()
	log.Info("stopping", "op", "stop")
	return 0
}

// start mounts all, and tells who wants to know. It is false, and has said why, where
// nothing could be mounted.
func start(ctx context.Context, c *client.Client, log *slog.Logger, reload <-chan os.Signal) bool {
	if err := c.Start(ctx, reload); err != nil {
		log.Error("nothing could be mounted", "op", "start", "err", err)
		return false
	}
	if ctx.Err() == nil {
		if err := control.Notify("READY=1"); err != nil {
			log.Warn("can't tell the service manager that the mounts are ready", "op", "start", "err", err)
		}
		log.Info("ready", "op", "start", "version", version)
	}
	return true
}
