package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/config"
)

// Level says how bad a finding is.
type Level string

// The levels, from good to bad.
const (
	OK   Level = "ok"
	Warn Level = "warn" // it works, or may, but not as it should
	Fail Level = "fail" // something can't work
)

// Finding is what one check found.
type Finding struct {
	Level Level  `json:"level"`
	About string `json:"about"` // what was looked at
	Found string `json:"found"`
	Do    string `json:"do,omitempty"` // what helps; empty where all is well
}

// each bounds what one cache or store may take.
const each = 15 * time.Second

// Examine makes all checks of a machine and the config in file. Version is this
// program's. It takes no longer than the slowest cache or store, at most half a
// minute.
func Examine(ctx context.Context, file, version string) []Finding {
	found := []Finding{fuseDevice("/dev/fuse"), descriptors()}
	found = append(found, idle("/sys")...)
	cfg, err := config.LoadClient(file)
	if err != nil {
		return append(found, Finding{Fail, "config " + file, err.Error(), "mend it; aysfs -check -config " + file + " tells when it is good"})
	}
	found = append(found, Finding{OK, "config " + file, fmt.Sprintf("%d stores, %d mounts", len(cfg.Stores), len(cfg.Mounts)), ""})
	found = append(found, configMode(file, cfg)...)
	var checks []func(context.Context) []Finding
	checks = append(checks, func(context.Context) []Finding { return cacheDisk(cfg.Disk) })
	for _, m := range cfg.Mounts {
		checks = append(checks, func(context.Context) []Finding { return mountPoint(m.Path, nested(m, cfg.Mounts)) })
	}
	for _, l := range cfg.Local {
		checks = append(checks, func(ctx context.Context) []Finding { return local(ctx, l) })
	}
	for _, g := range cfg.Grid {
		checks = append(checks, func(ctx context.Context) []Finding { return grid(ctx, g, version) })
	}
	for _, s := range cfg.Stores {
		checks = append(checks, func(ctx context.Context) []Finding { return stor(ctx, s, cfg.Mounts, version) })
	}
	for _, d := range cfg.Debug {
		checks = append(checks, func(ctx context.Context) []Finding { return redis(ctx, d) })
	}
	results := make([][]Finding, len(checks))
	var wg sync.WaitGroup
	for i, check := range checks {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, each)
			defer cancel()
			results[i] = check(ctx)
		})
	}
	wg.Wait()
	for _, r := range results {
		found = append(found, r...)
	}
	return found
}

// nested tells whether a mount lies in another one.
func nested(m config.Mount, all []config.Mount) bool {
	return slices.ContainsFunc(all, func(o config.Mount) bool { return strings.HasPrefix(m.Path, o.Path+"/") })
}
