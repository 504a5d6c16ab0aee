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

// publishTime is how long a program may take.
const publishTime = 90 * time.Second

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
			args: []string{"mksquashfs", source, at("mksquashfs"), "-comp", "zstd", "-Xcompression-level", "3", "-quiet", "-no-progress"}},
	}
}

// measurePublish publishes the Go tree: to an empty store, once more, and with
// some of its files changed. Peers do the same with the same files.
func (b *bencher) measurePublish(ctx context.Context, run int) error {
	t, err := b.tree(ctx, "go")
	if err != nil {
		return err
	}
	// What a run has made stays until all is over: ext4 does not take an inode again
	// within a minute or more of its removal, and looks at all such ones for each
	// file that it makes. After another run's removal a first publish, or a copy,
	// took two to three times as long.
	dir := b.site.path(fmt.Sprintf("publish-%d", run+1))
	source := filepath.Join(dir, t.name)
	var copied float64
	err = step(&copied, func() error {
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
	var done []publisher
	var results []*published
	fails := func(p publisher, err error) bool {
		if err != nil {
			b.skip("publish with "+p.name, err.Error())
		}
		return err != nil
	}
	for _, p := range publishers(b.site, dir, source) {
		if why := missing(p.needs...); why != "" {
			if run == 0 {
				b.skip("publish with "+p.name, why)
			}
			continue
		}
		r := &published{Program: p.name, Run: run + 1, Copy: copied, Tree: treeBytes}
		if !fails(p, p.begin(ctx, dir, r)) {
			done, results = append(done, p), append(results, r)
		}
	}
	changed, err := changeSome(source, t.paths)
	if err != nil {
		return err
	}
	for i, p := range done {
		r := results[i]
		r.Files = changed
		if fails(p, p.measure(ctx, &r.Changed)) {
			continue
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

// begin publishes to an empty store, and once more.
func (p *publisher) begin(ctx context.Context, dir string, r *published) (err error) {
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
	return p.measure(ctx, &r.Unchanged)
}

func (p *publisher) measure(ctx context.Context, to *float64) error {
	if p.output != "" {
		if err := os.RemoveAll(p.output); err != nil {
			return err
		}
	}
	return step(to, func() error { return runQuietly(ctx, publishTime, p.args[0], p.args[1:]...) })
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

// publishing has a row for each step and two columns for each program: what it
// took, and how many times what a copy took. Sizes are next to the tree's own.
func (r *results) publishing() [][]string {
	if len(r.Publish) == 0 {
		return nil
	}
	var programs []string
	for _, p := range r.Publish {
		if !slices.Contains(programs, p.Program) {
			programs = append(programs, p.Program)
		}
	}
	head := []string{""}
	for _, program := range programs {
		head = append(head, program, "")
	}
	rows := [][]string{head}
	for _, s := range []struct {
		name string
		took func(published) float64
	}{
		{"copy", func(p published) float64 { return p.Copy }},
		{"first", func(p published) float64 { return p.First }},
		{"unchanged", func(p published) float64 { return p.Unchanged }},
		{fmt.Sprintf("%d files changed", r.Publish[0].Files), func(p published) float64 { return p.Changed }},
	} {
		row := []string{s.name}
		for _, program := range programs {
			took := r.published(program, s.took)
			row = append(row, seconds(took), ratio(took, r.published(program, func(p published) float64 { return p.Copy })))
		}
		rows = append(rows, row)
	}
	for _, s := range []struct {
		name  string
		bytes func(published) int64
	}{
		{"stored", func(p published) int64 { return p.Stored }},
		{"more with the changed files", func(p published) int64 { return p.Grown }},
	} {
		row := []string{s.name}
		for _, program := range programs {
			n := r.published(program, func(p published) float64 { return float64(s.bytes(p)) })
			row = append(row, mib(int64(n)), ratio(n, r.published(program, func(p published) float64 { return float64(p.Tree) })))
		}
		rows = append(rows, row)
	}
	return rows
}

// published is the median of what get tells of a program's runs.
func (r *results) published(program string, get func(published) float64) float64 {
	var values []float64
	for _, p := range r.Publish {
		if p.Program == program {
			values = append(values, get(p))
		}
	}
	return median(values)
}
