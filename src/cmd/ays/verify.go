package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/aysfs/aysfs/src/publish"
	"github.com/aysfs/aysfs/src/tier"
)

// verifyTries is how often an object is asked for before a store counts as
// unavailable.
const verifyTries = 4

func verifyStore(ctx context.Context, c *call, args []string) int {
	fs := c.flags()
	var where storeFlags
	where.add(fs)
	repair := fs.Bool("repair", false, "mend what is wrong in a directory store with what the store -from has")
	var from storeFlags
	from.addAs(fs, "from", "from-", "the store to mend from")
	tree := treeFlags(fs)
	keys := keysFlag(fs, "all heads")
	if _, code, ok := c.parse(fs, args); !ok {
		return code
	}
	if tree.ID == "" && (tree.RepoID != "" || tree.Platform != "") {
		return c.fail(errors.New("-repoid and -platform need -id; without it all trees are verified"))
	}
	st, err := where.open()
	if err != nil {
		return c.fail(err)
	}
	defer st.Close()
	if *repair != (from.where != "") {
		return c.fail(errors.New("-repair and -from go together"))
	}
	line := statusLine{c.stderr}
	say := func(format string, a ...any) {
		if c.terminal {
			line.clear()
		}
		fmt.Fprintf(c.stdout, format+"\n", a...)
	}
	o := publish.VerifyOptions{
		Source:  tier.Retry(st, tier.RetryPolicy{Tries: verifyTries}),
		Heads:   st,
		Profile: st.Profile,
		Keys:    *keys,
		Report:  func(p publish.Problem) { say("%v", p) },
		Warn: func(p publish.Problem) {
			say("warning: %v: clients do without; \"ays profile record\" makes another", p)
		},
	}
	if o.Trees, err = treesOf(ctx, st, *tree); err != nil {
		return c.fail(err)
	}
	if len(o.Trees) == 0 {
		return c.fail(errors.New("the store has no trees"))
	}
	var healer *publish.Healer
	if *repair {
		other, err := from.open()
		if err != nil {
			return c.fail(err)
		}
		defer other.Close()
		mirror := retried{tier.Retry(other, tier.RetryPolicy{Tries: verifyTries}), other}
		if healer, err = publish.NewHealer(where.where, st, mirror, *keys); err != nil {
			return c.fail(err)
		}
		o.Source, o.Heads = healer, healer
	}
	if c.terminal {
		o.Progress = func(p publish.VerifyProgress) { line.set(verifyProgress(p)) }
	}
	res, err := publish.Verify(ctx, o)
	if c.terminal {
		line.clear()
	}
	if healer != nil {
		switch {
		case err != nil:
		case res.Problems == 0:
			err = healer.PutHeads(ctx)
		case healer.Owes():
			fmt.Fprintln(c.stdout, "heads that were missing are not put there: what they need is not all there")
		}
		mended, closeErr := healer.Close()
		err = errors.Join(err, closeErr)
		if err == nil {
			fmt.Fprintf(c.stdout, "%d objects mended\n", mended)
		}
	}
	if err != nil {
		return c.fail(err)
	}
	fmt.Fprintf(c.stdout, "%d trees, %d files, %d directories; %d objects, %s; %.1f s\n",
		res.Trees, res.Counts.Files, res.Counts.Dirs, res.Blobs, byteSize(res.Bytes), res.Elapsed.Seconds())
	if res.Problems > 0 {
		for _, t := range res.Replaced {
			fmt.Fprintf(c.stdout, "%v: its head was replaced meanwhile, and a gc may have removed what only the old one needed: verify again\n", t)
		}
		fmt.Fprintf(c.stdout, "%d problems\n", res.Problems)
		return exitWrong
	}
	if res.Warnings > 0 {
		fmt.Fprintf(c.stdout, "all right but for %d warnings\n", res.Warnings)
		return exitOK
	}
	fmt.Fprintln(c.stdout, "all right")
	return exitOK
}

// retried is a store whose blobs are asked for more than once.
type retried struct {
	tier.Source
	tier.HeadSource
}

// verifyProgress is the line that a terminal shows.
func verifyProgress(p publish.VerifyProgress) string {
	if p.Trees < p.TotalTrees {
		return fmt.Sprintf("%d of %d trees", p.Trees, p.TotalTrees)
	}
	return fmt.Sprintf("%d of %d objects, %s of %s, %s", p.Blobs, p.TotalBlobs,
		byteSize(p.Bytes), byteSize(p.TotalBytes), timeLeft(p.Bytes, p.TotalBytes, p.Elapsed))
}
