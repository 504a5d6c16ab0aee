package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// siteWork reads every file of a tree on machines of one site, whose ays_cache is at their end
// of the link: how much longer does the first one wait because the cache has nothing yet, and
// what does it save the next one?
const siteWork = "site"

// reached is how long that took by one way.
type reached struct {
	By      string  `json:"by"`
	Run     int     `json:"run"`
	Seconds float64 `json:"seconds"`
	Down    int64   `json:"down"`      // bytes over the link meanwhile
	CPU     float64 `json:"cpu"`       // of the client, in seconds
	Cache   float64 `json:"cache_cpu"` // of ays_cache
}

// The ways, in the order in which they are measured.
const (
	bySelf  = "from the store itself"
	byEmpty = "through an ays_cache that has nothing"
	byFull  = "through an ays_cache that has all of it"
)

const siteAddr = "127.0.0.1:8083"

// measureSite has the subject alone do it.
func (b *bencher) measureSite(ctx context.Context, run int) error {
	if b.o.works != nil && !slices.Contains(b.o.works, siteWork) {
		return nil
	}
	d := &aysfs{site: b.site}
	if why := d.absent(); why != "" {
		return fmt.Errorf("%w: %s", errAbsent, why)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	t, err := b.tree(ctx, "go")
	if err != nil {
		return err
	}
	if err := d.prepare(ctx, t); err != nil {
		return err
	}
	var cache *process
	for _, by := range []string{bySelf, byEmpty, byFull} {
		if by == byEmpty {
			if cache, err = d.startCache(ctx); err != nil {
				return err
			}
			defer cache.stop()
		}
		out, err := b.reach(ctx, d, t, cache)
		if err != nil {
			return fmt.Errorf("%s: %w", by, err)
		}
		out.By, out.Run = by, run+1
		b.say("%-7s %-40s run %d  %s  %.1f MB", siteWork, by, out.Run, seconds(out.Seconds), float64(out.Down)/1e6)
		b.res.Sites = append(b.res.Sites, *out)
	}
	return nil
}

// startCache starts an ays_cache that has nothing, and that learns of the store from its
// clients.
func (d *aysfs) startCache(ctx context.Context) (*process, error) {
	dir := d.path("site")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "ays_cache.toml")
	text := fmt.Sprintf("[main]\ndata = %q\ncontrol = %q\n[http]\nlisten = %q\n[[ledis]]\nmin_free = \"1%%\"\n",
		filepath.Join(dir, "data"), filepath.Join(dir, "control"), siteAddr)
	if d.server.ca != "" {
		text += fmt.Sprintf("[[ays.stor]]\nname = \"store\"\nurl = %q\nca = %q\n", d.server.url+"/"+d.store(), d.server.ca)
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := startProcess(dir, exec.Command(filepath.Join(d.bin, "ays_cache"), "-config", conf))
	if err != nil {
		return nil, err
	}
	if err := p.listens(ctx, siteAddr); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// reach reads the tree once, from cold, by way of the cache if there is one.
func (b *bencher) reach(ctx context.Context, d *aysfs, t *tree, cache *process) (*reached, error) {
	dir, err := d.mountPoint(siteWork, t)
	if err != nil {
		return nil, err
	}
	if err := dropCaches(); err != nil {
		return nil, err
	}
	mounts := fmt.Sprintf(mountConfig, t.name, dir, treeID(t))
	cpu := func() float64 { return 0 }
	if cache != nil {
		mounts += fmt.Sprintf("[[cache.grid]]\nurl = %q\n", "http://"+siteAddr)
		cpu = func() float64 {
			u, err := cache.usage()
			if err != nil {
				return 0
			}
			return u.CPU
		}
	}
	m, err := d.start(ctx, d.path("cache", siteWork), false, dir, mounts)
	if err != nil {
		return nil, err
	}
	defer m.unmount()
	before, spent := b.link.Traffic(), cpu()
	limited, cancel := context.WithTimeoutCause(ctx, 3*b.o.limit, errTooLong)
	defer cancel()
	took, err := timed(limited, dir, nil, tarArgs...)
	if err != nil {
		return nil, err
	}
	u, err := m.client.usage()
	if err != nil {
		return nil, err
	}
	time.Sleep(100 * time.Millisecond) // the cache still writes
	return &reached{Seconds: took.Seconds(), Down: b.link.Traffic().Down - before.Down, CPU: u.CPU, Cache: cpu() - spent}, nil
}

// sites has a row for each way, with medians.
func (r *results) sites() [][]string {
	rows := [][]string{{"tar", "time", "", "MB down", "CPU s", "of ays_cache"}}
	of := func(by string, get func(reached) float64) float64 {
		var values []float64
		for _, s := range r.Sites {
			if s.By == by {
				values = append(values, get(s))
			}
		}
		return median(values)
	}
	took := func(s reached) float64 { return s.Seconds }
	self := of(bySelf, took)
	for _, by := range []string{bySelf, byEmpty, byFull} {
		if !slices.ContainsFunc(r.Sites, func(s reached) bool { return s.By == by }) {
			continue
		}
		rows = append(rows, []string{
			by, seconds(of(by, took)), ratio(of(by, took), self),
			fmt.Sprintf("%.1f", of(by, func(s reached) float64 { return float64(s.Down) })/1e6),
			fmt.Sprintf("%.2f", of(by, func(s reached) float64 { return s.CPU })),
			fmt.Sprintf("%.2f", of(by, func(s reached) float64 { return s.Cache })),
		})
	}
	return rows
}
