package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/aysfs/aysfs/src/publish"
	"github.com/aysfs/aysfs/src/tier"
)

// copied is what copy -json prints.
type copied struct {
	Trees     int64   `json:"trees"`
	Unchanged int64   `json:"unchanged"`
	NewBlobs  int64   `json:"new_blobs"`
	NewBytes  int64   `json:"new_bytes"`
	Seconds   float64 `json:"seconds"`
}

func copyTrees(ctx context.Context, c *call, args []string) int {
	fs := c.flags()
	var from storeFlags
	from.addAs(fs, "from", "", "the store to copy from")
	o := publish.CopyOptions{Log: slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{ReplaceAttr: dropTime}))}
	fs.StringVar(&o.To, "to", "", "`directory` of the store to copy to, made if absent")
	tree := treeFlags(fs)
	keys := keysFlag(fs, "the heads")
	asJSON := fs.Bool("json", false, "print the result as JSON")
	if _, code, ok := c.parse(fs, args); !ok {
		return code
	}
	if o.To == "" {
		return c.fail(errors.New("-to is needed"))
	}
	if tree.ID == "" && (tree.RepoID != "" || tree.Platform != "") {
		return c.fail(errors.New("-repoid and -platform need -id; without it all trees are copied"))
	}
	st, err := from.open()
	if err != nil {
		return c.fail(err)
	}
	defer st.Close()
	o.Source, o.Heads, o.Keys = tier.Retry(st, tier.RetryPolicy{Tries: verifyTries}), st, *keys
	if o.Trees, err = treesOf(ctx, st, *tree); err != nil {
		return c.fail(err)
	}
	res, err := publish.Copy(ctx, o)
	if err != nil {
		if res.Trees > 0 {
			err = fmt.Errorf("%w; %d trees before it are copied", err, res.Trees)
		}
		return c.fail(err)
	}
	if *asJSON {
		err = json.NewEncoder(c.stdout).Encode(copied{res.Trees, res.Unchanged, res.NewBlobs, res.NewBytes, res.Elapsed.Seconds()})
	} else {
		_, err = fmt.Fprintf(c.stdout, "%d trees, %d of them as they were; %d new objects, %s; %.1f s\n",
			res.Trees, res.Unchanged, res.NewBlobs, byteSize(res.NewBytes), res.Elapsed.Seconds())
	}
	if err != nil {
		return c.fail(fmt.Errorf("copied, but could not tell: %w", err))
	}
	return exitOK
}
