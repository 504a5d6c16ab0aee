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
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/aysfs/aysfs/src/client"
	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/logs"
	"github.com/aysfs/aysfs/src/service"
)

// Set by the build.
var (
	version = "devel"
	commit  = "unknown"
)

func main() { os.Exit(run()) }

func run() int {
	file := flag.String("config", "/etc/aysfs/aysfs.toml", "the config `file`")
	check := flag.Bool("check", false, "check the config, say what would be mounted, and exit with 0 or 2")
	show := flag.Bool("version", false, "print the version")
	flag.Parse()
	if *show {
		fmt.Printf("aysfs %s (%s)\n", version, commit)
		return 0
	}
	worker := flag.NArg() == 1 && flag.Arg(0) == workerWord
	if flag.NArg() == 1 && service.IsCommand(flag.Arg(0)) {
		return command(flag.Arg(0), *file)
	}
	if flag.NArg() > 0 && !worker {
		fmt.Fprintf(os.Stderr, "aysfs: %q is not understood; all is set in the config, see aysfs -help\n", flag.Args())
		return 2
	}
	cfg, err := config.LoadClient(*file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if *check {
		client.Describe(os.Stdout, cfg)
		return 0
	}
	level := new(slog.LevelVar)
	level.Set(cfg.Main.LogLevel)
	log := logs.New(os.Stderr, cfg.Main.Log, level)
	logs.Adopt(log) // net/http complains to the standard logger
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	opts := client.Options{Config: cfg, File: *file, Version: version, Log: log, Level: level}
	if worker {
		return work(ctx, stop, opts, reload)
	}
	c, err := client.New(opts)
	if err != nil {
		log.Error("can't start", "op", "start", "err", err)
		return 1
	}
	defer c.Stop()
	if err := start(ctx, c, log, reload); err != nil {
		return 1
	}
	<-ctx.Done()
	stop() // a second signal ends the process at once
	log.Info("stopping", "op", "stop")
	return 0
}

// start mounts all, and tells who wants to know.
func start(ctx context.Context, c *client.Client, log *slog.Logger, reload <-chan os.Signal) error {
	if err := c.Start(ctx, reload); err != nil {
		log.Error("nothing could be mounted", "op", "start", "err", err)
		return err
	}
	if ctx.Err() == nil {
		if err := control.Notify("READY=1"); err != nil {
			log.Warn("can't tell the service manager that the mounts are ready", "op", "start", "err", err)
		}
		log.Info("ready", "op", "start", "version", version)
	}
	return nil
}
