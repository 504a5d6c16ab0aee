package publish

import (
	"context"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// progressEvery is the time between two reports of progress.
const progressEvery = 200 * time.Millisecond

// Progress says how far a publish has come.
type Progress struct {
	Files, Bytes int64 // done
	// Of all, as a look at the tree's sizes beforehand has them; nothing while
	// that goes on.
	TotalFiles, TotalBytes int64
	Elapsed                time.Duration
}

// meter counts for Progress.
type meter struct {
	start                  time.Time
	files, bytes           atomic.Int64
	totalFiles, totalBytes atomic.Int64
}

func (m *meter) progress() Progress {
	return Progress{
		Files: m.files.Load(), Bytes: m.bytes.Load(),
		TotalFiles: m.totalFiles.Load(), TotalBytes: m.totalBytes.Load(),
		Elapsed: time.Since(m.start),
	}
}

// scan adds up what there is to do. A tree that can't be read is for the
// publish itself to complain about.
func (m *meter) scan(ctx context.Context, root string) {
	var files, bytes int64
	err := filepath.WalkDir(root+"/", func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			files++
			bytes += info.Size()
		}
		return nil
	})
	if err == nil {
		m.totalBytes.Store(bytes)
		m.totalFiles.Store(files)
	}
}

// report calls f now and then until the returned function is called, and once
// more then. Meanwhile it adds up what is in the directory root, unless that is
// empty.
func (m *meter) report(ctx context.Context, root string, f func(Progress)) (stop func()) {
	if f == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	if root != "" {
		wg.Go(func() { m.scan(ctx, root) })
	}
	wg.Go(func() { everySoOften(ctx, func() { f(m.progress()) }) })
	return func() {
		cancel()
		wg.Wait()
		f(m.progress())
	}
}

// everySoOften calls report until ctx is done.
func everySoOften(ctx context.Context, report func()) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			report()
		}
	}
}
