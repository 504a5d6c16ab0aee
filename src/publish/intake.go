package publish

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// Errors of an Intake.
var (
	ErrNoRoom  = errors.New("there is no room for it")
	ErrOld     = errors.New("it doesn't come after the head that is here")
	ErrLacking = errors.New("it reaches what is not here")
)

// IntakeOptions say where an Intake is and what it may take.
type IntakeOptions struct {
	Dir     string                  // of the store
	MaxSize int64                   // bytes of blobs; 0 is no limit
	MinFree func(total int64) int64 // bytes to leave free on a file system of total bytes; nil for 0
	Limit   int64                   // plain bytes of one object
	// Reopen is about how long gc leaves alone at least what came last, while there
	// are always publishes; 0 means 6 h.
	Reopen time.Duration
	Log    *slog.Logger
}

// Intake is a directory store that takes what others publish, object by object
// and head by head. Nothing it takes is ever evicted; gc works on its directory as
// on any other, also while it takes. It may be used by many goroutines at once.
type Intake struct {
	opts    IntakeOptions
	codec   *object.Codec
	heading chan struct{} // holds the turn of a head: its metadata takes memory

	mu      sync.Mutex
	closed  bool                     // guarded by mu
	domains map[string]*intakeDomain // guarded by mu

	counting sync.Mutex
	used     int64     // bytes; guarded by counting
	counted  time.Time // when used was last counted; guarded by counting
}

// intakeDomain is one domain of an Intake. Its store is open from when something
// comes until nothing has for intakeIdle: gc leaves alone as long what came.
type intakeDomain struct {
	mu    sync.RWMutex // held for writing while the store is opened, flushed or closed
	store *dirStore    // guarded by mu; nil: not open
	idle  *time.Timer  // guarded by mu
	used  atomic.Int64 // when something last came, in Unix nanoseconds
	// The store is opened anew now and then, and the one before stays open as
	// long: else gc would leave alone for ever what came since the first.
	opened time.Time // guarded by mu
	before *dirStore // guarded by mu; may be nil
}

const (
	intakeIdle  = 10 * time.Minute
	intakeAge   = 6 * time.Hour    // of IntakeOptions.Reopen
	countAnew   = 10 * time.Second // how old a count may be that says there is no room
	blockOfDisk = 4 << 10
)

// OpenIntake returns the intake of a directory that need not be there yet.
func OpenIntake(o IntakeOptions) (*Intake, error) {
	codec, err := object.NewCodec(runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, err
	}
	return &Intake{opts: o, codec: codec, heading: make(chan struct{}, 1), domains: make(map[string]*intakeDomain)}, nil
}

// Make makes the directory, if need be.
func (in *Intake) Make() error {
	if err := mkdirAll(in.opts.Dir); err != nil {
		return fmt.Errorf("prepare store: %w", err)
	}
	return nil
}

// Close gives final names to what came last. There must be no calls any more.
func (in *Intake) Close() error {
	in.mu.Lock()
	in.closed = true
	all := in.domains
	in.domains = nil
	in.mu.Unlock()
	var errs []error
	for _, d := range all {
		errs = append(errs, d.close())
	}
	return errors.Join(errs...)
}

// Has tells whether a blob is here. If so, gc leaves it alone for a while.
func (in *Intake) Has(ctx context.Context, domain string, d digest.Digest) (there bool, err error) {
	err = in.with(ctx, domain, func(s *dirStore) error {
		there, err = s.hasOrTakes(d)
		return err
	})
	return there, err
}

// Put takes a blob in stored form, whose digest was checked. fresh is false if it
// was here. It would survive a crash once a head is taken that reaches it.
func (in *Intake) Put(ctx context.Context, domain string, d digest.Digest, stored []byte) (fresh bool, err error) {
	err = in.with(ctx, domain, func(s *dirStore) error {
		there, err := s.hasOrTakes(d)
		if err != nil || there {
			return err
		}
		claimed, err := s.batch.claim(d)
		if err != nil || !claimed {
			return err
		}
		if err := in.room(int64(len(stored))); err != nil {
			s.batch.disclaim(d)
			return err
		}
		fresh = true
		if err := s.addStored(d, stored); err != nil {
			s.batch.disclaim(d)
			return err
		}
		return nil
	})
	if err != nil {
		if errors.Is(err, ErrNoRoom) {
			return false, fmt.Errorf("take blob %s/%v: %w", domain, d, err)
		}
		// What failed in a batch is told once, not to all who come after.
		if e := in.flush(domain); e != nil {
			in.opts.Log.Warn("blobs that were taken are lost", "op", "publish", "domain", domain, "err", e)
		}
		return false, fmt.Errorf("take blob %s/%v: %w", domain, d, noRoom(err))
	}
	return fresh, nil
}

// hasOrTakes is has for a store that others put into meanwhile.
func (s *dirStore) hasOrTakes(d digest.Digest) (bool, error) {
	if s.batch.claimed(d) {
		return true, nil
	}
	return s.has(d)
}

// PutHead makes a head the newest one of its tree, if all that it reaches is here
// and its serial is higher than any the tree had here. changed is false if it is
// the newest one already. When PutHead returns all of it would survive a crash.
func (in *Intake) PutHead(ctx context.Context, h *object.Head, raw []byte) (changed bool, err error) {
	select {
	case in.heading <- struct{}{}:
		defer func() { <-in.heading }()
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	t := headsOf(in.opts.Dir, h.Tree)
	if same, _, _, err := in.after(t, h, raw); err != nil {
		return false, err
	} else if same {
		return false, in.settle(ctx, t)
	}
	if err := in.complete(ctx, h); errors.Is(err, ErrLacking) {
		// Its publisher may take for here what was when it published last.
		return false, fmt.Errorf("publish again, with -full if that says the same: %w", err)
	} else if err != nil {
		return false, fmt.Errorf("head of %v, serial %d: %w", h.Tree, h.Serial, noRoom(err))
	}
	if err := mkdirAll(t.dir); err != nil {
		return false, noRoom(err)
	}
	l, err := t.lock(ctx, in.opts.Log)
	if err != nil {
		return false, err
	}
	defer l.Close()
	same, current, currentRaw, err := in.after(t, h, raw)
	if err == nil && !same {
		err = noRoom(t.install(raw, current, currentRaw))
	}
	if err != nil {
		return false, err
	}
	return !same, in.settle(ctx, t)
}

// after tells whether a head comes after those that are here, or is the newest.
func (in *Intake) after(t heads, h *object.Head, raw []byte) (same bool, current *object.Head, currentRaw []byte, err error) {
	current, currentRaw, err = t.current()
	if err != nil {
		return false, nil, nil, err
	}
	if current != nil && bytes.Equal(currentRaw, raw) {
		return true, current, currentRaw, nil
	}
	last, err := t.lastSerial(current)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil, nil, nil
	}
	if err == nil && h.Serial <= last {
		err = fmt.Errorf("%w: it has serial %d, and there is, or was, %d: publish again", ErrOld, h.Serial, last)
	}
	return false, current, currentRaw, err
}

// settle has a head that is in place survive a crash, and lists it.
func (in *Intake) settle(ctx context.Context, t heads) error {
	if err := syncDir(t.dir); err != nil {
		return err
	}
	return listTrees(context.WithoutCancel(ctx), in.opts.Dir)
}

// complete checks that all that a head reaches is here, and has it survive a
// crash.
func (in *Intake) complete(ctx context.Context, h *object.Head) error {
	if most := max(h.IndexSize, h.MaxSize, h.RootSize); most > in.opts.Limit {
		return fmt.Errorf("%w: it has an object of %d bytes, here they may have %d", object.ErrHead, most, in.opts.Limit)
	}
	if err := in.flush(h.Domain); err != nil {
		return err
	}
	return in.with(ctx, h.Domain, func(s *dirStore) error {
		rooted := false
		fetch := func(_ context.Context, ref tier.Ref) ([]byte, error) {
			plain, err := s.read(ref)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil, fmt.Errorf("%w: %v", ErrLacking, ref)
			case errors.Is(err, digest.ErrMismatch):
				return nil, in.drop(s, ref, err)
			case err != nil:
				return nil, err
			}
			if ref.Digest == h.Catalog {
				rooted = rooted || hasRoot(plain, h)
			}
			return plain, nil
		}
		r := newReach(fetch, func(ref tier.Ref) error {
			if there, err := s.has(ref.Digest); err != nil || there {
				return err
			}
			return fmt.Errorf("%w: %v", ErrLacking, ref)
		})
		if err := r.head(ctx, h); err != nil {
			return err
		}
		if !rooted {
			return fmt.Errorf("%w: its catalog %v has not its root %v", object.ErrHead, h.Catalog, h.Root)
		}
		return syncDir(s.blobs) // for those that somebody else put
	})
}

// drop removes a blob that can't be read as what it should be, so that it can
// be put again.
func (in *Intake) drop(s *dirStore, ref tier.Ref, why error) error {
	large := ref
	large.Limit = in.opts.Limit
	switch _, err := s.read(large); {
	case err == nil:
		return fmt.Errorf("%w: %v is larger than it says", object.ErrHead, ref)
	case !errors.Is(err, digest.ErrMismatch) || errors.Is(err, object.ErrTooLarge):
		return err
	}
	in.opts.Log.Error("removing a published blob that is damaged", "op", "publish", "domain", ref.Domain, "digest", ref.Digest, "err", why)
	if err := os.Remove(filepath.Join(s.blobs, ref.Digest.String())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("%w: %v was damaged", ErrLacking, ref)
}

// hasRoot tells whether a catalog has the listing of a head's root.
func hasRoot(catalog []byte, h *object.Head) bool {
	found := false
	err := object.ParseCatalog(catalog, func(path, listing []byte) error {
		if len(path) == 0 && digest.Of(listing) == h.Root {
			found = true
		}
		return nil
	})
	return err == nil && found
}

// with calls do with a domain's store, which stays open meanwhile.
func (in *Intake) with(ctx context.Context, domain string, do func(*dirStore) error) error {
	in.mu.Lock()
	if in.closed {
		in.mu.Unlock()
		return errors.New("the store is closed")
	}
	d := in.domains[domain]
	if d == nil {
		d = &intakeDomain{}
		in.domains[domain] = d
	}
	in.mu.Unlock()
	for {
		d.mu.RLock()
		if d.store != nil {
			defer d.mu.RUnlock()
			d.used.Store(time.Now().UnixNano())
			d.idle.Reset(intakeIdle)
			return do(d.store)
		}
		d.mu.RUnlock()
		if err := in.open(ctx, d, domain); err != nil {
			return err
		}
	}
}

func (in *Intake) open(ctx context.Context, d *intakeDomain, domain string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.store != nil {
		return nil
	}
	s, err := openDirStore(ctx, in.opts.Dir, domain, in.codec)
	if err != nil {
		return err
	}
	d.store, d.opened = s, time.Now()
	d.idle = time.AfterFunc(intakeIdle, func() {
		if err := d.closeIdle(); err != nil {
			in.opts.Log.Warn("close what was published to", "op", "publish", "domain", domain, "err", err)
		}
	})
	return nil
}

func (d *intakeDomain) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closeNow()
}

// closeIdle is close when the timer has run out, unless something came just then.
func (d *intakeDomain) closeIdle() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.store != nil && time.Since(time.Unix(0, d.used.Load())) < intakeIdle {
		d.idle.Reset(intakeIdle)
		return nil
	}
	return d.closeNow()
}

// closeNow is close for who holds mu for writing.
func (d *intakeDomain) closeNow() (err error) {
	if d.store != nil {
		d.idle.Stop()
		err = errors.Join(d.store.finish(), d.store.close())
	}
	if d.before != nil {
		err = errors.Join(err, d.before.close())
	}
	d.store, d.before = nil, nil
	return err
}

// putAside keeps gc from what came until now, and has the store opened anew. mu
// is held for writing.
func (d *intakeDomain) putAside() (err error) {
	d.idle.Stop()
	if d.before != nil {
		err = d.before.close()
	}
	d.store, d.before = nil, d.store
	return err
}

// flush has what a domain took so far survive a crash, under its final names.
func (in *Intake) flush(domain string) error {
	in.mu.Lock()
	d := in.domains[domain]
	in.mu.Unlock()
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.store == nil {
		return nil
	}
	err := d.store.finish()
	if time.Since(d.opened) > cmp.Or(in.opts.Reopen, intakeAge) {
		return errors.Join(err, d.putAside())
	}
	b, newErr := newBatcher(d.store.tmp, d.store.blobs, d.store.guard)
	if newErr != nil { // it is opened anew, then
		d.idle.Stop()
		err = errors.Join(err, newErr, d.store.close())
		d.store = nil
		return err
	}
	d.store.batch = b
	return err
}

// room tells whether n bytes more may be taken.
func (in *Intake) room(n int64) error {
	n = (n + blockOfDisk - 1) / blockOfDisk * blockOfDisk
	var st unix.Statfs_t
	if err := unix.Statfs(in.opts.Dir, &st); err != nil {
		return fmt.Errorf("look for room in %s: %w", in.opts.Dir, err)
	}
	if free := in.opts.MinFree; free != nil {
		block := int64(st.Bsize)
		if int64(st.Bavail)*block-n < free(int64(st.Blocks)*block) {
			return fmt.Errorf("%w: min_free would be passed", ErrNoRoom)
		}
	}
	if in.opts.MaxSize == 0 {
		return nil
	}
	in.counting.Lock()
	defer in.counting.Unlock()
	// gc may have freed some since.
	if in.counted.IsZero() || in.used+n > in.opts.MaxSize && time.Since(in.counted) > countAnew {
		used, err := diskUse(in.opts.Dir)
		if err != nil {
			return fmt.Errorf("count what is in %s: %w", in.opts.Dir, err)
		}
		in.used, in.counted = used, time.Now()
	}
	if in.used+n > in.opts.MaxSize {
		return fmt.Errorf("%w: max_size would be passed", ErrNoRoom)
	}
	in.used += n
	return nil
}

// diskUse is what the files below a directory take, in bytes.
func diskUse(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir+"/", func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // went away just now
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if info, err := e.Info(); err == nil {
			n += (info.Size() + blockOfDisk - 1) / blockOfDisk * blockOfDisk
		}
		return nil
	})
	return n, err
}

// noRoom is ErrNoRoom for what a full disk says.
func noRoom(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	return err
}
