package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/aysfs/aysfs/src/fs"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/profile"
	"github.com/aysfs/aysfs/src/publish"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tree"
)

func profileCommands() []command {
	return []command{
		{"profile record", "-- CMD ARGS", "mount a tree, run a command on it, and put what it needed first beside the tree's head", recordProfile},
		{"profile show", "", "list what programs need of a tree, in order", showProfile},
	}
}

func profileTree(ctx context.Context, c *call, args []string) int {
	return c.runBelow(ctx, profileCommands(), "-store STORE -id ID", args)
}

// Memory that a recording takes for blobs, in bytes. There is no disk cache.
const (
	recordBudget = 64 << 20
	recordRecent = 256 << 20
)

// recordOptions are the flags of profile record.
type recordOptions struct {
	store   storeFlags
	tree    *object.TreeName
	keys    *object.Keys
	path    string
	out     string
	replace bool
	within  time.Duration
	command []string
}

func recordProfile(ctx context.Context, c *call, args []string) int {
	var o recordOptions
	flags := c.flags()
	o.store.add(flags)
	o.tree = treeFlags(flags)
	o.keys = keysFlag(flags, "the head")
	flags.StringVar(&o.path, "path", "", "`directory` to mount the tree at, as machines do (default: a temporary one); {} in CMD and ARGS stands for it")
	flags.StringVar(&o.out, "o", "", "write the profile to this `file`, not to the store")
	flags.BoolVar(&o.replace, "replace", false, "forget what was recorded before, rather than merge with it")
	flags.DurationVar(&o.within, "for", 0, "end CMD, and what it has started, after this `time`, such as 30s, with SIGTERM; its exit code does not count then")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return exitOK
	} else if err != nil {
		return exitFailed
	}
	if o.command = flags.Args(); len(o.command) == 0 {
		return c.fail(errors.New("missing CMD; \"ays profile record -h\" tells how to call it"))
	}
	if err := o.tree.Validate(); err != nil {
		return c.fail(err)
	}
	if o.within < 0 {
		return c.fail(fmt.Errorf("-for %v: it must be more than nothing", o.within))
	}
	if o.store.overHTTP() && o.out == "" {
		return c.fail(errors.New("the profile can be put into a directory store only: do it where the directory is, or name a file with -o"))
	}
	p, err := o.run(ctx, c)
	if err != nil {
		return c.fail(err)
	}
	if err := o.put(ctx, c, p); err != nil {
		return c.fail(err)
	}
	fmt.Fprintf(c.stdout, "recorded %d needs of %v\n", len(p.Needs), *o.tree)
	return exitOK
}

// run mounts the tree, runs the command, and returns what it needed.
func (o *recordOptions) run(ctx context.Context, c *call) (p *profile.Profile, err error) {
	h, err := openHistory(&o.store, *o.keys)
	if err != nil {
		return nil, err
	}
	defer h.store.Close()
	head, _, err := h.at(ctx, *o.tree, 0)
	if err != nil {
		return nil, err
	}
	if o.path == "" {
		if o.path, err = os.MkdirTemp("", "ays-profile-"); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.Remove(o.path)) }()
	}
	if o.path, err = filepath.Abs(o.path); err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: dropTime}))
	blobs := tier.NewChain(tier.ChainConfig{
		Groups: []tier.Group{tier.One(h.source)}, Codec: h.codec, Budget: recordBudget, Recent: recordRecent, Log: log,
	})
	defer blobs.Close()
	view, err := tree.NewView(ctx, tree.New(head, blobs, h.cache), "", nil)
	if err != nil {
		return nil, err
	}
	f, err := fs.New(fs.Config{Path: o.path, Name: "ays-profile", IOTimeout: 30 * time.Second, Window: recordBudget / 4, Log: log}, view, blobs)
	if err != nil {
		return nil, err
	}
	if err := f.Mount(); err != nil {
		f.Abandon()
		return nil, err
	}
	defer func() {
		if _, e := f.Unmount(); e != nil {
			err = errors.Join(err, e)
			return
		}
		select {
		case <-f.Done():
		case <-time.After(5 * time.Second):
			fmt.Fprintf(c.stderr, "ays profile record: something that CMD left behind still uses %s: its reads fail from now on\n", o.path)
		}
	}()
	run := profile.NewRecording()
	stop := f.Record(func(n fs.Need) {
		switch {
		case n.Dir:
			run.Listing(n.Path)
		case n.Chunked:
			run.Chunk(n.Path, n.Off, n.N)
		default:
			run.File(n.Path, n.Size)
		}
	})
	err = o.execute(ctx, c)
	stop()
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w; nothing was recorded", err)
	case run.Len() == 0:
		return nil, fmt.Errorf("the command looked at nothing below %s: is that where it expects the tree? See -path", o.path)
	case run.Full():
		fmt.Fprintf(c.stderr, "ays profile record: this is the beginning of what the command needs, %d needs and %s\n", run.Len(), byteSize(run.Bytes()))
	}
	return run.Profile(), nil
}

// execute runs the command to its end.
func (o *recordOptions) execute(ctx context.Context, c *call) error {
	args := make([]string, len(o.command))
	for i, a := range o.command {
		args[i] = strings.ReplaceAll(a, "{}", o.path)
	}
	limited := ctx
	if o.within > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, o.within)
		defer cancel()
	}
	cmd := exec.CommandContext(limited, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.stdin, c.stdout, c.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if o.within > 0 { // then nobody is to type to it, and a script's children are to end with it
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	}
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case o.within > 0 && limited.Err() != nil:
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

// put puts what was recorded where it belongs.
func (o *recordOptions) put(ctx context.Context, c *call, run *profile.Profile) error {
	if o.out != "" {
		b, err := profile.Merge(nil, run).Encode()
		if err != nil {
			return err
		}
		return os.WriteFile(o.out, b, 0o644)
	}
	log := slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{ReplaceAttr: dropTime}))
	return publish.PutProfile(ctx, o.store.where, *o.tree, log, func(old *profile.Profile) (*profile.Profile, error) {
		if o.replace {
			old = nil
		}
		return profile.Merge(old, run).NotAfter(time.Now()), nil
	})
}

// shownNeed is one line of profile show, and what -json prints.
type shownNeed struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"` // listing, file, or part of one
	Weight int    `json:"weight"`
	Offset int64  `json:"offset,omitempty"` // of a part
	Length int64  `json:"length,omitempty"`
	// Size of the file as the tree is now; absent where it has no such file.
	Size *int64 `json:"size,omitempty"`
}

// shownProfile is what profile show -json prints.
type shownProfile struct {
	Time  time.Time   `json:"time"`
	Runs  int         `json:"runs"`
	Bytes int         `json:"bytes"` // of the profile
	Needs []shownNeed `json:"needs"`
	// Fetch is what the needs are in the tree as it is now.
	Fetch *fetched `json:"fetch,omitempty"`
}

type fetched struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"` // of files, plain
}

func showProfile(ctx context.Context, c *call, args []string) int {
	flags := c.flags()
	var where storeFlags
	where.add(flags)
	name := treeFlags(flags)
	file := flags.String("file", "", "show this `file`, not what the store has")
	asJSON := flags.Bool("json", false, "print one JSON object")
	if _, code, ok := c.parse(flags, args); !ok {
		return code
	}
	var h *history
	var t *tree.Tree
	if where.where != "" || *file == "" {
		if err := name.Validate(); err != nil {
			return c.fail(err)
		}
		var err error
		if h, err = openHistory(&where, nil); err != nil {
			return c.fail(err)
		}
		defer h.store.Close()
		head, _, err := h.at(ctx, *name, 0)
		if err != nil {
			return c.fail(err)
		}
		t = tree.New(head, h, h.cache)
	}
	var b []byte
	var err error
	if *file != "" {
		b, err = os.ReadFile(*file)
	} else if b, err = h.store.Profile(ctx, *name); errors.Is(err, tier.ErrAbsent) {
		err = fmt.Errorf("%v has no profile: \"ays profile record\" makes one", *name)
	}
	if err != nil {
		return c.fail(err)
	}
	p, err := profile.Parse(b)
	if err != nil {
		if *file != "" {
			return c.fail(fmt.Errorf("%s: %w", *file, err))
		}
		return c.fail(fmt.Errorf("profile of %v: %w: \"ays profile record\" makes another", *name, err))
	}
	s := describeProfile(ctx, p, t)
	s.Bytes = len(b)
	if *asJSON {
		err = c.printJSON(s)
	} else {
		err = printProfile(c.stdout, s)
	}
	if err != nil {
		return c.fail(err)
	}
	return exitOK
}

// describeProfile makes of blocks that follow each other one part. t may be nil.
func describeProfile(ctx context.Context, p *profile.Profile, t *tree.Tree) *shownProfile {
	s := &shownProfile{Time: p.Time, Runs: p.Runs, Needs: []shownNeed{}}
	for i, n := range p.Needs {
		v := shownNeed{Path: n.Path, Weight: int(n.Weight), Kind: "part"}
		switch n.Block {
		case profile.Listing:
			v.Kind = "listing"
		case profile.Whole:
			v.Kind = "file"
		default:
			v.Offset, v.Length = int64(n.Block)*profile.BlockSize, profile.BlockSize
			if last := len(s.Needs) - 1; i > 0 && p.Needs[i-1].Path == n.Path && p.Needs[i-1].Block+1 == n.Block && p.Needs[i-1].Weight == n.Weight && n.Block > 0 {
				s.Needs[last].Length += profile.BlockSize
				continue
			}
		}
		s.Needs = append(s.Needs, v)
	}
	if t == nil {
		return s
	}
	for i := range s.Needs {
		if v := &s.Needs[i]; v.Kind != "listing" {
			if e, ok := profile.Find(ctx, t, v.Path); ok {
				v.Size = &e.Size
			}
		}
	}
	s.Fetch = &fetched{}
	s.Fetch.Objects, s.Fetch.Bytes = profile.Measure(ctx, p, t)
	return s
}

func printProfile(w io.Writer, s *shownProfile) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "weight\twhat\tof\tpath")
	needs := int64(0)
	for _, n := range s.Needs {
		what, of := n.Kind, "-"
		needs++
		if n.Kind == "part" {
			needs += n.Length/profile.BlockSize - 1
			what = fmt.Sprintf("%s at %s", byteSize(n.Length), byteSize(n.Offset))
		}
		if n.Size != nil {
			of = byteSize(*n.Size)
		}
		path := fmt.Sprintf("%q", "/"+n.Path)
		if plain := path[1 : len(path)-1]; plain == "/"+n.Path {
			path = plain
		}
		fmt.Fprintf(t, "%d%%\t%s\t%s\t%s\n", (n.Weight*100+127)/255, what, of, path)
	}
	t.Flush()
	fmt.Fprintf(w, "\n%d runs, the last at %s; %d needs in %s", s.Runs, s.Time.Format(time.RFC3339), needs, byteSize(int64(s.Bytes)))
	if s.Fetch != nil {
		fmt.Fprintf(w, "; in the tree as it is now %d objects, %s of files", s.Fetch.Objects, byteSize(s.Fetch.Bytes))
	}
	_, err := fmt.Fprintln(w)
	return err
}
