package bake

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/rootfs"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/disk"
	"github.com/aysfs/aysfs/src/tree"
)

// ConfigPath is where an image has its config.
const ConfigPath = "/etc/aysfs/aysfs.toml"

// Options say what to bake into what.
type Options struct {
	Root    string // of the image
	Config  string // file with its config; empty: the one that is in the image
	Content Content
	Trace   Trace  // with Traced
	Version string // of this program, as stores are told
	Log     *slog.Logger
	// Progress is told how far it has come, now and then; may be nil.
	Progress func(Progress)
}

// Content says which content goes along with the metadata.
type Content int

const (
	Nothing Content = iota
	Traced          // what the trace names
	Whole           // all that the mounts show
)

// Progress is how far a bake has come.
type Progress struct {
	Objects, Total int   // of what is known to be needed
	Bytes          int64 // of those objects, plain
}

// Result is what was baked. Sizes are in bytes.
type Result struct {
	Config string  `json:"config"` // where it was put, in the image
	Seed   string  `json:"seed"`   // in the image
	Mounts []Mount `json:"mounts"`

	Blobs int64 `json:"blobs"` // in the seed
	Bytes int64 `json:"bytes"` // of those, plain
	Fresh int64 `json:"fresh"` // bytes of those that were not there before
	Disk  int64 `json:"disk"`  // what the seed takes

	Outside      int    `json:"outside"` // paths of the trace that lie in no mount
	Missing      int    `json:"missing"` // those that their tree doesn't have
	FirstMissing string `json:"first_missing,omitempty"`
}

// Mount is one mount of the image.
type Mount struct {
	Path     string `json:"path"`
	Tree     string `json:"tree"`
	Store    string `json:"store"`
	Serial   int64  `json:"serial"`
	Signed   bool   `json:"signed"`   // by a key of the config
	Metadata int    `json:"metadata"` // objects
	Files    int    `json:"files"`    // whose content is baked
	Bytes    int64  `json:"bytes"`    // of those files
}

// Bake bakes. What is in the image already is not fetched again.
func Bake(ctx context.Context, o Options) (Result, error) {
	var err error
	if o.Root, err = filepath.Abs(o.Root); err != nil { // of which stores' URLs are made
		return Result{}, fmt.Errorf("the image's root: %w", err)
	}
	b := &baker{opt: o, needed: make(map[tier.Ref]bool), files: make(map[file]bool), heads: make(map[string][]byte)}
	if b.opt.Log == nil {
		b.opt.Log = slog.New(slog.DiscardHandler)
	}
	if b.opt.Progress == nil {
		b.opt.Progress = func(Progress) {}
	}
	if err := b.readConfig(); err != nil {
		return b.result, err
	}
	dir, err := rootfs.Path(o.Root, b.cfg.Seed.Path)
	if err != nil {
		return b.result, fmt.Errorf("find the seed's place: %w", err)
	}
	if b.seed, err = disk.BuildSeed(dir, b.opt.Log); err != nil {
		return b.result, err
	}
	err = b.bake(ctx)
	if closeErr := b.seed.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("close the seed: %w", closeErr)
	}
	return b.result, err
}

// baker is one bake.
type baker struct {
	opt    Options
	text   []byte // the config's
	cfg    *config.Client
	seed   *disk.SeedBuilder
	stores map[string]*source

	refs    []tier.Ref // all that is needed, in the order in which it is brought
	needed  map[tier.Ref]bool
	brought int // how many of refs the seed has
	bytes   int64
	files   map[file]bool // those whose content is in refs
	heads   map[string][]byte
	shown   []shown
	result  Result
}

// file is one file, by number of the mount and its path in there.
type file struct {
	mount int
	path  string
}

// shown is what a mount of the image shows.
type shown struct {
	cfg  config.Mount
	view *tree.View
}

// readConfig reads the config as the machine will.
func (b *baker) readConfig() (err error) {
	if fi, err := os.Stat(b.opt.Root); err != nil {
		return fmt.Errorf("the image's root: %w", err)
	} else if !fi.IsDir() {
		return fmt.Errorf("the image's root: %s is not a directory", b.opt.Root)
	}
	if b.opt.Config == "" {
		if b.opt.Config, err = rootfs.Path(b.opt.Root, ConfigPath); err != nil {
			return fmt.Errorf("find the image's config: %w", err)
		}
	}
	if b.text, err = config.ReadFile(b.opt.Config); err != nil {
		return err
	}
	if b.cfg, err = config.ParseClientIn(b.opt.Root, b.opt.Config, b.text); err != nil {
		return err
	}
	if b.cfg.Seed.Path == "" {
		return config.Problems{{
			File: b.opt.Config, Line: b.cfg.Seed.Line, Key: "cache.disk.seed",
			Msg: "is empty, so there is no place for what is baked: write a path, or leave the line out",
		}}
	}
	return nil
}

func (b *baker) bake(ctx context.Context) error {
	if err := b.openStores(); err != nil {
		return err
	}
	defer func() {
		for _, s := range b.stores {
			s.close()
		}
	}()
	meta := tree.NewCache(metadataMemory)
	for _, m := range b.cfg.Mounts {
		if err := b.readTree(ctx, m, meta); errors.As(err, &config.Problems{}) {
			return err
		} else if err != nil {
			return fmt.Errorf("mount %s: %w", m.Path, err)
		}
	}
	if err := b.content(ctx); err != nil {
		return err
	}
	if err := b.seed.Commit(b.refs, b.heads); err != nil {
		return err
	}
	st := b.seed.Stats()
	b.result.Seed, b.result.Blobs, b.result.Bytes, b.result.Disk, b.result.Fresh = b.cfg.Seed.Path, st.Blobs, st.Bytes, st.Disk, b.seed.Fresh()
	return b.install()
}

// metadataMemory is how much of the trees' decoded metadata is kept, in bytes.
const metadataMemory = 64 << 20

// readTree finds a mount's tree and brings its metadata.
func (b *baker) readTree(ctx context.Context, m config.Mount, meta *tree.Cache) error {
	src := b.stores[m.Store]
	name := object.TreeName{ID: m.ID, RepoID: m.RepoID, Platform: m.Platform}
	ask, cancel := context.WithTimeout(ctx, b.cfg.Main.IOTimeout)
	found := src.heads.Look(ask, name)
	cancel()
	switch {
	case found.Head == nil:
		return found.Err
	case errors.Is(found.Err, tree.ErrOlder):
		return fmt.Errorf("%w; if that is meant, remove %s from the image first", found.Err, b.cfg.Seed.Path)
	case !found.Fresh:
		return found.Err
	case m.Domain != "" && m.Domain != found.Head.Domain:
		table := "mount_files"
		if m.Config {
			table = "mount_config"
		}
		return config.Problems{{
			File: b.opt.Config, Line: m.Line, Key: table + ".dedupe_domain",
			Msg: fmt.Sprintf("the tree is in %s, this says %s: write the former, or leave the line out", found.Head.Domain, m.Domain),
		}}
	}
	t := tree.New(found.Head, src.chain, meta)
	all := 0
	if err := t.Metadata(ctx, func(ref tier.Ref) bool {
		all++
		b.need(ref)
		return true
	}); err != nil {
		return err
	}
	if err := b.bring(ctx, src); err != nil {
		return err
	}
	view, err := tree.NewView(ctx, t, m.Remote, nil)
	if err != nil {
		return err
	}
	key, note := src.note(found.Head.Tree)
	b.heads[key] = note
	b.shown = append(b.shown, shown{m, view})
	b.result.Mounts = append(b.result.Mounts, Mount{
		Path: m.Path, Tree: found.Head.Tree.String(), Store: m.Store, Serial: found.Head.Serial,
		Signed: len(src.heads.Keys) > 0, Metadata: all,
	})
	return nil
}

// need puts a blob on the list, unless it is there.
func (b *baker) need(ref tier.Ref) {
	key := ref
	key.Limit = 0
	if !b.needed[key] {
		b.needed[key] = true
		b.refs = append(b.refs, ref)
	}
}

// ahead is how many blobs are fetched side by side.
const ahead = 24

// bring has the seed have what was put on the list since the last time, in its order.
// What it has is read, to see that it is what it should be.
func (b *baker) bring(ctx context.Context, src *source) error {
	type got struct {
		ref  tier.Ref
		data []byte
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	refs := b.refs[b.brought:]
	line := make(chan chan got, ahead)
	go func() {
		defer close(line)
		for _, ref := range refs {
			slot := make(chan got, 1)
			select {
			case line <- slot:
			case <-ctx.Done():
				return
			}
			go func() {
				data, err := src.chain.Copy(ctx, ref)
				slot <- got{ref, data, err}
			}()
		}
	}()
	last := time.Now()
	for slot := range line {
		g := <-slot
		if g.err != nil {
			return g.err
		}
		if err := b.seed.Add(g.ref, g.data); err != nil {
			return err
		}
		b.brought++
		b.bytes += int64(len(g.data))
		if time.Since(last) > progressEvery {
			last = time.Now()
			b.opt.Progress(Progress{b.brought, len(b.refs), b.bytes})
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("bake: %w", err)
	}
	return b.seed.Flush() // what comes next may be read from there
}

const progressEvery = 100 * time.Millisecond

// install puts the config and the mounts' directories in their places.
func (b *baker) install() error {
	for _, s := range b.shown {
		inner := slices.ContainsFunc(b.shown, func(o shown) bool { return strings.HasPrefix(s.cfg.Path, o.cfg.Path+"/") })
		if inner {
			continue // the outer one's tree has it, or is made to
		}
		dir, err := rootfs.Path(b.opt.Root, s.cfg.Path)
		if err == nil {
			err = os.MkdirAll(dir, 0o755)
		}
		if err != nil {
			return fmt.Errorf("make room for the mount at %s: %w", s.cfg.Path, err)
		}
	}
	b.result.Config = ConfigPath
	path, err := rootfs.Path(b.opt.Root, ConfigPath)
	if err == nil {
		err = installFile(path, b.text)
	}
	if err != nil {
		return fmt.Errorf("put the config at %s: %w", ConfigPath, err)
	}
	return nil
}

// installFile gives a file its content, at once and durably. A new one can be read by
// its owner and group only: there may be passwords in it.
func installFile(path string, content []byte) error {
	mode := fs.FileMode(0o640)
	if fi, err := os.Stat(path); err == nil {
		if old, err := os.ReadFile(path); err == nil && string(old) == string(content) {
			return nil
		}
		mode = fi.Mode().Perm()
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		os.Remove(f.Name())
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		os.Remove(f.Name())
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Fsync(int(d.Fd()))
}

// workers is how many blobs are unpacked at once.
func workers() int { return max(2, runtime.NumCPU()) }
