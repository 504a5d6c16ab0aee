//go:build faults

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/tinylib/msgp/msgp"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// forger has a publisher's key and makes of it what it likes: nothing but the
// decoders stands between that and a client.
type forger struct {
	t           *testing.T
	dir         string // the store
	key, public string
	names       []string // of trees
}

func newForger(t *testing.T) *forger {
	t.Helper()
	f := &forger{t: t, dir: shortDir(t)}
	f.key, f.public = keyPair(t)
	if err := os.MkdirAll(filepath.Join(f.dir, "default"), 0o755); err != nil {
		t.Fatal(err)
	}
	return f
}

// put puts a blob into the store, as it is.
func (f *forger) put(plain []byte) digest.Digest { return f.putStored(plain, plain) }

func (f *forger) putStored(plain, stored []byte) digest.Digest {
	f.t.Helper()
	d := digest.Of(plain)
	mustWrite(f.t, filepath.Join(f.dir, "default", d.String()), stored, 0o644)
	return d
}

// putPacked puts a blob compressed, without a look at what may be in it.
func (f *forger) putPacked(plain []byte) digest.Digest {
	f.t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		f.t.Fatal(err)
	}
	defer w.Close()
	stored := w.EncodeAll(plain, nil)
	if len(stored) > len(plain)-len(plain)/16 {
		stored = plain
	}
	return f.putStored(plain, stored)
}

// forged says how a tree differs from one as it is published.
type forged struct {
	root    []byte // its listing
	dirs    []object.DirListing
	catalog func([]byte) []byte
	index   func([]byte) []byte
	head    func(*object.Head)
}

// tree makes a tree.
func (f *forger) tree(name string, x forged) {
	f.t.Helper()
	name = strings.ReplaceAll(name, " ", "-")
	f.names = append(f.names, name)
	catalog := object.EncodeCatalog(append([]object.DirListing{{Path: "", Listing: x.root}}, x.dirs...))
	if x.catalog != nil {
		catalog = x.catalog(catalog)
	}
	var rows object.Index
	rows.Add("", f.putPacked(catalog))
	index := rows.Encode()
	if x.index != nil {
		index = x.index(index)
	}
	h := &object.Head{
		Tree: object.TreeName{ID: f.id(name)}, Serial: 1, Time: time.Unix(1e9, 0), Domain: "default",
		Root: digest.Of(x.root), RootSize: int64(len(x.root)), RootMode: 0o755,
		Index: f.putPacked(index), IndexSize: int64(len(index)),
		Catalog: digest.Of(catalog), Catalogs: 1, MaxSize: int64(len(catalog)),
		Counts: object.Counts{Files: 1, Dirs: 1, Bytes: 1},
	}
	if x.head != nil {
		x.head(h)
	}
	cmd := exec.Command(ays, "sign", "-key", f.key)
	cmd.Stdin = strings.NewReader(h.Text())
	note, err := cmd.Output()
	if err != nil {
		f.t.Fatalf("sign the head of %s: %v", name, err)
	}
	dir := filepath.Join(f.dir, "md", h.Tree.ID, "any")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.t.Fatal(err)
	}
	mustWrite(f.t, filepath.Join(dir, "head"), note, 0o644)
}

func (f *forger) id(name string) string { return "hostile|" + name + "(1)" }

// rawEntry is an entry with whatever is in it.
type rawEntry struct {
	name    string
	kind    uint8
	mode    uint16
	size    int64
	mtime   int64
	sum     []byte
	chunked bool
	target  string
}

// rawListing encodes entries in the order that they have.
func rawListing(entries ...rawEntry) []byte {
	b := msgp.AppendArrayHeader(nil, uint32(len(entries)))
	for _, e := range entries {
		b = msgp.AppendArrayHeader(b, 8)
		b = msgp.AppendBytes(b, []byte(e.name))
		b = msgp.AppendUint8(b, e.kind)
		b = msgp.AppendUint16(b, e.mode)
		b = msgp.AppendInt64(b, e.size)
		b = msgp.AppendInt64(b, e.mtime)
		b = msgp.AppendBytes(b, e.sum)
		b = msgp.AppendBool(b, e.chunked)
		b = msgp.AppendBytes(b, []byte(e.target))
	}
	return b
}

// rawChunks encodes a chunk list.
func rawChunks(size int64, count uint32, sizes []int64, d digest.Digest) []byte {
	b := msgp.AppendMapHeader(nil, 3)
	b = msgp.AppendInt64(msgp.AppendString(b, "size"), size)
	b = msgp.AppendBytes(msgp.AppendString(b, "sha256"), make([]byte, digest.Size))
	b = msgp.AppendArrayHeader(msgp.AppendString(b, "chunks"), count)
	for _, s := range sizes {
		b = msgp.AppendArrayHeader(b, 2)
		b = msgp.AppendBytes(msgp.AppendInt64(b, s), d[:])
	}
	return b
}

const goodContent = "good content\n"

// forge makes trees that lie in every way. All of them try to have a file "good".
func (f *forger) forge() {
	sum := f.put([]byte(goodContent))
	good := rawEntry{name: "good", mode: 0o644, size: int64(len(goodContent)), sum: sum[:]}
	with := func(e ...rawEntry) []byte { return rawListing(append([]rawEntry{good}, e...)...) }
	plain := with()
	f.tree("plain", forged{root: plain})

	// What holds for any of the formats.
	count := func(b []byte) []byte { return append([]byte{0xdd, 0xff, 0xff, 0xff, 0xff}, b[1:]...) }
	damages := map[string]func([]byte) []byte{
		"empty":    func([]byte) []byte { return []byte{0x90} },
		"short":    func(b []byte) []byte { return b[:len(b)-3] },
		"trailing": func(b []byte) []byte { return append(bytes.Clone(b), 0) },
		"count":    count,
		"text":     func([]byte) []byte { return []byte("<html>") },
		"deep":     func([]byte) []byte { return bytes.Repeat([]byte{0x91}, 1<<20) },
		"deep map": func([]byte) []byte { return bytes.Repeat([]byte{0x81}, 1<<20) },
		"bin 4G":   func(b []byte) []byte { return append([]byte{0x91, 0x92, 0xc6, 0xff, 0xff, 0xff, 0xff}, b...) },
		"twice":    func(b []byte) []byte { return append([]byte{0x92}, append(bytes.Clone(b[1:]), b[1:]...)...) },
		"zeros":    func([]byte) []byte { return make([]byte, 64<<20) },
	}
	for name, damage := range damages {
		f.tree("index "+name, forged{root: plain, index: damage})
		f.tree("catalog "+name, forged{root: plain, catalog: damage})
		f.tree("listing "+name, forged{root: damage(plain)})
		sub := damage(plain)
		d := digest.Of(sub)
		f.tree("sub "+name, forged{root: with(rawEntry{name: "sub", kind: 1, mode: 0o755, size: int64(len(sub)), sum: d[:]}),
			dirs: []object.DirListing{{Path: "sub", Listing: sub}}})
		list := damage(rawChunks(2<<20, 2, []int64{1 << 20, 1 << 20}, sum))
		f.putPacked(list)
		d = digest.Of(list)
		f.tree("chunks "+name, forged{root: with(rawEntry{name: "large", mode: 0o644, size: 2 << 20, sum: d[:], chunked: true})})
	}
	f.tree("index elsewhere", forged{root: plain, index: func([]byte) []byte {
		var x object.Index
		x.Add("", digest.Of([]byte("nowhere")))
		return x.Encode()
	}})
	other := func(path string, d digest.Digest) func([]byte) []byte {
		return func(b []byte) []byte {
			b = append([]byte{0x92}, b[1:]...)
			b = append(b, 0x92)
			return msgp.AppendBytes(msgp.AppendBytes(b, []byte(path)), d[:])
		}
	}
	f.tree("index unsorted", forged{root: plain, index: other("", sum)})
	f.tree("index uncounted", forged{root: plain, index: other("x", sum)})

	// Entries that must not be.
	for name, change := range map[string]func(*rawEntry){
		"name empty":  func(e *rawEntry) { e.name = "" },
		"name dot":    func(e *rawEntry) { e.name = "." },
		"name dotdot": func(e *rawEntry) { e.name = ".." },
		"name slash":  func(e *rawEntry) { e.name = "../../etc/passwd" },
		"name nul":    func(e *rawEntry) { e.name = "x\x00y" },
		"name long":   func(e *rawEntry) { e.name = strings.Repeat("x", 256) },
		"name same":   func(e *rawEntry) { e.name = "good" },
		"name before": func(e *rawEntry) { e.name = "a" },
		"kind":        func(e *rawEntry) { e.kind = 7 },
		"mode":        func(e *rawEntry) { e.mode = 0o170000 },
		"negative":    func(e *rawEntry) { e.size = -1 },
		"most":        func(e *rawEntry) { e.size = math.MaxInt64 },
		"least":       func(e *rawEntry) { e.size = math.MinInt64 },
		"most chunk":  func(e *rawEntry) { e.size, e.chunked = math.MaxInt64, true },
		"time most":   func(e *rawEntry) { e.mtime = math.MaxInt64 },
		"time least":  func(e *rawEntry) { e.mtime = math.MinInt64 },
		"larger":      func(e *rawEntry) { e.size++ },
		"smaller":     func(e *rawEntry) { e.size-- },
		"nothing":     func(e *rawEntry) { e.size = 0 },
		"chunked":     func(e *rawEntry) { e.chunked = true },
		"a dir":       func(e *rawEntry) { e.kind = 1 },
		"chunked dir": func(e *rawEntry) { e.kind, e.chunked = 1, true },
		"a link":      func(e *rawEntry) { e.kind = 2 },
		"link nul":    func(e *rawEntry) { e.kind, e.sum, e.target, e.size = 2, nil, "a\x00b", 3 },
		"link long":   func(e *rawEntry) { e.kind, e.sum, e.target, e.size = 2, nil, strings.Repeat("x", 4096), 4096 },
		"link lies":   func(e *rawEntry) { e.kind, e.sum, e.target, e.size = 2, nil, "good", 4000 },
		"link loop":   func(e *rawEntry) { e.kind, e.sum, e.target, e.size = 2, nil, "x", 1 },
		"no digest":   func(e *rawEntry) { e.sum = nil },
		"half digest": func(e *rawEntry) { e.sum = e.sum[:16] },
		"missing":     func(e *rawEntry) { e.sum = bytes.Repeat([]byte{1}, 32) },
		"setuid":      func(e *rawEntry) { e.mode = 0o6755 },
	} {
		e := good
		e.name = "x"
		change(&e)
		f.tree("entry "+name, forged{root: with(e)})
	}

	// Chunk lists that don't fit.
	mib := f.putPacked(make([]byte, 1<<20))
	tiny := make([]int64, 1<<20)
	for i := range tiny {
		tiny[i] = 1
	}
	for name, list := range map[string][]byte{
		"size":     rawChunks(3<<20, 3, []int64{1 << 20, 1 << 20, 1 << 20}, mib),
		"negative": rawChunks(2<<20, 3, []int64{3 << 20, -2 << 20, 1 << 20}, mib),
		"overflow": rawChunks(2<<20, 3, []int64{math.MaxInt64, math.MaxInt64, 2<<20 + 2}, mib),
		"none":     rawChunks(2<<20, 0, nil, mib),
		"zero":     rawChunks(2<<20, 3, []int64{1 << 20, 0, 1 << 20}, mib),
		"tiny":     rawChunks(2<<20, 1<<20+1, append(tiny, 1<<20), mib),
		"lie":      rawChunks(2<<20, 3, []int64{1<<20 - 1, 1<<20 - 1, 2}, mib),
		"large":    rawChunks(2<<20, 1, []int64{2 << 20}, mib),
	} {
		f.putPacked(list)
		d := digest.Of(list)
		f.tree("chunks "+name, forged{root: with(rawEntry{name: "large", mode: 0o644, size: 2 << 20, sum: d[:], chunked: true})})
	}
	// As large as metadata may be at most, of nothing.
	most := f.putPacked(make([]byte, object.MaxMetadata))
	f.tree("chunks bomb", forged{root: with(rawEntry{name: "large", mode: 0o644, size: math.MaxInt64 - 1, sum: most[:], chunked: true})})
	f.tree("index bomb", forged{root: plain, index: func([]byte) []byte { return make([]byte, object.MaxMetadata) }})

	// Heads that lie.
	for name, change := range map[string]func(*object.Head){
		"index size":   func(h *object.Head) { h.IndexSize = 1 },
		"index large":  func(h *object.Head) { h.IndexSize = object.MaxMetadata },
		"catalog size": func(h *object.Head) { h.MaxSize = 1 },
		"root size":    func(h *object.Head) { h.RootSize = object.MaxMetadata },
		"catalogs":     func(h *object.Head) { h.Catalogs = object.MaxMetadata },
		"counts": func(h *object.Head) {
			h.Counts = object.Counts{Files: math.MaxInt64, Dirs: math.MaxInt64, Symlinks: math.MaxInt64, Bytes: math.MaxInt64}
		},
		"root":    func(h *object.Head) { h.Root = sum },
		"catalog": func(h *object.Head) { h.Catalog = sum },
		"index":   func(h *object.Head) { h.Index = h.Catalog },
		"mtime":   func(h *object.Head) { h.RootMtime = math.MinInt64 },
		"serial":  func(h *object.Head) { h.Serial = math.MaxInt64 },
		"domain":  func(h *object.Head) { h.Domain = "elsewhere" },
	} {
		f.tree("head "+name, forged{root: plain, head: change})
	}

	// Directories: of each kind one in which it goes on and on.
	deep, dirs := plain, []object.DirListing(nil)
	const depth = 1500
	for i := depth; i > 0; i-- {
		dirs = append(dirs, object.DirListing{Path: strings.Repeat("/d", i)[1:], Listing: deep})
		d := digest.Of(deep)
		deep = rawListing(rawEntry{name: "d", kind: 1, mode: 0o755, size: int64(len(deep)), sum: d[:]}, good)
	}
	slices.Reverse(dirs)
	f.tree("dirs deep", forged{root: deep, dirs: dirs})
	// Each directory has the same one ten times: more paths than there are atoms.
	many := plain
	dirs = nil
	const levels = 80
	for i := levels; i > 0; i-- {
		dirs = append(dirs, object.DirListing{Path: strings.Repeat("/0", i)[1:], Listing: many})
		d := digest.Of(many)
		var entries []rawEntry
		for j := range 10 {
			entries = append(entries, rawEntry{name: fmt.Sprint(j), kind: 1, mode: 0o755, size: int64(len(many)), sum: d[:]})
		}
		many = rawListing(append(entries, good)...)
	}
	slices.Reverse(dirs)
	f.tree("dirs many", forged{root: many, dirs: dirs})
	wide := []rawEntry{}
	for i := range 300_000 {
		wide = append(wide, rawEntry{name: fmt.Sprintf("%08d", i), mode: 0o644, size: good.size, sum: good.sum})
	}
	f.tree("dirs wide", forged{root: rawListing(append(wide, good)...)})
	// As many directories as a catalog may have, each of a few bytes, and all of them alike.
	const dense = 250_000
	f.tree("dirs dense", forged{root: plain, catalog: func([]byte) []byte {
		b := msgp.AppendArrayHeader(nil, dense+1)
		b = msgp.AppendBytes(msgp.AppendBytes(msgp.AppendArrayHeader(b, 2), nil), plain)
		for i := range dense {
			b = msgp.AppendArrayHeader(b, 2)
			b = msgp.AppendBytes(msgp.AppendBytes(b, fmt.Appendf(nil, "%06x", i)), []byte{0x90})
		}
		return b
	}})
	f.tree("catalog countless", forged{root: plain, catalog: func([]byte) []byte {
		b := msgp.AppendArrayHeader(nil, 16<<20)
		return append(b, make([]byte, 100<<20)...)
	}})
}

// TestFaultsHostileObjects mounts what a publisher has made to do harm. Walks end,
// memory stays bounded, and the trees beside it are there.
func TestFaultsHostileObjects(t *testing.T) {
	f := newForger(t)
	f.forge()
	store := serveStore(t, f.dir)
	cache := startGridCache(t)
	c := newClient(t, store.url())
	c.main = fmt.Sprintf("io_timeout = %q", netTimeout)
	c.stor = fmt.Sprintf("key = %q", f.public)
	c.disk = cache.config()
	var mounts []string
	for _, name := range f.names {
		mounts = append(mounts, c.mount(f.id(name), `wait = "1s"`, "prefetch = 2"))
	}
	c.start()
	idle := peak(t, c.proc)
	calls := newCalls(t, netTimeout)
	shown, entries := 0, 0
	var peaks [2]int64
	grew := func(what, tree string) {
		for i, p := range []*process{c.proc, cache.proc} {
			if now := peak(t, p); now > peaks[i]+50<<20 {
				t.Logf("%s, %s: %s had %d MiB", what, tree, filepath.Base(p.Path), now>>20)
				peaks[i] = now
			}
		}
	}
	for i, mount := range mounts {
		n := 0
		within(t, 2*time.Minute, "walk "+f.names[i], func() {
			filepath.WalkDir(mount, func(path string, e fs.DirEntry, err error) error {
				if n++; n > 5000 || len(path) > 4000 {
					return fs.SkipAll
				}
				if err != nil {
					if !errors.Is(err, syscall.EIO) {
						t.Errorf("%s: %v", f.names[i], err)
					}
					return nil
				}
				if e.Type().IsRegular() && n < 100 {
					calls.one(f.names[i], path)
				}
				return nil
			})
		})
		entries += n
		mounted := func() bool { _, err := os.ReadFile(filepath.Join(mount, "good")); return err == nil }
		if sound := f.names[i] == "plain" || strings.HasPrefix(f.names[i], "chunks-") || strings.HasPrefix(f.names[i], "dirs-"); sound {
			// Those that take long to refuse may come before it.
			eventually(t, time.Minute, "the good file of "+f.names[i]+" is there", mounted)
		}
		b, err := os.ReadFile(filepath.Join(mount, "good"))
		grew("walked", f.names[i])
		switch {
		case err == nil && string(b) != goodContent:
			t.Errorf("%s: good has %q", f.names[i], b)
		case err == nil:
			shown++
		case f.names[i] == "listing-empty" && errors.Is(err, fs.ErrNotExist):
			// It says that nothing is there, and nothing says otherwise.
		case !errors.Is(err, syscall.EIO):
			t.Errorf("%s: good: %v", f.names[i], err)
		}
		var s syscall.Statfs_t
		if err := syscall.Statfs(mount, &s); err != nil {
			t.Errorf("%s: df: %v", f.names[i], err)
		}
	}
	// The cache has the same objects to look into.
	for i := range f.names {
		within(t, time.Minute, "ask the cache for "+f.names[i], func() {
			resp, err := http.Get(cache.url + "/md/e2e/" + url.PathEscape(fmt.Sprintf("m%d", i)) + "/?subtree=1")
			if err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			} else {
				t.Errorf("%s: the cache: %v", f.names[i], err)
			}
		})
		grew("asked the cache", f.names[i])
	}
	if out, err := try(t, 2*time.Minute, exec.Command(ays, "verify", "-store", f.dir)); exitCode(err) != 2 && exitCode(err) != 1 {
		t.Errorf("verify: %v, %s", err, lastLines(out, 5))
	}
	for name, p := range map[string]*process{"aysfs": c.proc, "ays_cache": cache.proc} {
		if p.endsWithin(0) {
			t.Fatalf("%s ended: %v", name, p.err)
		}
	}
	if all := c.log() + cache.log(); strings.Contains(all, "panic") {
		t.Errorf("a panic:\n%s", regexp.MustCompile(`(?m)^.*panic.*$`).FindString(all))
	}
	// All trees are looked at at once. Beside what memory bounds there is one object of
	// the most bytes that metadata may have, and what mounts take.
	const memory, each = 64 << 20, 512 << 10
	most := (memory + object.MaxMetadata + int64(len(f.names))*each) * 5 / 4
	client, server := peak(t, c.proc), peak(t, cache.proc)
	if client > most || server > most {
		t.Errorf("memory, at its peak: aysfs %d MiB, ays_cache %d MiB", client>>20, server>>20)
	}
	t.Logf("promise: %d hostile trees, %d names walked, the good file read in %d of them; %v; peak memory aysfs %d MiB (%d idle), ays_cache %d MiB",
		len(f.names)-1, entries, shown, calls, client>>20, idle>>20, server>>20)
	c.stop()
}

// one reads a file to its end, or some of it.
func (c *calls) one(tree, path string) {
	var in *os.File
	if c.do("open", path, func() (err error) { in, err = os.Open(path); return err }) != nil {
		return
	}
	defer in.Close()
	buf := make([]byte, 64<<10)
	for range 64 {
		n := 0
		if c.do("read", tree+": "+path, func() (err error) {
			n, err = in.Read(buf)
			if err == io.EOF {
				err = nil
			}
			return err
		}) != nil || n == 0 {
			return
		}
	}
}

// peak is the most memory that a process ever had, in bytes.
func peak(t *testing.T, p *process) int64 {
	t.Helper()
	b := mustRead(t, fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		t.Fatal("no VmHWM")
	}
	n, _ := strconv.ParseInt(string(m[1]), 10, 64)
	return n << 10
}
