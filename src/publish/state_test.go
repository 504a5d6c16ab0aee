package publish_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
)

// later is long after the test's files were made: none of them is too fresh to be
// remembered.
func later() time.Time { return time.Now().Add(time.Hour) }

// stateTest is a tree that is published again and again with a state file.
type stateTest struct {
	*testing.T
	root, store, state string
	now                func() time.Time
	log                bytes.Buffer
}

func newStateTest(t *testing.T) *stateTest {
	dir := t.TempDir()
	return &stateTest{T: t, root: craftedTree(t), store: dir + "/store", state: dir + "/cache/state", now: later}
}

// craftedFiles is how many files there are in the crafted tree.
const craftedFiles = 8

// publish publishes, and checks how many files were not read.
func (t *stateTest) publish(unread int64, mine ...func(*publish.Options)) publish.Result {
	t.Helper()
	t.log.Reset()
	res := run(t, t.store, t.root, append([]func(*publish.Options){func(o *publish.Options) {
		o.State, o.Now, o.Log = t.state, t.now, slog.New(slog.NewTextHandler(&t.log, nil))
	}}, mine...)...)
	if res.Unread != unread {
		t.Errorf("%d files were not read, want %d; %s", res.Unread, unread, t.log.String())
	}
	return res
}

// same checks that the store has what the tree has.
func (t *stateTest) same() {
	t.Helper()
	mustBeClean(t, t.store)
	for path, content := range readBack(t, t.store).content {
		if want, err := os.ReadFile(filepath.Join(t.root, path)); err != nil || content != string(want) {
			t.Errorf("%q is not what was published (%v)", path, err)
		}
	}
}

func TestUnchangedFilesAreNotRead(t *testing.T) {
	s := newStateTest(t)
	first := s.publish(0)
	second := s.publish(craftedFiles)
	if !second.Unchanged || second.Root != first.Root || second.Counts != first.Counts {
		t.Errorf("first %+v, then %+v", first, second)
	}
	if info, err := os.Stat(s.state); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("state file: %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Dir(s.state) + "/.*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	s.publish(0, func(o *publish.Options) { o.Full = true })
	s.publish(craftedFiles)

	// A mode and a time are published without the content being known from before:
	// the file might have been written as well.
	must(t, os.Chmod(s.root+"/bin/mongod", 0o755))
	if res := s.publish(craftedFiles - 1); res.NewBlobs == 0 {
		t.Error("a new mode made no new listing")
	}
	s.publish(craftedFiles)
	s.same()
}

// As root no file is unreadable. But none is opened, so its time of last access
// stays, on a file system that keeps it.
func TestUnchangedFilesAreNotOpened(t *testing.T) {
	s := newStateTest(t)
	mnt := t.TempDir()
	must(t, unix.Mount("tmpfs", mnt, "tmpfs", unix.MS_STRICTATIME, "size=64m"))
	t.Cleanup(func() { must(t, unix.Unmount(mnt, 0)) })
	must(t, os.CopyFS(mnt+"/tree", os.DirFS(s.root)))
	s.root = mnt + "/tree"
	atime := func() unix.Timespec {
		var st unix.Stat_t
		must(t, unix.Stat(s.root+"/lib/noise", &st))
		return st.Atim
	}
	before := atime()
	s.publish(0)
	read := atime()
	if read == before {
		t.Fatal("reading does not show")
	}
	s.publish(craftedFiles)
	if atime() != read {
		t.Error("the file was read again")
	}
}

// What changed is read, even if its size and mtime are as they were.
func TestChangedFilesAreRead(t *testing.T) {
	s := newStateTest(t)
	s.publish(0)
	must(t, os.WriteFile(s.root+"/share-x/z", []byte("SORTS BEHIND SHARE/DOC"), 0o644))
	must(t, os.WriteFile(s.root+"/lib/libbig.so", []byte(noise(9, 3<<19)), 0o644))
	setTimes(t, s.root) // touches all, and so moves every ctime
	s.publish(0)
	s.same()
	s.publish(craftedFiles)

	must(t, os.WriteFile(s.root+"/share-x/z", []byte("sorts behind share/doc"), 0o644))
	must(t, os.Chtimes(s.root+"/share-x/z", day, day))
	must(t, os.Rename(s.root+"/lib/noise", s.root+"/lib/noise.old"))
	must(t, os.Rename(s.root+"/share/doc", s.root+"/share/doc2")) // other paths, same inodes
	must(t, os.WriteFile(s.root+"/new", []byte("new"), 0o644))
	must(t, os.Remove(s.root+"/bin/mongod"))
	s.publish(2) // lib/libbig.so and lib/exactly-a-blob
	s.same()
	s.publish(craftedFiles)
}

// A file that was written just before it was read may be written again with the
// same times: it is not remembered.
func TestFreshFilesAreReadAgain(t *testing.T) {
	s := newStateTest(t)
	s.now = func() time.Time { return time.Now().Add(-time.Second) }
	s.publish(0)
	s.publish(0)
	s.now = later
	s.publish(0)
	s.publish(craftedFiles)
}

// A store that lost something gets it again.
func TestLostBlobsAreStoredAgain(t *testing.T) {
	s := newStateTest(t)
	s.publish(0)
	for _, path := range blobPaths(t, s.store) {
		must(t, os.Remove(filepath.Join(s.store, path)))
		s.publishAny()
		s.same()
	}
	s.publish(craftedFiles)
	must(t, os.RemoveAll(s.store))
	if res := s.publish(0); res.Serial != 1 || res.Unchanged {
		t.Errorf("got %+v", res)
	}
	s.same()
	// The list of a chunked file's chunks.
	p := readBack(t, s.store)
	list := p.entries["lib/libbig.so"]
	if !list.Chunked {
		t.Fatal("not chunked")
	}
	must(t, os.WriteFile(filepath.Join(s.store, "default", list.Digest.String()), []byte("torn"), 0o644))
	s.publish(craftedFiles - 1)
	if !strings.Contains(s.log.String(), "damaged") {
		t.Errorf("the log has %q", s.log.String())
	}
}

func (t *stateTest) publishAny() {
	t.Helper()
	run(t, t.store, t.root, func(o *publish.Options) { o.State, o.Now = t.state, t.now })
}

// A state file that is torn, another's or no such file is ignored, with a word.
func TestStateFileThatCannotBeUsed(t *testing.T) {
	s := newStateTest(t)
	s.publish(0)
	good, err := os.ReadFile(s.state)
	must(t, err)
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, bad := range map[string][]byte{
		"empty":         {},
		"short":         good[:10],
		"torn":          good[:len(good)/2],
		"torn checksum": good[:len(good)-1],
		"flipped":       flipped,
		"other version": bytes.Replace(good, []byte("state 1"), []byte("state 0"), 1),
		"other store":   bytes.Replace(good, []byte("store"), []byte("STORE"), 1),
	} {
		must(t, os.WriteFile(s.state, bad, 0o600))
		s.publish(0)
		if !strings.Contains(s.log.String(), "ignoring the state file") {
			t.Errorf("%s: the log has %q", name, s.log.String())
		}
		s.publish(craftedFiles)
	}
	s.publish(0, func(o *publish.Options) { o.Domain = "other" })
	s.publish(0, func(o *publish.Options) { o.Tree.Platform = "linux" })
	s.same()

	// Where none can be written, publishing works, and says so.
	must(t, os.WriteFile(s.root+"/file", nil, 0o644))
	s.state = s.root + "/file/state"
	s.publish(0)
	if !strings.Contains(s.log.String(), "will read all files") {
		t.Errorf("the log has %q", s.log.String())
	}
}

// A publish that fails leaves the state file alone: what it read may not be in
// the store.
func TestFailedPublishKeepsState(t *testing.T) {
	s := newStateTest(t)
	s.publish(0)
	before, err := os.ReadFile(s.state)
	must(t, err)
	must(t, unix.Mkfifo(s.root+"/pipe", 0o644))
	if _, err := tryRun(s.store, s.root, func(o *publish.Options) { o.State, o.Now, o.Whole = s.state, later, true }); err == nil {
		t.Fatal("published")
	}
	if after, err := os.ReadFile(s.state); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the state file changed (%v)", err)
	}
}

func TestDefaultState(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "/cache")
	store := t.TempDir()
	names := map[string]bool{}
	for _, tree := range []object.TreeName{{ID: testID}, {ID: testID, Platform: "linux"}, {ID: testID, RepoID: "repo"}} {
		for _, domain := range []string{"", "other"} {
			name, err := publish.DefaultState(store, tree, domain)
			must(t, err)
			if filepath.Dir(name) != "/cache/aysfs/publish" || names[name] {
				t.Errorf("%v in %q: %s", tree, domain, name)
			}
			names[name] = true
		}
	}
	same, err := publish.DefaultState("file://"+store+"/", object.TreeName{ID: testID}, object.DefaultDomain)
	must(t, err)
	if !names[same] {
		t.Errorf("the same store has another state file by another name, %s", same)
	}
}
