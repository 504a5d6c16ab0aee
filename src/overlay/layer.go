package overlay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/debug"
	"github.com/aysfs/aysfs/src/object"
)

// Lower is the tree beneath the layer, as it is now.
type Lower interface {
	// Entry returns what the tree has at path; false where it has nothing.
	Entry(ctx context.Context, path string) (object.Entry, bool, error)
	// Listing returns what is in a directory of the tree; nil where there is
	// no such directory.
	Listing(ctx context.Context, path string) (*object.Listing, error)
	// Read writes the content of a file of the tree to w.
	Read(ctx context.Context, e object.Entry, w io.Writer) error
}

// Remote is where shared changes live.
type Remote interface {
	// All returns the changes by path, LookupAll those of some paths.
	All(ctx context.Context) (map[string]debug.Change, error)
	LookupAll(ctx context.Context, paths []string) (map[string]debug.Change, error)
	// Copy writes a content to w.
	Copy(ctx context.Context, w io.Writer, md5 string, size int64) error
	// Record writes changes, all or none.
	Record(ctx context.Context, files []debug.File) error
	// End is where the log ends, Since what is behind a place in it, Log all.
	End(ctx context.Context) (debug.Position, error)
	Since(ctx context.Context, p debug.Position) (found []debug.Entry, next debug.Position, reset bool, err error)
	Log(ctx context.Context, each func(debug.Entry) error) error
	Close() error
}

// Options say how a layer is to be.
type Options struct {
	Remote  Remote // Close closes it
	Lower   Lower
	Filter  []*regexp.Regexp // each matches whole paths
	Spool   string           // a directory that layers have their spools in
	MaxSize int64            // of a shared file, in bytes
	Every   time.Duration    // between two looks at what others did
	Timeout time.Duration    // of one such look
	// Changed is told of paths that show something else than before, other
	// than by a call here. It is called with no lock held.
	Changed func(paths []string)
	Log     *slog.Logger
}

// Layer is what was changed over one tree.
type Layer struct {
	opt   Options
	spool *spool
	log   *slog.Logger

	// change is held by who changes what stands where, and over exchanges with
	// redis that belong to that.
	change chan struct{}

	mu      sync.RWMutex
	filter  []*regexp.Regexp
	shared  map[string]state      // what redis has, of every path
	scratch map[string]*Node      // what is on this machine only
	nodes   map[string]*Node      // what was looked at of the rest
	ids     map[uint64]*Node      // all that the kernel holds, and all scratch
	lastID  uint64                //
	shown   map[string]bool       // paths that the layer shows something at
	dirs    map[string]*directory // of these and of the directories above them, by directory
	times   map[string]time.Time  // when a directory was changed last
	late    map[*Node]bool        // changed, and nobody has them open to hear of an error
	lent    map[*Node]bool        // their content is open, to be read

	moment atomic.Uint64 // grows when a path comes to show something else

	follower
}

// state is what redis has at a path.
type state struct {
	debug.Change
	time time.Time
}

// directory is the names that the layer shows in one.
type directory struct {
	names map[string]*name
	order []*name // by cookie, and some that are gone
	last  uint64  // the greatest cookie given
}

// name is a name in a directory.
type name struct {
	base   string
	refs   int // 0: gone
	cookie uint64
}

// FirstID is where the ids of nodes begin; those of a tree's inodes end there.
const FirstID = 1 << 52

// New returns a layer that nothing is known of yet; Follow makes it known.
func New(opt Options) (*Layer, error) {
	s, err := newSpool(opt.Spool, 4*opt.MaxSize)
	if err != nil {
		return nil, errors.Join(err, opt.Remote.Close())
	}
	l := &Layer{
		opt: opt, spool: s, log: opt.Log, filter: opt.Filter, change: make(chan struct{}, 1),
		shared: make(map[string]state), scratch: make(map[string]*Node), nodes: make(map[string]*Node),
		ids: make(map[uint64]*Node), lastID: FirstID, shown: make(map[string]bool),
		dirs: make(map[string]*directory), times: make(map[string]time.Time), late: make(map[*Node]bool),
		lent: make(map[*Node]bool), follower: follower{woken: make(chan struct{}, 1)},
	}
	return l, nil
}

// Close sends what could not be sent before, and gives up what is on this machine
// only, and the remote. Nothing else may go on.
func (l *Layer) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), l.opt.Timeout)
	defer cancel()
	return errors.Join(l.sendLate(ctx), l.spool.close(), l.opt.Remote.Close())
}

// begin takes the change lock, end gives it back.
func (l *Layer) begin(ctx context.Context) error {
	select {
	case l.change <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another change to end: %w", ctx.Err())
	}
}

func (l *Layer) end() { <-l.change }

// matches tells whether a path is shared. l.mu is held.
func (l *Layer) matches(path string) bool { return match(l.filter, path) }

func match(filter []*regexp.Regexp, path string) bool {
	for _, re := range filter {
		if re.MatchString(path) {
			return true
		}
	}
	return false
}

// Matches tells whether changes of a path go to redis.
func (l *Layer) Matches(path string) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.matches(path)
}

// SetFilter changes which paths are shared. What was scratch stays so; what was
// shared and is not any more shows as the tree has it. It returns what tells which
// paths mean something else now.
func (l *Layer) SetFilter(ctx context.Context, filter []*regexp.Regexp) (differs func(path string) bool, err error) {
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	defer l.end()
	l.mu.Lock()
	old := l.filter
	differs = func(path string) bool { return match(old, path) != match(filter, path) }
	l.filter = filter
	l.moment.Add(1)
	var paths []string
	for path := range l.shared {
		if differs(path) {
			l.refresh(path)
			l.touch(Dir(path))
			paths = append(paths, path)
		}
	}
	for path, n := range l.nodes {
		if n.Kind != object.Dir && !l.matches(path) {
			// Who has it open goes on with it; what is written to it from now on
			// can't be sent, which its writer is told.
			delete(l.nodes, path)
			l.refresh(path)
			paths = append(paths, path)
		}
	}
	l.mu.Unlock()
	l.tell(paths)
	return differs, nil
}

// Verdict is who tells what stands at a path.
type Verdict int

const (
	Tree    Verdict = iota // the tree, as if there was no layer
	Here                   // the layer has a node
	Nothing                // nothing is there, whatever the tree has
)

// lower is what the tree said of a path.
type lower struct {
	entry object.Entry
	ok    bool
}

// Look finds what stands at path. A node counts as held once more: Forget takes
// that back.
func (l *Layer) Look(ctx context.Context, path string) (*Node, Verdict, error) {
	l.mu.Lock()
	n, v, ask := l.look(path, nil)
	if n != nil && !ask {
		l.hold(n)
	}
	l.mu.Unlock()
	if !ask {
		return n, v, nil
	}
	e, ok, err := l.opt.Lower.Entry(ctx, path)
	if err != nil {
		return nil, 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n, v, _ = l.look(path, &lower{e, ok})
	if n != nil {
		l.hold(n)
	}
	return n, v, nil
}

// Moment is a number that is another one once any path shows something else.
func (l *Layer) Moment() uint64 { return l.moment.Load() }

// look is Look. Where it depends on the tree, and tree is nil, it says so by ask.
func (l *Layer) look(path string, tree *lower) (n *Node, v Verdict, ask bool) {
	if n := l.scratch[path]; n != nil {
		return n, Here, false
	}
	n = l.nodes[path]
	match, implied := l.matches(path), l.dirs[path] != nil
	if match {
		if n != nil && n.dirty {
			return n, Here, false
		}
		s, known := l.shared[path]
		switch {
		case !known:
		case s.MD5 == "" && !implied:
			return nil, Nothing, false
		case s.MD5 != "":
			if n != nil && n.source != fromTree && n.change == s.Change {
				return n, Here, false
			}
			if s.Mode == 0 && tree == nil {
				return nil, 0, true
			}
			return l.put(l.fromShared(path, s, tree)), Here, false
		}
	}
	switch {
	case !match && !implied:
		return nil, Tree, false
	case tree == nil:
		return nil, 0, true
	case tree.ok && tree.entry.Kind == object.Dir:
		if s, known := l.shared[path]; known && match && s.MD5 == "" && !implied {
			return nil, Nothing, false
		}
		return nil, Tree, false
	case implied:
		if n == nil || n.Kind != object.Dir {
			n = l.put(&Node{Kind: object.Dir, path: path, mode: 0o755, mtime: l.timeOf(path)})
		}
		return n, Here, false
	case tree.ok && tree.entry.Kind == object.File:
		if n == nil || n.source != fromTree || !sameEntry(&n.entry, &tree.entry) {
			n = l.put(&Node{
				Kind: object.File, path: path, shared: true, source: fromTree, entry: tree.entry,
				size: tree.entry.Size, mode: uint32(tree.entry.Mode), mtime: time.Unix(0, tree.entry.Mtime),
			})
			n.entry.Name = slices.Clone(n.entry.Name)
		}
		return n, Here, false
	}
	return nil, Tree, false
}

func sameEntry(a, b *object.Entry) bool {
	return a.Kind == b.Kind && a.Digest == b.Digest && a.Size == b.Size && a.Mode == b.Mode && a.Mtime == b.Mtime
}

func (l *Layer) timeOf(dir string) time.Time {
	if t, ok := l.times[dir]; ok {
		return t
	}
	return time.Now()
}

// put gives a new node its id and its path.
func (l *Layer) put(n *Node) *Node {
	l.lastID++
	n.layer, n.ID = l, l.lastID
	l.ids[n.ID] = n
	l.nodes[n.path] = n
	return n
}

func (l *Layer) hold(n *Node) {
	n.held++
	l.ids[n.ID] = n
}

// Node returns a node that is held.
func (l *Layer) Node(id uint64) (*Node, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n := l.ids[id]
	return n, n != nil
}

// Forget takes back that a node was held, count times.
func (l *Layer) Forget(id, count uint64) {
	l.mu.Lock()
	n := l.ids[id]
	if n == nil {
		l.mu.Unlock()
		return
	}
	n.held -= min(n.held, count)
	gone := l.settle(n)
	l.mu.Unlock()
	gone()
}

// settle drops a node that nobody needs any more. l.mu is held; what it returns
// is to be called without.
func (l *Layer) settle(n *Node) func() {
	if n.held > 0 || n.opens > 0 || l.scratch[n.path] == n || n.dirty && !n.gone {
		return func() {}
	}
	delete(l.ids, n.ID)
	delete(l.lent, n)
	if l.nodes[n.path] == n {
		delete(l.nodes, n.path)
	}
	recorded := n.change
	if n.gone || !n.shared {
		recorded = debug.Change{}
	}
	return func() {
		n.io.Lock()
		defer n.io.Unlock()
		if n.file != nil {
			n.file.Close()
			n.file = nil
		}
		if n.source != fromHere || n.Kind != object.File {
			return
		}
		// What was sent to redis is what the next look needs.
		if recorded.Removed() || l.spool.keep(recorded, l.spool.path(n.ID)) != nil {
			l.spool.remove(n.ID)
		}
	}
}

// Held adds up how often nodes are held.
func (l *Layer) Held() (total uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, n := range l.ids {
		total += n.held
	}
	return total
}

// refresh notes whether the layer shows something at path, after a change of
// that. l.mu is held.
func (l *Layer) refresh(path string) {
	s, known := l.shared[path]
	n := l.nodes[path]
	want := l.scratch[path] != nil || l.matches(path) && (known && s.MD5 != "" || n != nil && n.dirty)
	l.moment.Add(1)
	if want == l.shown[path] {
		return
	}
	if want {
		l.shown[path] = true
	} else {
		delete(l.shown, path)
	}
	for p := path; p != ""; p = Dir(p) {
		d := l.dirs[Dir(p)]
		if d == nil {
			d = &directory{names: make(map[string]*name)}
			l.dirs[Dir(p)] = d
		}
		e := d.names[Base(p)]
		switch {
		case !want:
			if e.refs--; e.refs == 0 {
				delete(d.names, Base(p))
				if len(d.names) < len(d.order)/2 {
					d.order = slices.DeleteFunc(d.order, func(n *name) bool { return n.refs == 0 })
				}
			}
			if len(d.names) == 0 {
				delete(l.dirs, Dir(p))
			}
		case e == nil:
			d.last++
			e = &name{base: Base(p), refs: 1, cookie: d.last}
			d.names[e.base] = e
			d.order = append(d.order, e)
		default:
			e.refs++
		}
	}
}

// Dir and Base split a path.
func Dir(path string) string { return path[:max(strings.LastIndexByte(path, '/'), 0)] }

// Base is the last name of a path.
func Base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// Name is one name that the layer shows in a directory. A new name's cookie is
// greater than those of all others there.
type Name struct {
	Name   string
	Cookie uint64
	Kind   object.Kind
}

// Names returns what the layer shows in dir beside the tree or in place of it, by
// cookie: at most so many names from that cookie on.
func (l *Layer) Names(dir string, from uint64, most int) []Name {
	l.mu.RLock()
	defer l.mu.RUnlock()
	d := l.dirs[dir]
	if d == nil {
		return nil
	}
	i, _ := slices.BinarySearchFunc(d.order, from, func(n *name, c uint64) int { return cmp.Compare(n.cookie, c) })
	var some []Name
	for _, e := range d.order[i:] {
		if len(some) == most {
			break
		}
		if e.refs > 0 {
			some = append(some, Name{Name: e.base, Cookie: e.cookie, Kind: l.kindAt(object.Join(dir, e.base))})
		}
	}
	return some
}

// Kind is the kind of what the layer shows at path, beside the tree or in place of it;
// false where it shows nothing.
func (l *Layer) Kind(path string) (object.Kind, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.kindAt(path), l.shown[path] || l.dirs[path] != nil
}

func (l *Layer) kindAt(path string) object.Kind {
	if n := l.scratch[path]; n != nil {
		return n.Kind
	}
	if l.shown[path] {
		if n := l.nodes[path]; n != nil && n.dirty {
			return n.Kind
		}
		return kindOf(l.shared[path].Mode)
	}
	return object.Dir
}

// Concerns tells who shows the tree's entry at path in a listing: Tree where the
// layer has nothing to do with it, Here where only Look knows, Nothing where it is
// not shown.
func (l *Layer) Concerns(path string) Verdict {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.shown[path] {
		return Here
	}
	if !l.matches(path) {
		return Tree
	}
	if s, known := l.shared[path]; known && s.MD5 == "" && l.dirs[path] == nil {
		return Nothing
	}
	return Here
}

// Touched is when something was last changed in a directory; false where nothing
// ever was.
func (l *Layer) Touched(dir string) (time.Time, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	t, ok := l.times[dir]
	return t, ok
}

// SetTouched sets when a directory was changed last; false where nothing in it
// ever was.
func (l *Layer) SetTouched(dir string, t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.times[dir]; !ok {
		return false
	}
	l.times[dir] = t
	return true
}

// DirID is the id of a directory that the layer has a node of.
func (l *Layer) DirID(path string) (uint64, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n := l.scratch[path]
	if n == nil {
		n = l.nodes[path]
	}
	if n == nil || n.Kind != object.Dir {
		return 0, false
	}
	return n.ID, true
}

// touch notes that something in a directory changes now. l.mu is held.
func (l *Layer) touch(dir string) {
	now := time.Now()
	if old, ok := l.times[dir]; ok && !now.After(old) {
		now = old.Add(1)
	}
	l.times[dir] = now
	if n := l.scratch[dir]; n != nil {
		n.mtime = now
	} else if n := l.nodes[dir]; n != nil && n.Kind == object.Dir {
		n.mtime = now
	}
}
