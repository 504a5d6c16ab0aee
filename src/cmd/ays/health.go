package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/control"
)

const (
	defaultCacheConfig = "/etc/aysfs/ays_cache.toml"
	healthTimeout      = 10 * time.Second
)

// showHealth is for those who ask in short intervals and look at the exit code alone.
func showHealth(ctx context.Context, c *call, args []string) int {
	flags := c.flags()
	client := flags.String("config", defaultConfig, "the client's config `file`, for where its socket is")
	cache := flags.String("cache-config", defaultCacheConfig, "the cache server's config `file`, for where its socket is")
	if _, code, ok := c.parse(flags, args); !ok {
		return code
	}
	// A config that is no good any more says nothing of the daemon that runs.
	sockets := []string{config.ControlIn(*client, config.DefaultControl), config.ControlIn(*cache, config.DefaultServerControl)}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	asked, wrong := 0, 0
	for _, socket := range sockets {
		if _, err := os.Stat(socket); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		asked++
		if err := control.Healthy(ctx, socket); err != nil {
			wrong++
			fmt.Fprintf(c.stdout, "%v\n", err)
		}
	}
	switch {
	case asked == 0:
		fmt.Fprintf(c.stdout, "neither aysfs nor ays_cache runs here: there is no socket %s or %s\n", sockets[0], sockets[1])
		return exitWrong
	case wrong > 0:
		return exitWrong
	}
	fmt.Fprintln(c.stdout, "healthy")
	return exitOK
}
