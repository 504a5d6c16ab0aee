package disk

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/tier"
)

// some are refs of blobs from one number to another, of growing sizes.
func some(from, to uint64) (refs []tier.Ref) {
	for n := from; n < to; n++ {
		ref, _ := blob(n, sizeOf(n))
		refs = append(refs, ref)
	}
	return refs
}

func sizeOf(n uint64) int { return int(n*n*37) % 300_000 }

func builder(t *testing.T, dir string) *SeedBuilder {
	t.Helper()
	b, err := BuildSeed(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func addAll(t *testing.T, b *SeedBuilder, from, to uint64) {
	t.Helper()
	for n := from; n < to; n++ {
		ref, data := blob(n, sizeOf(n))
		if err := b.Add(ref, data); err != nil {
			t.Fatal(err)
		}
	}
}

// bake makes dir a seed of the blobs from one number to another.
func bake(t *testing.T, dir string, from, to uint64, heads map[string][]byte) {
	t.Helper()
	b := builder(t, dir)
	addAll(t, b, from, to)
	if err := b.Commit(some(from, to), heads); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

func openSeed(t *testing.T, dir string) *Seed {
	t.Helper()
	s, err := OpenSeed(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, s.c) })
	return s
}

// seedHas tells whether a seed has blob n, which must have the right bytes.
func seedHas(t *testing.T, s tier.Cache, n uint64) bool {
	t.Helper()
	ref, want := blob(n, sizeOf(n))
	got, err := s.Copy(ref)
	if errors.Is(err, tier.ErrAbsent) {
		return false
	}
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("blob %d: %d bytes, %v", n, len(got), err)
	}
	b, err := s.Get(ref)
	if err != nil || !bytes.Equal(b.Data, want) {
		t.Fatalf("blob %d: %d bytes, %v", n, len(b.Data), err)
	}
	b.Release()
	off := int64(len(want) / 3)
	if b, err = s.Range(ref, off, 1000); err != nil || !bytes.Equal(b.Data, cut(want, off, 1000)) {
		t.Fatalf("blob %d: a part of it: %d bytes, %v", n, len(b.Data), err)
	}
	b.Release()
	return true
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

func TestSeed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "seed")
	if _, err := OpenSeed(dir, nil); !errors.Is(err, ErrNoSeed) {
		t.Fatalf("without a seed: %v", err)
	}
	bake(t, dir, 0, 400, map[string][]byte{"s/md/a": []byte("head of a")})
	if n := len(segmentFiles(t, dir)); n < 1 {
		t.Fatalf("%d segments", n)
	}

	// Who reads it changes nothing, not even where that is allowed.
	before := contents(t, dir)
	s := openSeed(t, dir)
	for n := range uint64(400) {
		if !seedHas(t, s, n) {
			t.Fatalf("blob %d is missing", n)
		}
	}
	if seedHas(t, s, 400) {
		t.Error("has what it was not given")
	}
	if h, err := s.Head("s/md/a"); err != nil || string(h) != "head of a" {
		t.Errorf("head: %q, %v", h, err)
	}
	if _, err := s.Head("s/md/b"); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("head that is not there: %v", err)
	}
	if st := s.Stats(); st.Blobs != 400 || st.Verified == 0 || st.Disk == 0 || s.Given() == 0 {
		t.Errorf("stats: %+v, %d bytes given", st, s.Given())
	}
	if after := contents(t, dir); len(after) != len(before) {
		t.Errorf("%d files, %d after reading", len(before), len(after))
	} else {
		for name := range before {
			if before[name] != after[name] {
				t.Errorf("%s was changed by reading", name)
			}
		}
	}

	// The same again has the same bytes, wherever it is made.
	other := filepath.Join(t.TempDir(), "seed")
	bake(t, other, 0, 400, map[string][]byte{"s/md/a": []byte("head of a")})
	if after := contents(t, other); len(after) != len(before) {
		t.Errorf("two builds of one seed: %d files and %d", len(before), len(after))
	} else {
		for name := range before {
			if before[name] != after[name] {
				t.Errorf("two builds of one seed differ in %s", name)
			}
		}
	}
}

// TestSeedReadOnly reads a seed on a file system that can't be written.
func TestSeedReadOnly(t *testing.T) {
	dir := t.TempDir()
	bake(t, filepath.Join(dir, "seed"), 0, 50, nil)
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	s, err := OpenSeed(filepath.Join(dir, "seed"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, s.c)
	for n := range uint64(50) {
		if !seedHas(t, s, n) {
			t.Fatalf("blob %d is missing", n)
		}
	}
}

// TestSeedChanges builds a seed anew with other blobs: what both have stays, what
// neither wants goes, and until then all is as it was.
func TestSeedChanges(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "seed")
	heads := map[string][]byte{"s/a": []byte("1")}
	bake(t, dir, 0, 300, heads)
	running := openSeed(t, dir)

	// Nothing to change, nothing changed.
	before := contents(t, dir)
	bake(t, dir, 0, 300, heads)
	for name, b := range contents(t, dir) {
		if before[name] != b {
			t.Errorf("%s was changed by building the same again", name)
		}
	}

	b := builder(t, dir)
	if _, err := BuildSeed(dir, nil); !errors.Is(err, ErrInUse) {
		t.Errorf("two builders at once: %v", err)
	}
	addAll(t, b, 250, 350)
	if err := b.Commit(some(200, 400), nil); err == nil || !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("commit without all blobs: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	s := openSeed(t, dir)
	for _, n := range []uint64{0, 199, 299} {
		if !seedHas(t, s, n) {
			t.Errorf("blob %d went with a build that failed", n)
		}
	}
	if seedHas(t, s, 320) {
		t.Error("what was not committed counts")
	}

	b = builder(t, dir)
	if !b.Has(some(349, 350)[0]) {
		t.Error("what the last build added is lost")
	}
	addAll(t, b, 350, 400)
	if err := b.Commit(some(200, 400), map[string][]byte{"s/a": []byte("2")}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	s = openSeed(t, dir)
	for n := range uint64(450) {
		if want := n >= 200 && n < 400; seedHas(t, s, n) != want {
			t.Errorf("blob %d: want %v", n, want)
		}
	}
	if h, _ := s.Head("s/a"); string(h) != "2" {
		t.Errorf("head %q", h)
	}
	if st := s.Stats(); st.Blobs != 200 {
		t.Errorf("%d blobs, want 200", st.Blobs)
	}
	listed, err := readManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	if files := segmentFiles(t, dir); len(files) != len(listed.Segments) {
		t.Errorf("files %q, listed %+v", files, listed.Segments)
	}
	if all := contents(t, dir); len(all) != len(listed.Segments)+2 {
		t.Errorf("%d files for %d segments", len(all), len(listed.Segments))
	}
	// A program that has the old one open gets what it had, or nothing.
	for n := range uint64(300) {
		seedHas(t, running, n)
	}
}

// TestSeedDamage flips bytes all over a seed: what is given is right, or nothing.
func TestSeedDamage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "seed")
	bake(t, dir, 0, 200, nil)
	for _, file := range segmentFiles(t, dir) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// A few bytes of values, and then pages of the tree.
		for at := len(b) / 10; at < len(b); at += len(b) / 10 {
			b[at] ^= 0x55
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := &logged{}
	s, err := OpenSeed(dir, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	here := 0
	for n := range uint64(200) {
		if seedHas(t, s, n) {
			here++
		}
	}
	if st := s.Stats(); here == 200 || st.Corrupt+st.Condemned == 0 || log.count("WARN") == 0 {
		t.Errorf("%d blobs of 200, %+v, log:\n%s", here, st, log)
	}
	shut(t, s.c)

	// Building mends it.
	b := builder(t, dir)
	for n := range uint64(200) {
		if !seedHas(t, b, n) {
			ref, data := blob(n, sizeOf(n))
			if err := b.Add(ref, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(b.Commit(some(0, 200), nil), b.Close()); err != nil {
		t.Fatal(err)
	}
	s = openSeed(t, dir)
	for n := range uint64(200) {
		if !seedHas(t, s, n) {
			t.Errorf("blob %d was not mended", n)
		}
	}
}

// TestSeedBadIndex does without the index, or with one that is not what it was.
func TestSeedBadIndex(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "seed")
	bake(t, dir, 0, 60, nil)
	m, err := readManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	index := filepath.Join(dir, indexName(m.Index))
	good, err := os.ReadFile(index)
	if err != nil || len(good) != 8*60 {
		t.Fatalf("index of %d bytes, %v", len(good), err)
	}
	bad := bytes.Clone(good)
	bad[100] ^= 1
	for _, now := range [][]byte{bad, good[:80], nil} {
		os.Remove(index)
		if now != nil {
			if err := os.WriteFile(index, now, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		log := &logged{}
		s, err := OpenSeed(dir, log.logger())
		if err != nil {
			t.Fatal(err)
		}
		for n := range uint64(60) {
			if !seedHas(t, s, n) {
				t.Errorf("blob %d is missing with an index of %d bytes", n, len(now))
			}
		}
		if log.count("index cannot be used") != 1 {
			t.Errorf("log:\n%s", log)
		}
		shut(t, s.c)
	}
}

// TestSeedBadManifest has all that is wrong with seed.json told.
func TestSeedBadManifest(t *testing.T) {
	for _, text := range []string{"", "{", `{"format": 2}`, `[]`, `{"format": 1, "segments": 3}`, `{"format": 1, "index": "x"}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, seedFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := OpenSeed(dir, nil); err == nil || errors.Is(err, ErrNoSeed) || !strings.Contains(err.Error(), seedFile) {
			t.Errorf("%q: %v, %v", text, s, err)
		}
	}
	// Names that lead elsewhere, and segments that are gone, count for nothing.
	dir := t.TempDir()
	text := `{"format": 1, "segments": [{"file": "../seg-00000001.bolt"}, {"file": "/etc/passwd"}, {"file": "seg-0000000f.bolt"}]}`
	if err := os.WriteFile(filepath.Join(dir, seedFile), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log := &logged{}
	s, err := OpenSeed(dir, log.logger())
	if err != nil || s.Stats().Blobs != 0 || log.count("seg-0000000f.bolt") == 0 {
		t.Errorf("%v, log:\n%s", err, log)
	}
	shut(t, s.c)
	if err := os.WriteFile(filepath.Join(dir, "somebody's"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := BuildSeed(dir, nil); !errors.Is(err, ErrForeign) {
		t.Errorf("building among others' files: %v", err)
	}
}

// TestSeedFullDisk has the disk fill up while a seed is changed.
func TestSeedFullDisk(t *testing.T) {
	dir := t.TempDir()
	run := exec.Command("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", dir)
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	seed := filepath.Join(dir, "seed")
	bake(t, seed, 0, 40, nil)
	b := builder(t, seed)
	var failed error
	for n := uint64(40); n < 400 && failed == nil; n++ {
		ref, data := blob(n, sizeOf(n))
		failed = b.Add(ref, data)
	}
	if failed == nil {
		failed = b.Flush()
	}
	if !errors.Is(failed, unix.ENOSPC) {
		t.Errorf("on a full disk: %v", failed)
	}
	b.Close()
	s := openSeed(t, seed)
	for n := range uint64(40) {
		if !seedHas(t, s, n) {
			t.Errorf("blob %d is lost", n)
		}
	}
}

// TestSeeded reads through a cache over a seed: what is fetched goes to the one, and
// the other is left alone.
func TestSeeded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "seed")
	bake(t, dir, 0, 20, nil)
	c := open(t, Options{Path: t.TempDir()})
	both := Seeded{c, openSeed(t, dir)}
	ref, data := blob(30, sizeOf(30))
	both.Put(t.Context(), ref, data)
	flush(t, c)
	for _, n := range []uint64{0, 19, 30} {
		if !seedHas(t, both, n) || !both.Has(some(n, n+1)[0]) {
			t.Errorf("blob %d is missing", n)
		}
	}
	if seedHas(t, both, 31) || both.Has(some(31, 32)[0]) {
		t.Error("has what neither has")
	}
	alone := Seeded{nil, both.Seed}
	alone.Put(t.Context(), ref, data)
	if !seedHas(t, alone, 3) || seedHas(t, alone, 30) {
		t.Error("without a cache it is not the seed alone")
	}
	if n := c.Stats().Blobs; n != 1 {
		t.Errorf("%d blobs in the cache, want the one that was put", n)
	}
}

// TestSeedSmallMachine reads with many at once where next to nothing can be mapped:
// all wait for their turn, and none goes away empty-handed.
func TestSeedSmallMachine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "seed")
	for i := range uint64(6) { // six segments
		b := builder(t, dir)
		addAll(t, b, 10*i, 10*i+10)
		if err := errors.Join(b.Commit(some(0, 10*i+10), nil), b.Close()); err != nil {
			t.Fatal(err)
		}
	}
	s := openSeed(t, dir)
	if n := s.Stats().Segments; n != 6 {
		t.Fatalf("%d segments", n)
	}
	for _, g := range s.c.segments() {
		for s.c.closeIdle() {
		}
		_ = g
	}
	s.c.openMu.Lock()
	s.c.maxOpen = 2
	s.c.openMu.Unlock()
	var all sync.WaitGroup
	var mu sync.Mutex
	var missing []uint64
	for i := range uint64(8) {
		all.Go(func() {
			for n := range uint64(60) {
				ref, want := blob((n*7+i*11)%60, sizeOf((n*7+i*11)%60))
				b, err := s.Get(ref)
				if err != nil || !bytes.Equal(b.Data, want) {
					mu.Lock()
					missing = append(missing, n)
					mu.Unlock()
				}
				b.Release()
			}
		})
	}
	all.Wait()
	slices.Sort(missing)
	if len(missing) > 0 {
		t.Errorf("%d reads found nothing: %v", len(missing), missing)
	}
}
