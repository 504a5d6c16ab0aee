package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/aysfs/aysfs/src/publish"
)

// collected is what gc -json prints.
type collected struct {
	DryRun       bool    `json:"dry_run"`
	Trees        int64   `json:"trees"`
	Heads        int64   `json:"heads"`
	PrunedHeads  int64   `json:"pruned_heads"`
	Blobs        int64   `json:"blobs"`
	Bytes        int64   `json:"bytes"`
	Removed      int64   `json:"removed"`
	RemovedBytes int64   `json:"removed_bytes"`
	Young        int64   `json:"young"`
	Seconds      float64 `json:"seconds"`
}

func collectGarbage(ctx context.Context, c *call, args []string) int {
	fs := c.flags()
	o := publish.GCOptions{Log: slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{ReplaceAttr: dropTime}))}
	fs.StringVar(&o.Store, "store", "", "`directory` of the store")
	fs.IntVar(&o.Keep, "keep", 0, "keep the newest `N` heads of each tree (default: all, if -keep-within is not given either)")
	fs.Func("keep-within", "keep the heads that were the newest at any time in this `span` before now: 30d, 12h", func(s string) (err error) {
		o.KeepWithin, err = parseSpan(s)
		return err
	})
	fs.BoolVar(&o.DryRun, "dry-run", false, "say what would be removed, and remove nothing")
	asJSON := fs.Bool("json", false, "print the result as JSON")
	if _, code, ok := c.parse(fs, args); !ok {
		return code
	}
	if o.Store == "" {
		return c.fail(errors.New("-store is needed"))
	}
	r, err := publish.GC(ctx, o)
	if err != nil {
		return c.fail(err)
	}
	if *asJSON {
		err = json.NewEncoder(c.stdout).Encode(collected{
			DryRun: o.DryRun, Trees: r.Trees, Heads: r.Heads, PrunedHeads: r.PrunedHeads, Blobs: r.Blobs, Bytes: r.Bytes,
			Removed: r.Removed, RemovedBytes: r.RemovedSize, Young: r.Young, Seconds: r.Elapsed.Seconds(),
		})
	} else {
		removed := "removed"
		if o.DryRun {
			removed = "would remove"
		}
		_, err = fmt.Fprintf(c.stdout, "kept    %d heads of %d trees, %d blobs, %s\n%s %d heads, %d blobs, %s\n",
			r.Heads, r.Trees, r.Blobs, byteSize(r.Bytes), removed, r.PrunedHeads, r.Removed, byteSize(r.RemovedSize))
		if r.Young > 0 && err == nil {
			_, err = fmt.Fprintf(c.stdout, "left    %d blobs that a publish under way may be about to need\n", r.Young)
		}
	}
	if err != nil {
		return c.fail(fmt.Errorf("done, but could not tell: %w", err))
	}
	return exitOK
}

// parseSpan reads a number of days, 30d, or what Go takes for a duration.
func parseSpan(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("want a number of days, such as 30d: %w", err)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err == nil && d <= 0 {
		err = errors.New("want a span of time, such as 30d or 12h")
	}
	return d, err
}
