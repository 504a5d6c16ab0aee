package watch

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pollEvery is how often the files are looked at whatever the kernel tells.
	pollEvery = 2 * time.Second
	// quiet is how long nothing may change before it is told.
	quiet = 200 * time.Millisecond
	// patience is how long a file may go on changing, or stay open for writing,
	// before it is told all the same.
	patience = 30 * time.Second
	// maxLinks is how many symlinks one path is followed through.
	maxLinks = 40
)

// Files sends a value when one of the files has changed since the last value, or
// since the call, until ctx is done; then the channel is closed. files is asked
// for their names at every look; it is called by one goroutine of Files.
func Files(ctx context.Context, files func() []string, log *slog.Logger) <-chan struct{} {
	w := &watcher{files: files, log: log, opens: make(map[string]int), writing: make(map[string]bool), watched: make(map[int]bool)}
	w.open()
	w.seen = w.look()
	changed := make(chan struct{}, 1)
	go func() {
		defer close(changed)
		w.run(ctx, changed)
	}()
	return changed
}

type watcher struct {
	files func() []string
	log   *slog.Logger

	kernel  *os.File // nil: it can't be asked
	events  chan []event
	watched map[int]bool // watch descriptors of directories

	names   map[string]bool // of the files, and of symlinks on the way to them
	seen    map[string]sight
	opens   map[string]int  // of files in the watched directories, by name
	writing map[string]bool // names of files that were written to, and may be still
	touched bool            // one was written to since the last look
}

// sight is how a file looks from outside; zero where there is none.
type sight struct {
	device, inode    uint64
	size             int64
	modified, change int64 // nanoseconds since 1970
}

func sightOf(path string) sight {
	st, err := os.Stat(path)
	if err != nil {
		return sight{}
	}
	s := sight{size: st.Size(), modified: st.ModTime().UnixNano()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		s.device, s.inode = uint64(sys.Dev), uint64(sys.Ino)
		s.change = time.Unix(int64(sys.Ctim.Sec), int64(sys.Ctim.Nsec)).UnixNano()
	}
	return s
}

// look looks at all files, and has the kernel tell of the directories on the way.
func (w *watcher) look() map[string]sight {
	now := make(map[string]sight)
	w.names = make(map[string]bool)
	dirs := make(map[string]bool)
	for _, f := range w.files() {
		now[f] = sightOf(f)
		for range maxLinks {
			dirs[filepath.Dir(f)], w.names[filepath.Base(f)] = true, true
			target, err := os.Readlink(f)
			if err != nil {
				break
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(f), target)
			}
			f = target
		}
	}
	w.watch(slices.Collect(maps.Keys(dirs)))
	return now
}

func (w *watcher) run(ctx context.Context, changed chan<- struct{}) {
	defer w.close()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case batch := <-w.events:
			if !w.take(batch) {
				continue
			}
		case <-poll.C:
		}
		if now := w.look(); !w.touched && maps.Equal(now, w.seen) {
			continue
		}
		if !w.settle(ctx) {
			return
		}
		select {
		case changed <- struct{}{}:
		default: // one that waits to be taken tells of this, too
		}
	}
}

// settle waits until nothing changes any more. What changes after it returned is
// told of again.
func (w *watcher) settle(ctx context.Context) bool {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		w.seen, w.touched = w.look(), false
		pause := time.After(quiet)
		for still := true; still; {
			select {
			case <-ctx.Done():
				return false
			case <-limit.C:
				w.seen = w.look()
				return true
			case batch := <-w.events:
				still = !w.take(batch)
			case <-pause:
				if now := w.look(); !w.underWay() && maps.Equal(now, w.seen) {
					return true
				}
				still = false
			}
		}
	}
}

// underWay tells whether one who wrote to a file has it open still. A file that was
// only cut short has nobody.
func (w *watcher) underWay() bool {
	for name := range w.writing {
		if w.opens[name] > 0 {
			return true
		}
	}
	return false
}

// take notes what the kernel tells of the files, and tells whether to look.
func (w *watcher) take(batch []event) (look bool) {
	for _, e := range batch {
		own := w.names[e.name]
		switch {
		case e.mask&unix.IN_Q_OVERFLOW != 0:
			clear(w.writing) // what closed may not have been told
			clear(w.opens)
			w.touched, look = true, true
		case e.mask&unix.IN_OPEN != 0:
			if own {
				w.opens[e.name]++
			}
		case e.mask&unix.IN_MODIFY != 0:
			if own {
				w.writing[e.name], w.touched, look = true, true, true
			}
		case e.mask&unix.IN_CLOSE != 0:
			if own && w.opens[e.name] > 0 {
				w.opens[e.name]--
			}
			if own && e.mask&unix.IN_CLOSE_WRITE != 0 {
				delete(w.writing, e.name)
				look = true
			}
		default: // names have come or gone, symlinks on the way among them
			delete(w.writing, e.name)
			delete(w.opens, e.name)
			look = true
		}
	}
	return look
}

func (w *watcher) open() {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		w.log.Info("the kernel can't tell of changed files: they are looked at from time to time", "op", "watch", "every", pollEvery, "err", err)
		return
	}
	w.kernel, w.events = os.NewFile(uintptr(fd), "inotify"), make(chan []event)
	go read(w.kernel, w.events)
}

const wanted = unix.IN_OPEN | unix.IN_MODIFY | unix.IN_CLOSE | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_ATTRIB | unix.IN_ONLYDIR

// watch has the kernel tell of these directories and no others. One that was
// replaced is another one.
func (w *watcher) watch(dirs []string) {
	if w.kernel == nil {
		return
	}
	now := make(map[int]bool)
	// Not Fd: that would make reads block for good.
	conn, err := w.kernel.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		for _, dir := range dirs {
			if wd, err := unix.InotifyAddWatch(int(fd), dir, wanted); err == nil {
				now[wd] = true
			} else if !os.IsNotExist(err) {
				w.log.Debug("can't watch a directory", "op", "watch", "path", dir, "err", err)
			}
		}
		for wd := range w.watched {
			if !now[wd] {
				// It is an error where the directory is gone: then so is the watch.
				_, _ = unix.InotifyRmWatch(int(fd), uint32(wd))
			}
		}
	})
	w.watched = now
}

func (w *watcher) close() {
	if w.kernel == nil {
		return
	}
	w.kernel.Close()
	for range w.events { // closed by read
	}
}
