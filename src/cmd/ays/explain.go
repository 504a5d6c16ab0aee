package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/aysfs/aysfs/src/control"
)

const explainTimeout = 40 * time.Second

func explainPath(ctx context.Context, c *call, args []string) int {
	fs := c.flags()
	var at socketFlags
	at.add(fs)
	asJSON := fs.Bool("json", false, "print one JSON object")
	rest, code, ok := c.parse(fs, args)
	if !ok {
		return code
	}
	socket, problem := at.path()
	path, err := filepath.Abs(rest[0])
	if err != nil {
		return c.fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	e, err := control.Explain(ctx, socket, path)
	if errors.Is(err, control.ErrNotShown) {
		// The daemon follows no symlinks. Who asks may, but for the last one.
		if dir, failed := filepath.EvalSymlinks(filepath.Dir(path)); failed == nil && dir != filepath.Dir(path) {
			e, err = control.Explain(ctx, socket, filepath.Join(dir, filepath.Base(path)))
		}
	}
	if errors.Is(err, control.ErrNotShown) {
		c.fail(err)
		return exitWrong
	}
	if err != nil {
		return c.fail(errors.Join(err, problem))
	}
	if *asJSON {
		if err := c.printJSON(e); err != nil {
			return c.fail(err)
		}
		return exitOK
	}
	printExplanation(c.stdout, e, time.Now())
	return exitOK
}

// printExplanation writes e for people. Names may have any bytes, so they are quoted.
func printExplanation(w io.Writer, e *control.Explanation, now time.Time) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(key, format string, a ...any) { fmt.Fprintf(t, "%s\t%s\n", key, fmt.Sprintf(format, a...)) }
	row("path", "%q, in the mount at %q", e.Path, e.Mount)
	row("tree", "%s, serial %d, from store %s, domain %s", e.Tree, e.Serial, e.Store, e.Domain)
	row("there", "%q: %s, mode %s, %s, of %s", e.Inside, e.Kind, e.Mode, byteSize(e.Size), e.Mtime.Format(time.RFC3339))
	if e.Target != "" {
		row("target", "%q", e.Target)
	}
	if e.Digest != "" {
		row("digest", "%s", e.Digest)
	}
	if e.Chunks > 0 {
		row("chunks", "%d, of these %d on this machine", e.Chunks, e.ChunksHere)
	}
	if e.Note != "" {
		row("note", "%s", e.Note)
	}
	t.Flush()
	for _, o := range e.Objects {
		here := "not on this machine"
		if o.Here {
			here = "on this machine"
		}
		fmt.Fprintf(w, "\n%s %s\n  %s; had from: %s\n", o.What, o.Digest, here, o.From)
		if o.Error != "" {
			fmt.Fprintf(w, "  CAN'T BE HAD: %s\n", o.Error)
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, p := range o.Tiers {
			what := "has not"
			switch {
			case p.Has:
				what = "has it"
			case p.Error != "":
				what = "FAILS: " + p.Error
			}
			fmt.Fprintf(t, "  %s\t%v\t%s\n", p.Tier, p.Took.Round(10*time.Microsecond), what)
			if p.LastError != "" {
				fmt.Fprintf(t, "  \t\tlast failure, %v ago: %s\n", now.Sub(p.LastErrorAt).Round(time.Second), p.LastError)
			}
		}
		t.Flush()
	}
}
