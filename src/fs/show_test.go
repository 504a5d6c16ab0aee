package fs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/tree"
)

// show moves a mount to d.
func (m *memory) show(t *testing.T, f *FS, d dir) {
	t.Helper()
	if err := f.Show(t.Context(), m.view(t, d), m); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for what can't be had at once.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not so after 30 s", what)
		}
	}
}

// touch has the kernel remember all there is, and that some names are not.
func touch(t *testing.T, at string, absent ...string) {
	t.Helper()
	err := filepath.WalkDir(at, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		_, err = os.Lstat(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range absent {
		if _, err := os.Lstat(filepath.Join(at, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(name, err)
		}
	}
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(path, err)
	}
	return st.Ino
}

func TestAMoveShowsTheNewTree(t *testing.T) {
	one := dir{
		"same": "same", "changed": "one", "mode": "mode", "removed": "removed", "file": "a file", "directory": dir{"x": "x"},
		"link": link("target1"), "unread": link("target3"), "large": noise(3_000_000),
		"a": dir{"b": dir{"c": dir{"deep": "one", "same": "same"}, "gone": dir{"in": "in it"}}, "still": dir{"same": "same"}},
	}
	two := dir{
		"same": "same", "changed": "two, longer", "mode": program("mode"), "file": dir{"y": "y"}, "directory": "a directory", "added": "added",
		"link": link("target2"), "unread": link("target4"), "large": noise(3_000_001),
		"a": dir{"b": dir{"c": dir{"deep": "two", "same": "same", "new": dir{"n": "n"}}}, "still": dir{"same": "same"}},
	}
	m := newMemory()
	f, mnt := m.mount(t, one, nil)
	compare(t, mnt, one)
	touch(t, mnt, "added", "a/b/c/new")
	ids := make(map[string]uint64)
	for _, name := range []string{"", "same", "a", "a/b/c", "a/b/c/same", "a/still/same"} {
		ids[name] = inodeOf(t, filepath.Join(mnt, name))
	}
	m.show(t, f, two)
	for _, name := range []string{"changed", "added", "a/b/c/deep", "a/b/c/new/n", "file/y", "directory"} {
		if _, err := os.ReadFile(filepath.Join(mnt, name)); err != nil {
			t.Error(err)
		}
	}
	if st, err := os.Stat(filepath.Join(mnt, "mode")); err != nil || st.Mode() != 0o755 {
		t.Error(st.Mode(), err)
	}
	compare(t, mnt, two)
	for _, name := range []string{"removed", "a/b/gone", "directory/x"} {
		// This thread has just read the directories, and may be told of what
		// it read for a moment.
		eventually(t, name+" has left", func() bool {
			_, err := os.Lstat(filepath.Join(mnt, name))
			return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
		})
	}
	for name, id := range ids {
		if now := inodeOf(t, filepath.Join(mnt, name)); now != id {
			t.Errorf("%q was inode %d and is %d", name, id, now)
		}
	}
	buf := make([]byte, 20)
	if n, err := unix.Getxattr(mnt, xattrSerial, buf); err != nil || string(buf[:n]) != "2" {
		t.Errorf("serial %q, %v", buf[:max(n, 0)], err)
	}
	m.show(t, f, one)
	compare(t, mnt, one)
	if moves := f.Moves(); moves.Count != 2 || moves.Notified == 0 || moves.Last.IsZero() {
		t.Errorf("%+v", moves)
	}
}

func TestAnEqualViewCostsNothing(t *testing.T) {
	m := newMemory()
	f, mnt := m.mount(t, sample, nil)
	touch(t, mnt)
	same, err := tree.NewView(t.Context(), tree.New(f.View().Head(), m, m.cache), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	gets := m.count(&m.gets)
	if err := f.Show(t.Context(), same, m); err != nil {
		t.Fatal(err)
	}
	if f.Moves().Count != 0 || m.count(&m.gets) != gets || f.View() != same {
		t.Errorf("%+v, %d fetched", f.Moves(), m.count(&m.gets)-gets)
	}
	// A new head of the same content: nothing to tell, but its serial is another.
	m.show(t, f, sample)
	if mv := f.Moves(); mv.Count != 1 || mv.Notified != 0 || f.View().Head().Serial != 2 {
		t.Errorf("%+v", mv)
	}
}

// TestOpenFilesKeepTheirBytes reads a file, mapped and not, most of it for the first
// time after it was replaced and its chunks moved to another dedupe domain.
func TestOpenFilesKeepTheirBytes(t *testing.T) {
	m := newMemory()
	old := noise(12_000_000)
	f, mnt := m.mount(t, dir{"large": old, "dir": dir{"link": link("old target")}}, nil)
	file, err := os.Open(filepath.Join(mnt, "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	mapped, err := unix.Mmap(int(file.Fd()), 0, len(old), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	if mapped[0] != old[0] {
		t.Fatal("the first page")
	}
	sub, err := unix.Open(filepath.Join(mnt, "dir/link"), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sub)

	m.domain = "other"
	m.show(t, f, dir{"large": "small", "dir": dir{"link": link("new target")}})
	m.lose(nil)
	m.change(func() { m.absent = "other" })
	buf := make([]byte, 100)
	if n, err := unix.Readlinkat(sub, "", buf); err != nil || string(buf[:n]) != "old target" {
		t.Errorf("the link held says %q, %v", buf[:max(n, 0)], err)
	}
	if string(mapped[len(old)/2:]) != old[len(old)/2:] {
		t.Error("the map has other bytes")
	}
	got, err := io.ReadAll(file)
	if err != nil || string(got) != old {
		t.Errorf("%d bytes read from the file held open, want %d, %v", len(got), len(old), err)
	}
	m.change(func() { m.absent = "" })
	if b, err := os.ReadFile(filepath.Join(mnt, "large")); err != nil || string(b) != "small" {
		t.Errorf("the new file: %d bytes, %v", len(b), err)
	}
}

// TestARemovedDirectoryAnswers whoever still works in it, even when one of its
// name comes back.
func TestARemovedDirectoryAnswers(t *testing.T) {
	m := newMemory()
	inside := dir{"f": "old", "sub": dir{"g": "older"}}
	f, mnt := m.mount(t, dir{"keep": "k", "dir": inside}, nil)
	d, err := unix.Open(filepath.Join(mnt, "dir"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(d)
	id := inodeOf(t, filepath.Join(mnt, "dir"))
	m.show(t, f, dir{"keep": "k"})
	cwd := fmt.Sprintf("/proc/self/fd/%d", d)
	compare(t, cwd, inside)
	eventually(t, "the directory has left", func() bool {
		_, err := os.Stat(filepath.Join(mnt, "dir"))
		return errors.Is(err, fs.ErrNotExist)
	})
	m.show(t, f, dir{"keep": "k", "dir": dir{"f": "new"}})
	compare(t, mnt, dir{"keep": "k", "dir": dir{"f": "new"}})
	compare(t, cwd, inside)
	if now := inodeOf(t, filepath.Join(mnt, "dir")); now == id {
		t.Error("the new directory is the old one's inode")
	}
}

// TestAMoveFetchesAndTellsLittle changes one file of 20,000.
func TestAMoveFetchesAndTellsLittle(t *testing.T) {
	const dirs, files = 200, 100
	d := dir{}
	for i := range dirs {
		sub := dir{}
		for j := range files {
			sub[fmt.Sprintf("f%02d", j)] = fmt.Sprint("content ", i, " ", j)
		}
		d[fmt.Sprintf("d%03d", i)] = sub
	}
	m := newMemory()
	f, mnt := m.mount(t, d, nil)
	readAll := func() (sum int) {
		for i := range dirs {
			for j := range files {
				b, err := os.ReadFile(fmt.Sprintf("%s/d%03d/f%02d", mnt, i, j))
				if err != nil {
					t.Fatal(err)
				}
				sum += len(b)
			}
		}
		return sum
	}
	before := readAll()
	d["d100"].(dir)["f50"] = "changed"
	v := m.view(t, d)
	// Read-ahead must have come to its end before requests are counted.
	eventually(t, "read-ahead ends", func() bool {
		a := m.count(&m.local)
		time.Sleep(100 * time.Millisecond)
		return a == m.count(&m.local)
	})
	gets := m.count(&m.gets)
	if err := f.Show(t.Context(), v, m); err != nil {
		t.Fatal(err)
	}
	if n := m.count(&m.gets) - gets; n > 3 {
		t.Errorf("%d objects fetched for one changed file", n)
	}
	if mv := f.Moves(); mv.Notified != 3 || mv.Fetched > 2 {
		t.Errorf("%+v, want notices of one file and two directories", mv)
	}
	t.Logf("%+v, %d objects", f.Moves(), m.count(&m.gets)-gets)
	reads := m.count(&m.local)
	if after := readAll(); after == before {
		t.Error("the change is not to be seen")
	}
	// Others on the machine may have the kernel drop some of what it has.
	if n := m.count(&m.local) - reads; n < 1 || n > dirs*files/10 {
		t.Errorf("%d files were read anew of 20,000, want the one that changed", n)
	}
}

func (m *memory) count(n *int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return *n
}

// version is one of many trees: each file says which one it is from.
func version(n int) dir {
	text := func(file string) string { return strings.Repeat(fmt.Sprintf("%s of version %d\n", file, n), 8000) }
	d := dir{"top": text("top"), fmt.Sprint("only", n): "x", "turns": fmt.Sprint(n), "sub": dir{}}
	for i := range 8 {
		name := fmt.Sprint("f", i)
		d["sub"].(dir)[name] = text(name)
	}
	if n%2 == 1 {
		d["turns"] = dir{"into": dir{"a": text("a")}}
	}
	return d
}

func TestReadersDuringMoves(t *testing.T) {
	for name, c := range map[string]struct {
		moves int
		cache int64
		slow  time.Duration
	}{"warm": {50, 16 << 20, 0}, "slow": {25, 1, 3 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			m.cache = tree.NewCache(c.cache)
			f, mnt := m.mount(t, version(0), nil)
			m.change(func() { m.slow = c.slow })
			held, err := os.Open(filepath.Join(mnt, "top"))
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()

			var shown, reads atomic.Int64
			done := make(chan struct{})
			var readers sync.WaitGroup
			for i := range 8 {
				readers.Go(func() {
					for n := 0; ; n++ {
						select {
						case <-done:
							return
						default:
						}
						path := fmt.Sprintf("%s/sub/f%d", mnt, (n+i)%8)
						if n%4 == 0 {
							path = filepath.Join(mnt, "top")
						}
						least := shown.Load()
						b, err := os.ReadFile(path)
						if err != nil {
							t.Error(err)
							return
						}
						first, _, _ := strings.Cut(string(b), "\n")
						var v int64
						if _, err := fmt.Sscanf(first, filepath.Base(path)+" of version %d", &v); err != nil || v < least {
							t.Errorf("%s says %q after version %d was shown, %v", path, first, least, err)
							return
						}
						if string(b) != strings.Repeat(first+"\n", 8000) {
							t.Errorf("%s is of more than one version", path)
							return
						}
						reads.Add(1)
					}
				})
			}
			for v := 1; v <= c.moves; v++ {
				d := version(v)
				m.show(t, f, d)
				shown.Store(int64(v))
				compare := func(path, want string) {
					if b, err := os.ReadFile(filepath.Join(mnt, path)); err != nil || string(b) != want {
						t.Errorf("%s after version %d was shown: %.30q, %v", path, v, b, err)
					}
				}
				compare("top", d["top"].(string))
				compare("sub/f3", d["sub"].(dir)["f3"].(string))
				compare(fmt.Sprint("only", v), "x")
				if v%2 == 1 {
					compare("turns/into/a", d["turns"].(dir)["into"].(dir)["a"].(string))
				} else {
					compare("turns", fmt.Sprint(v))
				}
				if _, err := os.Stat(filepath.Join(mnt, fmt.Sprint("only", v-1))); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("what version %d had is there in %d: %v", v-1, v, err)
				}
			}
			// Until the readers have seen the last version for a while, too.
			n := reads.Load()
			eventually(t, "readers go on", func() bool { return reads.Load() > n+16 || t.Failed() })
			close(done)
			readers.Wait()
			compare(t, mnt, version(c.moves))
			if b, err := io.ReadAll(held); err != nil || string(b) != version(0)["top"].(string) {
				t.Errorf("the file held open: %.30q, %v", b, err)
			}
			held.Close()
			t.Logf("%d reads, %+v", reads.Load(), f.Moves())
			if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
				t.Fatal(err)
			}
			eventually(t, "inodes are let go", func() bool { return f.Inodes() < 20 })
		})
	}
}

// throng is a tree in which each directory takes several readings, and every name
// says which tree it is from.
func throng(n int) dir {
	d := dir{}
	for i := range 4 {
		sub := dir{}
		for j := range 400 {
			sub[fmt.Sprintf("file-%03d-of-%d", j, n)] = fmt.Sprint(j)
		}
		deep := dir{}
		for j := range 50 {
			deep[fmt.Sprintf("deep-%02d-of-%d", j, n)] = fmt.Sprint(j)
		}
		sub["stays"] = deep
		sub[fmt.Sprintf("leaves-of-%d", n)] = deep
		d[fmt.Sprint("d", i)] = sub
	}
	return d
}

// cameTooLate tells whether all that ls complains of is directories that left after
// it had closed the one that it knew them from.
func cameTooLate(out string) bool {
	for line := range strings.Lines(stderrLines(out)) {
		if !strings.HasPrefix(line, "ls: cannot open directory ") || !strings.Contains(line, "/leaves-of-") {
			return false
		}
	}
	return true
}

func TestFindDuringMoves(t *testing.T) {
	m := newMemory()
	f, mnt := m.mount(t, throng(0), nil)
	done := make(chan struct{})
	var walkers sync.WaitGroup
	var walks atomic.Int64
	for _, args := range [][]string{{"find", mnt, "-size", "-9", "-print"}, {"ls", "-lR", mnt}, {"find", mnt, "-type", "f", "-print"}} {
		walkers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
				if err != nil && !(args[0] == "ls" && cameTooLate(string(out))) {
					t.Errorf("%s: %v: %.500s", args[0], err, stderrLines(string(out)))
					return
				}
				if args[0] == "find" {
					oneOfEach(t, string(out))
				}
				walks.Add(1)
			}
		})
	}
	for v := 1; v <= 40 && !t.Failed(); v++ {
		m.show(t, f, throng(v))
		time.Sleep(50 * time.Millisecond)
	}
	n := walks.Load()
	eventually(t, "walks go on", func() bool { return walks.Load() >= n+3 || t.Failed() })
	close(done)
	walkers.Wait()
	t.Logf("%d walks", walks.Load())
}

// stderrLines are the lines in which a program complains.
func stderrLines(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "find:") || strings.HasPrefix(line, "ls:") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// oneOfEach checks that each directory was shown as it was in one tree.
func oneOfEach(t *testing.T, paths string) {
	of := make(map[string]string)
	count := make(map[string]int)
	for path := range strings.FieldsSeq(paths) {
		dir, name := filepath.Split(path)
		kind, _, _ := strings.Cut(name, "-")
		_, v, ok := strings.Cut(name, "-of-")
		if !ok || kind == "leaves" {
			continue
		}
		if was, ok := of[dir]; ok && was != v {
			t.Errorf("%s shows names of trees %s and %s", dir, was, v)
			return
		}
		of[dir] = v
		count[dir]++
	}
	for dir, n := range count {
		if n != 400 && n != 50 {
			t.Errorf("%s shows %d names", dir, n)
		}
	}
	if len(count) != 12 {
		t.Errorf("%d directories with files, want 12", len(count))
	}
}

func TestAMountWithoutATree(t *testing.T) {
	m := newMemory()
	f, mnt := m.mount(t, nil, nil)
	if st, err := os.Stat(mnt); err != nil || !st.IsDir() {
		t.Fatal(err)
	}
	var sfs unix.Statfs_t
	if err := unix.Statfs(mnt, &sfs); err != nil {
		t.Error(err)
	}
	for _, err := range []error{
		func() error { _, err := os.ReadDir(mnt); return err }(),
		func() error { _, err := os.Stat(filepath.Join(mnt, "hello")); return err }(),
	} {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("without a tree: %v", err)
		}
	}
	if f.View() != nil {
		t.Error("there is a view")
	}
	m.show(t, f, sample)
	compare(t, mnt, sample)
	if st, _ := os.Stat(mnt); st.ModTime().UnixNano() != 987654321 {
		t.Errorf("root: %v", st.ModTime())
	}
}

// TestAMoveLeavesNestedMounts alone: notices of a directory would take away what is
// mounted below.
func TestAMoveLeavesNestedMounts(t *testing.T) {
	outer, inner := newMemory(), newMemory()
	f, mnt := outer.mount(t, dir{"a": dir{"etc": dir{}, "x": "1"}}, nil)
	path := filepath.Join(mnt, "a/etc")
	inner.mount(t, dir{"conf": "inner"}, func(c *Config) { c.Path, c.Nested = path, true })
	for i := range 5 {
		view, err := tree.NewView(t.Context(), outer.tree(t, dir{"a": dir{"x": fmt.Sprint(i)}, "b": "b"}), "", []string{"a/etc"})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Show(t.Context(), view, outer); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(path, "conf")); err != nil || string(b) != "inner" {
			t.Fatalf("%q, %v", b, err)
		}
		if b, err := os.ReadFile(filepath.Join(mnt, "a/x")); err != nil || string(b) != fmt.Sprint(i) {
			t.Fatalf("%q, %v", b, err)
		}
	}
}

func TestAFailedMoveLeavesTheOldTree(t *testing.T) {
	m := newMemory()
	f, mnt := m.mount(t, sample, nil)
	touch(t, mnt)
	v := m.view(t, dir{"hello": "other"})
	m.change(func() { delete(m.blobs, v.Head().Catalog) })
	if err := f.Show(t.Context(), v, m); err == nil {
		t.Fatal("moved to a tree that can't be had")
	}
	if f.View().Head().Serial != 1 || f.Moves().Count != 0 {
		t.Error("it counts as a move")
	}
	compare(t, mnt, sample)
	m.show(t, f, dir{"hello": "third"})
	compare(t, mnt, dir{"hello": "third"})
}

// TestAnOldListingThatIsLost can't tell the kernel by name what to drop in a
// directory: the directory becomes another one.
func TestAnOldListingThatIsLost(t *testing.T) {
	m := newMemory()
	m.cache = tree.NewCache(1) // one catalog at a time
	view := func(d dir) *tree.View {
		// A grafted directory keeps the root's listing in memory.
		v, err := tree.NewView(t.Context(), m.tree(t, d), "", []string{"graft"})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	f, mnt := m.mount(t, dir{}, nil)
	one := view(dir{"keep": "k", "d": dir{"e": dir{"f": "old", "removed": "r"}}})
	if err := f.Show(t.Context(), one, m); err != nil {
		t.Fatal(err)
	}
	touch(t, mnt)
	two := view(dir{"keep": "k", "d": dir{"e": dir{"f": "new"}}})
	m.change(func() { delete(m.blobs, one.Head().Catalog) })
	if err := f.Show(t.Context(), two, m); err != nil {
		t.Fatal(err)
	}
	compare(t, mnt, dir{"keep": "k", "graft": dir{}, "d": dir{"e": dir{"f": "new"}}})
	if _, err := os.Stat(filepath.Join(mnt, "d/e/removed")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestShowAroundTheLifeOfAMount(t *testing.T) {
	m := newMemory()
	path := t.TempDir()
	f, err := New(Config{Path: path, Name: "test", IOTimeout: 5 * time.Second, Log: m.log(t)}, m.view(t, sample), m)
	if err != nil {
		t.Fatal(err)
	}
	m.show(t, f, dir{"early": "e"}) // before it is mounted
	if err := f.Mount(); err != nil {
		t.Fatal(err)
	}
	compare(t, path, dir{"early": "e"})

	// Moves go on while it is unmounted, and end with it.
	errs := make(chan error, 1)
	go func() {
		for n := 0; ; n++ {
			if err := f.Show(t.Context(), m.view(t, dir{"early": fmt.Sprint(n), "d": dir{fmt.Sprint(n): "x"}}), m); err != nil {
				errs <- err
				return
			}
		}
	}()
	eventually(t, "it moves", func() bool { return f.Moves().Count > 5 })
	touch(t, path)
	if _, err := f.Unmount(); err != nil {
		t.Error(err)
	}
	select {
	case <-f.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the connection did not end")
	}
	select {
	case err := <-errs:
		if !errors.Is(err, ErrEnded) {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("moves go on after the mount has ended")
	}
	if err := f.Show(t.Context(), m.view(t, sample), m); !errors.Is(err, ErrEnded) {
		t.Error(err)
	}
}
