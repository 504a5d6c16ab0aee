package ledis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/ledisconn"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// Config is what a tier is made of.
type Config struct {
	Name   string // empty means "local"
	Addr   string // host:port
	Passwd string
	// Expiration is how long a domain of which nothing is fetched stays; 0 is for
	// ever. It is kept to within an eighth.
	Expiration time.Duration
	// Queue bounds what waits to be written, in bytes; 0 means 2 MiB.
	Queue int64
	// Timeout bounds each call; 0 means 2 s.
	Timeout time.Duration
	Log     *slog.Logger // nil for none
}

// Tier is a tier.Source on a database that need not be there. It may be used by
// many goroutines at once.
type Tier struct {
	cfg    Config
	conn   atomic.Pointer[ledisconn.Conn] // nil until it is reached
	dial   chan struct{}                  // holds one while somebody dials
	reads  health                         // and connections as such
	writes health                         // writes that are refused
	queue  *queue
	end    context.CancelFunc
	ending context.Context
	done   sync.WaitGroup

	mu     sync.Mutex
	recent map[string]time.Time // GUARDED_BY(mu); what need not be written again, since when
}

var _ tier.Source = (*Tier)(nil)

// conns is how many connections a tier has. Calls share them.
const conns = 4

// New returns a tier. It connects when it is first asked.
func New(cfg Config) *Tier {
	if cfg.Name == "" {
		cfg.Name = "local"
	}
	if cfg.Queue <= 0 {
		cfg.Queue = 2 << 20
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 2 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	t := &Tier{
		cfg: cfg, dial: make(chan struct{}, 1), queue: newQueue(cfg.Queue), recent: make(map[string]time.Time),
		reads:  health{tier: cfg.Name, what: "fetch", log: cfg.Log},
		writes: health{tier: cfg.Name, what: "fill", log: cfg.Log},
	}
	t.ending, t.end = context.WithCancel(context.Background())
	t.done.Go(t.write)
	return t
}

// Name tells tiers apart.
func (t *Tier) Name() string { return t.cfg.Name }

// Close writes what waits, as far as that takes no longer than one call may, and
// ends the connections.
func (t *Tier) Close() error {
	t.queue.close()
	late := time.AfterFunc(t.cfg.Timeout, t.end)
	t.done.Wait()
	late.Stop()
	t.end()
	if c := t.conn.Load(); c != nil {
		return c.Close()
	}
	return nil
}

// Get returns a blob in stored form, as it lies there.
func (t *Tier) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	key := ledisconn.FilesKey(ref.Domain)
	b, err := t.get(ctx, key, ref.Digest.String(), ref.Max())
	switch {
	case err == nil:
		t.used(key)
		return b, nil
	case errors.Is(err, ledisconn.ErrTooLarge):
		// The chain won't see it, and so won't have it purged.
		return nil, tier.Corrupt(t.cfg.Name, ref, errors.Join(err, t.Purge(ctx, ref)))
	}
	return nil, fmt.Errorf("get %v from %s: %w", ref, t.cfg.Name, tier.Unavailable(err))
}

// Purge deletes a blob.
func (t *Tier) Purge(ctx context.Context, ref tier.Ref) error {
	err := t.call(ctx, func(c *ledisconn.Conn) error {
		return c.Delete(ctx, "delete a blob", ledisconn.FilesKey(ref.Domain), ref.Digest.String())
	})
	if err != nil {
		return fmt.Errorf("purge %v at %s: %w", ref, t.cfg.Name, err)
	}
	return nil
}

// Fill has a blob written in the background, and never waits. It keeps stored
// until then. The error says why it won't be: the queue is full, say.
func (t *Tier) Fill(ref tier.Ref, stored []byte) error {
	key := ledisconn.FilesKey(ref.Domain)
	if err := t.put(record{key: key, field: ref.Digest.String(), value: stored}); err != nil {
		return fmt.Errorf("keep %v at %s: %w", ref, t.cfg.Name, err)
	}
	t.used(key)
	return nil
}

// maxHead is the most bytes that a head may have.
const maxHead = 64 << 10

// Head returns the head of a tree of the store at a URL that was kept here last,
// or tier.ErrAbsent. It is not verified.
func (t *Tier) Head(ctx context.Context, store string, tree object.TreeName) ([]byte, error) {
	b, err := t.get(ctx, ledisconn.TreeKey(tree), headField(store), maxHead)
	if err != nil {
		return nil, fmt.Errorf("head of %v from %s: %w", tree, t.cfg.Name, err)
	}
	return b, nil
}

// PutHead has a head kept, as Fill has a blob.
func (t *Tier) PutHead(store string, tree object.TreeName, note []byte) error {
	key, field := ledisconn.TreeKey(tree), headField(store)
	what := key + " " + field + " " + digest.Of(note).String()
	if !t.due(what) {
		return nil
	}
	if err := t.put(record{key: key, field: field, value: note}); err != nil {
		t.forget(what)
		return fmt.Errorf("keep the head of %v at %s: %w", tree, t.cfg.Name, err)
	}
	t.used(key)
	return nil
}

// headField keeps the heads of two stores apart that have a tree of one name.
// ays_cache's own fields of the hash begin with other characters.
func headField(store string) string { return "store:" + digest.Of([]byte(store)).String() }

func (t *Tier) get(ctx context.Context, key, field string, limit int64) (b []byte, err error) {
	err = t.call(ctx, func(c *ledisconn.Conn) (err error) {
		b, err = c.Get(ctx, "HGET", key, field, limit)
		return err
	})
	return b, err
}

// call has do ask the database, and takes note of how it answered.
func (t *Tier) call(ctx context.Context, do func(*ledisconn.Conn) error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := t.reads.begin(); err != nil {
		return err
	}
	c, err := t.connection(ctx)
	if err == nil {
		err = do(c)
	}
	switch {
	case err == nil, errors.Is(err, tier.ErrAbsent), errors.Is(err, ledisconn.ErrTooLarge):
		t.reads.well()
	case ctx.Err() != nil:
		t.reads.undecided()
	default:
		t.reads.failed(err)
		if c != nil && !ledisconn.Refused(err) {
			t.drop(c)
		}
	}
	return err
}

// drop gives up connections of which one has failed. The others of a database
// that was started again would fail one by one, and whoever waits for a new one
// waits long where a new Dial knows at once.
func (t *Tier) drop(c *ledisconn.Conn) {
	if t.conn.CompareAndSwap(c, nil) {
		t.done.Go(func() { _ = c.Close() }) // it has failed already
	}
}

// connection dials where there is none, one caller for all.
func (t *Tier) connection(ctx context.Context) (*ledisconn.Conn, error) {
	if c := t.conn.Load(); c != nil {
		return c, nil
	}
	select {
	case t.dial <- struct{}{}:
		defer func() { <-t.dial }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c := t.conn.Load(); c != nil {
		return c, nil
	}
	if err := t.reads.aside(); err != nil {
		return nil, err // who dialled before had no luck
	}
	c, err := ledisconn.Dial(ctx, ledisconn.Options{Addrs: []string{t.cfg.Addr}, Passwd: t.cfg.Passwd, Timeout: t.cfg.Timeout, Conns: conns})
	if err == nil {
		t.conn.Store(c)
	}
	return c, err
}

// used has the expiration of a hash begin anew, now and then.
func (t *Tier) used(key string) {
	if t.cfg.Expiration == 0 || !t.due(key) {
		return
	}
	if err := t.put(record{key: key}); err != nil {
		t.forget(key)
	}
}

// Bounds of what is remembered of the writes: for how long, and how many.
const (
	mostRecent = time.Hour
	maxRecent  = 10_000
)

// due tells whether what was done long ago, or never, and remembers that it is
// done now.
func (t *Tier) due(what string) bool {
	every := mostRecent
	if t.cfg.Expiration > 0 {
		every = min(every, t.cfg.Expiration/8)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, ok := t.recent[what]; ok && time.Since(at) < every {
		return false
	}
	if len(t.recent) >= maxRecent {
		clear(t.recent)
	}
	t.recent[what] = time.Now()
	return true
}

func (t *Tier) forget(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.recent, what)
}
