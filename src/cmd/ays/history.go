package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tree"
)

// diffCache bounds the listings kept in memory while trees are compared, in
// bytes.
const diffCache = 64 << 20

// history reads the heads of one tree.
type history struct {
	store  store.Store
	source tier.Source
	codec  *object.Codec
	cache  *tree.Cache
	keys   object.Keys
}

func openHistory(where *storeFlags, keys object.Keys) (*history, error) {
	st, err := where.open()
	if err != nil {
		return nil, err
	}
	codec, err := object.NewCodec(runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, err
	}
	return &history{
		store: st, source: tier.Retry(st, tier.RetryPolicy{Tries: verifyTries}), codec: codec,
		cache: tree.NewCache(diffCache), keys: keys,
	}, nil
}

// Copy gets a blob of a tree.
func (h *history) Copy(ctx context.Context, ref tier.Ref) ([]byte, error) {
	stored, err := h.source.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	return h.codec.Unpack(ref.Digest, stored, ref.Max())
}

// at returns a tree's head at a serial, 0 for the newest, and the note it is in.
func (h *history) at(ctx context.Context, name object.TreeName, serial int64) (*object.Head, []byte, error) {
	var raw []byte
	var err error
	if serial == 0 {
		raw, err = h.store.Head(ctx, name, nil)
	} else {
		raw, err = h.store.HeadAt(ctx, name, serial)
	}
	if errors.Is(err, tier.ErrAbsent) {
		if others := h.platforms(ctx, name); len(others) > 0 {
			return nil, nil, fmt.Errorf("head of %v: %w; the tree is there for %s: choose with -platform", name, err, strings.Join(others, ", "))
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("head of %v: %w", name, err)
	}
	head, err := object.OpenHead(raw, h.keys)
	if err != nil {
		return nil, nil, fmt.Errorf("head of %v: %w", name, err)
	}
	if head.Tree != name || serial != 0 && head.Serial != serial {
		return nil, nil, fmt.Errorf("head of %v, serial %d: %w: it is that of %v, serial %d", name, serial, object.ErrHead, head.Tree, head.Serial)
	}
	return head, raw, nil
}

// platforms are those that the store has a tree for where it has none of its name. They
// are for an error: where they can't be told, there are none.
func (h *history) platforms(ctx context.Context, name object.TreeName) (others []string) {
	trees, err := h.store.Trees(ctx)
	if err != nil {
		return nil
	}
	for _, t := range trees {
		if t == name {
			return nil
		}
		platform := t.Platform
		if t.Platform = name.Platform; t != name {
			continue
		}
		if platform == "" {
			platform = `every platform ("")`
		}
		others = append(others, platform)
	}
	return others
}

// difference is how many paths two trees don't have alike.
type difference struct {
	Added   int64 `json:"added"`
	Changed int64 `json:"changed"`
	Removed int64 `json:"removed"`
}

func (d *difference) count(c tree.Change) {
	switch {
	case c.Old == nil:
		d.Added++
	case c.New == nil:
		d.Removed++
	default:
		d.Changed++
	}
}

func (h *history) diff(ctx context.Context, older, newer *object.Head, each func(tree.Change) error) error {
	return tree.Diff(ctx, tree.New(older, h, h.cache), tree.New(newer, h, h.cache), each)
}

// logged is a head as log -json prints it.
type logged struct {
	Serial int64         `json:"serial"`
	Time   time.Time     `json:"time"`
	Root   digest.Digest `json:"root"`
	Domain string        `json:"domain"`
	Keys   []string      `json:"keys,omitempty"` // names of those that signed the head
	object.Counts
	// Since says what changed since the head before; absent for the first that is
	// kept, and where what the one before needs is not there any more.
	Since *difference `json:"since,omitempty"`
	Error string      `json:"error,omitempty"`
}

func logTree(ctx context.Context, c *call, args []string) int {
	fs := c.flags()
	var where storeFlags
	where.add(fs)
	name := treeFlags(fs)
	keys := keysFlag(fs, "the heads")
	most := fs.Int("n", 0, "show the newest `N` heads only")
	asJSON := fs.Bool("json", false, "print a JSON array")
	if _, code, ok := c.parse(fs, args); !ok {
		return code
	}
	if err := name.Validate(); err != nil {
		return c.fail(err)
	}
	h, err := openHistory(&where, *keys)
	if err != nil {
		return c.fail(err)
	}
	defer h.store.Close()
	newest, raw, err := h.at(ctx, *name, 0)
	if err != nil {
		return c.fail(err)
	}
	serials, err := store.Past(ctx, h.store, *name, newest.Serial, nil)
	if err != nil {
		return c.fail(fmt.Errorf("look for older heads: %w", err))
	}
	head, list, wrong := newest, []*logged{}, false
	entry := describeHead(newest, raw)
	for _, s := range serials {
		if *most > 0 && len(list) == *most {
			break
		}
		older, oldRaw, err := h.at(ctx, *name, s)
		if err == nil {
			d := &difference{}
			err = h.diff(ctx, older, head, func(ch tree.Change) error { d.count(ch); return nil })
			if err == nil {
				entry.Since = d
			}
		}
		if ctx.Err() != nil {
			return c.fail(ctx.Err())
		}
		if err != nil {
			entry.Error, wrong = fmt.Sprintf("can't compare with serial %d: %v", s, err), true
		}
		list = append(list, entry)
		if older == nil {
			entry = nil
			break
		}
		head, entry = older, describeHead(older, oldRaw)
	}
	if entry != nil && (*most == 0 || len(list) < *most) {
		list = append(list, entry)
	}
	if *asJSON {
		err = json.NewEncoder(c.stdout).Encode(list)
	} else {
		err = printLog(c, list)
	}
	if err != nil {
		return c.fail(err)
	}
	if wrong {
		return exitWrong
	}
	return exitOK
}

func describeHead(h *object.Head, raw []byte) *logged {
	return &logged{Serial: h.Serial, Time: h.Time, Root: h.Root, Domain: h.Domain, Keys: signers(raw), Counts: h.Counts}
}

func printLog(c *call, list []*logged) error {
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SERIAL\tPUBLISHED\tFILES\tSIZE\tADDED\tCHANGED\tREMOVED\tSIGNED BY")
	for _, l := range list {
		added, changed, removed, key := "-", "-", "-", "-"
		if d := l.Since; d != nil {
			added, changed, removed = fmt.Sprintf("+%d", d.Added), fmt.Sprint(d.Changed), fmt.Sprintf("-%d", d.Removed)
		}
		if len(l.Keys) > 0 {
			key = strings.Join(l.Keys, ", ")
		}
		fmt.Fprintf(w, "%d\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", l.Serial, l.Time.UTC().Format("2006-01-02 15:04:05"),
			l.Files, byteSize(l.Bytes), added, changed, removed, key)
	}
	err := w.Flush()
	for _, l := range list {
		if l.Error != "" {
			fmt.Fprintf(c.stderr, "serial %d: %s\n", l.Serial, l.Error)
		}
	}
	return err
}

// changed is a path as diff -json prints it, one object a line. What is not
// UTF-8 in a path is escaped as in Go.
type changed struct {
	Path string `json:"path"`
	Is   string `json:"is"` // added, changed or removed
}

func diffTrees(ctx context.Context, c *call, args []string) int {
	fs := c.flags()
	var where storeFlags
	where.add(fs)
	repo := fs.String("repoid", "", "`ays.repoid` of the trees, if they belong to a repo")
	platform := fs.String("platform", "", "`platform` of the trees")
	other := fs.String("to-platform", "", "`platform` of the second tree, if it is another")
	keys := keysFlag(fs, "both heads")
	asJSON := fs.Bool("json", false, "print a JSON object a line")
	rest, code, ok := c.parse(fs, args)
	if !ok {
		return code
	}
	h, err := openHistory(&where, *keys)
	if err != nil {
		return c.fail(err)
	}
	defer h.store.Close()
	var heads [2]*object.Head
	for i, arg := range rest {
		id, serial, err := parseAt(arg)
		if err != nil {
			return c.fail(err)
		}
		name := object.TreeName{ID: id, RepoID: *repo, Platform: *platform}
		if i == 1 && *other != "" {
			name.Platform = *other
		}
		if err := name.Validate(); err != nil {
			return c.fail(err)
		}
		if heads[i], _, err = h.at(ctx, name, serial); err != nil {
			return c.fail(err)
		}
	}
	var d difference
	enc := json.NewEncoder(c.stdout)
	err = h.diff(ctx, heads[0], heads[1], func(ch tree.Change) error {
		d.count(ch)
		is, mark := "changed", "~"
		switch {
		case ch.Old == nil:
			is, mark = "added", "+"
		case ch.New == nil:
			is, mark = "removed", "-"
		}
		path := ch.Path
		if path == "" {
			path = "."
		}
		quoted := strconv.Quote(path)
		if plain := quoted[1 : len(quoted)-1]; plain != path || *asJSON {
			path = plain
			if !*asJSON {
				path = quoted
			}
		}
		if *asJSON {
			return enc.Encode(changed{Path: path, Is: is})
		}
		_, err := fmt.Fprintln(c.stdout, mark, path)
		return err
	})
	if err != nil {
		return c.fail(err)
	}
	if !*asJSON {
		fmt.Fprintf(c.stdout, "%d added, %d changed, %d removed\n", d.Added, d.Changed, d.Removed)
	}
	return exitOK
}

// parseAt reads ID@SERIAL, or ID alone for the newest head.
func parseAt(arg string) (id string, serial int64, err error) {
	i := strings.LastIndexByte(arg, '@')
	if i < 0 {
		return arg, 0, nil
	}
	serial, err = strconv.ParseInt(arg[i+1:], 10, 64)
	if err != nil || serial < 1 {
		return "", 0, fmt.Errorf("%q: want ID@SERIAL, with a serial that \"ays log\" lists, or ID for the newest", arg)
	}
	return arg[:i], serial, nil
}
