package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
)

// published is what publish -json prints.
type published struct {
	publishedHead
	object.Counts
	Skipped  int64   `json:"skipped"`
	Warnings int64   `json:"warnings"`
	Read     int64   `json:"read_files"`
	NewBlobs int64   `json:"new_blobs"`
	NewBytes int64   `json:"new_bytes"`
	Seconds  float64 `json:"seconds"`
}

func publishTree(ctx context.Context, c *call, args []string) int {
	fs := c.flags()
	tree := treeFlags(fs)
	o := publish.Options{Log: slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{ReplaceAttr: dropTime}))}
	var to storeFlags
	to.addAs(fs, "store", "", "the store to publish to, made if absent, or an ays_cache")
	fs.StringVar(&o.Domain, "domain", "", "dedupe `domain` (default \"default\")")
	var sign signFlags
	sign.add(fs)
	fs.BoolVar(&o.KeepSetuid, "keep-setuid", false, "keep setuid and setgid bits")
	fs.BoolVar(&o.Full, "full", false, "read all files, also those that look as when they were published last: same size, times and inode")
	fs.StringVar(&o.State, "state", "", "`file` that tells what need not be read again (default: one beside the tree's heads in the store; none for an ays_cache)")
	fs.BoolVar(&o.OneFS, "xdev", false, "leave other file systems mounted in TREE out: mount points are published empty")
	allow := fs.Bool("allow-warnings", false, "publish all the same, with exit code 1: what remains of a tree with devices, sockets, pipes or setuid bits; a head without a signature over one that has one")
	asJSON := fs.Bool("json", false, "print the result as JSON")
	format := fs.String("format", "", "what `kind` of thing TREE is: dir, tar (plain or compressed with gzip or zstd), oci (an image layout, or a tar of one), or list (path|md5|size a line); default: found out")
	fs.StringVar(&o.Image, "image", "", "`name` of the image in an OCI layout, or its os/architecture or digest (default the one for -platform, or the only one)")
	fs.StringVar(&o.Files, "files", "", "`directory` with the files that a list names, in ab/cd/abcd… or a/b/abcd… (default the list's own, or files beside it)")
	rest, code, ok := c.parse(fs, args)
	if !ok {
		return code
	}
	o.Tree, o.Root, o.Whole = *tree, rest[0], !*allow
	if to.where == "" || o.Tree.ID == "" {
		return c.fail(errors.New("-store and -id are needed"))
	}
	if to.overHTTP() {
		cache, err := to.openCache()
		if err != nil {
			return c.fail(err)
		}
		defer cache.Close()
		o.Cache = cache
	} else if o.Store = to.where; to.login != "" || to.secretFile != "" || to.ca != "" {
		return c.fail(errors.New("-login, -secret-file and -ca are for an ays_cache: a directory needs none"))
	}
	o.Format, o.Stdin = publish.Format(*format), os.Stdin
	var err error
	if o.State == "" && o.Cache == nil {
		if o.State, err = publish.StateFile(o.Store, o.Tree); err != nil {
			return c.fail(err)
		}
	}
	if o.Signers, o.Public, err = sign.open(ctx, c.stderr); err != nil {
		return c.fail(err)
	}
	line := statusLine{c.stderr}
	if c.terminal {
		o.Progress = func(p publish.Progress) { line.set(publishProgress(p)) }
	}
	res, err := publish.Run(ctx, o)
	if c.terminal {
		line.clear()
	}
	if err != nil {
		return publishFailed(ctx, c, err)
	}
	p := published{
		publishedHead: newPublishedHead(res, o.Signers),
		Counts:        res.Counts, Skipped: res.Skipped, Warnings: res.Warnings, Read: res.Read,
		NewBlobs: res.NewBlobs, NewBytes: res.NewBytes, Seconds: res.Elapsed.Seconds(),
	}
	if *asJSON {
		err = json.NewEncoder(c.stdout).Encode(p)
	} else {
		err = printPublished(c, res.Tree, p)
	}
	if err != nil {
		return c.fail(fmt.Errorf("published, but could not tell: %w", err))
	}
	if res.Warnings > 0 {
		return exitWrong
	}
	return exitOK
}

func publishFailed(ctx context.Context, c *call, err error) int {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return c.fail(errors.New("interrupted; nothing was published"))
	}
	if nw, ok := errors.AsType[*publish.NotWholeError](err); ok {
		return c.fail(fmt.Errorf("%d warnings; nothing was published: mend that, or see -allow-warnings and -keep-setuid", nw.Warnings))
	}
	var te *publish.TreeError
	if !errors.As(err, &te) {
		return c.fail(err)
	}
	for _, p := range te.Problems {
		fmt.Fprintf(c.stderr, "%v\n", p)
	}
	more := ""
	if te.Stopped {
		more = ", and maybe more"
	}
	return c.fail(fmt.Errorf("%d problems in the tree%s; nothing was published", len(te.Problems), more))
}

func printPublished(c *call, tree object.TreeName, p published) error {
	signed := "not signed"
	if p.Key != "" {
		signed = "signed by " + p.Key
	}
	_, err := fmt.Fprintf(c.stdout, `%s %v, serial %d, %s
root    %v
tree    %d files, %d directories, %d symlinks, %s; %d files read
stored  %d new objects, %s
time    %.2f s
`, p.what(), tree, p.Serial, signed, p.Root,
		p.Files, p.Dirs, p.Symlinks, byteSize(p.Bytes), p.Read,
		p.NewBlobs, byteSize(p.NewBytes), p.Seconds)
	return err
}

// publishProgress is the line that a terminal shows.
func publishProgress(p publish.Progress) string {
	rate := byteSize(int64(float64(p.Bytes)/max(p.Elapsed.Seconds(), 0.001))) + "/s"
	if p.TotalFiles == 0 {
		return fmt.Sprintf("%d files, %s, %s", p.Files, byteSize(p.Bytes), rate)
	}
	return fmt.Sprintf("%d of %d files, %s of %s, %s, %s", p.Files, p.TotalFiles,
		byteSize(p.Bytes), byteSize(p.TotalBytes), rate, timeLeft(p.Bytes, p.TotalBytes, p.Elapsed))
}

// dropTime leaves the time out of log lines that are read as they appear.
func dropTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
