package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/aysfs/aysfs/src/client"
	"github.com/aysfs/aysfs/src/fs"
	"github.com/aysfs/aysfs/src/keeper"
	"github.com/aysfs/aysfs/src/service"
)

// workerWord makes this program a worker of a keeper, which alone says it.
const workerWord = "worker"

// handOverTime is how long it may take to end in order when another worker waits.
const handOverTime = 5 * time.Second

// work serves with what the keeper has, until it is told to stop or to let go.
func work(ctx context.Context, opts client.Options, reload chan os.Signal) int {
	log := opts.Log
	// Who runs it by another name than its file's is to find it all the same.
	os.WriteFile("/proc/self/comm", []byte("aysfs"), 0)
	link, err := keeper.Inherited(service.LineFD)
	if err != nil {
		log.Error("can't start", "op", "start", "err", err)
		return 1
	}
	news, mounts, err := link.Take()
	if err != nil {
		log.Error("can't start", "op", "start", "err", err)
		return 1
	}
	opts.Predecessor = &client.Predecessor{Keeper: link, News: news}
	for _, m := range mounts {
		opts.Predecessor.Kept = append(opts.Predecessor.Kept, fs.Kept(m))
	}
	c, err := client.New(opts)
	if err != nil {
		log.Error("can't start", "op", "start", "err", err)
		return 1
	}
	started := make(chan bool, 1)
	go func() { started <- start(ctx, c, log, reload) }()
	for {
		select {
		case ok := <-started:
			if !ok {
				c.Stop()
				return 1
			}
		case <-link.Released():
			if handOver(c, link, log) {
				signal.Reset()
				return 0
			}
		case <-ctx.Done():
			log.Info("stopping", "op", "stop")
			c.Stop()
			return 0
		}
	}
}

// handOver leaves the mounts to another worker. It is false where that can't be
// now.
func handOver(c *client.Client, link *keeper.Link, log *slog.Logger) bool {
	log.Info("another process takes over", "op", "upgrade")
	ctx, cancel := context.WithTimeout(context.Background(), handOverTime)
	defer cancel()
	if err := c.HandOver(ctx); err != nil {
		log.Warn("not now", "op", "upgrade", "err", err)
		if err := link.Busy(err.Error()); err != nil {
			log.Warn("can't tell the keeper", "op", "upgrade", "err", err)
		}
		return false
	}
	return true
}
