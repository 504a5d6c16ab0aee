package fs

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jacobsa/fuse"
	"github.com/jacobsa/fuse/fuseops"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/overlay"
	"github.com/aysfs/aysfs/src/tree"
)

// Config says how one mount behaves.
type Config struct {
	Path      string        // where it is mounted
	Name      string        // of the mount, for mount(8) and logs
	IOTimeout time.Duration // a request without an answer by then ends in EIO
	Xattr     bool          // tell user.aysfs.* attributes
	Window    int64         // most bytes fetched ahead in one large file
	// Nested is set where the path lies in another mount, which may show a
	// directory there that is not empty.
	Nested bool
	// Debug lets files be changed, over the tree; nil: nothing can be. Lower
	// and Changed of it are set here.
	Debug *overlay.Options
	// Keeper gets what a successor of this process needs to go on; nil: there is
	// none. A mount that can be changed is not given to it. Note is for whoever
	// decides about Resume then, up to 16 KiB of JSON.
	Keeper Keeper
	Note   []byte
	Log    *slog.Logger
}

// FS is one mount. Which view it shows changes by Show.
type FS struct {
	cfg Config
	log *slog.Logger
	now atomic.Pointer[shown]

	ioTimeout, window atomic.Int64 // of Config, as they are now

	plus direntWriter // writeDirentPlus, bound once

	table *inodes
	debug *layered // nil: read-only

	mover      mover
	notifier   *fuse.Notifier
	wire       wire
	device     string   // of the mount, MAJOR:MINOR; set when it is mounted or resumed
	mounts     *os.File // the table of mounts; may be nil
	kept       *kept    // nil: without a keeper
	walkers    walkers
	streams    streams
	walks      walks
	crowds     crowds
	programs   programs
	guesses    guesses
	losses     losses
	needs      needs
	life       context.Context // ends when the mount does
	end        context.CancelFunc
	background sync.WaitGroup
	done       chan struct{}

	complaints complaints
}

// New returns a file system that shows view; Mount makes it visible. Without a
// view, nil, it is an empty directory in which every lookup fails at once with EIO,
// until Show gives it one.
func New(cfg Config, view *tree.View, blobs Blobs) (*FS, error) {
	root := object.Entry{Kind: object.Dir, Mode: 0o755, Mtime: time.Now().UnixNano()}
	log := cfg.Log.With("mount", cfg.Path)
	if view != nil {
		root = view.Root()
		log = log.With("tree", view.Head().Tree.String())
	}
	table, err := newInodes(root)
	if err != nil {
		return nil, err
	}
	f := newFS(cfg, table, &shown{view: view, blobs: blobs}, log)
	if cfg.Debug != nil {
		if f.debug, err = newLayered(f, *cfg.Debug); err != nil {
			f.Abandon()
			return nil, err
		}
	} else if cfg.Keeper != nil {
		f.kept = &kept{by: cfg.Keeper, path: cfg.Path, log: log}
	}
	return f, nil
}

func newFS(cfg Config, table *inodes, s *shown, log *slog.Logger) *FS {
	f := &FS{cfg: cfg, table: table, done: make(chan struct{}), log: log, notifier: fuse.NewNotifier(), wire: newWire()}
	f.plus = f.writeDirentPlus
	f.SetLimits(cfg.IOTimeout, cfg.Window)
	f.life, f.end = context.WithCancel(context.Background())
	s.over, s.end = context.WithCancel(f.life)
	f.now.Store(s)
	f.streams.fs = f
	f.walks.fs, f.crowds.fs = f, f
	f.programs.fs = f
	return f
}

// View is what is shown, nil where there is no tree yet.
func (f *FS) View() *tree.View { return f.now.Load().view }

// Inodes is how many inodes the kernel holds.
func (f *FS) Inodes() int { return f.table.held() }

// Done is closed when the kernel has let go of the mount.
func (f *FS) Done() <-chan struct{} { return f.done }

// ended follows the last answer.
func (f *FS) ended() {
	f.end()
	f.mover.mu.Lock()
	f.mover.ended = true
	f.mover.mu.Unlock()
	f.background.Wait()
	f.guesses.end()
	if !f.wire.close() {
		f.kept.drop()
	}
	f.table.close()
	f.mounts.Close()
	f.closeDebug()
	close(f.done)
}

// complaints keeps a failing store from filling the log: a second apart, with
// the number of those left out.
type complaints struct {
	mu      sync.Mutex
	last    time.Time
	omitted int
}

// failed logs an error that a program is about to be told of, where it isn't an
// ordinary answer.
func (f *FS) failed(op any, err error) {
	e := f.errno(err)
	if e != syscall.EIO && e != syscall.ESTALE || err == errLost || err == errPending {
		return
	}
	if _, set := op.(*fuseops.SetInodeAttributesOp); set && e == syscall.ESTALE {
		return // the kernel looks again
	}
	c := &f.complaints
	c.mu.Lock()
	if time.Since(c.last) < time.Second {
		c.omitted++
		c.mu.Unlock()
		return
	}
	omitted := c.omitted
	c.last, c.omitted = time.Now(), 0
	c.mu.Unlock()
	name := strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%T", op), "*fuseops."), "Op")
	f.log.Error("a request failed", "op", name, "err", err, "omitted", omitted)
}

// Abandon gives back what New took, where Mount failed.
func (f *FS) Abandon() {
	f.end()
	f.table.close()
	f.mounts.Close()
	f.closeDebug()
}

func (f *FS) closeDebug() {
	if f.debug == nil {
		return
	}
	f.debug.closeOld(0)
	if err := f.debug.layer.Close(); err != nil {
		f.log.Warn("can't remove what was changed on this machine only", "op", "unmount", "err", err)
	}
}

// Writing tells whether something is being written that the kernel or this process
// alone may have.
func (f *FS) Writing() bool {
	if f.debug == nil {
		return false
	}
	f.debug.writingMu.Lock()
	n := len(f.debug.writing)
	f.debug.writingMu.Unlock()
	return n > 0 || f.debug.layer.Status().Unsent > 0
}

// Layer is what can be changed over the tree; nil on a mount without debug.
func (f *FS) Layer() *overlay.Layer {
	if f.debug == nil {
		return nil
	}
	return f.debug.layer
}
