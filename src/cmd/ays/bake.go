package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/aysfs/aysfs/src/bake"
)

func bakeImage(ctx context.Context, c *call, args []string) int {
	fs := c.flags()
	o := bake.Options{Version: version, Log: slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{ReplaceAttr: dropTime}))}
	fs.StringVar(&o.Root, "rootfs", "", "`directory` that is the root of the image")
	fs.StringVar(&o.Config, "config", "", "`file` to be the image's config (default: the one that it has, "+bake.ConfigPath+")")
	withData := fs.Bool("with-data", false, "bake all content that the mounts show, too")
	trace := fs.String("trace", "", "`file` with paths whose content to bake instead, one a line, in the order in which they are needed; DIRECTORY/ is all below it. Or a profile")
	asJSON := fs.Bool("json", false, "print the result as JSON")
	if _, code, ok := c.parse(fs, args); !ok {
		return code
	}
	if o.Root == "" {
		return c.fail(errors.New("-rootfs is needed: / is this machine itself"))
	}
	switch {
	case *trace != "":
		var err error
		if o.Trace, err = bake.ReadTrace(*trace); err != nil {
			return c.fail(err)
		}
		o.Content = bake.Traced
	case *withData:
		o.Content = bake.Whole
	}
	line := statusLine{c.stderr}
	if c.terminal {
		o.Progress = func(p bake.Progress) {
			line.set(fmt.Sprintf("%d of %d objects that are known to be needed, %s", p.Objects, p.Total, byteSize(p.Bytes)))
		}
	}
	res, err := bake.Bake(ctx, o)
	if c.terminal {
		line.clear()
	}
	if err != nil {
		return c.fail(err)
	}
	if *asJSON {
		err = json.NewEncoder(c.stdout).Encode(res)
	} else {
		err = printBaked(c.stdout, res, o.Content)
	}
	if err != nil {
		return c.fail(fmt.Errorf("baked, but could not tell: %w", err))
	}
	return exitOK
}

func printBaked(w io.Writer, r bake.Result, content bake.Content) error {
	for _, m := range r.Mounts {
		signed := "not signed, as the store has no key"
		if m.Signed {
			signed = "signed by the store's key"
		}
		fmt.Fprintf(w, "%s: %s, serial %d, %s\n  %d objects of metadata", m.Path, m.Tree, m.Serial, signed, m.Metadata)
		if content != bake.Nothing {
			fmt.Fprintf(w, "; %d files, %s", m.Files, byteSize(m.Bytes))
		}
		fmt.Fprintln(w)
	}
	if r.Outside > 0 {
		fmt.Fprintf(w, "%d paths of the trace lie in no mount\n", r.Outside)
	}
	if r.Missing > 0 {
		fmt.Fprintf(w, "%d paths of the trace are in no tree, %s the first\n", r.Missing, r.FirstMissing)
	}
	fmt.Fprintf(w, "config %s\n", r.Config)
	_, err := fmt.Fprintf(w, "seed %s: %d objects, %s, %s of them new; %s on disk\n", r.Seed, r.Blobs, byteSize(r.Bytes), byteSize(r.Fresh), byteSize(r.Disk))
	return err
}
