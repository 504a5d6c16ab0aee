package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/aysfs/aysfs/src/bench/bulk"
	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/object"
)

// manyWork walks a tree of so many files that its names alone do not fit into the
// client's memory, asking for the size of each.
const manyWork = "many"

var (
	manyShape = bulk.Shape{Dirs: 2000, Files: 1000}
	manyQuick = bulk.Shape{Dirs: 200, Files: 1000}
)

// walked is what a walk through very many files took of the client.
type walked struct {
	Files   int     `json:"files"`
	Inodes  int     `json:"inodes"` // that the kernel held afterwards
	Seconds float64 `json:"seconds"`
	Before  usage   `json:"before"`
	After   usage   `json:"after"`
	Dropped usage   `json:"dropped"` // when the kernel had forgotten
}

// measureMany has only the subject walk, once: making the files for others would
// take longer than all else.
func (b *bencher) measureMany(ctx context.Context) error {
	if b.o.works != nil && !slices.Contains(b.o.works, manyWork) {
		return nil
	}
	d := &aysfs{site: b.site}
	if why := d.absent(); why != "" {
		b.skip(manyWork, why)
		return nil
	}
	t := &tree{name: manyWork}
	shape := manyShape
	if b.o.quick {
		shape = manyQuick
	}
	if err := bulk.Publish(filepath.Join(d.server.root, storeDir), object.TreeName{ID: treeID(t)}, shape); err != nil {
		return err
	}
	out, err := b.walkMany(ctx, d, t, shape)
	if err != nil {
		return err
	}
	b.say("%-7s %d files  %9s  %d KiB, %d KiB when forgotten", manyWork, out.Files, seconds(out.Seconds), out.After.rss(), out.Dropped.rss())
	b.res.Many = append(b.res.Many, *out)
	return nil
}

func (b *bencher) walkMany(ctx context.Context, d *aysfs, t *tree, shape bulk.Shape) (*walked, error) {
	if err := dropCaches(); err != nil {
		return nil, err
	}
	m, err := d.mount(ctx, t, false)
	if err != nil {
		return nil, err
	}
	defer m.unmount()
	out := &walked{Files: shape.Dirs * shape.Files}
	look := func(to *usage) {
		u, uerr := m.client.usage()
		if uerr == nil {
			*to = *u
		}
		err = errors.Join(err, uerr)
	}
	look(&out.Before)
	limited, cancel := context.WithTimeoutCause(ctx, 10*b.o.limit, errTooLong)
	defer cancel()
	took, werr := timed(limited, m.dir, nil, "find", ".", "-type", "f", "-size", "1000c", "-printf", "x")
	err = errors.Join(err, werr)
	out.Seconds = took.Seconds()
	look(&out.After)
	status, serr := control.Fetch(ctx, b.site.path("aysfs.sock"))
	if err = errors.Join(err, serr); serr == nil {
		out.Inodes = status.Mounts[0].Inodes
	}
	err = errors.Join(err, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0))
	for end := time.Now().Add(10 * time.Second); err == nil; time.Sleep(100 * time.Millisecond) {
		if look(&out.Dropped); out.Dropped.RssShmem < 4<<10 || time.Now().After(end) {
			break
		}
	}
	return out, err
}

// many has a row with the medians of all walks.
func (r *results) many() [][]string {
	rows := [][]string{{"files", "time", "inodes held", "before", "after", "bytes an inode", "when forgotten", "CPU s"}}
	if len(r.Many) == 0 {
		return rows
	}
	of := func(get func(walked) float64) float64 {
		var values []float64
		for _, w := range r.Many {
			values = append(values, get(w))
		}
		return median(values)
	}
	kib := func(get func(walked) int64) string {
		return mib(int64(of(func(w walked) float64 { return float64(get(w)) })) << 10)
	}
	return append(rows, []string{
		fmt.Sprint(r.Many[0].Files), seconds(of(func(w walked) float64 { return w.Seconds })),
		fmt.Sprintf("%.0f", of(func(w walked) float64 { return float64(w.Inodes) })),
		kib(func(w walked) int64 { return w.Before.rss() }), kib(func(w walked) int64 { return w.After.rss() }),
		fmt.Sprintf("%.0f", of(func(w walked) float64 {
			return float64(w.After.RssShmem-w.Before.RssShmem) * 1024 / float64(max(w.Inodes, 1))
		})),
		kib(func(w walked) int64 { return w.Dropped.rss() }),
		fmt.Sprintf("%.1f", of(func(w walked) float64 { return w.After.CPU })),
	})
}
