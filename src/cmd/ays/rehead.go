package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
)

// reheadFlags are what rollback and promote have in common.
type reheadFlags struct {
	sign     signFlags
	from     []string
	asJSON   bool
	o        publish.RepublishOptions
	fromTree *object.TreeName
}

func (r *reheadFlags) add(c *call, fs *flag.FlagSet) {
	fs.StringVar(&r.o.Store, "store", "", "`directory` of the store")
	r.fromTree = treeFlags(fs)
	r.sign.add(fs)
	fs.Func("from-key", "public `key`, or a file with it, that the head to publish again must be signed by, or none; more than one may do (default: those of -key and -public)", func(s string) error {
		r.from = append(r.from, s)
		return nil
	})
	fs.BoolVar(&r.asJSON, "json", false, "print the result as JSON")
	r.o.Log = slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{ReplaceAttr: dropTime}))
}

func (r *reheadFlags) run(ctx context.Context, c *call) int {
	var err error
	r.o.From = *r.fromTree
	// An old head is as good as who signed it: by default, whoever signs now.
	if r.o.Signers, r.o.Public, err = r.sign.open(ctx, c.stderr); err != nil {
		return c.fail(err)
	}
	r.o.Keys = r.o.Public
	if len(r.from) > 0 {
		r.o.Keys = nil
		if len(r.from) > 1 || r.from[0] != "none" {
			for _, text := range r.from {
				k, err := readKey(text)
				if err != nil {
					return c.fail(err)
				}
				r.o.Keys = append(r.o.Keys, k)
			}
		}
	}
	res, err := publish.Republish(ctx, r.o)
	if errors.Is(err, object.ErrUnsigned) {
		err = fmt.Errorf("%w; see -from-key", err)
	}
	if err != nil {
		return c.fail(err)
	}
	p := newPublishedHead(res, r.o.Signers)
	if r.asJSON {
		err = json.NewEncoder(c.stdout).Encode(p)
	} else {
		_, err = fmt.Fprintf(c.stdout, "%s %v, serial %d\nroot    %v\n", p.what(), res.Tree, p.Serial, p.Root)
	}
	if err != nil {
		return c.fail(fmt.Errorf("published, but could not tell: %w", err))
	}
	return exitOK
}

func rollbackTree(ctx context.Context, c *call, args []string) int {
	fs := c.flags()
	var r reheadFlags
	r.add(c, fs)
	fs.Int64Var(&r.o.Serial, "serial", 0, "`serial` of the head to go back to; \"ays log\" lists them")
	if _, code, ok := c.parse(fs, args); !ok {
		return code
	}
	if r.o.Store == "" || r.fromTree.ID == "" || r.o.Serial < 1 {
		return c.fail(errors.New("-store, -id and -serial are needed"))
	}
	r.o.To = *r.fromTree
	return r.run(ctx, c)
}

func promoteTree(ctx context.Context, c *call, args []string) int {
	fs := c.flags()
	var r reheadFlags
	r.add(c, fs)
	fs.Int64Var(&r.o.Serial, "serial", 0, "`serial` of the head to copy (default: the newest)")
	var to object.TreeName
	fs.StringVar(&to.ID, "to-id", "", "`ays.id` to give it (default: the same)")
	fs.StringVar(&to.RepoID, "to-repoid", "", "`ays.repoid` to give it (default: the same)")
	fs.StringVar(&to.Platform, "to-platform", "", "`platform` to give it, \"any\" for every one (default: the same)")
	if _, code, ok := c.parse(fs, args); !ok {
		return code
	}
	if r.o.Store == "" || r.fromTree.ID == "" {
		return c.fail(errors.New("-store and -id are needed"))
	}
	r.o.To = *r.fromTree
	for _, v := range []struct{ to, from *string }{{&r.o.To.ID, &to.ID}, {&r.o.To.RepoID, &to.RepoID}, {&r.o.To.Platform, &to.Platform}} {
		if *v.from != "" {
			*v.to = *v.from
		}
	}
	if r.o.To.Platform == object.AnyPlatform {
		r.o.To.Platform = ""
	}
	if r.o.To == *r.fromTree {
		return c.fail(errors.New("that is the same tree: say what is to be different, with -to-id, -to-repoid or -to-platform; rollback is for going back"))
	}
	return r.run(ctx, c)
}
