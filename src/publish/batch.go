package publish

import (
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
)

// A batch is committed when it has that many files or bytes, while the next one
// fills. Where files are kept open until then, twice maxOpenFiles is also how many
// descriptors that takes.
const (
	maxBatchFiles = 4096
	maxOpenFiles  = 256
	maxBatchBytes = 64 << 20
)

// renamesAtOnce is how many blobs get their names in one go, while others of this
// process that want to rely on blobs wait, and gc does.
const renamesAtOnce = 256

// batcher gives blobs their final names, many at a time: it writes them under
// temporary names, makes the file system write back all it has (syncfs), and
// then renames them. So no final name ever stands for bytes that are not on the
// disk. A sync for every file by itself, by however many goroutines, took twice
// the time for a tree of small files, for each rename in between makes the next
// sync commit a directory as well. And syncfs writes what others have written, too,
// so it should not be called often.
type batcher struct {
	tmp, final *os.File // directories
	guard      *guard
	keepOpen   bool // files are asked how they were written: syncfs does not tell
	maxFiles   int  // of a batch
	commits    chan []pending
	done       chan struct{} // closed when all commits are through

	fill     sync.Mutex // held while a full batch is handed over: then all wait
	files    []pending  // guarded by fill
	bytes    int64      // guarded by fill
	finished bool       // guarded by fill

	mu     sync.Mutex
	claims map[digest.Digest]bool // guarded by mu: blobs without their final names
	err    error                  // guarded by mu: of the first commit that failed
}

// pending is a blob under its temporary name.
type pending struct {
	digest digest.Digest
	fd     int // -1: closed
}

// newBatcher returns one that moves files from the directory tmp to final, both
// on one file system, while no gc removes anything.
func newBatcher(tmp, final string, guard *guard) (*batcher, error) {
	b := &batcher{
		guard: guard, maxFiles: maxBatchFiles,
		commits: make(chan []pending),
		done:    make(chan struct{}),
		claims:  map[digest.Digest]bool{},
	}
	if b.keepOpen = !syncfsTells(); b.keepOpen {
		b.maxFiles = maxOpenFiles
	}
	var err error
	if b.tmp, err = os.Open(tmp); err != nil {
		return nil, err
	}
	if b.final, err = os.Open(final); err != nil {
		b.tmp.Close()
		return nil, err
	}
	go b.run()
	return b, nil
}

// claim tells whether the caller is to see to a blob, by add or disclaim:
// nobody else is. The error is that of an earlier commit.
func (b *batcher) claim(d digest.Digest) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || b.claims[d] {
		return false, b.err
	}
	b.claims[d] = true
	return true, nil
}

// claimed tells whether a blob is on its way.
func (b *batcher) claimed(d digest.Digest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.claims[d]
}

func (b *batcher) disclaim(d digest.Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.claims, d)
}

// add writes a blob that the caller has claimed.
func (b *batcher) add(d digest.Digest, stored []byte) error {
	p := pending{d, -1}
	fd, err := writeAt(b.tmp, d.String(), stored)
	if err != nil {
		return err
	}
	if b.keepOpen {
		p.fd = fd
	} else if err := unix.Close(fd); err != nil && err != unix.EINTR {
		return wrapErrno("close", err)
	}
	b.fill.Lock()
	defer b.fill.Unlock()
	b.files = append(b.files, p)
	b.bytes += int64(len(stored))
	if len(b.files) >= b.maxFiles || b.bytes >= maxBatchBytes {
		b.handOver()
	}
	return nil
}

// handOver is called with fill held.
func (b *batcher) handOver() {
	b.commits <- b.files
	b.files, b.bytes = nil, 0
}

// finish commits what is left and returns the first error of all commits.
// Nothing may be added any more. Calling it again changes nothing.
func (b *batcher) finish() error {
	b.fill.Lock()
	if !b.finished {
		b.finished = true
		b.handOver()
		close(b.commits)
	}
	b.fill.Unlock()
	<-b.done
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *batcher) run() {
	defer close(b.done)
	defer b.tmp.Close()
	defer b.final.Close()
	failed := false
	for files := range b.commits {
		var err error
		if !failed {
			err = b.commit(files)
			failed = err != nil
		}
		for _, p := range files {
			if p.fd >= 0 {
				unix.Close(p.fd)
			}
		}
		b.committed(files, err)
	}
}

func (b *batcher) committed(files []pending, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range files {
		delete(b.claims, p.digest)
	}
	if b.err == nil {
		b.err = err
	}
}

// commit syncs files and gives them their final names.
func (b *batcher) commit(files []pending) error {
	if len(files) == 0 {
		return nil
	}
	if err := unix.Syncfs(int(b.tmp.Fd())); err != nil {
		return fmt.Errorf("sync the store's file system: %w", err)
	}
	if b.keepOpen {
		if err := written(files); err != nil {
			return err
		}
	}
	// A blob may take the place of another user's, which a gc has just seen to be
	// old: it must not remove ours for that.
	for run := range slices.Chunk(files, renamesAtOnce) {
		if err := b.guard.hold(unix.LOCK_SH, func() error { return b.rename(run) }); err != nil {
			return err
		}
	}
	return nil
}

func (b *batcher) rename(files []pending) error {
	from, to := int(b.tmp.Fd()), int(b.final.Fd())
	for _, p := range files {
		name := p.digest.String()
		for {
			err := unix.Renameat(from, name, to, name)
			if err == nil {
				break
			}
			if err != unix.EINTR {
				return fmt.Errorf("give blob %v its name: %w", p.digest, err)
			}
		}
	}
	return nil
}

// written tells whether files were written well that the system says it has
// written.
func written(files []pending) error {
	for _, p := range files {
		err := unix.SyncFileRange(p.fd, 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE)
		if err != nil && err != unix.ENOSYS && err != unix.EOPNOTSUPP {
			return fmt.Errorf("write blob %v: %w", p.digest, err)
		}
	}
	return nil
}

// syncfsTells tells whether syncfs tells of writes that failed, as it does from
// Linux 5.8 on.
func syncfsTells() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 5 || major == 5 && minor >= 8
}
