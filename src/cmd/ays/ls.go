package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/errgroup"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// lsFetches is how many heads are asked for at once.
const lsFetches = 16

// listed is a tree as ls -json prints it.
type listed struct {
	ID       string        `json:"id"`
	RepoID   string        `json:"repoid,omitempty"`
	Platform string        `json:"platform,omitempty"`
	Domain   string        `json:"domain"`
	Serial   int64         `json:"serial"`
	Time     time.Time     `json:"time"`
	Root     digest.Digest `json:"root"`
	Keys     []string      `json:"keys,omitempty"` // names of those that signed the head; nothing is checked here
	object.Counts
}

func listStore(ctx context.Context, c *call, args []string) int {
	fs := c.flags()
	var where storeFlags
	where.add(fs)
	asJSON := fs.Bool("json", false, "print a JSON array")
	if _, code, ok := c.parse(fs, args); !ok {
		return code
	}
	st, err := where.open()
	if err != nil {
		return c.fail(err)
	}
	defer st.Close()
	trees, err := treesOf(ctx, st, object.TreeName{})
	if err != nil {
		return c.fail(err)
	}
	heads := make([]*listed, len(trees))
	errs := make([]error, len(trees))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(lsFetches)
	for i, t := range trees {
		g.Go(func() error {
			heads[i], errs[i] = describe(gctx, st, t)
			return nil
		})
	}
	g.Wait() // the errors are in errs
	found := []*listed{}
	for _, h := range heads {
		if h != nil {
			found = append(found, h)
		}
	}
	if *asJSON {
		err = json.NewEncoder(c.stdout).Encode(found)
	} else {
		err = printListed(c, found)
	}
	// What can be listed is; the rest is told, and counts as a failure.
	if err = errors.Join(append(errs, err)...); err != nil {
		return c.fail(err)
	}
	return exitOK
}

func describe(ctx context.Context, heads tier.HeadSource, tree object.TreeName) (*listed, error) {
	raw, err := heads.Head(ctx, tree, nil)
	if err != nil {
		return nil, fmt.Errorf("head of %v: %w", tree, err)
	}
	h, err := object.OpenHead(raw, nil)
	if err != nil {
		return nil, fmt.Errorf("head of %v: %w", tree, err)
	}
	return &listed{
		ID: tree.ID, RepoID: tree.RepoID, Platform: tree.Platform, Domain: h.Domain,
		Serial: h.Serial, Time: h.Time, Root: h.Root, Keys: signers(raw), Counts: h.Counts,
	}, nil
}

// signers are the names that the signatures of a note claim.
func signers(raw []byte) []string {
	_, err := note.Open(raw, note.VerifierList())
	unverified, ok := errors.AsType[*note.UnverifiedNoteError](err)
	if !ok {
		return nil
	}
	var names []string
	for _, s := range unverified.Note.UnverifiedSigs {
		names = append(names, s.Name)
	}
	return names
}

func printListed(c *call, trees []*listed) error {
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TREE\tPLATFORM\tSERIAL\tPUBLISHED\tFILES\tSIZE\tDOMAIN\tSIGNED BY")
	for _, t := range trees {
		name, platform, key := t.ID, t.Platform, "-"
		if t.RepoID != "" {
			name = t.RepoID + "/" + name
		}
		if platform == "" {
			platform = object.AnyPlatform
		}
		if len(t.Keys) > 0 {
			key = strings.Join(t.Keys, ", ")
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\t%s\t%s\t%s\n", name, platform, t.Serial,
			t.Time.UTC().Format("2006-01-02 15:04:05"), t.Files, byteSize(t.Bytes), t.Domain, key)
	}
	return w.Flush()
}
