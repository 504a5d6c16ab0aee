package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/jacobsa/fuse/fuseops"
	"github.com/jacobsa/fuse/fuseutil"
	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/overlay"
)

// layered is what a debug mount has beside its tree: the layer, and where the
// directories of the tree are that the kernel holds. Requests that the layer has
// nothing to do with are answered as on any mount.
type layered struct {
	fs    *FS
	layer *overlay.Layer
	spool string
	asked atomic.Int64 // by the kernel about opens and closes, until it knows not to

	newsMu  sync.Mutex
	news    []string // paths that others changed, to tell the kernel of
	dropped []span   // of what the kernel is to forget
	wake    chan struct{}

	writingMu sync.Mutex
	writing   map[uint64]*writer   // by id
	doubted   map[uint64]time.Time // when those were closed of which it is not known whether others have them open

	filtering sync.Mutex
	// unsaid are changes of the filter that the kernel was not told of wholly, each as
	// what tells which paths it is about. GUARDED_BY(filtering)
	unsaid []func(path string) bool

	mu    sync.RWMutex
	paths map[uint64]string // of directories of the tree, by id
	ids   map[string]uint64 // the same the other way
}

const (
	// brief is how long the kernel may believe what it was told of a name that
	// others may change. They are told of at once; this is for an answer that
	// was on its way then.
	brief = 500 * time.Millisecond
	// debugWrite is the largest write that a debug mount takes in one request. The
	// library makes every request's buffer as large, those of reads as well.
	debugWrite = 32 << 10
	// newNames is where the offsets of names begin that the tree does not have.
	newNames = 1 << (tagShift - 1)
	// someNames is how many of these are looked up at once.
	someNames = 256
)

// errTree says that a request is answered as on any mount.
var errTree = errors.New("the tree's to answer")

// newLayered puts a layer over what f shows.
func newLayered(f *FS, opt overlay.Options) (*layered, error) {
	d := &layered{
		fs: f, spool: opt.Spool, wake: make(chan struct{}, 1), writing: make(map[uint64]*writer),
		doubted: make(map[uint64]time.Time),
		paths:   map[uint64]string{rootID: ""}, ids: map[string]uint64{"": rootID},
	}
	opt.Lower = below{f}
	opt.Changed = d.changed
	var err error
	if d.layer, err = overlay.New(opt); err != nil {
		return nil, err
	}
	return d, nil
}

// changed takes note of news. It does not wait: who tells may hold up a request
// that the kernel waits for before it takes a notice.
func (d *layered) changed(paths []string) {
	d.newsMu.Lock()
	d.news = append(d.news, paths...)
	d.newsMu.Unlock()
	signal(d.wake)
}

// run follows what others change, and tells the kernel, until the mount ends.
func (d *layered) run() {
	d.fs.background.Go(func() { d.layer.Follow(d.fs.life) })
	d.fs.background.Go(d.followCloses)
	d.fs.background.Go(func() {
		for {
			select {
			case <-d.wake:
			case <-d.fs.life.Done():
				return
			}
			d.newsMu.Lock()
			paths, dropped := d.news, d.dropped
			d.news, d.dropped = nil, nil
			d.newsMu.Unlock()
			for _, s := range dropped {
				d.fs.notice(d.fs.notifier.InvalidateInode(s.id, s.off, s.n))
			}
			d.tellKernel(paths)
		}
	})
}

// SetDebugFilter changes which paths of a debug mount can be changed, from the next
// request on. Open files go on as they are. Where that fails, the kernel may know
// some files as they were: another call, with the same filter or one more, mends that.
func (f *FS) SetDebugFilter(ctx context.Context, filter []*regexp.Regexp) error {
	d := f.debug
	d.filtering.Lock()
	defer d.filtering.Unlock()
	differs, err := d.layer.SetFilter(ctx, filter)
	if err == nil {
		d.unsaid = append(d.unsaid, differs)
		err = d.say(ctx)
	}
	if err != nil {
		return fmt.Errorf("change the debug filter of %s: %w", f.cfg.Path, err)
	}
	return nil
}

// say tells the kernel of the unsaid changes of the filter. d.filtering is held.
func (d *layered) say(ctx context.Context) error {
	if d.fs.View() == nil {
		d.unsaid = nil
		return nil
	}
	// The kernel may hold files of the tree, which are other inodes once they can
	// be changed.
	d.mu.RLock()
	dirs := slices.Collect(maps.Keys(d.ids))
	d.mu.RUnlock()
	for _, dir := range dirs {
		list, err := (below{d.fs}).Listing(ctx, dir)
		if err != nil {
			return err
		}
		if list == nil {
			continue
		}
		var paths []string
		for i := range list.Len() {
			path := object.Join(dir, string(list.At(i).Name))
			if slices.ContainsFunc(d.unsaid, func(differs func(string) bool) bool { return differs(path) }) {
				paths = append(paths, path)
			}
		}
		d.changed(paths)
	}
	d.unsaid = nil
	return nil
}

// tellKernel drops what the kernel knows of paths: the first name on the way
// there that it may not know to be a directory.
func (d *layered) tellKernel(paths []string) {
	// What was answered before has then reached the kernel.
	d.fs.mover.turn.Lock()
	//lint:ignore SA2001 all that had their turn have given it back
	d.fs.mover.turn.Unlock()
	told := make(map[string]bool)
	for _, p := range paths {
		if d.fs.life.Err() != nil {
			return
		}
		for ; p != ""; p = overlay.Dir(p) {
			id, ok := d.idOf(overlay.Dir(p))
			if !ok {
				continue
			}
			if !told[p] {
				told[p] = true
				d.fs.notice(d.fs.notifier.InvalidateEntry(fuseops.InodeID(id), overlay.Base(p)))
				d.fs.notice(d.fs.notifier.InvalidateInode(fuseops.InodeID(id), 0, 0)) // its listing, too
			}
			break
		}
	}
}

// idOf is the id of a directory that the kernel may hold.
func (d *layered) idOf(dir string) (uint64, bool) {
	d.mu.RLock()
	id, ok := d.ids[dir]
	d.mu.RUnlock()
	if ok {
		return id, true
	}
	return d.layer.DirID(dir)
}

// dir is where the directory id is.
func (d *layered) dir(id fuseops.InodeID) (string, error) {
	if id >= overlay.FirstID {
		n, ok := d.layer.Node(uint64(id))
		if !ok {
			return "", syscall.ESTALE
		}
		path, ok := n.Path()
		if !ok {
			return "", syscall.ENOENT
		}
		return path, nil
	}
	d.mu.RLock()
	path, ok := d.paths[uint64(id)]
	d.mu.RUnlock()
	if !ok {
		return "", syscall.ESTALE
	}
	return path, nil
}

// child is where a name in a directory is.
func (d *layered) child(parent fuseops.InodeID, name string) (string, error) {
	if len(name) > object.MaxName {
		return "", syscall.ENAMETOOLONG
	}
	dir, err := d.dir(parent)
	return object.Join(dir, name), err
}

// remember notes where a directory of the tree is.
func (d *layered) remember(id uint64, path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paths[id], d.ids[path] = path, id
}

// forget takes lookups back, of an inode of either kind.
func (d *layered) forget(id, n uint64) {
	if id >= overlay.FirstID {
		d.layer.Forget(id, n)
		return
	}
	d.mu.RLock()
	_, isDir := d.paths[id]
	d.mu.RUnlock()
	if !isDir {
		d.fs.table.forget(id, n)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fs.table.forget(id, n)
	if _, held := d.fs.table.get(id); !held {
		path := d.paths[id]
		delete(d.paths, id)
		if d.ids[path] == id {
			delete(d.ids, path)
		}
	}
}

// answer does what op asks for, or leaves it to the tree.
func (d *layered) answer(wait context.Context, t *turn, op any) error {
	switch op := op.(type) {
	case *fuseops.LookUpInodeOp:
		return d.lookUp(wait, t, op)
	case *fuseops.GetInodeAttributesOp:
		return d.getAttributes(t, op)
	case *fuseops.ReadDirPlusOp:
		return d.readDir(wait, t, &op.ReadDirOp, true)
	case *fuseops.ReadDirOp:
		return d.readDir(wait, t, op, false)
	case *fuseops.OpenFileOp, *fuseops.FlushFileOp:
		d.asked.Add(1)
		return errTree
	case *fuseops.ReadFileOp:
		return d.read(wait, op)
	case *fuseops.SyncFileOp:
		return d.commit(wait, op.Inode)
	case *fuseops.ForgetInodeOp:
		d.forget(uint64(op.Inode), op.N)
		return nil
	case *fuseops.BatchForgetOp:
		for _, e := range op.Entries {
			d.forget(uint64(e.Inode), e.N)
		}
		return nil
	case *fuseops.ReadSymlinkOp:
		n, ok := d.node(op.Inode)
		if !ok {
			return errTree
		}
		if wait == nil {
			return errWait
		}
		var err error
		op.Target, err = n.Readlink(wait)
		return err
	case *fuseops.StatFSOp:
		return d.statFS(op)
	case *fuseops.GetXattrOp:
		return d.gate(wait, op)
	case *fuseops.RemoveXattrOp:
		return d.refuse(op)
	case *fuseops.ListXattrOp:
		if op.Inode < overlay.FirstID || !d.fs.cfg.Xattr {
			return errTree
		}
		return nil
	case *fuseops.SetXattrOp, *fuseops.FallocateOp:
		return syscall.ENOSYS // to a program: EOPNOTSUPP
	}
	return d.change(wait, t, op)
}

func (d *layered) node(id fuseops.InodeID) (*overlay.Node, bool) {
	if id < overlay.FirstID {
		return nil, false
	}
	return d.layer.Node(uint64(id))
}

func (d *layered) lookUp(wait context.Context, t *turn, op *fuseops.LookUpInodeOp) error {
	path, err := d.child(op.Parent, op.Name)
	if err != nil {
		return err
	}
	moment := d.layer.Moment()
	n, verdict, err := d.layer.Look(wait, path)
	if err != nil {
		return err
	}
	switch {
	case verdict == overlay.Here:
		d.enter(&op.Entry, n)
		return nil
	case verdict == overlay.Nothing, op.Parent >= overlay.FirstID:
		op.Entry.EntryExpiration = time.Now().Add(brief)
		return nil
	}
	if err := d.fs.lookUp(wait, t, op); err != nil {
		return err
	}
	if op.Entry.Child != 0 && op.Entry.Attributes.Mode.IsDir() {
		d.remember(uint64(op.Entry.Child), path)
		d.date(path, &op.Entry.Attributes)
	}
	if d.layer.Moment() != moment {
		// The kernel may have been told of a change already, and this would
		// come after that. Now that it has its turn it won't.
		d.undoEntry(&op.Entry)
		op.Entry = fuseops.ChildInodeEntry{}
		t.end()
		return d.lookUp(wait, t, op)
	}
	if d.layer.Matches(path) {
		op.Entry.EntryExpiration = time.Now().Add(brief)
	}
	return nil
}

// enter tells the kernel of a node, which is held for that.
func (d *layered) enter(out *fuseops.ChildInodeEntry, n *overlay.Node) {
	out.Child = fuseops.InodeID(n.ID)
	out.Attributes = nodeAttributes(n)
	out.AttributesExpiration = forever
	out.EntryExpiration = time.Now().Add(brief)
}

func nodeAttributes(n *overlay.Node) fuseops.InodeAttributes {
	at := n.Attr()
	a := attributes(at.Kind, uint16(at.Mode), at.Size, at.Mtime.UnixNano())
	if at.Gone {
		a.Nlink = 0
	}
	return a
}

// date gives a directory of the tree the time of its last change.
func (d *layered) date(path string, a *fuseops.InodeAttributes) {
	if t, ok := d.layer.Touched(path); ok {
		a.Mtime, a.Ctime = t, t
	}
}

func (d *layered) getAttributes(t *turn, op *fuseops.GetInodeAttributesOp) error {
	if op.Inode >= overlay.FirstID {
		n, ok := d.node(op.Inode)
		if !ok {
			return syscall.ESTALE
		}
		op.Attributes = nodeAttributes(n)
		op.AttributesExpiration = forever
		return nil
	}
	err := d.fs.getAttributes(t, op)
	if err == nil && op.Attributes.Mode.IsDir() {
		if path, err := d.dir(op.Inode); err == nil {
			d.date(path, &op.Attributes)
		}
	}
	return err
}

func (d *layered) statFS(op *fuseops.StatFSOp) error {
	if err := d.fs.statFS(op); err != nil {
		return err
	}
	var st unix.Statfs_t
	if unix.Statfs(d.spool, &st) == nil {
		op.BlocksFree = st.Bfree * uint64(st.Bsize) / uint64(op.BlockSize)
		op.BlocksAvailable = st.Bavail * uint64(st.Bsize) / uint64(op.BlockSize)
		op.Blocks += op.BlocksFree
		op.InodesFree = st.Ffree
	}
	return nil
}

// readDir is what the tree has in a directory, without what the layer hides, and
// then what the layer has beside it. Names that the layer may answer for come
// without an inode: the kernel looks them up.
func (d *layered) readDir(wait context.Context, t *turn, op *fuseops.ReadDirOp, plus bool) error {
	dir, err := d.dir(op.Inode)
	if err != nil {
		return err
	}
	write, bare := direntWriter(writeDirent), direntWriter(writeDirent)
	if plus {
		write, bare = d.fs.plus, writeDirentPlusBare
	}
	var list *object.Listing // what the tree has there, where the layer has more
	more := len(d.layer.Names(dir, 0, 1)) > 0
	if more {
		if list, err = (below{d.fs}).Listing(wait, dir); err != nil {
			return err
		}
	}
	full := false
	filter := func(write direntWriter) direntWriter {
		return func(buf []byte, id uint64, pos int, e object.Entry, de fuseutil.Dirent) (n int, err error) {
			verdict, path := overlay.Tree, ""
			if pos >= 0 {
				path = object.Join(dir, de.Name)
				verdict = d.layer.Concerns(path)
			}
			switch verdict {
			case overlay.Nothing:
				return -1, nil
			case overlay.Here:
				if kind, ok := d.layer.Kind(path); ok {
					de.Type = direntType(kind)
				}
				n, err = bare(buf, id, pos, e, de)
			default:
				n, err = write(buf, id, pos, e, de)
				if n > 0 && plus && pos >= 0 && e.Kind == object.Dir {
					// By the id that was said: another may be in its place.
					d.remember(*(*uint64)(unsafe.Pointer(&buf[0])), path)
				}
			}
			full = n == 0
			return n, err
		}
	}
	if op.Inode < overlay.FirstID {
		if err := d.fs.readDir(wait, t, op, filter(write), filter(bare)); err != nil || full {
			return err
		}
	} else {
		for off := op.Offset; off < firstEntry; off++ {
			n, err := bare(op.Dst[op.BytesRead:], uint64(op.Inode), -1, object.Entry{}, fuseutil.Dirent{
				Offset: off + 1, Inode: op.Inode, Type: fuseutil.DT_Directory, Name: ".."[:off+1],
			})
			if err != nil || n == 0 {
				return err
			}
			op.BytesRead += n
		}
	}
	if !more {
		return nil
	}
	return d.readAdded(op, dir, list, bare)
}

// readAdded says the names of a directory that the tree does not have, as list tells.
func (d *layered) readAdded(op *fuseops.ReadDirOp, dir string, list *object.Listing, write direntWriter) error {
	tag := d.fs.now.Load().number % tags << tagShift
	from := uint64(op.Offset) & (1<<tagShift - 1)
	from -= min(from, newNames)
	for {
		names := d.layer.Names(dir, from, someNames)
		for _, name := range names {
			from = name.Cookie + 1
			if list != nil {
				if _, inTree := list.Find([]byte(name.Name)); inTree {
					continue
				}
			}
			e := object.Entry{Name: []byte(name.Name), Kind: name.Kind}
			n, err := write(op.Dst[op.BytesRead:], uint64(op.Inode), 0, e, fuseutil.Dirent{
				Offset: fuseops.DirOffset(newNames+from) | fuseops.DirOffset(tag), Name: name.Name, Type: direntType(name.Kind),
			})
			if err != nil || n == 0 {
				return err
			}
			op.BytesRead += n
		}
		if len(names) < someNames {
			return nil
		}
	}
}

// below is the tree, for the layer.
type below struct{ fs *FS }

func (b below) Entry(ctx context.Context, path string) (object.Entry, bool, error) {
	v := b.fs.View()
	if v == nil {
		return object.Entry{}, false, errPending
	}
	e := v.Root()
	at := ""
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		if e.Kind != object.Dir {
			return object.Entry{}, false, nil
		}
		l, ok := v.Cached(e.Digest)
		if !ok {
			if ctx == nil {
				return object.Entry{}, false, errWait
			}
			var err error
			if l, err = v.Listing(ctx, at, e.Digest); err != nil {
				return object.Entry{}, false, err
			}
		}
		i, ok := l.Find([]byte(name))
		if !ok {
			return object.Entry{}, false, nil
		}
		e = l.At(i)
		at = object.Join(at, name)
	}
	return e, true, nil
}

func (b below) Listing(ctx context.Context, path string) (*object.Listing, error) {
	e, ok, err := b.Entry(ctx, path)
	if err != nil || !ok || e.Kind != object.Dir {
		return nil, err
	}
	v := b.fs.View()
	if l, ok := v.Cached(e.Digest); ok {
		return l, nil
	}
	if ctx == nil {
		return nil, errWait
	}
	return v.Listing(ctx, path, e.Digest)
}

func (b below) Read(ctx context.Context, e object.Entry, w io.Writer) error {
	if e.Size == 0 {
		return nil
	}
	s := b.fs.now.Load()
	chunks := []object.Chunk{{Size: e.Size, Digest: e.Digest}}
	if e.Chunked {
		list, err := s.chunks(ctx, e.Digest, e.Size)
		if err != nil {
			return err
		}
		chunks = list.Chunks
	}
	for _, c := range chunks {
		blob, err := s.get(ctx, s.view.BlobRef(c.Digest, c.Size))
		if err != nil {
			return err
		}
		n, err := w.Write(blob.Data)
		blob.Release()
		if err == nil && int64(n) != c.Size {
			err = fmt.Errorf("blob %s does not have the %d bytes that the tree says: %w", c.Digest, c.Size, object.ErrFormat)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
