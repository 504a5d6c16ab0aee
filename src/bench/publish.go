package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// published is how long one program took to publish a tree, or to back it up or
// pack it, to the local disk.
type published struct {
	Program   string  `json:"program"`
	Run       int     `json:"run"`
	Copy      float64 `json:"copy_seconds"` // cp -a and sync of the same tree
	First     float64 `json:"first_seconds"`
	Unchanged float64 `json:"unchanged_seconds"`
	Changed   float64 `json:"changed_seconds"`
	Files     int     `json:"changed_files"`
	Stored    int64   `json:"stored_bytes"` // on the disk, after the first
	Grown     int64   `json:"grown_bytes"`  // by the changed files
	Tree      int64   `json:"tree_bytes"`   // on the disk, of the copy
}

// changedShare is one file in so many.
const changedShare = 100

// publisher is a program that does it, the subject or a peer.
type publisher struct {
	name   string
	needs  []string
	before [][]string // run once, not measured
	args   []string
	output string // removed before every run: the program does not build on it
}

// publishers are all that are measured, with what they write below dir.
func publishers(s *site, dir, source string) []publisher {
	at := func(name string) string { return filepath.Join(dir, name) }
	ays := filepath.Join(s.bin, "ays")
	restic := []string{"env", "RESTIC_PASSWORD=bench", "restic", "--quiet", "--repo", at("restic"), "--cache-dir", at("restic-cache")}
	return []publisher{
		{name: "aysfs", needs: []string{ays},
			args: []string{ays, "publish", "-store", at("aysfs"), "-id", "bench|go(1)", "-state", at("aysfs.state"), source}},
		{name: "restic", needs: []string{"restic"}, before: [][]string{slices.Concat(restic, []string{"init"})},
			args: slices.Concat(restic, []string{"backup", source})},
		{name: "desync", needs: []string{"desync"}, before: [][]string{{"mkdir", at("desync")}},
			args: []string{"desync", "tar", "-i", "-s", at("desync"), at("desync.caidx"), source}},
		{name: "mksquashfs", needs: []string{"mksquashfs"}, output: at("mksquashfs"),
			args: []string{"mksquashfs", source, at("mksquashfs"), "-comp", "zstd", "-quiet", "-no-progress"}},
	}
}

// measurePublish publishes the Go tree: to an empty store, once more, and with
// some of its files changed. Peers do the same with the same files.
func (b *bencher) measurePublish(ctx context.Context) error {
	t, err := b.tree(ctx, "go")
	if err != nil {
		b.skip("publish", err.Error())
		return nil
	}
	for run := range b.o.runs {
		if err := b.publishOnce(ctx, t, run); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
	return nil
}

// publishOnce is one run of all publishers.
func (b *bencher) publishOnce(ctx context.Context, t *tree, run int) error {
	// What a run has made stays until all is over: ext4 does not take an inode again
	// within a minute or more of its removal, and looks at all such ones for each
	// file that it makes. After another run's removal a first publish, or a copy,
	// took two to three times as long.
	dir := b.site.path(fmt.Sprintf("publish-%d", run+1))
	source := filepath.Join(dir, t.name)
	var copied float64
	err := step(&copied, func() error {
		if err := copyInto(ctx, dir, t.dir); err != nil {
			return err
		}
		unix.Sync()
		return nil
	})
	if err != nil {
		return err
	}
	treeBytes, err := diskUse(source)
	if err != nil {
		return err
	}
	var here []publisher
	var results []*published
	for _, p := range publishers(b.site, dir, source) {
		if why := missing(p.needs...); why != "" {
			if run == 0 {
				b.skip("publish with "+p.name, why)
			}
			continue
		}
		r := &published{Program: p.name, Run: run + 1, Copy: copied, Tree: treeBytes}
		for _, args := range p.before {
			if err := runQuietly(ctx, time.Minute, args[0], args[1:]...); err != nil {
				return err
			}
		}
		if err := p.measure(ctx, &r.First); err != nil {
			return err
		}
		if r.Stored, err = diskUse(filepath.Join(dir, p.name)); err != nil {
			return err
		}
		if err := p.measure(ctx, &r.Unchanged); err != nil {
			return err
		}
		here, results = append(here, p), append(results, r)
	}
	changed, err := changeSome(source, t.paths)
	if err != nil {
		return err
	}
	for i, p := range here {
		r := results[i]
		r.Files = changed
		if err := p.measure(ctx, &r.Changed); err != nil {
			return err
		}
		stored, err := diskUse(filepath.Join(dir, p.name))
		if err != nil {
			return err
		}
		r.Grown = stored - r.Stored
		b.say("publish run %d, %s: copy %s, first %s, unchanged %s, changed %s, store %s and %s more", r.Run, r.Program,
			seconds(r.Copy), seconds(r.First), seconds(r.Unchanged), seconds(r.Changed), mib(r.Stored), mib(r.Grown))
		b.res.Publish = append(b.res.Publish, *r)
	}
	return nil
}

func (p *publisher) measure(ctx context.Context, to *float64) error {
	if p.output != "" {
		if err := os.RemoveAll(p.output); err != nil {
			return err
		}
	}
	return step(to, func() error { return runQuietly(ctx, 10*time.Minute, p.args[0], p.args[1:]...) })
}

// step takes the time of what do does. What came before is not to be paid there.
func step(to *float64, do func() error) error {
	unix.Sync()
	began := time.Now()
	err := do()
	*to = time.Since(began).Seconds()
	return err
}

// diskUse is what a file or directory takes on the disk, in bytes.
func diskUse(path string) (n int64, err error) {
	err = filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("stat %s: %w", path, err)
		}
		n += int64(st.Blocks) * 512
		return nil
	})
	return n, err
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

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
