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
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/logs"
	"github.com/aysfs/aysfs/src/server/daemon"
	"github.com/aysfs/aysfs/src/service"
)

// Set by the build.
var (
	version = "devel"
	commit  = "unknown"
)

func main() { os.Exit(run()) }

func run() int {
	file := flag.String("config", "/etc/aysfs/ays_cache.toml", "the config `file`")
	check := flag.Bool("check", false, "check the config, say what would be served, and exit with 0 or 2")
	show := flag.Bool("version", false, "print the version")
	flag.Parse()
	if *show {
		fmt.Printf("ays_cache %s (%s)\n", version, commit)
		return 0
	}
	if flag.NArg() == 1 && service.IsCommand(flag.Arg(0)) {
		return command(flag.Arg(0), *file)
	}
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "ays_cache: %q is not understood; all is set in the config, see ays_cache -help\n", flag.Args())
		return 2
	}
	cfg, err := config.LoadServer(*file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if *check {
		daemon.Describe(os.Stdout, cfg)
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

	d, err := daemon.Start(ctx, daemon.Options{Config: cfg, File: *file, Version: version, Log: log, Level: level})
	if err != nil {
		log.Error("can't start", "op", "start", "err", err)
		return 1
	}
	log.Info("ready", "op", "start", "version", version, "listen", d.Addr().String())
	if err := control.Notify("READY=1"); err != nil {
		log.Warn("can't tell the service manager that the cache is ready", "op", "start", "err", err)
	}
	err = d.Run(ctx, reload)
	stop() // a second signal ends the process at once
	log.Info("stopping", "op", "stop")
	d.Stop()
	if err != nil {
		log.Error("stopped serving", "op", "stop", "err", err)
		return 1
	}
	return 0
}
