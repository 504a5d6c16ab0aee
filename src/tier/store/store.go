package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// Store answers with blobs, heads and the names of its trees.
type Store interface {
	tier.Source
	tier.HeadSource
	// HeadAt returns the note of the head that a tree had, or has, at a serial,
	// or tier.ErrAbsent.
	HeadAt(ctx context.Context, tree object.TreeName, serial int64) ([]byte, error)
	// Profile returns what programs need of a tree, as its publisher recorded it, or
	// tier.ErrAbsent. It is not signed, and not looked at: see profile.Parse.
	Profile(ctx context.Context, tree object.TreeName) ([]byte, error)
	// Trees returns the trees that the store has, sorted by TreeName.Dir.
	Trees(ctx context.Context) ([]object.TreeName, error)
	// Ask begins to get a blob that nobody waits for; see tier.AskFunc.
	Ask(ref tier.Ref, answered func(stored []byte, ok bool)) tier.Asked
	// Close drops the connections. Calls still under way fail.
	Close() error
}

// Config says where a store is and how to reach it.
type Config struct {
	Name string
	URL  *url.URL // http, https, or file with an absolute path

	Login, Secret string // for basic auth; an empty Login sends none
	CA            string // PEM file with roots that are trusted besides the system's; may be empty

	// Timeout is the io_timeout that reads end by; 0 means 30 s. What may stand
	// still gets a share of it: see limits.
	Timeout time.Duration
	// Patience is how long an answer may take to begin; 0 means a share of Timeout.
	Patience time.Duration
	Version  string // of this program, for User-Agent

	// Pipeline asks for many blobs at once over few connections, where the server
	// can do that: for who wants many.
	Pipeline bool
	// Batches asks a cache for what nobody waits for many blobs in a request.
	Batches bool
	// Kind is what it is called before its name; empty means store.
	Kind string
	// Asking, if not nil, is called with the header of every request over HTTP,
	// to add to it, by many goroutines at once.
	Asking func(http.Header)
	// MaxTrees bounds the list of trees, in bytes; 0 means 64 MiB.
	MaxTrees int64

	// Answered, if not nil, is called with the header of every answer over
	// HTTP, by many goroutines at once.
	Answered func(http.Header)
}

// limits bounds each way in which a server can keep us waiting.
type limits struct {
	dial   time.Duration // name lookup and connection, and again the TLS handshake
	header time.Duration // from the request sent to the answer's header
	stall  time.Duration // a body must bring minSpeed times this within it
}

// minSpeed is the least that a body may bring, in bytes a second, measured over
// limits.stall.
const minSpeed = 1 << 10

func limitsFor(timeout time.Duration) limits {
	return limits{
		dial:   min(5*time.Second, timeout/4),
		header: min(10*time.Second, timeout/3),
		stall:  min(5*time.Second, timeout/4),
	}
}

// New returns the store at cfg.URL. It is not asked for anything yet.
func New(cfg Config) (Store, error) {
	if cfg.URL == nil {
		return nil, fmt.Errorf("store %s: it has no url", cfg.Name)
	}
	switch cfg.URL.Scheme {
	case "http", "https":
		return NewHTTP(cfg)
	case "file":
		if h := cfg.URL.Host; h != "" && h != "localhost" {
			return nil, fmt.Errorf("store %s: url %s names the host %q: a directory's url has three slashes, file:///a/directory", cfg.Name, cfg.URL.Redacted(), h)
		}
		if !filepath.IsAbs(cfg.URL.Path) {
			return nil, fmt.Errorf("store %s: url %s must have an absolute path, as in file:///a/directory", cfg.Name, cfg.URL.Redacted())
		}
		return OpenDir(cfg.Name, cfg.URL.Path), nil
	}
	return nil, fmt.Errorf("store %s: url %s: the scheme must be http, https or file", cfg.Name, cfg.URL.Redacted())
}

// tierName is how a store is called in logs, metrics and messages.
func (c *Config) tierName() string { return cmp.Or(c.Kind, "store") + " " + c.Name }

// headAt is HeadAt by a function that reads a file of a tree's heads. A newest
// head may become an older one between two looks, so that is looked for twice.
func headAt(serial int64, read func(file string) ([]byte, error)) ([]byte, error) {
	old := fmt.Sprintf("head.%d", serial)
	raw, err := read(old)
	if !errors.Is(err, tier.ErrAbsent) {
		return raw, err
	}
	newest, newestErr := read("head")
	if newestErr != nil {
		return nil, newestErr
	}
	if h, err := object.OpenHead(newest, nil); err == nil && h.Serial == serial {
		return newest, nil
	}
	return read(old)
}

// checkRef refuses names that would lead to something else than a blob.
func checkRef(tierName string, ref tier.Ref) error {
	err := object.ValidateDomain(ref.Domain)
	if err == nil && ref.Domain == "" {
		err = errors.New("the domain is empty")
	}
	if err != nil {
		return fmt.Errorf("%s: get %v: %w: %w: %w", tierName, ref, tier.ErrUnavailable, tier.ErrRefused, err)
	}
	return nil
}

func checkTree(tierName string, tree object.TreeName) error {
	if err := tree.Validate(); err != nil {
		return fmt.Errorf("%s: get the head of %v: %w: %w: %w", tierName, tree, tier.ErrUnavailable, tier.ErrRefused, err)
	}
	return nil
}
