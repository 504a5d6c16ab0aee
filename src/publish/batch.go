package publish

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
)

// A batch is committed when it has that many files or bytes. The files are kept
// open, so twice maxBatchFiles is also how many descriptors it takes: one batch
// is committed while the next fills.
const (
	maxBatchFiles = 256
	maxBatchBytes = 64 << 20
)

// batcher gives blobs their final names, many at a time: it writes them under
// temporary names, makes the file system write back all it has (syncfs), and
// then renames them. So no final name ever stands for bytes that are not on the
// disk. A sync for every file by itself, by however many goroutines, took twice
// the time for a tree of small files, for each rename in between makes the next
// sync commit a directory as well.
type batcher struct {
	tmp, final string
	guard      *guard
	fs         *os.File // what syncfs is called on
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
	file   *os.File
}

// newBatcher returns one that moves files from the directory tmp to final, both
// on one file system, while no gc removes anything.
func newBatcher(tmp, final string, guard *guard) (*batcher, error) {
	fs, err := os.Open(tmp)
	if err != nil {
		return nil, err
	}
	b := &batcher{
		tmp: tmp, final: final, guard: guard, fs: fs,
		commits: make(chan []pending),
		done:    make(chan struct{}),
		claims:  map[digest.Digest]bool{},
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
	f, err := os.OpenFile(filepath.Join(b.tmp, d.String()), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.Write(stored); err != nil {
		f.Close()
		return err
	}
	b.fill.Lock()
	defer b.fill.Unlock()
	b.files = append(b.files, pending{d, f})
	b.bytes += int64(len(stored))
	if len(b.files) >= maxBatchFiles || b.bytes >= maxBatchBytes {
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
	defer b.fs.Close()
	failed := false
	for files := range b.commits {
		var err error
		if !failed {
			err = b.commit(files)
			failed = err != nil
		}
		for _, p := range files {
			p.file.Close()
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
	if err := unix.Syncfs(int(b.fs.Fd())); err != nil {
		return fmt.Errorf("sync the store's file system: %w", err)
	}
	for _, p := range files {
		// Before Linux 5.8, syncfs does not tell of failed writes. All is
		// written by now: this only asks whether that went well.
		err := unix.SyncFileRange(int(p.file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE)
		if err != nil && err != unix.ENOSYS && err != unix.EOPNOTSUPP {
			return fmt.Errorf("write blob %v: %w", p.digest, err)
		}
	}
	// A blob may take the place of another user's, which a gc has just seen to be
	// old: it must not remove ours for that.
	return b.guard.hold(unix.LOCK_SH, func() error {
		for _, p := range files {
			if err := os.Rename(p.file.Name(), filepath.Join(b.final, p.digest.String())); err != nil {
				return fmt.Errorf("write blob: %w", err)
			}
		}
		return nil
	})
}
