package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// minWorkers keeps the cores busy while some of the workers wait for the disk.
const minWorkers = 8

// Options say what to publish and where.
type Options struct {
	Store      string // a directory, made if absent, or the file URL of one
	Cache      Cache  // instead of Store: a cache to publish to
	Tree       object.TreeName
	Domain     string        // empty for the default one
	Signers    []note.Signer // none leaves the head unsigned
	Public     object.Keys   // of Signers; if known, what they have signed already is not signed again
	Root       string        // what is published: a directory, an archive, - for Stdin, an image layout, a list
	Format     Format        // of Root; empty to find out
	Stdin      io.Reader     // for an archive
	Image      string        // which image of a layout: OS/ARCHITECTURE[/VARIANT], reference name or digest; empty for the platform's, or the only one
	Files      string        // the directory with the files of a list; empty for the usual places beside it
	KeepSetuid bool          // keep setuid and setgid bits
	// Whole refuses a tree of which something can't be published as it is: a
	// device, socket or pipe, or a setuid bit that is not to be kept; and to let a
	// signed head be followed by one without a signature.
	Whole bool
	// State is a file that tells, from one publish of a directory to the next, what
	// need not be read again; empty for none. It is made if absent.
	State string
	Full  bool // read all files, whatever the state says
	OneFS bool // leave what is mounted in the tree out: mount points are empty
	// Workers is how many files or chunks are worked on at once, each with a
	// few MiB of memory; 0 chooses.
	Workers  int
	Progress func(Progress) // called now and then, from one goroutine; may be nil
	Log      *slog.Logger   // for what is left out; nil drops it
	Now      func() time.Time

	sniff bool // an archive may turn out to be an image layout
}

// Format is what a tree is read from.
type Format string

// What a tree can be read from.
const (
	Directory Format = "dir"
	Tar       Format = "tar"  // an archive, plain or compressed with gzip or zstd
	OCI       Format = "oci"  // an OCI image layout, as a directory or as an archive of one
	TextList  Format = "list" // path|md5|size a line, the files beside it
)

// Result says what became of a publish.
type Result struct {
	Tree      object.TreeName
	Domain    string
	Unchanged bool // the store had this very tree: nothing was written
	Serial    int64
	Time      time.Time // of the head
	Root      digest.Digest
	Counts    object.Counts
	Skipped   int64 // devices, sockets and pipes
	Warnings  int64 // these, and other things that are not published as they are
	Read      int64 // files that were read, or came out of an archive; the others were as a publish before had read them
	NewBlobs  int64 // objects that the store did not have, heads aside
	NewBytes  int64 // what these take there
	Elapsed   time.Duration
}

// complete checks the options and fills in what was left to choose.
func (o *Options) complete() error {
	if err := o.Tree.Validate(); err != nil {
		return err
	}
	if err := object.ValidateDomain(o.Domain); err != nil {
		return err
	}
	o.Domain = object.DomainOrDefault(o.Domain)
	var dir string
	var err error
	if o.Cache == nil {
		if dir, err = storeDir(o.Store); err != nil {
			return err
		}
	}
	if err := o.recognise(); err != nil {
		return err
	}
	if o.isDir() {
		if o.Root, err = resolve(o.Root); err != nil {
			return fmt.Errorf("directory to publish: %w", err)
		}
	}
	if o.Cache == nil {
		if o.Store, err = resolve(dir); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if o.isDir() && (o.Store == o.Root || strings.HasPrefix(o.Store, strings.TrimSuffix(o.Root, "/")+"/")) {
			return fmt.Errorf("the store %s is inside the directory to publish, %s", o.Store, o.Root)
		}
	}
	if o.Format != Directory {
		o.State = "" // there is no walk that it could spare
	}
	if o.Workers == 0 {
		o.Workers = max(minWorkers, 2*runtime.GOMAXPROCS(0))
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}

// resolve makes a path absolute and follows the symlinks in that part of it
// which exists.
func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	rest := ""
	for {
		real, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, os.ErrNotExist) || filepath.Dir(path) == path {
			return "", err
		}
		path, rest = filepath.Dir(path), filepath.Join(filepath.Base(path), rest)
	}
}

// Run publishes a tree. Whatever the error, the tree is as it was before,
// unless it is the list of trees alone that could not be written. A *TreeError
// tells what in it could not be read.
func Run(ctx context.Context, o Options) (Result, error) {
	m := &meter{start: time.Now()}
	if err := o.complete(); err != nil {
		return Result{}, err
	}
	res, err := run(ctx, o, m)
	if err != nil {
		return Result{}, fmt.Errorf("%v: %w", o.Tree, err)
	}
	res.Elapsed = time.Since(m.start)
	return res, nil
}

// target is where a publish writes to: blobs of one domain, and heads of one tree,
// which nobody else replaces meanwhile or else it is an error to do so.
type target interface {
	// put stores a blob, unless it is there or on its way already, and returns its
	// digest. It may be on its way until finish returns.
	put(plain []byte) (digest.Digest, error)
	// has tells whether there is a blob that need not be written. It stays, then.
	has(digest.Digest) (bool, error)
	// seen is has for a blob that the newest head reaches.
	seen(digest.Digest) (bool, error)
	// read returns the plain bytes of a blob that is there.
	read(tier.Ref) ([]byte, error)
	// spool makes a file without a name, for what the publish alone needs.
	spool() (*os.File, error)
	// finish returns once all blobs are there. None can be put afterwards.
	finish() error
	// added is what was stored that was not there.
	added() (blobs, bytes int64)
}

// openHeads are the heads of a tree that is published.
type openHeads interface {
	// current returns the newest head and the note it is in; nothing if the tree
	// was never published.
	current() (*object.Head, []byte, error)
	replace(h *object.Head, now time.Time, signers []note.Signer, public object.Keys) (changed bool, err error)
}

func run(ctx context.Context, o Options, m *meter) (res Result, err error) {
	codec, err := object.NewCodec(runtime.GOMAXPROCS(0))
	if err != nil {
		return res, err
	}
	if o.Cache != nil {
		t := newCacheTarget(ctx, o.Cache, o.Tree, o.Domain, codec)
		if err := t.begin(); err != nil {
			return res, err
		}
		return runInto(ctx, o, m, t, t)
	}
	treeHeads, treeLock, err := lockedHeads(ctx, o.Store, o.Tree, o.Log)
	if err != nil {
		return res, err
	}
	defer treeLock.Close()
	store, err := openDirStore(ctx, o.Store, o.Domain, codec)
	if err != nil {
		return res, err
	}
	defer func() {
		if e := store.close(); err == nil && e != nil {
			err = fmt.Errorf("remove temporary files: %w", e)
		}
	}()
	if res, err = runInto(ctx, o, m, store, treeHeads); err != nil {
		return res, err
	}
	// The head is there: it is too late to give up.
	return res, listTrees(context.WithoutCancel(ctx), o.Store)
}

// runInto publishes to a target.
func runInto(ctx context.Context, o Options, m *meter, store target, treeHeads openHeads) (res Result, err error) {
	// What can't be replaced is better known before an hour's work than after.
	current, currentRaw, err := treeHeads.current()
	if err != nil {
		return res, err
	}
	var warnings int64
	if len(o.Signers) == 0 && isSigned(currentRaw) {
		warnUnsigned(o.Log, o.Tree)
		if warnings++; o.Whole {
			return res, &NotWholeError{warnings}
		}
	}

	scan := ""
	if o.Format == Directory {
		scan = o.Root
	}
	stop := m.report(ctx, scan, o.Progress)
	defer stop()
	r := &reader{
		root: o.Root, oneFS: o.OneFS, keepSetuid: o.KeepSetuid, workers: o.Workers,
		store: store, log: o.Log, meter: m, files: newFilePool(o.Workers),
	}
	if o.State != "" && !o.Full {
		if r.state, err = openState(o.State, current, o.Domain); err != nil {
			o.Log.Info("reading all files", "err", err)
		}
		if r.state != nil {
			defer r.state.close()
		}
	}
	root, err := r.readRoot(ctx, &o)
	if err != nil {
		return res, err
	}
	if n := r.warnings.Load(); n > 0 && o.Whole {
		return res, &NotWholeError{n}
	}
	head, err := putMetadata(ctx, store, root, o.Workers)
	if err != nil {
		return res, err
	}
	head.Tree, head.Domain, head.Counts = o.Tree, o.Domain, r.counts
	if err := store.finish(); err != nil {
		return res, err
	}
	changed, err := treeHeads.replace(head, o.Now(), o.Signers, o.Public)
	if err != nil {
		return res, err
	}
	if o.State != "" && (r.state == nil || !r.state.sure || changed || r.fresh.Load() > 0) {
		if err := writeState(o.State, head, root); err != nil {
			o.Log.Warn("can't note what was read: the next publish reads all files", "err", err)
		}
	}
	res = Result{
		Tree: o.Tree, Domain: o.Domain, Unchanged: !changed,
		Serial: head.Serial, Time: head.Time, Root: head.Root,
		Counts: r.counts, Skipped: r.skipped, Warnings: warnings + r.warnings.Load(), Read: r.fresh.Load(),
	}
	res.NewBlobs, res.NewBytes = store.added()
	return res, nil
}
