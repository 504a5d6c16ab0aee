package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// published is how long it took to publish a tree to a store on the local disk.
type published struct {
	Run       int     `json:"run"`
	Copy      float64 `json:"copy_seconds"` // cp -a and sync of the same tree
	First     float64 `json:"first_seconds"`
	Unchanged float64 `json:"unchanged_seconds"`
	Changed   float64 `json:"changed_seconds"`
	Files     int     `json:"changed_files"`
	Source    int64   `json:"source_bytes"` // of the tree's files
	Store     int64   `json:"store_bytes"`  // of all files of the store after the first publish
	Grown     int64   `json:"grown_bytes"`  // by the changed files
}

// changedShare is one file in so many.
const changedShare = 100

// measurePublish publishes the Go tree: to an empty store, once more, and with
// some of its files changed.
func (b *bencher) measurePublish(ctx context.Context) error {
	t, err := b.tree(ctx, "go")
	if err != nil {
		b.skip("publish", err.Error())
		return nil
	}
	if why := (&aysfs{site: b.site}).absent(); why != "" {
		b.skip("publish", why)
		return nil
	}
	for run := range b.o.runs {
		p, err := b.publishOnce(ctx, t)
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		p.Run = run + 1
		b.say("publish run %d: copy %s, first %s, unchanged %s, %d files changed %s; %.1f MB in a store of %.1f MB, which grew by %.1f MB", p.Run,
			seconds(p.Copy), seconds(p.First), seconds(p.Unchanged), p.Files, seconds(p.Changed), float64(p.Source)/1e6, float64(p.Store)/1e6, float64(p.Grown)/1e6)
		b.res.Publish = append(b.res.Publish, *p)
	}
	return nil
}

func (b *bencher) publishOnce(ctx context.Context, t *tree) (*published, error) {
	dir := b.site.path("publish")
	defer os.RemoveAll(dir)
	source, store := filepath.Join(dir, t.name), filepath.Join(dir, "store")
	p := &published{}
	var err error
	step := func(to *float64, do func() error) {
		if err != nil {
			return
		}
		unix.Sync() // what came before is not to be paid here
		began := time.Now()
		err = do()
		*to = time.Since(began).Seconds()
	}
	publish := func() error { return b.site.publish(ctx, store, source, treeID(t)) }
	step(&p.Copy, func() error {
		if err := copyInto(ctx, dir, t.dir); err != nil {
			return err
		}
		unix.Sync()
		return nil
	})
	step(&p.First, publish)
	if err == nil {
		p.Source, err = sizeOf(source)
	}
	if err == nil {
		p.Store, err = sizeOf(store)
	}
	step(&p.Unchanged, publish)
	if err == nil {
		p.Files, err = changeSome(source, t.paths)
	}
	step(&p.Changed, publish)
	if err == nil {
		p.Grown, err = sizeOf(store)
		p.Grown -= p.Store
	}
	return p, err
}

// sizeOf is how many bytes all files in a directory have.
func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}

// changeSome adds a byte to some of the files in dir.
func changeSome(dir string, paths []string) (n int, err error) {
	for i, rel := range paths {
		if i%changedShare != 0 {
			continue
		}
		name := filepath.Join(dir, rel)
		if st, err := os.Lstat(name); err != nil || !st.Mode().IsRegular() {
			continue
		}
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return n, err
		}
		_, err = f.Write([]byte("\n"))
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
