package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/digest"
)

// version is a tree of which every file tells the version, and is as long as that
// makes it.
func version(n int) map[string][]byte {
	all := make(map[string][]byte)
	for i := range 40 {
		v := n
		if i%4 != 0 {
			v = 0 // most files stay as they are
		}
		all[fmt.Sprintf("d%d/f%d", i%5, i)] = versionOf(i, v)
	}
	all["version"] = fmt.Append(nil, n)
	return all
}

func versionOf(file, n int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "file %d of version %d\n", file, n), 50+n)
}

func publishVersion(t *testing.T, dir, tree string, n int, flags ...string) {
	t.Helper()
	for name, data := range version(n) {
		path := filepath.Join(tree, name)
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, path, data, 0o644)
	}
	publish(t, dir, "e2e|app(1)", tree, flags...)
}

// shows waits until a mount shows a serial and its content.
func (c *client) shows(mount string, serial int64, n int) {
	c.t.Helper()
	eventually(c.t, 30*time.Second, fmt.Sprintf("%s shows version %d", mount, n), func() bool {
		for _, m := range c.status().Mounts {
			if m.Path == mount && m.Serial == serial && m.Problem == "" {
				return wholeTree(mount, version(n)) == nil
			}
		}
		return false
	})
}

// TestPublishUnderReaders publishes fifty versions while eight read. Every file
// that is read whole is of one version, and in the end all show the last one.
func TestPublishUnderReaders(t *testing.T) {
	const versions, readers = 50, 8
	dir, tree := shortDir(t), shortDir(t)
	publishVersion(t, dir, tree, 1)
	store := serveStore(t, dir)
	c := newClient(t, store.url())
	c.main = "refresh = \"1s\""
	mounts := c.mountTimes(3, "e2e|app(1)")
	c.start()
	held := openFile(t, filepath.Join(mounts[0], "d0/f0"))

	end := make(chan struct{})
	var all sync.WaitGroup
	var reads atomic.Int64
	for i := range readers {
		all.Go(func() {
			for n := i; ; n++ {
				select {
				case <-end:
					return
				default:
				}
				name := fmt.Sprintf("d%d/f%d", n%40%5, n%40)
				b, err := os.ReadFile(filepath.Join(mounts[n%len(mounts)], name))
				if err != nil {
					t.Error(err)
					return
				}
				line, _, _ := bytes.Cut(b, []byte("\n"))
				var file, v int
				if _, err := fmt.Sscanf(string(line), "file %d of version %d", &file, &v); err != nil || file != n%40 || !bytes.Equal(b, versionOf(file, v)) {
					t.Errorf("%s is not of one version: it begins with %q and has %d bytes", name, line, len(b))
					return
				}
				reads.Add(1)
				time.Sleep(time.Millisecond) // the publisher needs the processors, too
			}
		})
	}
	for n := 2; n <= versions; n++ {
		publishVersion(t, dir, tree, n)
	}
	published := time.Now()
	for _, m := range mounts {
		c.shows(m, versions, versions)
	}
	t.Logf("%d reads; the last version was seen after %v", reads.Load(), time.Since(published))
	close(end)
	all.Wait()
	b := make([]byte, 100_000)
	if n, _ := held.ReadAt(b, 0); !bytes.Equal(b[:n], version(1)["d0/f0"]) {
		t.Errorf("a file held open has other bytes, %d of them", n)
	}
	if reads.Load() < 100 {
		t.Errorf("only %d reads", reads.Load())
	}
	for _, w := range c.warnings() {
		t.Errorf("a warning: %s", w)
	}
	c.stop()
}

// TestOneRequestForAHead: a look asks once for a tree, however many mounts show
// it, and most of the time is told that nothing has changed.
func TestOneRequestForAHead(t *testing.T) {
	t.Parallel()
	tree, _ := smallTree(t)
	dir := shortDir(t)
	publish(t, dir, "e2e|app(1)", tree)
	head := filepath.Join(dir, "md/e2e|app(1)/any/head")
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(head, old, old); err != nil {
		t.Fatal(err)
	}
	store := serveStore(t, dir)
	var conditional atomic.Int64
	store.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("If-Modified-Since") != "" {
			conditional.Add(1)
		}
		return false
	})
	c := newClient(t, store.url())
	c.mountTimes(10, "e2e|app(1)")
	c.start()
	store.heads.Store(0)
	conditional.Store(0)
	const looks = 5
	for i := range looks {
		before := store.heads.Load()
		c.hup() // looks, too
		eventually(t, 20*time.Second, fmt.Sprintf("look %d", i), func() bool { return store.heads.Load() > before })
	}
	eventually(t, 20*time.Second, "all requests for heads are conditional", func() bool { return conditional.Load() == store.heads.Load() })
	if heads := store.heads.Load(); heads > 2*looks {
		t.Errorf("%d requests for heads in %d looks", heads, looks)
	}
	c.stop()
}

// TestHeadsThatAreRefused: older ones, and those signed by somebody else.
func TestHeadsThatAreRefused(t *testing.T) {
	t.Parallel()
	dir, tree, keys := shortDir(t), shortDir(t), shortDir(t)
	ours, public := keygen(t, filepath.Join(keys, "ours"))
	theirs, _ := keygen(t, filepath.Join(keys, "theirs"))
	publishVersion(t, dir, tree, 1, "-key", ours)
	publishVersion(t, dir, tree, 2, "-key", ours)
	head := filepath.Join(dir, "md/e2e|app(1)/any/head")
	second := mustRead(t, head)
	put := func(b []byte) {
		t.Helper()
		replace(t, head, b, 0o644)
	}
	c, mount := appClient(t, serveStore(t, dir).url())
	c.main = "refresh = \"1s\""
	c.stor = fmt.Sprintf("key = %q", public)
	c.start()
	c.shows(mount, 2, 2)
	refused := func(why string) {
		t.Helper()
		eventually(t, 30*time.Second, "the head is refused: "+why, func() bool {
			return strings.Contains(c.status().Mounts[0].Problem, why)
		})
		if m := c.status().Mounts[0]; m.Serial != 2 || m.Error != "" || m.Moves != 0 {
			t.Errorf("the mount: %+v", m)
		}
		if err := wholeTree(mount, version(2)); err != nil {
			t.Error(err)
		}
		c.wantStatus(0, "NOT THE NEWEST", why)
	}

	first := mustRead(t, head+".1")
	put(first)
	refused("older")
	put(bytes.Replace(second, []byte("serial 2"), []byte("serial 9"), 1))
	refused("sign")
	if n := strings.Count(c.log(), "head is refused"); n != 1 {
		t.Errorf("heads that are refused are logged %d times on end, want one", n)
	}
	put(second)
	c.shows(mount, 2, 2)

	// A rollback is a newer head of an older tree.
	publishVersion(t, dir, tree, 1, "-key", ours)
	c.shows(mount, 3, 1)

	// Somebody else's newer head.
	third := mustRead(t, head)
	forged := shortDir(t)
	for n := range 5 {
		publishVersion(t, forged, shortDir(t), n+1, "-key", theirs)
	}
	b := mustRead(t, filepath.Join(forged, "md/e2e|app(1)/any/head"))
	put(b)
	eventually(t, 30*time.Second, "a forged head is refused", func() bool { return c.status().Mounts[0].Problem != "" })
	put(third)
	c.shows(mount, 3, 1)
	c.stop()
}

// TestStoreThatIsNotWhole: the head has come, its objects have not. The mount
// stays as it is, and moves when they are there.
func TestStoreThatIsNotWhole(t *testing.T) {
	t.Parallel()
	dir, tree, from := shortDir(t), shortDir(t), shortDir(t)
	publishVersion(t, from, tree, 1)
	copyStore := func(what string) {
		t.Helper()
		run(t, time.Minute, "rsync", "-ac", from+"/"+what, dir+"/")
	}
	copyStore("")
	c, mount := appClient(t, serveStore(t, dir).url())
	c.main = "refresh = \"1s\"\nio_timeout = \"10s\""
	c.start()
	c.shows(mount, 1, 1)
	publishVersion(t, from, tree, 2)
	copyStore("md")
	eventually(t, 30*time.Second, "the head is seen", func() bool { return c.status().Mounts[0].Problem != "" })
	time.Sleep(2 * time.Second)
	if m := c.status().Mounts[0]; m.Serial != 1 || m.Moves != 0 {
		t.Errorf("moved to a tree that is not there: %+v", m)
	}
	if err := wholeTree(mount, version(1)); err != nil {
		t.Error(err)
	}
	if n := strings.Count(c.log(), "can't be shown yet"); n != 1 {
		t.Errorf("it is logged %d times that the tree is not whole, want one", n)
	}
	copyStore("")
	c.shows(mount, 2, 2)

	// All but one file's content is there.
	before := make(map[string]bool)
	blobs := filepath.Join(from, "default")
	entries, err := os.ReadDir(blobs)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		before[e.Name()] = true
	}
	publishVersion(t, from, tree, 3)
	late := digest.Of(version(3)["version"]).String()
	if before[late] {
		t.Fatal("the blob is not new: this test is of no use")
	}
	run(t, time.Minute, "rsync", "-ac", "--exclude", late, from+"/", dir+"/")
	eventually(t, 30*time.Second, "the blob is missed", func() bool { return strings.Contains(c.status().Mounts[0].Problem, late[:12]) })
	if err := wholeTree(mount, version(2)); err != nil {
		t.Error(err)
	}
	copyStore("")
	c.shows(mount, 3, 3)
	c.stop()
}

// TestNetworkCut cuts a client off while it runs, and while it doesn't.
func TestNetworkCut(t *testing.T) {
	t.Parallel()
	dir, tree := shortDir(t), shortDir(t)
	publishVersion(t, dir, tree, 1)
	store := serveStore(t, dir)
	c, mount := appClient(t, store.url(), "prefetch = 2")
	c.main = "refresh = \"1s\"\nio_timeout = \"10s\""
	c.start()
	c.shows(mount, 1, 1)
	c.settled()
	store.down()
	publishVersion(t, dir, tree, 2)
	eventually(t, 30*time.Second, "it is noticed that the store is away", func() bool { return !c.status().Mounts[0].Fresh })
	if err := wholeTree(mount, version(1)); err != nil {
		t.Error(err)
	}
	time.Sleep(2 * time.Second)
	if n := strings.Count(c.log(), "can't be asked for newer heads"); n != 1 {
		t.Errorf("it is logged %d times that the store is away, want one", n)
	}
	store.up()
	c.shows(mount, 2, 2)
	c.settled()
	c.stop()

	// A network that swallows everything: what is there is mounted at once.
	publishVersion(t, dir, tree, 3)
	store.setFault(stall)
	begin := time.Now()
	c.start()
	if d := time.Since(begin); d > 15*time.Second {
		t.Errorf("took %v to start", d)
	}
	if err := wholeTree(mount, version(2)); err != nil {
		t.Error(err)
	}
	store.setFault(nil)
	c.shows(mount, 3, 3)
	if m := c.status().Mounts[0]; !m.Fresh {
		t.Errorf("the mount has caught up: %+v", m)
	}
	c.stop()
}

// TestLateOuterMount: a mount that lies in one without a tree comes with it.
func TestLateOuterMount(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	store.setFault(refuseAll)
	c, outer := appClient(t, store.url(), "wait = \"0\"")
	c.main = "io_timeout = \"1s\""
	inner := filepath.Join(outer, "in/ner")
	c.mountAt(inner, "e2e|app(1)", "wait = \"0\"")
	begin := time.Now()
	c.start()
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("took %v to start without waiting", d)
	}
	for _, m := range c.status().Mounts {
		if m.Path == inner && !strings.Contains(m.Error, "waiting for the mount at "+outer) {
			t.Errorf("the inner mount: %q", m.Error)
		}
	}
	store.setFault(nil)
	eventually(t, 40*time.Second, "both are there", func() bool {
		s := c.status()
		return !hasError(s) && len(mountsUnder(c.dir)) == 2
	})
	wantContent(t, 5*time.Second, filepath.Join(outer, names[0]), content(100_000))
	wantContent(t, 5*time.Second, filepath.Join(inner, names[1]), content(100_001))
	c.stop()
}

func hasError(s *control.Status) bool {
	for _, m := range s.Mounts {
		if m.Error != "" {
			return true
		}
	}
	return false
}
