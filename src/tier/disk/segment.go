package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/tier"
)

const (
	pageSize = 4096
	// A value that is alone in its bucket lies behind the header of its page,
	// one element and its key. Knowing that, a value can be read from the file
	// without its first page being faulted in through the map.
	valueOffset = 16 + 16 + 1
	// Smaller values lie within a page of the tree, which moves when their
	// neighbours change, and have to be copied.
	maxInline = pageSize/4 - 16 - 16 - 1

	boltTimeout = time.Second
)

// Limits of what is mapped and open at a time, over all segments.
const (
	maxMapped32  = 1<<30 - headsMap - seedMapped32
	seedMapped32 = 256 << 20
	maxOpen      = 128
	is32Bit      = ^uint(0)>>32 == 0
)

var (
	valueKey = []byte("d")
	// errBusy says that a segment can't be opened for now.
	errBusy = errors.New("segment cannot be opened now")
	errDead = errors.New("segment is gone")
)

// damage is what a bolt file that is not as it should be led to.
type damage struct{ cause any }

func (d *damage) Error() string { return fmt.Sprintf("damaged: %v", d.cause) }

// guard runs fn, which looks into bolt's pages. bolt panics on pages that make
// no sense, and a page that the file no longer has is a fault: both come back
// as damage.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &damage{p}
		}
	}()
	return fn()
}

// segment is one bolt file. It is opened when it is needed.
type segment struct {
	id   uint32 // in the file's name; rises
	slot uint16 // in the index
	path string

	size  atomic.Int64 // bytes on disk
	bytes atomic.Int64 // of the blobs that were put into it, plain

	mu         sync.Mutex // held to open or detach the handle
	handle     atomic.Pointer[handle]
	lastUse    atomic.Uint32
	dead       atomic.Bool // unlinked, or about to be
	spoilt     atomic.Bool // nothing more is to be written to it
	complained atomic.Bool // that a blob in it is corrupt has been logged

	// GUARDED_BY Cache.openMu
	handles   int   // not yet closed
	lingering int64 // bytes unlinked that handles still hold
	gone      chan struct{}
}

func segmentName(id uint32) string { return fmt.Sprintf("seg-%08x.bolt", id) }

var segmentFile = regexp.MustCompile(`^seg-([0-9a-f]{8})\.bolt$`)

// segmentID is the number in the name of a segment's file.
func segmentID(name string) (uint32, bool) {
	m := segmentFile.FindStringSubmatch(name)
	if m == nil {
		return 0, false
	}
	id, err := strconv.ParseUint(m[1], 16, 32)
	return uint32(id), err == nil
}

func newSegment(dir string, id uint32) *segment {
	return &segment{id: id, path: filepath.Join(dir, segmentName(id))}
}

// measure notes what the file takes on disk: its size, or its blocks where the
// file system has set more aside for it.
func (s *segment) measure() error {
	fi, err := os.Stat(s.path)
	if err != nil {
		return fmt.Errorf("measure segment: %w", err)
	}
	s.size.Store(onDisk(fi))
	return nil
}

func onDisk(fi fs.FileInfo) int64 {
	size := fi.Size()
	if st := statOf(fi); st != nil {
		size = max(size, st.Blocks*512)
	}
	return size
}

// handle is a segment's open file and map. They stay until refs is 0: one for
// the segment as long as it wants it open, one for each reader.
type handle struct {
	seg    *segment
	db     *bolt.DB
	file   *os.File // db's own
	mapped int64    // bytes of address space
	addr   uintptr  // of the map
	refs   atomic.Int64
	snap   atomic.Pointer[snapshot]
	old    []*snapshot  // replaced ones that readers may still use; the writer's
	end    atomic.Int64 // of the file as the last commit left it

	warmed atomic.Bool  // the tree is in memory, or will be soon
	asked  atomic.Int64 // up to where the disk was asked to read ahead

	// base is the map's first byte, known once there is a key to tell it by.
	base atomic.Pointer[byte]
	// stuck says that bolt panicked while it held locks: it can't be closed
	// the usual way any more.
	stuck atomic.Bool
}

// snapshot is a read transaction that readers share. bolt's read transactions
// keep no state of their own as long as they are only read from, so any number
// of goroutines may look through one at a time. Sharing it makes a Get cheaper,
// and keeps it from waiting for the lock that a commit holds while it writes.
type snapshot struct {
	tx      *bolt.Tx
	domains map[string]*bolt.Bucket
	refs    atomic.Int64
}

// ref takes a reference unless the handle is closed or about to be.
func (h *handle) ref() bool {
	for {
		n := h.refs.Load()
		if n == 0 {
			return false
		}
		if h.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// unref gives one back. Who gives back the last one does not wait for the file
// to be closed, which can take a while for a large one that was unlinked.
func (c *Cache) unref(h *handle) {
	if h.refs.Add(-1) == 0 {
		go c.closeHandle(h)
	}
}

// acquire returns s's handle with a reference for the caller, and opens it if
// need be: a segment that can't be opened for a passing reason is errBusy.
func (c *Cache) acquire(s *segment) (*handle, error) {
	if h := s.handle.Load(); h != nil && h.ref() {
		return h, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead.Load() {
		return nil, errDead
	}
	if h := s.handle.Load(); h != nil && h.ref() {
		return h, nil
	}
	h, err := c.openHandle(s, false)
	if err != nil {
		return nil, err
	}
	h.refs.Store(2)
	c.warm(h)
	s.handle.Store(h)
	return h, nil
}

// acquireSoon is acquire that waits for a while for others to be done.
func (c *Cache) acquireSoon(s *segment) (h *handle, err error) {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		if h, err = c.acquire(s); !errors.Is(err, errBusy) || time.Since(start) > busyPatience {
			return h, err
		}
	}
}

// openHandle opens a segment's file, to be written to if write. Its error is
// errBusy for a passing reason; else the file is no good. s.mu is held.
func (c *Cache) openHandle(s *segment, write bool) (*handle, error) {
	h := &handle{seg: s}
	opt := &bolt.Options{
		Timeout: boltTimeout, NoSync: true, NoGrowSync: true,
		ReadOnly: !write, PageSize: pageSize, NoStatistics: true,
		OpenFile: func(name string, flag int, mode fs.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag, mode)
			h.file = f
			return f, err
		},
	}
	size := s.size.Load()
	if write {
		limit := c.bounds.Load().segment
		opt.InitialMmapSize = int(limit)
		size = max(size, limit)
	}
	h.mapped = mapSize(size)
	if !c.reserve(s, h.mapped) {
		return nil, fmt.Errorf("open %s: %w: too much is mapped", s.path, errBusy)
	}
	err := guard(func() error {
		db, err := bolt.Open(s.path, 0o600, opt)
		if err != nil {
			return err
		}
		h.db = db
		// So small that the file has no more than its content. Nothing grows
		// by it; but it takes part when MaxSize is checked.
		db.AllocSize = pageSize
		// The directory's lock is the one that counts. Without bolt's, a
		// handle that a slow reader keeps does not stop the next process.
		if err := unix.Flock(int(h.file.Fd()), unix.LOCK_UN); err != nil {
			return fmt.Errorf("unlock: %w", err)
		}
		h.addr = db.Info().Data
		snap, err := h.newSnapshot()
		if err != nil {
			return err
		}
		h.snap.Store(snap)
		h.end.Store(snap.tx.Size())
		fi, err := h.file.Stat()
		if err != nil {
			return err
		}
		if want := snap.tx.Size(); fi.Size() < want {
			return &damage{fmt.Sprintf("%d bytes, want %d", fi.Size(), want)}
		}
		return nil
	})
	if err == nil {
		return h, nil
	}
	c.closeHandle(h)
	if isPassing(err) {
		return nil, fmt.Errorf("open %s: %w: %w", s.path, errBusy, err)
	}
	return nil, fmt.Errorf("open %s: %w", s.path, err)
}

// isPassing tells whether an error says something of the moment rather than
// of the file.
func isPassing(err error) bool {
	for _, e := range []error{bolterrors.ErrTimeout, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EAGAIN, unix.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// mapSize is what bolt maps for a file of size bytes.
func mapSize(size int64) int64 {
	m := int64(32 << 10)
	for m < size {
		m *= 2
	}
	return m
}

// reserve makes sure that mapping n more bytes keeps within the limits,
// closing segments that nobody is reading from, the least recently used first.
func (c *Cache) reserve(s *segment, n int64) bool {
	for {
		c.openMu.Lock()
		if c.open < c.maxOpen && c.mapped+n <= c.maxMapped {
			c.open++
			c.mapped += n
			s.handles++
			c.openMu.Unlock()
			return true
		}
		c.openMu.Unlock()
		if !c.closeIdle() {
			return false
		}
	}
}

// closeIdle closes the handle that has not been used for longest, and returns
// false if all are in use.
func (c *Cache) closeIdle() bool {
	var idle *segment
	for _, s := range c.segments() {
		h := s.handle.Load()
		if h != nil && h.refs.Load() == 1 && (idle == nil || s.lastUse.Load() < idle.lastUse.Load()) {
			idle = s
		}
	}
	// One that is being opened is not idle; and waiting for it, while holding
	// another one's lock, could be a deadlock.
	if idle == nil || !idle.mu.TryLock() {
		return false
	}
	defer idle.mu.Unlock()
	h := idle.handle.Load()
	if h == nil {
		return true
	}
	if !h.refs.CompareAndSwap(1, 0) {
		return false
	}
	idle.handle.Store(nil)
	c.closeHandle(h)
	return true
}

// closeHandle closes a handle that nobody refers to any more.
func (c *Cache) closeHandle(h *handle) {
	err := guard(func() error {
		if h.db == nil || h.stuck.Load() {
			return nil
		}
		for _, s := range append(h.old, h.snap.Load()) {
			if s == nil {
				continue
			}
			if err := s.tx.Rollback(); err != nil {
				return err
			}
			// No pointer into the map may outlive it: the collector might
			// meet it when the addresses are the heap's.
			s.domains = nil
		}
		h.base.Store(nil)
		return h.db.Close()
	})
	if h.file != nil && (err != nil || h.db == nil || h.stuck.Load()) {
		// The map is lost, but the descriptor and the disk need not be.
		if h.seg.dead.Load() && h.db != nil {
			_ = h.file.Truncate(0)
		}
		_ = h.file.Close()
	}
	c.openMu.Lock()
	defer c.openMu.Unlock()
	c.open--
	c.mapped -= h.mapped
	h.seg.handles--
	if h.seg.handles == 0 && h.seg.gone != nil {
		c.lingering -= h.seg.lingering
		h.seg.lingering = 0
		close(h.seg.gone)
		h.seg.gone = nil
	}
}

// newSnapshot starts a transaction on what the last commit left.
func (h *handle) newSnapshot() (s *snapshot, err error) {
	h.stuck.Store(true) // stays so if Begin panics, with its locks held
	tx, err := h.db.Begin(false)
	h.stuck.Store(false)
	if err != nil {
		return nil, err
	}
	done := false
	defer func() {
		if !done {
			_ = tx.Rollback()
		}
	}()
	s = &snapshot{tx: tx, domains: map[string]*bolt.Bucket{}}
	cur := tx.Cursor()
	for k, v := cur.First(); k != nil; k, v = cur.Next() {
		b := tx.Bucket(k)
		if v != nil || b == nil {
			return nil, &damage{fmt.Sprintf("%q is no bucket", k)}
		}
		s.domains[string(k)] = b
		if h.base.Load() == nil {
			// A way to the map's first byte that checkptr and the collector
			// can follow: from bytes that bolt gave us there.
			p := unsafe.Pointer(unsafe.SliceData(k))
			h.base.Store((*byte)(unsafe.Add(p, -int(uintptr(p)-h.addr))))
		}
	}
	done = true
	return s, nil
}

// renew lets readers see what was committed, and ends transactions that none
// of them uses any more. Only the writer calls it.
func (h *handle) renew() error {
	return guard(func() error {
		s, err := h.newSnapshot()
		if err != nil {
			return err
		}
		h.old = append(h.old, h.snap.Swap(s))
		h.end.Store(s.tx.Size())
		kept := h.old[:0]
		for _, o := range h.old {
			// A reader that took its reference after this finds, before it
			// looks at anything, that o is not the one any more.
			if o.refs.Load() > 0 {
				kept = append(kept, o)
				continue
			}
			if err := o.tx.Rollback(); err != nil {
				return err
			}
		}
		clear(h.old[len(kept):])
		h.old = kept
		return nil
	})
}

// borrow returns the present snapshot; its refs must be decreased afterwards.
func (h *handle) borrow() *snapshot {
	for {
		s := h.snap.Load()
		s.refs.Add(1)
		if h.snap.Load() == s {
			return s
		}
		s.refs.Add(-1)
	}
}

// eachKey calls fn for every blob in the segment. It doesn't touch the values.
func (h *handle) eachKey(fn func(domain string, d *digest.Digest) error) error {
	snap := h.borrow()
	defer snap.refs.Add(-1)
	return guard(func() error {
		var d digest.Digest
		for domain, b := range snap.domains {
			cur := b.Cursor()
			for k, _ := cur.First(); k != nil; k, _ = cur.Next() {
				if copy(d[:], k) != len(k) || len(k) != len(d) {
					return &damage{fmt.Sprintf("key of %d bytes", len(k))}
				}
				if err := fn(domain, &d); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// plainBytes is how much was put into the segment, by its own account.
func (h *handle) plainBytes() (n int64, err error) {
	snap := h.borrow()
	defer snap.refs.Add(-1)
	err = guard(func() error {
		for _, b := range snap.domains {
			n += int64(b.Sequence())
		}
		return nil
	})
	return n, err
}

// view is a slice of the map.
func (h *handle) view(off, n int64) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(h.base.Load()), int(off))), int(n))
}

// resident tells whether n bytes at off are in memory, so that looking at them
// in the map waits for no disk.
func (h *handle) resident(off, n int64) bool {
	const most = 256 // pages asked for in one call: a whole blob
	var vec [most + 1]byte
	first, last := off/pageSize, (off+n-1)/pageSize
	// Pages of the system may be larger: then some are asked for twice.
	system := int64(os.Getpagesize())
	for at := first * pageSize / system; at <= last*pageSize/system; at += most {
		count := min(most, last*pageSize/system-at+1)
		_, _, errno := unix.Syscall(unix.SYS_MINCORE, h.addr+uintptr(at*system),
			uintptr(count*system), uintptr(unsafe.Pointer(&vec[0])))
		if errno != 0 || bytes.IndexByte(evens(vec[:count]), 0) >= 0 {
			return false
		}
	}
	return true
}

// evens leaves of each byte only the bit that says whether the page is there.
func evens(vec []byte) []byte {
	for i := range vec {
		vec[i] &= 1
	}
	return vec
}

// eachRef calls fn for every blob in the segment.
func (h *handle) eachRef(fn func(ref tier.Ref)) error {
	return h.eachKey(func(domain string, d *digest.Digest) error {
		fn(tier.Ref{Domain: domain, Digest: *d})
		return nil
	})
}

// isInvalid tells whether bolt refused a file for what is in it.
func isInvalid(err error) bool {
	for _, e := range []error{bolterrors.ErrInvalid, bolterrors.ErrVersionMismatch, bolterrors.ErrChecksum} {
		if errors.Is(err, e) {
			return true
		}
	}
	return err != nil && strings.Contains(err.Error(), "file size too small")
}
