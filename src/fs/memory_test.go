package fs

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tree"
)

// memory is a source of blobs that counts who holds them. Blobs in far are not
// local until they have been got.
type memory struct {
	mu    sync.Mutex
	blobs map[digest.Digest][]byte
	far   map[digest.Digest]bool
	held  int
	gets  int
	ahead []digest.Digest        // prefetched, in order
	got   []digest.Digest        // what was far when Get was called
	files map[digest.Digest]bool // content of files in one blob
	gate  chan struct{}          // if not nil, Get waits for it
	slow  time.Duration          // each Get takes up to this long
	room  chan struct{}          // if not nil, nothing can be prefetched, and each blob that is brought takes one
	local int                    // how often a piece of a blob was asked for
	disk  chan struct{}          // if not nil, nothing is in memory, and Local waits for it
	begun map[digest.Digest]bool
	moves atomic.Bool // other things come all the time

	cache  *tree.Cache
	serial int64  // of the last tree published
	domain string // of the trees that are published
	absent string // a domain that has nothing
}

func newMemory() *memory {
	return &memory{
		blobs: make(map[digest.Digest][]byte), far: make(map[digest.Digest]bool), files: make(map[digest.Digest]bool),
		begun: make(map[digest.Digest]bool),
		cache: tree.NewCache(16 << 20), domain: "default",
	}
}

func (m *memory) put(b []byte) digest.Digest {
	d := digest.Of(b)
	m.change(func() { m.blobs[d] = b })
	return d
}

func (m *memory) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// lose makes a content far, or all of it, and has Get wait for gate.
func (m *memory) lose(gate chan struct{}, contents ...string) {
	m.change(func() {
		m.gate = gate
		for _, c := range contents {
			m.far[digest.Of([]byte(c))] = true
		}
		for d := range m.blobs {
			if len(contents) == 0 {
				m.far[d] = true
			}
		}
	})
}

func (m *memory) lend(b []byte) tier.Blob {
	m.held++
	return tier.NewBlob(b, func() {
		m.mu.Lock()
		m.held--
		m.mu.Unlock()
	})
}

func (m *memory) Get(ctx context.Context, ref tier.Ref) (tier.Blob, error) {
	var gate chan struct{}
	var slow time.Duration
	m.change(func() { gate, slow = m.gate, m.slow })
	if slow > 0 {
		time.Sleep(rand.N(slow))
	}
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return tier.Blob{}, fmt.Errorf("get %v: %w", ref, ctx.Err())
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets++
	if m.far[ref.Digest] {
		m.got = append(m.got, ref.Digest)
	}
	b, ok := m.blobs[ref.Digest]
	if !ok || ref.Domain == m.absent {
		return tier.Blob{}, fmt.Errorf("get %v: %w", ref, tier.ErrAbsent)
	}
	delete(m.far, ref.Digest)
	return m.lend(b), nil
}

func (m *memory) Copy(ctx context.Context, ref tier.Ref) ([]byte, error) {
	b, err := m.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer b.Release()
	return bytes.Clone(b.Data), nil
}

func (m *memory) Local(ref tier.Ref, off, n int64) (tier.Blob, bool) {
	var disk chan struct{}
	m.change(func() { disk = m.disk })
	if disk != nil {
		<-disk
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.local++
	b, ok := m.blobs[ref.Digest]
	if !ok || m.far[ref.Digest] || off+n > int64(len(b)) {
		return tier.Blob{}, false
	}
	return m.lend(b[off : off+n]), true
}

// Ready has a third of the local blobs in memory, has the disk begin to read another
// third, which is in memory when asked for again, and knows nothing of the rest.
func (m *memory) Ready(ref tier.Ref, off, n int64) (tier.Blob, tier.Nearness) {
	if !m.Has(ref) {
		return tier.Blob{}, tier.Unknown
	}
	near := tier.Nearness(ref.Digest[0] % 3)
	m.change(func() {
		if m.disk != nil {
			near = tier.Coming
		} else if near == tier.Coming {
			if m.begun[ref.Digest] {
				near = tier.InMemory
			}
			m.begun[ref.Digest] = !m.begun[ref.Digest]
		}
	})
	if near != tier.InMemory {
		return tier.Blob{}, near
	}
	b, ok := m.Local(ref, off, n)
	if !ok {
		return b, tier.Unknown
	}
	return b, near
}

func (m *memory) WillNeed(tier.Ref) bool { return false }

func (m *memory) Has(ref tier.Ref) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.blobs[ref.Digest]
	return ok && !m.far[ref.Digest]
}

func (m *memory) Prefetch(ref tier.Ref) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.room != nil {
		return false
	}
	m.bring(ref)
	return true
}

// bring has a blob on this machine from now on. m.mu is held.
func (m *memory) bring(ref tier.Ref) {
	m.ahead = append(m.ahead, ref.Digest)
	delete(m.far, ref.Digest)
}

func (m *memory) Bring(ctx context.Context, _ tier.Priority, refs iter.Seq[tier.Ref], each func(tier.Ref, error)) error {
	m.mu.Lock()
	room := m.room
	m.mu.Unlock()
	for ref := range refs {
		if room != nil {
			select {
			case <-room:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		m.change(func() { m.bring(ref) })
		if each != nil {
			each(ref, nil)
		}
	}
	return nil
}

func (m *memory) Arrived(time.Time) bool { return m.moves.Load() }

func (m *memory) Origin(tier.Ref) string { return "memory" }

// dir is a directory to be made into a tree: names to a dir, a string (a file's
// content) or a link.
type dir map[string]any

type link string

// program is a file that is executable.
type program string

func (m *memory) listing(t testing.TB, d dir, path string, cat *[]object.DirListing) (digest.Digest, int64) {
	t.Helper()
	at := len(*cat)
	*cat = append(*cat, object.DirListing{Path: path})
	var entries []object.Entry
	for name, v := range d {
		e := object.Entry{Name: []byte(name), Mode: 0o644, Mtime: 1234567890123456789}
		switch v := v.(type) {
		case dir:
			e.Kind, e.Mode = object.Dir, 0o755
			e.Digest, e.Size = m.listing(t, v, object.Join(path, name), cat)
		case string:
			e.Size = int64(len(v))
			if e.Size <= object.MaxBlob {
				e.Digest = m.put([]byte(v))
				m.change(func() { m.files[e.Digest] = true })
			} else {
				e.Digest, e.Chunked = m.chunk([]byte(v)), true
			}
		case program:
			e.Size, e.Mode, e.Digest = int64(len(v)), 0o755, m.put([]byte(v))
		case link:
			e.Kind, e.Mode, e.Target, e.Size = object.Symlink, 0o777, []byte(v), int64(len(v))
		}
		entries = append(entries, e)
	}
	raw, err := object.EncodeListing(entries)
	if err != nil {
		t.Fatal(err)
	}
	(*cat)[at].Listing = raw
	return digest.Of(raw), int64(len(raw))
}

const testChunk = 100_000

func (m *memory) chunk(b []byte) digest.Digest {
	c := &object.ChunkList{Size: int64(len(b)), SHA256: digest.Of(b)}
	for len(b) > 0 {
		n := min(len(b), testChunk)
		c.Chunks = append(c.Chunks, object.Chunk{Size: int64(n), Digest: m.put(b[:n])})
		b = b[n:]
	}
	return m.put(object.EncodeChunkList(c))
}

// view publishes d into m.
func (m *memory) view(t testing.TB, d dir) *tree.View {
	t.Helper()
	v, err := tree.NewView(t.Context(), m.tree(t, d), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (m *memory) tree(t testing.TB, d dir) *tree.Tree {
	t.Helper()
	m.serial++
	var cat []object.DirListing
	root, size := m.listing(t, d, "", &cat)
	sortDirs(cat)
	raw := object.EncodeCatalog(cat)
	var x object.Index
	x.Add("", m.put(raw))
	h := &object.Head{
		Tree: object.TreeName{ID: "test|tree(1)"}, Serial: m.serial, Time: time.Now(), Domain: m.domain,
		Root: root, RootSize: size, RootMode: 0o755, RootMtime: 987654321,
		Index: m.put(x.Encode()), IndexSize: int64(len(x.Encode())),
		Catalog: digest.Of(raw), Catalogs: 1, MaxSize: int64(len(raw)),
		Counts: object.Counts{Files: 7, Bytes: 1 << 20},
	}
	return tree.New(h, m, m.cache)
}

func sortDirs(c []object.DirListing) {
	slices.SortFunc(c, func(a, b object.DirListing) int { return object.ComparePaths(a.Path, b.Path) })
}

// mount serves d, or without d a mount with no tree, at a directory until the test ends, and then looks for what
// was not given back.
func (m *memory) mount(t testing.TB, d dir, change func(*Config)) (*FS, string) {
	t.Helper()
	cfg := Config{Path: t.TempDir(), Name: "test", IOTimeout: 5 * time.Second, Xattr: true, Window: 4 << 20, Log: m.log(t)}
	if change != nil {
		change(&cfg)
	}
	var view *tree.View
	if d != nil {
		view = m.view(t, d)
	}
	f, err := New(cfg, view, m)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Mount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := f.Unmount(); err != nil {
			t.Error(err)
		}
		select {
		case <-f.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("the connection did not end")
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.held != 0 {
			t.Errorf("%d blobs were not given back", m.held)
		}
	})
	return f, cfg.Path
}

func (m *memory) log(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}
