package cachedb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ledisdb/ledisdb/ledis"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/ledisbolt"
	"github.com/aysfs/aysfs/src/ledisconn"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// Options says where an embedded database is and what it may take.
type Options struct {
	Dir     string                  // of its own; made if missing
	MaxSize int64                   // bytes on disk, never passed by blobs; 0 is no limit
	MinFree func(total int64) int64 // bytes to leave free on a file system of total bytes; nil for 0
	Log     *slog.Logger            // nil for none

	Store ledisbolt.Options // finer points; MaxSize, MinFree and Log are those above
}

// Room is made before there is none: when less than lowRoom of what the files
// may take is left, or than is written at once, blobs go until they take keepShare.
const (
	roomEvery = 5 * time.Second
	lowRoom   = 0.05
	keepShare = 0.85
	// burst is about what the store writes at once, in bytes, where that is not more
	// than burstShare of all.
	burst      = 8 << 20
	burstShare = 0.25
)

// Embedded is a database in this process: ledis on bolt files.
type Embedded struct {
	store *ledisbolt.Store
	ledis *ledis.Ledis
	db    *ledis.DB
	log   *slog.Logger

	stop context.CancelFunc
	done sync.WaitGroup
}

// Open opens the database in opt.Dir. ledis' table of drivers is the whole
// process's, and nothing guards it: Open is not for two goroutines at once.
func Open(opt Options) (*Embedded, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	opt.Store.MaxSize, opt.Store.MinFree, opt.Store.Log = opt.MaxSize, opt.MinFree, opt.Log
	driver := ledisbolt.Register()
	store, err := ledisbolt.Open(opt.Dir, opt.Store)
	if err != nil {
		return nil, err
	}
	e := &Embedded{store: store, log: opt.Log}
	if e.ledis, err = driver.OpenLedis(store); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	if e.db, err = e.ledis.Select(0); err != nil {
		e.ledis.Close()
		return nil, fmt.Errorf("select database 0: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	e.stop = stop
	e.done.Go(func() { e.keepRoom(ctx) })
	return e, nil
}

// Ledis is the database itself, to serve over RESP.
func (e *Embedded) Ledis() *ledis.DB { return e.db }

// Damage returns what Open found damaged and gave up.
func (e *Embedded) Damage() []error { return e.store.Damage() }

// Usage returns what each domain has on disk.
func (e *Embedded) Usage() []ledisbolt.Usage { return e.store.Usage() }

// Stats counts what is kept and what was done.
func (e *Embedded) Stats() ledisbolt.Stats { return e.store.Stats() }

// Sync returns once all that was put before is on disk.
func (e *Embedded) Sync() error { return e.store.Sync() }

// Expire gives up the blobs of a domain that were last fetched before a time,
// as far as whole segments can be freed by it. It returns how many bytes were.
func (e *Embedded) Expire(ctx context.Context, domain string, before time.Time) (int64, error) {
	return e.store.Evict(ctx, domain, 1<<62, before)
}

// Close writes everything to disk and closes the database.
func (e *Embedded) Close() error {
	e.stop()
	e.done.Wait()
	err := e.store.Close() // which ledis would do without telling how it went
	e.ledis.Close()
	return err
}

// keepRoom evicts when there is little room left.
func (e *Embedded) keepRoom(ctx context.Context) {
	tick := time.NewTicker(roomEvery)
	defer tick.Stop()
	wrote := e.store.Wrote()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			wrote = e.store.Wrote()
		case <-wrote:
		}
		freed, err := e.makeRoom(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			e.log.Warn("make room", "op", "evict", "freed", freed, "err", err)
		case freed > 0:
			e.log.Info("made room", "op", "evict", "freed", freed)
			continue
		}
		if e.low() {
			wrote = nil // there is none to be had for now
		}
	}
}

// low tells whether there is little room.
func (e *Embedded) low() bool {
	room := e.store.Room()
	return room < lowest(e.store.Stats().Bytes+room)
}

// lowest is the room below which more is made, where the files may take limit.
func lowest(limit int64) int64 {
	return max(int64(lowRoom*float64(limit)), min(burst, int64(burstShare*float64(limit))))
}

func (e *Embedded) makeRoom(ctx context.Context) (freed int64, err error) {
	room, st := e.store.Room(), e.store.Stats()
	limit := st.Bytes + room
	low := lowest(limit)
	if room >= low {
		return 0, nil
	}
	target := min(int64(keepShare*float64(limit)), limit-low-low/2)
	return e.store.Evict(ctx, "", target-st.MainBytes, time.Time{})
}

func (e *Embedded) Blob(ctx context.Context, domain string, d digest.Digest) (tier.Blob, error) {
	if err := ctx.Err(); err != nil {
		return tier.Blob{}, err
	}
	v, ok, err := e.store.Blob(domain, d.String())
	if err != nil {
		return tier.Blob{}, unavailable("get blob", domain, d, err)
	}
	if !ok {
		return tier.Blob{}, fmt.Errorf("blob %s of %s: %w", d.Short(), domain, tier.ErrAbsent)
	}
	return tier.NewBlob(v.Data, v.Release), nil
}

func (e *Embedded) HasBlob(_ context.Context, domain string, d digest.Digest) (bool, error) {
	ok, err := e.store.Has(domain, d.String())
	if err != nil {
		return false, unavailable("look for blob", domain, d, err)
	}
	return ok, nil
}

func (e *Embedded) PutBlob(ctx context.Context, domain string, d digest.Digest, stored []byte) error {
	if ok, err := e.HasBlob(ctx, domain, d); ok || err != nil {
		return err
	}
	return wrap("put a blob of "+domain, e.set(ctx, ledisconn.FilesKey(domain), d.String(), stored))
}

func (e *Embedded) DeleteBlob(ctx context.Context, domain string, d digest.Digest) error {
	return wrap("delete a blob of "+domain, e.del(ctx, ledisconn.FilesKey(domain), d.String()))
}

func (e *Embedded) Domains(context.Context) ([]string, error) {
	var names []string
	for _, u := range e.store.Usage() {
		if u.Blobs > 0 {
			names = append(names, u.Domain)
		}
	}
	return names, nil
}

func (e *Embedded) DropDomain(_ context.Context, domain string) error {
	_, err := e.store.DropDomain(domain)
	return wrap("drop domain "+domain, err)
}

// Drop removes a hash whole, if that is a domain; else it is false.
func (e *Embedded) Drop(key []byte) (bool, error) {
	domain, ok := DomainOf(key)
	if !ok || domain == "" || object.ValidateDomain(domain) != nil {
		return false, nil
	}
	return true, e.DropDomain(context.Background(), domain)
}

// Field returns a field of a hash without copying it, if that is a blob and
// there; else ok is false. It is to be released.
func (e *Embedded) Field(key, field []byte) (data []byte, release func(), ok bool) {
	domain, isBlob := DomainOf(key)
	if !isBlob {
		return nil, nil, false
	}
	v, ok, err := e.store.Blob(domain, string(field))
	if err != nil || !ok {
		return nil, nil, false
	}
	return v.Data, v.Release, true
}

func (e *Embedded) PutHead(ctx context.Context, tree object.TreeName, note []byte) error {
	return wrap("put the head of "+tree.String(), e.set(ctx, ledisconn.TreeKey(tree), LedisHeadField, note))
}

func (e *Embedded) PutListing(ctx context.Context, tree object.TreeName, dir string, listing []byte) error {
	return wrap("put a listing of "+tree.String(), e.set(ctx, ledisconn.TreeKey(tree), dirField(dir), listing))
}

func (e *Embedded) DropTree(_ context.Context, tree object.TreeName) error {
	_, err := e.db.HClear([]byte(ledisconn.TreeKey(tree)))
	return wrap("drop "+tree.String(), err)
}

func (e *Embedded) Value(ctx context.Context, table, key string) ([]byte, error) {
	v, err := e.get(ctx, tableKey(table), key)
	return v, wrap("get a value of "+table, err)
}

func (e *Embedded) Values(_ context.Context, table string) (map[string][]byte, error) {
	pairs, err := e.db.HGetAll([]byte(tableKey(table)))
	if err != nil {
		return nil, wrap("get the values of "+table, err)
	}
	all := make(map[string][]byte, len(pairs))
	for _, p := range pairs {
		all[string(p.Field)] = p.Value
	}
	return all, nil
}

func (e *Embedded) PutValue(ctx context.Context, table, key string, value []byte) error {
	if err := checkTableKey(key); err != nil {
		return wrap("put a value of "+table, err)
	}
	return wrap("put a value of "+table, e.synced(e.set(ctx, tableKey(table), key, value)))
}

func (e *Embedded) DeleteValue(ctx context.Context, table, key string) error {
	if err := checkTableKey(key); err != nil {
		return wrap("delete a value of "+table, err)
	}
	return wrap("delete a value of "+table, e.synced(e.del(ctx, tableKey(table), key)))
}

// synced returns when what was written is on disk. Blobs for which there was no
// room are no concern of it.
func (e *Embedded) synced(err error) error {
	if err != nil {
		return err
	}
	if err = e.store.Sync(); errors.Is(err, ledisbolt.ErrBlobsDropped) {
		return nil
	}
	return err
}

func (e *Embedded) get(ctx context.Context, key, field string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	v, err := e.db.HGet([]byte(key), []byte(field))
	if err == nil && v == nil {
		return nil, tier.ErrAbsent
	}
	return v, err
}

func (e *Embedded) set(ctx context.Context, key, field string, value []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := e.db.HSet([]byte(key), []byte(field), value)
	return err
}

func (e *Embedded) del(ctx context.Context, key, field string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := e.db.HDel([]byte(key), []byte(field))
	return err
}

// wrap says what was to be done. What is none of a tier's errors is
// tier.ErrUnavailable.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, known(err))
}

func unavailable(doing, domain string, d digest.Digest, err error) error {
	return fmt.Errorf("%s %s of %s: %w", doing, d.Short(), domain, known(err))
}

func known(err error) error {
	for _, k := range []error{tier.ErrAbsent, tier.ErrDenied, tier.ErrUnavailable, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, k) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", tier.ErrUnavailable, err)
}

// sorted is for answers that come in no order.
func sorted(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
