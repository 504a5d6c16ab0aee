package client

import (
	"fmt"
	"io"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/object"
)

// Describe writes what a client with this config would mount.
func Describe(w io.Writer, cfg *config.Client) {
	stores := make(map[string]config.Store)
	for _, s := range cfg.Stores {
		stores[s.Name] = s
	}
	fmt.Fprintf(w, "%d mounts:\n", len(cfg.Mounts))
	for _, m := range arrange(cfg.Mounts) {
		name := object.TreeName{ID: m.cfg.ID, RepoID: m.cfg.RepoID, Platform: m.cfg.Platform}
		what := name.String()
		if m.cfg.Remote != "" {
			what += " directory " + m.cfg.Remote
		}
		fmt.Fprintf(w, "  %s\n      %s from %s\n", m.cfg.Path, what, stores[m.cfg.Store].URL.Redacted())
		if m.outer != nil {
			fmt.Fprintf(w, "      in the mount at %s\n", m.outer.cfg.Path)
		}
		if r := m.cfg.Redis; r != nil {
			paths := "no paths, as there is no debug_filter"
			if n := len(m.cfg.DebugFilter); n > 0 {
				paths = fmt.Sprintf("%d patterns of paths", n)
			}
			fmt.Fprintf(w, "      debug %s: %s can be changed, by redis at %s port %d\n", r.Name, paths, r.Addr, r.Port)
		}
	}
	if cfg.Disk != nil {
		fmt.Fprintf(w, "disk cache: %s, up to %d MiB\n", cfg.Disk.Path, cfg.Disk.MaxSize>>20)
	} else {
		fmt.Fprintln(w, "disk cache: none, so there is no prefetch")
	}
	if cfg.Seed.Named && cfg.Seed.Path != "" {
		fmt.Fprintf(w, "seed: %s\n", cfg.Seed.Path)
	}
	for _, l := range cfg.Local {
		fmt.Fprintf(w, "local cache: port %d\n", l.Port)
	}
	for _, g := range cfg.Grid {
		fmt.Fprintf(w, "grid cache: %s\n", g.URL.Redacted())
	}
}
