package ledisbolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options says how a store is kept. The zero value of a field is its default.
type Options struct {
	SegmentSize int64         // bytes that a segment's file may have; 512 MiB, 128 MiB on 32-bit machines, less with a small MaxSize; at least 1 MiB
	Buffer      int64         // bytes of memory for writes that wait for the disk; 8 MiB
	SyncEvery   time.Duration // after which a write is on disk, if nothing fills the buffer before; 1 s
	SaveEvery   time.Duration // how often last-fetched times are saved; 10 min

	// MaxSize is how many bytes the files may take on disk; 0 is no limit. Blobs
	// that would take them over it are dropped, until Evict has made room. What is
	// in main.bolt counts, but is written all the same.
	MaxSize int64
	// MinFree is how many bytes to leave free of a file system of total bytes.
	// Blobs that would need them are dropped. nil is for 0.
	MinFree func(total int64) int64

	Log *slog.Logger // nil for none
	Now func() time.Time
}

func (o Options) withDefaults() Options {
	segment := int64(512 << 20)
	if is32Bit {
		segment = 128 << 20
	}
	if o.MaxSize > 0 {
		// What is evicted goes by whole segments.
		segment = min(segment, max(o.MaxSize/8, 4<<20))
	}
	if o.SegmentSize <= 0 || is32Bit && o.SegmentSize > 2*segment {
		o.SegmentSize = segment
	}
	o.SegmentSize = max(o.SegmentSize, 1<<20)
	if o.Buffer <= 0 {
		o.Buffer = 8 << 20
	}
	if o.SyncEvery <= 0 {
		o.SyncEvery = time.Second
	}
	if o.SaveEvery <= 0 {
		o.SaveEvery = 10 * time.Minute
	}
	if o.MaxSize <= 0 {
		o.MaxSize = math.MaxInt64
	}
	if o.MinFree == nil {
		o.MinFree = func(int64) int64 { return 0 }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

var (
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("the store is closed")
	// ErrBlobsDropped says that blobs were not kept. What Sync says of it is no
	// word on other keys: those are on disk.
	ErrBlobsDropped = errors.New("blobs were dropped")
	// ErrFull says why: MaxSize or MinFree was reached.
	ErrFull = errors.New("no room")
	// ErrTooLarge says that a key or a value is larger than can be kept.
	ErrTooLarge = errors.New("too large")
)

const (
	maxKey     = 4 << 10 // ledis' are 2 KiB and a little at most
	maxDomains = 4096
)

// Store keeps keys and values in bolt files. It may be used by many goroutines
// at once.
type Store struct {
	dir  string
	opt  Options
	log  *slog.Logger
	crc  castagnoli
	pool *filePool

	damage []error // found by Open

	writing sync.Mutex // held while files are changed

	mu      sync.RWMutex
	main    *boltFile          // GUARDED_BY(mu); Compact replaces it
	domains map[string]*domain // GUARDED_BY(mu)
	active  *overlay           // GUARDED_BY(mu); takes writes
	frozen  *overlay           // GUARDED_BY(mu); is being written; nil if none is
	epoch   uint64             // GUARDED_BY(mu); rises whenever blobs have moved
	closed  bool               // GUARDED_BY(mu)

	wake  chan struct{} // a flush is wanted
	wrote chan struct{} // see Wrote
	stop  context.CancelFunc
	done  chan struct{} // the flusher has ended

	dropped atomic.Int64
	corrupt atomic.Int64
	evicted atomic.Int64
}

// Open opens the store in dir, which is made if missing. Files that are damaged
// are given up; Damage tells which. ErrInUse says that another process has it.
func Open(dir string, opt Options) (*Store, error) {
	opt = opt.withDefaults()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	s := &Store{
		dir: dir, opt: opt, log: opt.Log, crc: newCastagnoli(),
		pool:    &filePool{maxOpen: 512, maxMapped: 1 << 46, open: make(map[*handle]*boltFile)},
		domains: make(map[string]*domain), active: newOverlay(),
		wake: make(chan struct{}, 1), wrote: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if is32Bit {
		// The client on the same machine, and Go itself, need some too.
		s.pool.maxMapped = 1 << 30
	}
	if err := s.load(); err != nil {
		s.closeFiles()
		return nil, fmt.Errorf("open the store in %s: %w", dir, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.run(ctx)
	return s, nil
}

// Damage returns what Open found damaged and gave up; each is an ErrDamaged.
func (s *Store) Damage() []error { return s.damage }

// Close writes what is in memory to disk and closes the files. Those that a
// View still looks at stay open until it is released.
func (s *Store) Close() error {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	s.mu.Unlock()
	if already {
		return nil
	}
	s.stop()
	<-s.done
	s.mu.RLock()
	o := s.active
	s.mu.RUnlock()
	err := s.flush()
	if errors.Is(o.blobErr, ErrFull) {
		err = o.err // blobs for which there is no room are dropped at any time
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	err = errors.Join(err, s.saveAll(), s.markClean())
	s.closeFiles()
	if err != nil {
		return fmt.Errorf("close the store in %s: %w", s.dir, err)
	}
	return nil
}

func (s *Store) closeFiles() {
	for _, d := range s.domains {
		for _, g := range d.segments() {
			g.retire(false)
		}
	}
	if s.main != nil {
		s.main.retire(false)
	}
}

// run writes what gathers, and saves last-fetched times now and then.
func (s *Store) run(ctx context.Context) {
	defer close(s.done)
	sync := time.NewTicker(s.opt.SyncEvery)
	defer sync.Stop()
	save := time.NewTicker(s.opt.SaveEvery)
	defer save.Stop()
	failing := 0 // flushes, since one failed when none had for a while
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-sync.C:
		case <-save.C:
			s.writing.Lock()
			err := s.saveAll()
			s.writing.Unlock()
			if err != nil {
				s.log.Warn("save last-fetched times", "op", "save", "err", err)
			}
			continue
		}
		s.mu.RLock()
		o := s.active
		s.mu.RUnlock()
		err := s.flush()
		select {
		case s.wrote <- struct{}{}:
		default:
		}
		switch {
		case err == nil && failing > 0 && o.ended() && time.Since(last) > calm:
			s.log.Info("all that is kept is written to disk again", "op", "flush", "failed", failing)
			failing = 0
		case err != nil && !o.awaited.Load():
			last = time.Now()
			if failing++; failing > 1 {
				continue // a full disk fails each time
			}
			if errors.Is(err, ErrFull) {
				s.log.Warn("blobs are not kept for want of room: max_size or min_free is reached", "op", "flush", "err", err)
			} else {
				s.log.Error("write to disk", "op", "flush", "err", err)
			}
		}
	}
}

// calm is how long nothing may have failed for trouble to be over.
const calm = 5 * time.Second

// Wrote has a value when something may have been written since it was last received
// from, and so there may be less room.
func (s *Store) Wrote() <-chan struct{} { return s.wrote }

func (s *Store) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// write is one change of a batch.
type write struct {
	key   string
	value []byte // nil deletes
}

// commit takes writes: all of them, or none with an error. They are seen at
// once, and on disk after a Sync.
func (s *Store) commit(batch []write) error {
	n := int64(0)
	for _, w := range batch {
		if err := s.checkSize(w); err != nil {
			return err
		}
		n += int64(len(w.key)+len(w.value)) + opOverhead
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed && s.active.bytes > 0 && s.active.bytes+n > s.opt.Buffer {
		taken := s.active.taken
		s.mu.Unlock()
		s.wakeUp()
		<-taken
		s.mu.Lock()
	}
	if s.closed {
		return ErrClosed
	}
	if len(s.domains) >= maxDomains {
		for _, w := range batch {
			if name, _, ok := splitBlob([]byte(w.key)); ok && w.value != nil && s.domains[string(name)] == nil && isDomain(string(name)) {
				return fmt.Errorf("domain %q: %w: there are %d already", name, ErrTooLarge, maxDomains)
			}
		}
	}
	for _, w := range batch {
		s.take(w)
	}
	if s.active.bytes >= s.opt.Buffer/2 {
		s.wakeUp()
	}
	return nil
}

func (s *Store) checkSize(w write) error {
	most := s.opt.SegmentSize / 4
	if len(w.key) == 0 || len(w.key) > maxKey || int64(len(w.value)) > most {
		return fmt.Errorf("key of %d bytes with a value of %d: %w: 1 to %d and %d are kept", len(w.key), len(w.value), ErrTooLarge, maxKey, most)
	}
	return nil
}

// take puts one write into the active overlay. mu is held.
func (s *Store) take(w write) {
	key := []byte(w.key)
	if name, ok := splitSize(key); ok && isDomain(string(name)) {
		return // it is counted, not stored
	}
	d, field := s.domainOf(key, w.value != nil)
	if d != nil {
		had := s.holds(d, w.key, fingerprint(field))
		switch {
		case w.value != nil && !had:
			s.active.delta[d]++
		case w.value == nil && had:
			s.active.delta[d]--
		case w.value == nil:
			return
		}
	}
	s.active.set(w.key, op{value: w.value, del: w.value == nil})
}

// domainOf returns the domain that key belongs to, and the rest of it; nil if
// that is none, or one that isn't there and is not to be made. mu is held, not
// shared if it may be made.
func (s *Store) domainOf(key []byte, create bool) (*domain, []byte) {
	name, field, ok := splitBlob(key)
	if !ok {
		return nil, nil
	}
	d := s.domains[string(name)]
	if d == nil && create && isDomain(string(name)) {
		d = newDomain(s, string(name))
		s.domains[d.name] = d
	}
	return d, field
}

// holds tells whether key is there, as far as can be told without looking into
// files: a flush makes sure. mu is held.
func (s *Store) holds(d *domain, key string, fp entry) bool {
	for _, o := range []*overlay{s.active, s.frozen} {
		if o == nil {
			continue
		}
		if v, ok := o.ops[key]; ok {
			return !v.del
		}
	}
	return d.index.has(fp)
}

// recount sets what the active overlay changes the numbers of blobs by, after
// what lies beneath it has changed. mu is held.
func (s *Store) recount() {
	clear(s.active.delta)
	for key, v := range s.active.ops {
		d, field := s.domainOf([]byte(key), false)
		if d == nil {
			continue
		}
		had := d.index.has(fingerprint(field))
		if s.frozen != nil {
			if below, ok := s.frozen.ops[key]; ok {
				had = !below.del
			}
		}
		switch {
		case !v.del && !had:
			s.active.delta[d]++
		case v.del && had:
			s.active.delta[d]--
		}
	}
}

// count is how many blobs d has. mu is held.
func (s *Store) count(d *domain) int {
	n := d.index.count + s.active.delta[d]
	if s.frozen != nil {
		n += s.frozen.delta[d]
	}
	return max(n, 0)
}

// Sync returns once all that was acknowledged before is on disk: it survives a
// crash and a power cut. If blobs alone could not be written it says
// ErrBlobsDropped; anything else is about other keys, and perhaps blobs too.
func (s *Store) Sync() error {
	s.mu.RLock()
	active, frozen := s.active, s.frozen
	pending := len(active.ops) > 0
	closed := s.closed
	s.mu.RUnlock()
	if closed {
		return ErrClosed
	}
	if frozen != nil {
		<-frozen.done
	}
	if pending {
		active.awaited.Store(true) // which returns the error, so that it isn't logged
		s.wakeUp()
		<-active.done
	}
	var main, blob error
	for _, o := range []*overlay{frozen, active} {
		if o != nil && (o != active || pending) {
			main, blob = errors.Join(main, o.err), errors.Join(blob, o.blobErr)
		}
	}
	if main != nil {
		return fmt.Errorf("sync: %w", main)
	}
	if blob != nil {
		return fmt.Errorf("sync: %w: %w", ErrBlobsDropped, blob)
	}
	return nil
}

// flush writes the active overlay to the files.
func (s *Store) flush() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.flushLocked()
}

// flushLocked is flush for those who hold writing.
func (s *Store) flushLocked() error {
	s.mu.Lock()
	if len(s.active.ops) == 0 {
		s.mu.Unlock()
		return nil
	}
	o := s.active
	s.active, s.frozen = newOverlay(), o
	close(o.taken)
	others := make([]write, 0, len(o.ops))
	blobs := make(map[*domain][]write)
	for key, v := range o.ops {
		if d, field := s.domainOf([]byte(key), false); d != nil {
			blobs[d] = append(blobs[d], write{string(field), v.value})
		} else {
			others = append(others, write{key, v.value})
		}
	}
	s.mu.Unlock()

	var moves []move
	for d, ws := range blobs {
		slices.SortFunc(ws, func(a, b write) int { return strings.Compare(a.key, b.key) })
		done, err := d.write(ws)
		moves = append(moves, done...)
		o.blobErr = errors.Join(o.blobErr, err)
	}
	o.err = s.writeMain(others)

	stamp := s.stamp()
	s.mu.Lock()
	for _, m := range moves {
		m.apply(stamp)
	}
	s.epoch++
	s.frozen = nil
	if o.err != nil || o.blobErr != nil || len(s.active.ops) > 0 {
		// What was written may not be what was counted on.
		s.recount()
	}
	s.mu.Unlock()
	for d := range blobs {
		d.removeEmpty()
	}
	close(o.done)
	return errors.Join(o.err, o.blobErr)
}

func (s *Store) stamp() uint32 { return uint32(s.opt.Now().Unix()) }

// get returns a copy of a key's value; nil if there is none.
func (s *Store) get(key []byte) ([]byte, error) {
	v, at, err := s.look(key, true)
	if err != nil || at == nil {
		return bytes.Clone(v), err
	}
	defer at.release()
	return at.copy()
}

// found is a value in a file.
type found struct {
	located
	snap *snapshot
	// Of a blob:
	d       *domain
	g       *segment
	fp      entry
	checked bool // has its checksum
	// Of any other key: Store.epoch before it was found.
	epoch uint64

	s   *Store
	key []byte // the whole one
}

func (f *found) release() { f.snap.release() }

// look finds a key: its value if that is in memory, not to be changed, else
// where it is. Both are nil if it isn't there. fetched notes that a blob was
// asked for.
func (s *Store) look(key []byte, fetched bool) ([]byte, *found, error) {
	fp := entry(0)
	if _, field, ok := splitBlob(key); ok {
		fp = fingerprint(field)
	}
	var buf [4]int
	for range 100 {
		s.mu.RLock()
		if s.closed {
			s.mu.RUnlock()
			return nil, nil, ErrClosed
		}
		if v, ok := s.inMemory(key); ok {
			s.mu.RUnlock()
			return v, nil, nil
		}
		d, field := s.domainOf(key, false)
		if d == nil {
			main, epoch := s.main, s.epoch
			s.mu.RUnlock()
			f, err := s.lookMain(main, key)
			switch {
			case errors.Is(err, errGone):
				continue
			case errors.Is(err, errNoSense):
				s.replaceMain(main, err)
				return nil, nil, nil
			case errors.Is(err, ErrDamaged):
				s.forgetMain(string(key), epoch, err)
				return nil, nil, nil
			case f != nil:
				f.epoch = epoch
			}
			return nil, f, err
		}
		epoch := s.epoch
		slots := d.index.slots(buf[:0], fp)
		segments := d.pick(slots)
		s.mu.RUnlock()

		f := s.lookIn(d, segments, field, fp)
		s.mu.RLock()
		moved := s.moved(key, epoch)
		if f != nil && d.has(f.g) {
			stamp := uint32(0)
			if fetched {
				stamp = s.stamp()
				d.changed.Store(true)
			}
			f.checked = d.index.mark(fp, f.g.slot, stamp, false)
		}
		s.mu.RUnlock()
		if f != nil {
			f.key = key
			return nil, f, nil
		}
		if !moved {
			return nil, nil, nil
		}
	}
	return nil, nil, fmt.Errorf("look up %q: it moves too often", key)
}

// moved tells whether a key may be elsewhere than it was at an epoch: the epoch
// has risen, or a flush is about to have it rise. mu is held.
func (s *Store) moved(key []byte, epoch uint64) bool {
	_, pending := s.inMemory(key)
	return pending || s.epoch != epoch
}

// inMemory answers from what is not in the files, or need not be looked up
// there; nil, true says that the key is not there. mu is held.
func (s *Store) inMemory(key []byte) (value []byte, ok bool) {
	for _, o := range []*overlay{s.active, s.frozen} {
		if o == nil {
			continue
		}
		if v, ok := o.ops[string(key)]; ok {
			return v.value, true
		}
	}
	if name, ok := splitSize(key); ok {
		if d := s.domains[string(name)]; d != nil {
			return sizeValue(s.count(d)), true
		}
	}
	return nil, false
}

func (s *Store) lookMain(main *boltFile, key []byte) (*found, error) {
	snap, err := main.acquire()
	if errors.Is(err, ErrDamaged) {
		err = fmt.Errorf("%w: %w", errNoSense, err) // it can't even be opened again
	}
	if err != nil {
		return nil, err
	}
	at, ok, err := snap.locate(key)
	if err != nil || !ok {
		snap.release()
		return nil, err
	}
	return &found{located: at, snap: snap, s: s, key: key}, nil
}

// lookIn asks the segments that may have a field.
func (s *Store) lookIn(d *domain, segments []*segment, field []byte, fp entry) *found {
	for _, g := range segments {
		snap, err := g.acquire()
		if errors.Is(err, errGone) {
			continue
		}
		var at located
		var ok bool
		if err == nil {
			if at, ok, err = snap.locate(field); ok && err == nil {
				return &found{located: at, snap: snap, d: d, g: g, fp: fp, s: s}
			}
			snap.release()
		}
		if err != nil {
			d.trouble(g, err)
		}
	}
	return nil
}

// copy returns the value, checked. A damaged one is forgotten, and nil.
func (f *found) copy() ([]byte, error) {
	v, err := f.snap.read(f.located)
	if err == nil {
		err = f.check(v)
	}
	switch {
	case err == nil:
		return v, nil
	case f.d == nil && errors.Is(err, ErrDamaged):
		f.s.forgetMain(string(f.key), f.epoch, err)
		return nil, nil
	case f.d == nil:
		return nil, err
	case errors.Is(err, ErrDamaged):
		f.forget(err)
		return nil, nil
	}
	f.s.log.Warn("read a blob", "op", "get", "domain", f.d.name, "err", err)
	return nil, nil
}

// check compares the value with its checksum, unless that has been done.
func (f *found) check(v []byte) error {
	if f.checked {
		return nil
	}
	key := f.key
	if f.d != nil {
		_, key, _ = splitBlob(f.key)
	}
	if err := f.s.crc.check(f.snap, f.located, key, v); err != nil {
		return err
	}
	if f.d != nil {
		f.s.mu.RLock()
		if f.d.has(f.g) {
			f.d.index.mark(f.fp, f.g.slot, 0, true)
		}
		f.s.mu.RUnlock()
	}
	return nil
}

// forget removes a damaged blob. It does not wait for that.
func (f *found) forget(err error) {
	f.s.corrupt.Add(1)
	f.s.log.Warn("damaged blob removed", "op", "get", "domain", f.d.name, "err", err)
	key := string(f.key)
	go func() {
		if err := f.s.commit([]write{{key: key}}); err != nil && !errors.Is(err, ErrClosed) {
			f.s.log.Warn("remove a damaged blob", "op", "get", "err", err)
		}
	}()
}

func (s *Store) mainPath() string { return filepath.Join(s.dir, "main.bolt") }
