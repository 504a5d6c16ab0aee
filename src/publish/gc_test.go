package publish_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
)

func gc(t testing.TB, store string, mine ...func(*publish.GCOptions)) publish.GCResult {
	t.Helper()
	o := publish.GCOptions{Store: store, Now: func() time.Time { return day }}
	for _, f := range mine {
		f(&o)
	}
	res, err := publish.GC(context.Background(), o)
	must(t, err)
	return res
}

// A year of daily publishes: what is kept after each month is what was asked
// for, all of it readable, and nothing else stays.
func TestAYearOfPublishes(t *testing.T) {
	dir := t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "aysfs-test-"); err == nil {
		t.Cleanup(func() { os.RemoveAll(shm) })
		dir = shm // a thousand syncs
	}
	root, store := makeTree(t, nil), dir+"/store"
	for i := range 20 {
		must(t, os.WriteFile(fmt.Sprintf("%s/f%d", root, i), []byte(fmt.Sprint("file ", i)), 0o644))
	}
	const days = 365
	for d := 1; d <= days; d++ {
		now := func() time.Time { return day.AddDate(0, 0, d) }
		must(t, os.WriteFile(fmt.Sprintf("%s/f%d", root, d%20), []byte(fmt.Sprint("changed on day ", d)), 0o644))
		if res := run(t, store, root, func(o *publish.Options) { o.Now = now }); res.Serial != int64(d) {
			t.Fatalf("day %d has serial %d", d, res.Serial)
		}
		if d%73 != 0 {
			continue
		}
		res := gc(t, store, func(o *publish.GCOptions) { o.Keep, o.KeepWithin, o.Now = 3, (30*24+12)*time.Hour, now })
		// One for each of 30 days, and the one that was in force before the first.
		if res.Heads != 32 || res.PrunedHeads == 0 || res.Removed == 0 || res.Young != 0 {
			t.Errorf("day %d: %+v", d, res)
		}
		mustBeClean(t, store)
		if n := len(blobPaths(t, store)); int64(n) != res.Blobs {
			t.Errorf("day %d: %d blobs are there, %d were kept", d, n, res.Blobs)
		}
	}
	// Each head that was kept can be gone back to.
	for _, serial := range []int64{334, 350, 365} {
		_, err := publish.Republish(t.Context(), publish.RepublishOptions{
			Store: store, From: object.TreeName{ID: testID}, Serial: serial, To: object.TreeName{ID: "test|kept(" + fmt.Sprint(serial) + ")"},
		})
		must(t, err)
	}
	mustBeClean(t, store)
}

func TestGCSaysWhatItWouldDo(t *testing.T) {
	root, store := makeTree(t, map[string]string{"a": noise(1, 5000), "same": "1"}), t.TempDir()
	run(t, store, root)
	must(t, os.WriteFile(root+"/a", []byte(noise(2, 5000)), 0o644))
	run(t, store, root)
	before := storeFiles(t, store)
	all := gc(t, store, func(o *publish.GCOptions) { o.DryRun = true })
	if all.Heads != 2 || all.Removed != 0 || all.PrunedHeads != 0 {
		t.Errorf("keeping all: %+v", all)
	}
	dry := gc(t, store, func(o *publish.GCOptions) { o.DryRun, o.Keep = true, 1 })
	// The old content, the catalog, and the index.
	if dry.Heads != 1 || dry.PrunedHeads != 1 || dry.Removed != 3 || dry.RemovedSize < 5000 {
		t.Errorf("keeping one: %+v", dry)
	}
	for path, state := range before {
		if got := storeFiles(t, store)[path]; got != state {
			t.Errorf("a dry run changed %s", path)
		}
	}
	res := gc(t, store, func(o *publish.GCOptions) { o.Keep = 1 })
	dry.Elapsed, res.Elapsed = 0, 0
	if res != dry {
		t.Errorf("removed %+v, would have removed %+v", res, dry)
	}
	mustBeClean(t, store)
	mustHaveNoTemp(t, store)
}

// What a publish that is alive relies on stays, though no head has it yet.
func TestGCBesideAPublish(t *testing.T) {
	x := noise(7, 5000)
	store := t.TempDir()
	root := makeTree(t, map[string]string{"a/x": x, "b/y": "1"})
	run(t, store, root)
	must(t, os.Remove(root+"/a/x"))
	run(t, store, root)
	blob := filepath.Join(store, "default", digest.Of([]byte(x)).String())
	changed := func() time.Time {
		var st unix.Stat_t
		must(t, unix.Lstat(blob, &st))
		return time.Unix(st.Ctim.Unix())
	}
	before := changed()
	must(t, os.WriteFile(root+"/a/x", []byte(x), 0o644))
	must(t, unix.Mkfifo(root+"/b/pipe", 0o644))
	var res publish.GCResult
	l := logged{when: func(r slog.Record) {
		if !strings.Contains(r.Message, "skipped") {
			return
		}
		for deadline := time.Now().Add(30 * time.Second); changed().Equal(before); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the publish does not tell that it relies on a blob")
			}
		}
		res = gc(t, store, func(o *publish.GCOptions) { o.Keep = 1 })
	}}
	run(t, store, root, l.to)
	if res.Young == 0 || res.PrunedHeads != 1 {
		t.Errorf("gc beside the publish: %+v", res)
	}
	mustBeClean(t, store)
	if res := gc(t, store, func(o *publish.GCOptions) { o.Keep = 1 }); res.Young != 0 || res.PrunedHeads != 1 {
		t.Errorf("gc afterwards: %+v", res)
	}
	mustBeClean(t, store)
}

// Publishes and gcs of one store all at once: every head that is there at the
// end is whole.
func TestManyPublishesAndGCs(t *testing.T) {
	store := t.TempDir()
	var stop atomic.Bool
	done := make(chan error)
	const publishers = 3
	for p := range publishers {
		root := makeTree(t, nil)
		go func() {
			for i := range 8 {
				// Contents come back again and again, with and without a head that
				// has them.
				for f := range 10 {
					if err := os.WriteFile(fmt.Sprintf("%s/%d", root, f), []byte(noise(uint64((i+f)%4), 3000)), 0o644); err != nil {
						done <- err
						return
					}
				}
				if _, err := tryRun(store, root, func(o *publish.Options) { o.Tree.Platform = fmt.Sprint("p", p) }); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	collected := make(chan error)
	for range 2 {
		go func() {
			for !stop.Load() {
				_, err := publish.GC(context.Background(), publish.GCOptions{Store: store, Keep: 1})
				if err != nil && !os.IsNotExist(err) && !strings.Contains(err.Error(), "no store") {
					collected <- err
					return
				}
			}
			collected <- nil
		}()
	}
	for range publishers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	for range 2 {
		if err := <-collected; err != nil {
			t.Error(err)
		}
	}
	mustBeClean(t, store)
	gc(t, store, func(o *publish.GCOptions) { o.Keep = 1 })
	mustBeClean(t, store)
}

// Where something is missing that a kept head needs, nothing is removed.
func TestGCOfADamagedStore(t *testing.T) {
	root, store := makeTree(t, map[string]string{"a": "1"}), t.TempDir()
	run(t, store, root)
	must(t, os.WriteFile(root+"/a", []byte("2"), 0o644))
	run(t, store, root)
	p := readBack(t, store)
	_, err := publish.GC(t.Context(), publish.GCOptions{Store: store, DryRun: true}) // makes md/.gc
	must(t, err)
	for what, d := range map[string]digest.Digest{"metadata": p.head.Catalog, "content": p.entries["a"].Digest} {
		missing := filepath.Join(store, "default", d.String())
		content := readFile(t, missing)
		must(t, os.Remove(missing))
		before := len(storeFiles(t, store))
		_, err := publish.GC(t.Context(), publish.GCOptions{Store: store, Keep: 1})
		if err == nil || !strings.Contains(err.Error(), "nothing was removed") || !strings.Contains(err.Error(), d.String()) {
			t.Errorf("%s is missing: error %v", what, err)
		}
		if after := len(storeFiles(t, store)); after != before {
			t.Errorf("%s is missing: %d files, %d before", what, after, before)
		}
		must(t, os.WriteFile(missing, []byte(content), 0o644))
	}
	if res := gc(t, store, func(o *publish.GCOptions) { o.Keep = 1 }); res.PrunedHeads != 1 || res.Removed == 0 {
		t.Errorf("mended: %+v", res)
	}
	for _, o := range []publish.GCOptions{{Store: t.TempDir()}, {Store: store, Keep: -1}, {Store: store + "/none"}} {
		if _, err := publish.GC(t.Context(), o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

// Blobs that another user has put into the store, by rsync say, are no hindrance:
// what can't be kept from gc is written anew.
func TestBlobsOfAnotherUser(t *testing.T) {
	root, store := makeTree(t, map[string]string{"a": "1", "d/b": "2"}), t.TempDir()
	first := run(t, store, root)
	must(t, os.RemoveAll(store+"/default/.tmp"))
	must(t, os.RemoveAll(store+"/md"))
	if os.Getuid() != 0 {
		t.Fatal("this test needs root, as the whole suite does")
	}
	const nobody = 65534
	for _, dir := range []string{store, store + "/default"} {
		must(t, os.Chown(dir, nobody, nobody))
	}
	for _, dir := range []string{filepath.Dir(store), filepath.Dir(root)} {
		must(t, os.Chmod(dir, 0o755))
	}
	must(t, syscall.Setresuid(-1, nobody, -1))
	t.Cleanup(func() { must(t, syscall.Setresuid(-1, 0, -1)) })
	res := run(t, store, root)
	if res.NewBlobs != first.NewBlobs || res.Root != first.Root {
		t.Errorf("got %+v after %+v", res, first)
	}
	mustBeClean(t, store)
	if res := run(t, store, root); !res.Unchanged || res.NewBlobs != 0 {
		t.Errorf("once more: %+v", res)
	}
}

// What another user is publishing at the time, or left behind, is no hindrance either.
func TestTempOfAnotherUser(t *testing.T) {
	root, next, store := makeTree(t, map[string]string{"a": "1"}), makeTree(t, map[string]string{"a": "2"}), t.TempDir()
	run(t, store, root)
	if os.Getuid() != 0 {
		t.Fatal("this test needs root, as the whole suite does")
	}
	const nobody = 65534
	must(t, filepath.WalkDir(store, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, nobody, nobody))
	}))
	left := store + "/default/.tmp/publish-1"
	must(t, os.Mkdir(left, 0o700))
	must(t, os.WriteFile(left+"/lock", nil, 0o644))
	for _, dir := range []string{filepath.Dir(store), filepath.Dir(next)} {
		must(t, os.Chmod(dir, 0o755))
	}
	must(t, syscall.Setresuid(-1, nobody, -1))
	t.Cleanup(func() { must(t, syscall.Setresuid(-1, 0, -1)) })
	if res, err := tryRun(store, next); err != nil || res.Serial != 2 {
		t.Errorf("beside it: %+v, %v", res, err)
	}
	must(t, syscall.Setresuid(-1, 0, -1))
	run(t, store, root)
	if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("root left it there: %v", err)
	}
}

// Heads that are reached through symlinks are as good as others, and where they may be
// somewhere that is not mounted nothing is removed.
func TestGCThroughSymlinks(t *testing.T) {
	other := object.TreeName{ID: "jumpscale|other(1)", RepoID: "r"}
	move := func(path string) (to string) {
		to = filepath.Join(t.TempDir(), "moved")
		must(t, os.Rename(path, to))
		must(t, os.Symlink(to, path))
		return to
	}
	for name, c := range map[string]struct {
		do   func(store string)
		want string // of the error; empty if there is none
	}{
		"md":     {func(store string) { move(store + "/md") }, ""},
		"a repo": {func(store string) { move(store + "/md/r") }, ""},
		"a tree": {func(store string) { move(filepath.Join(store, object.TreeName{ID: testID}.Dir())) }, ""},
		"a tree that is not there": {func(store string) {
			to := move(store + "/md/r")
			must(t, os.Rename(to, to+".away"))
		}, "leads nowhere"},
		"an empty md": {func(store string) {
			must(t, os.Rename(store+"/md", store+"/.md"))
			must(t, os.Mkdir(store+"/md", 0o755))
		}, "not mounted"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			run(t, dir, makeTree(t, map[string]string{"f": "one"}))
			run(t, dir, makeTree(t, map[string]string{"f": "two"}), func(o *publish.Options) { o.Tree = other })
			blobs := len(blobPaths(t, dir))
			c.do(dir)
			res, err := publish.GC(t.Context(), publish.GCOptions{Store: dir, Keep: 1})
			if c.want == "" && (err != nil || res.Trees != 2) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%+v, %v", res, err)
			}
			if n := len(blobPaths(t, dir)); n != blobs {
				t.Errorf("%d blobs are left of %d", n, blobs)
			}
		})
	}
}
