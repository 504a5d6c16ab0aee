package fs

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jacobsa/fuse/fuseops"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// heard is the needs that were told.
type heard struct {
	mu    sync.Mutex
	needs []Need
}

func (h *heard) tell(n Need) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.needs = append(h.needs, n)
}

func (h *heard) all() []Need {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.needs)
}

// files are the files that were told, without the listings.
func (h *heard) files() []string {
	var list []string
	for _, n := range h.all() {
		if !n.Dir && !slices.Contains(list, n.Path) {
			list = append(list, n.Path)
		}
	}
	return list
}

// await waits until a file was told.
func (h *heard) await(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !slices.Contains(h.files(), path); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q was not told: %+v", path, h.all())
		}
	}
}

func read(t *testing.T, path string) {
	t.Helper()
	if _, err := os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
}

func TestNeedsAreToldOnceAndInOrder(t *testing.T) {
	m := newMemory()
	f, mnt := m.mount(t, sample, nil)
	var h heard
	f.Record(h.tell)
	for _, name := range []string{"sub/deep", "hello", "sub/deep", "large", "mid"} {
		read(t, filepath.Join(mnt, name))
	}
	h.await(t, "mid")
	if got, want := h.files(), []string{"sub/deep", "hello", "large", "mid"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	seen := make(map[string]bool)
	var chunked, end int64
	for _, n := range h.all() {
		key := fmt.Sprint(n.Path, n.Dir, n.Off)
		if seen[key] {
			t.Errorf("%+v was told twice", n)
		}
		seen[key] = true
		if n.Path == "large" {
			chunked, end = chunked+n.N, max(end, n.Off+n.N)
			if !n.Chunked {
				t.Errorf("%+v is cut into chunks", n)
			}
		}
	}
	if size := int64(len(sample["large"].(string))); chunked != size || end != size {
		t.Errorf("chunks of %d bytes of the large file, up to %d", chunked, end)
	}
	if dirs := h.all(); !dirs[0].Dir || dirs[0].Path != "" || !dirs[1].Dir || dirs[1].Path != "sub" {
		t.Errorf("the listings on the way: %+v", dirs[:2])
	}
}

func TestWhatIsFetchedAheadIsNoNeed(t *testing.T) {
	many := dir{}
	for i := range 200 {
		many[fmt.Sprintf("f%03d", i)] = fmt.Sprint("content ", i)
	}
	m := newMemory()
	f, mnt := m.mount(t, many, nil)
	var h heard
	f.Record(h.tell)
	for i := range 8 {
		read(t, filepath.Join(mnt, fmt.Sprintf("f%03d", i)))
	}
	h.await(t, "f007")
	if got := h.files(); len(got) != 8 {
		t.Errorf("%d files: %q", len(got), got)
	}
}

func TestRecordingStops(t *testing.T) {
	m := newMemory()
	f, mnt := m.mount(t, sample, nil)
	var first, second heard
	stop := f.Record(first.tell)
	read(t, filepath.Join(mnt, "hello"))
	stop()
	stop()
	if got := first.files(); !slices.Equal(got, []string{"hello"}) {
		t.Errorf("when it has stopped: %q", got)
	}
	stop = f.Record(second.tell)
	read(t, filepath.Join(mnt, "mid"))
	second.await(t, "mid")
	stop()
	read(t, filepath.Join(mnt, "sub/deep"))
	if len(first.files()) != 1 || len(second.files()) != 1 {
		t.Errorf("%q and %q", first.files(), second.files())
	}
}

func TestWhatIsNeededLastIsToldWhenTheMountEnds(t *testing.T) {
	m := newMemory()
	f, mnt := m.mount(t, sample, nil)
	var h heard
	stop := f.Record(h.tell)
	for _, name := range []string{"hello", "sub/deep", "mid"} {
		read(t, filepath.Join(mnt, name))
	}
	if _, err := f.Unmount(); err != nil {
		t.Fatal(err)
	}
	stop()
	if got, want := h.files(), []string{"hello", "sub/deep", "mid"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// More than may wait to be told, from more directories than one, none of them left out.
func TestManyNeeds(t *testing.T) {
	d := dir{}
	for i := range 3 {
		many := dir{}
		for k := range needsQueue/2 + i {
			many[fmt.Sprintf("f%04d", k)] = fmt.Sprint("content ", i, k)
		}
		d[fmt.Sprint("d", i)] = many
	}
	m := newMemory()
	f, err := New(Config{Path: "/nowhere", IOTimeout: time.Minute, Log: m.log(t)}, m.view(t, d), m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Abandon)
	ids := idsOf(t, f)
	var want []string
	var h heard
	stop := f.Record(h.tell)
	for k := range needsQueue / 2 {
		for i := range 3 { // by turns
			path := fmt.Sprintf("d%d/f%04d", i, k)
			want = append(want, path)
			f.needs.note(ids[path], needWhole, 0)
		}
		if k%256 == 255 { // as quick as they are told
			for end := time.Now().Add(20 * time.Second); len(h.all()) < len(want)-needsQueue/2; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%d needs were told, of %d", len(h.all()), len(want))
				}
			}
		}
	}
	stop()
	var got []string
	for _, n := range h.all() {
		got = append(got, n.Path)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d needs were told, want %d", len(got), len(want))
	}
}

// idsOf has the kernel, which is not there, hold all of a tree of directories of files.
func idsOf(t testing.TB, f *FS) map[string]uint64 {
	t.Helper()
	ids := make(map[string]uint64)
	var enter func(path string, id uint64, d digest.Digest)
	enter = func(path string, id uint64, d digest.Digest) {
		l, err := f.View().Listing(t.Context(), path, d)
		if err != nil {
			t.Fatal(err)
		}
		for i := range l.Len() {
			e := l.At(i)
			child, err := f.table.acquire(id, i, &e)
			if err != nil {
				t.Fatal(err)
			}
			p := object.Join(path, string(e.Name))
			ids[p] = child
			if e.Kind == object.Dir {
				enter(p, child, e.Digest)
			}
		}
	}
	enter("", rootID, f.View().Root().Digest)
	return ids
}

// BenchmarkNeedOf is what it costs to find out what was needed.
func BenchmarkNeedOf(b *testing.B) {
	many := dir{}
	for k := range 1000 {
		many[fmt.Sprintf("some-file-name-%04d", k)] = fmt.Sprint("content ", k)
	}
	m := newMemory()
	f, err := New(Config{Path: "/nowhere", IOTimeout: time.Minute, Log: m.log(b)}, m.view(b, dir{"src": dir{"pkg": dir{"sub": many}}}), m)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Abandon()
	ids := slices.Collect(maps.Values(idsOf(b, f)))
	b.ReportAllocs()
	var near nearby
	for i := 0; b.Loop(); i++ {
		if n, ok := f.needOf(b.Context(), &near, asked{ids[i%len(ids)], needWhole, 0}); !ok && !n.Dir {
			b.Fatal(n)
		}
	}
}

// BenchmarkNeeds is what a lookup costs while needs are recorded.
func BenchmarkNeeds(b *testing.B) {
	m := newMemory()
	f, err := New(Config{Path: "/nowhere", Log: m.log(b)}, m.view(b, dir{"file": "content"}), m)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Abandon()
	if _, err := f.now.Load().view.Listing(b.Context(), "", f.now.Load().view.Root().Digest); err != nil {
		b.Fatal(err)
	}
	s := &server{fs: f}
	for _, on := range []bool{false, true} {
		b.Run(fmt.Sprint("recorded=", on), func(b *testing.B) {
			if on {
				defer f.Record(func(Need) {})()
			}
			b.ReportAllocs()
			op := &fuseops.LookUpInodeOp{Parent: rootID, Name: "file"}
			for b.Loop() {
				r := request{op: op}
				if err := s.answer(noWait, &r); err != nil {
					b.Fatal(err)
				}
				r.turn.end()
			}
		})
	}
}
