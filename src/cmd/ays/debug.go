package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aysfs/aysfs/src/debug"
	debughistory "github.com/aysfs/aysfs/src/debug/history"
	"github.com/aysfs/aysfs/src/debug/pull"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tree"
)

// watchEvery is how often watch looks for changes: within a second they are
// to be here.
const watchEvery = 250 * time.Millisecond

func debugCommands() []command {
	return []command{
		{"debug pull", "DIR", "bring what was changed in a mount into a directory, a git work tree, say", debugPull},
		{"debug watch", "DIR", "pull, and go on pulling whatever changes", debugWatch},
		{"debug log", "", "show who changed what when", debugLog},
		{"debug clear", "", "drop all that was changed in a mount", debugClear},
	}
}

func debugMount(ctx context.Context, c *call, args []string) int {
	return c.runBelow(ctx, debugCommands(), "-redis ADDRESS -mount NAME", args)
}

// debugFlags say whose changes, and where they are.
type debugFlags struct {
	redis, passwdFile, mount string
	dryRun                   bool
}

func (d *debugFlags) add(fs *flag.FlagSet, dryRun string) {
	fs.StringVar(&d.redis, "redis", "", "`address` of the redis of [[debug]]: host:port or redis://:passwd@host:port")
	fs.StringVar(&d.passwdFile, "passwd-file", "", "`file` with redis' password, which is then for nobody to see")
	fs.StringVar(&d.mount, "mount", "", "`name` of the mount")
	fs.BoolVar(&d.dryRun, "dry-run", false, dryRun)
}

// open returns the changes, without a look at redis.
func (d *debugFlags) open(c *call) (*debug.Store, error) {
	if d.redis == "" || d.mount == "" {
		return nil, errors.New("-redis and -mount are needed")
	}
	addr, passwd, err := redisAddr(d.redis)
	if err != nil {
		return nil, err
	}
	if d.passwdFile != "" {
		if passwd != "" {
			return nil, errors.New("-redis has a password, and -passwd-file names another: give one of them")
		}
		raw, err := os.ReadFile(d.passwdFile)
		if err != nil {
			return nil, fmt.Errorf("read redis' password: %w", err)
		}
		passwd = strings.TrimRight(string(raw), "\r\n")
	}
	return debug.New(debug.Options{
		Addr: addr, Passwd: passwd, Mount: d.mount,
		Log: slog.New(slog.NewTextHandler(c.stderr, nil)),
	}), nil
}

// redisAddr takes an address apart. Its errors don't tell a password.
func redisAddr(s string) (addr, passwd string, err error) {
	addr = s
	if strings.Contains(s, "://") {
		u, err := url.Parse(s)
		switch {
		case err != nil:
			return "", "", errors.New("-redis is no URL: write redis://:passwd@host:port, and what is special in the password as %XX")
		case u.Scheme != "redis":
			return "", "", fmt.Errorf("-redis: a URL of %s; write redis://:passwd@host:port or host:port", u.Scheme)
		case u.User.Username() != "":
			return "", "", errors.New("-redis: there are no users, only a password: write redis://:passwd@host:port")
		case u.Path != "" && u.Path != "/" && u.Path != "/0" || u.RawQuery != "" || u.Fragment != "":
			return "", "", errors.New("-redis: nothing goes behind host:port; it is always database 0")
		}
		addr = u.Host
		passwd, _ = u.User.Password()
		if u.Port() == "" && u.Hostname() != "" {
			addr = net.JoinHostPort(u.Hostname(), "6379")
		}
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || port == "" || strings.Contains(addr, "@") {
		return "", "", errors.New("-redis: write host:port or redis://:passwd@host:port")
	}
	return addr, passwd, nil
}

// redisFailed tells an error with what to do about it.
func (c *call) redisFailed(err error) int {
	switch {
	case errors.Is(err, tier.ErrDenied):
		err = fmt.Errorf("%w: give the password that [[debug]] has, with -passwd-file", err)
	case errors.Is(err, tier.ErrUnavailable):
		err = fmt.Errorf("%w: is it the redis.addr and redis.port of [[debug]], and can it be reached from here?", err)
	}
	return c.fail(err)
}

// pullOptions reads the flags of pull and watch.
func (c *call) pullOptions(args []string) (o pull.Options, code int, ok bool) {
	fs := c.flags()
	var d debugFlags
	d.add(fs, "only tell what would be done")
	fs.BoolVar(&o.Force, "force", false, "overwrite what was changed here, too")
	rest, code, ok := c.parse(fs, args)
	if !ok {
		return o, code, false
	}
	s, err := d.open(c)
	if err != nil {
		return o, c.fail(err), false
	}
	o.Store, o.Mount, o.Dir, o.DryRun = s, d.mount, rest[0], d.dryRun
	o.Report = func(e pull.Event) {
		switch at := pull.Printable(e.Path); {
		case e.Problem != "" && e.Path != "":
			fmt.Fprintf(c.stderr, "ays %s: %s: %s\n", c.command.name, at, e.Problem)
		case e.Problem != "":
			fmt.Fprintf(c.stderr, "ays %s: %s\n", c.command.name, e.Problem)
		case e.Path == "":
			fmt.Fprintln(c.stderr, e.Done)
		default:
			fmt.Fprintf(c.stdout, "%-8s %s\n", e.Done, at)
		}
	}
	return o, 0, true
}

func debugPull(ctx context.Context, c *call, args []string) int {
	o, code, ok := c.pullOptions(args)
	if !ok {
		return code
	}
	defer o.Store.Close()
	res, err := pull.Pull(ctx, o)
	if err != nil {
		return c.redisFailed(err)
	}
	would := ""
	if o.DryRun {
		would = "nothing was done; it would be: "
	}
	fmt.Fprintf(c.stdout, "%s%d written, %d removed, %d problems\n", would, res.Written, res.Removed, res.Problems)
	return c.pulled(res)
}

func debugWatch(ctx context.Context, c *call, args []string) int {
	o, code, ok := c.pullOptions(args)
	if !ok {
		return code
	}
	defer o.Store.Close()
	res, err := pull.Watch(ctx, o, watchEvery)
	if err != nil && ctx.Err() == nil {
		return c.redisFailed(err)
	}
	return c.pulled(res)
}

func (c *call) pulled(res pull.Result) int {
	if res.Problems > 0 {
		return exitWrong
	}
	return exitOK
}

func debugLog(ctx context.Context, c *call, args []string) int {
	fs := c.flags()
	var d debugFlags
	d.add(fs, "of no effect: log changes nothing")
	var where storeFlags
	where.add(fs)
	name := treeFlags(fs)
	remote := fs.String("remote", "", "the `directory` inside the tree that is mounted")
	keys := keysFlag(fs, "the tree's head")
	var o debughistory.Options
	fs.BoolVar(&o.Patch, "p", false, "show what was changed, too; the first changes against the tree, if -store and -id name it")
	fs.Int64Var(&o.Last, "n", 0, "only the last so many `entries`")
	if _, code, ok := c.parse(fs, args); !ok {
		return code
	}
	if (where.where == "") != (name.ID == "") {
		return c.fail(errors.New("-store and -id go together"))
	}
	if o.Last < 0 {
		return c.fail(errors.New("-n is negative"))
	}
	s, err := d.open(c)
	if err != nil {
		return c.fail(err)
	}
	defer s.Close()
	o.Store = s
	if where.where != "" && o.Patch {
		base, closeStore, err := openBase(ctx, &where, *name, *remote, *keys)
		if err != nil {
			return c.fail(err)
		}
		defer closeStore()
		o.Base = base
	}
	w := bufio.NewWriter(c.stdout)
	missing, err := debughistory.Write(ctx, w, o)
	if ferr := w.Flush(); err == nil && ferr != nil {
		return c.fail(ferr)
	}
	switch {
	case err != nil:
		return c.redisFailed(err)
	case missing > 0:
		return exitWrong
	}
	if n, err := s.Count(ctx); err == nil && n.Entries == 0 { // it may be another name that was meant
		fmt.Fprintf(c.stderr, "there is nothing of mount %s\n", d.mount)
	}
	return exitOK
}

// openBase opens the tree that a mount shows.
func openBase(ctx context.Context, where *storeFlags, name object.TreeName, remote string, keys object.Keys) (base func(context.Context, string, int64) ([]byte, error), closeStore func(), err error) {
	if err := name.Validate(); err != nil {
		return nil, nil, err
	}
	st, err := where.open()
	if err != nil {
		return nil, nil, err
	}
	codec, err := object.NewCodec(1)
	if err != nil {
		return nil, nil, errors.Join(err, st.Close())
	}
	chain := tier.NewChain(tier.ChainConfig{
		Groups: []tier.Group{tier.One(tier.Retry(st, tier.RetryPolicy{Tries: verifyTries}))}, Codec: codec,
	})
	closeStore = func() {
		chain.Close()
		st.Close()
	}
	heads := &tree.Heads{Store: where.where, Source: st, Keys: keys, Log: slog.New(slog.DiscardHandler)}
	head, _, err := heads.Newest(ctx, name)
	if err == nil {
		var v *tree.View
		if v, err = tree.NewView(ctx, tree.New(head, chain, tree.NewCache(metadataMemory)), strings.Trim(remote, "/"), nil); err == nil {
			return debughistory.BaseOf(v, chain), closeStore, nil
		}
	}
	closeStore()
	return nil, nil, err
}

// metadataMemory bounds the listings of a tree that are kept decoded.
const metadataMemory = 16 << 20

func debugClear(ctx context.Context, c *call, args []string) int {
	fs := c.flags()
	var d debugFlags
	d.add(fs, "only tell what would be dropped")
	yes := fs.Bool("yes", false, "do not ask")
	if _, code, ok := c.parse(fs, args); !ok {
		return code
	}
	s, err := d.open(c)
	if err != nil {
		return c.fail(err)
	}
	defer s.Close()
	n, err := s.Count(ctx)
	if err != nil {
		return c.redisFailed(err)
	}
	what := fmt.Sprintf("of mount %s %d paths, %d contents, %d log entries", d.mount, n.Paths, n.Contents, n.Entries)
	switch {
	case n == debug.Counts{}:
		fmt.Fprintf(c.stdout, "there is nothing of mount %s\n", d.mount)
		return exitOK
	case d.dryRun:
		fmt.Fprintf(c.stdout, "nothing was dropped; there are %s\n", what)
		return exitOK
	case !*yes:
		fmt.Fprintf(c.stdout, "drop %s? It can't be undone. Write yes: ", what)
		if answerFrom(ctx, c) != "yes" {
			return c.fail(errors.New("nothing was dropped"))
		}
	}
	if err := s.Clear(ctx); err != nil {
		return c.redisFailed(err)
	}
	fmt.Fprintf(c.stdout, "dropped %s\n", what)
	return exitOK
}

// answerFrom reads a line; empty if there is none before ctx is done.
func answerFrom(ctx context.Context, c *call) string {
	got := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(c.stdin).ReadString('\n')
		got <- strings.TrimSpace(line)
	}()
	select {
	case line := <-got:
		return line
	case <-ctx.Done():
		return ""
	}
}
