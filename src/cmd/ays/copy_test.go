package main_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// manyFiles is a tree of different files, one of them in chunks.
func manyFiles(t *testing.T, n int) string {
	t.Helper()
	tree := t.TempDir()
	for i := range n {
		must(t, os.WriteFile(fmt.Sprintf("%s/%d", tree, i), []byte(strings.Repeat(fmt.Sprint("file ", i, " "), 50)), 0o644))
	}
	large := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(large)
	must(t, os.WriteFile(tree+"/large", large, 0o644))
	return tree
}

func blobsOf(t *testing.T, store string) []string {
	t.Helper()
	blobs, err := filepath.Glob(store + "/default/????????????????*")
	must(t, err)
	return blobs
}

// A mirror has all that the store has, signatures included, and fetches only
// what it lacks.
func TestCopy(t *testing.T) {
	store, mirror, keys := t.TempDir(), t.TempDir()+"/mirror", t.TempDir()
	ays(t, 0, "keygen", keys+"/release")
	tree := manyFiles(t, 50)
	publishJSON(t, 0, store, "-key", keys+"/release.key", tree)
	publishJSON(t, 0, store, "-key", keys+"/release.key", "-platform", "linux", someTree(t))
	var asked atomic.Int64
	files := http.FileServer(http.Dir(store))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/default/") {
			asked.Add(1)
		}
		files.ServeHTTP(w, r)
	}))
	defer srv.Close()
	copyTo := func(code int, args ...string) outcome {
		t.Helper()
		return ays(t, code, append([]string{"copy", "-to", mirror, "-from", srv.URL, "-key", keys + "/release.pub"}, args...)...)
	}
	contains(t, copyTo(0).stdout, "2 trees, 0 of them as they were")
	contains(t, ays(t, 0, "verify", "-store", mirror, "-key", keys+"/release.pub").stdout, "2 trees", "all right")
	if a, b := blobsOf(t, store), blobsOf(t, mirror); len(a) != len(b) {
		t.Errorf("%d objects in the store, %d in the mirror", len(a), len(b))
	}
	asked.Store(0)
	contains(t, copyTo(0).stdout, "2 trees, 2 of them as they were; 0 new objects")
	if n := asked.Load(); n != 0 {
		t.Errorf("%d objects fetched for nothing", n)
	}
	must(t, os.WriteFile(tree+"/0", []byte("changed"), 0o644))
	publishJSON(t, 0, store, "-key", keys+"/release.key", tree)
	contains(t, copyTo(0, "-id", id).stdout, "1 trees, 0 of them as they were; 3 new objects")
	if n := asked.Load(); n != 3 { // content, catalog, index
		t.Errorf("%d objects fetched", n)
	}
	contains(t, ays(t, 0, "diff", "-store", mirror, id+"@1", id).stdout, "~ 0", "0 added, 1 changed, 0 removed")
	contains(t, ays(t, 0, "verify", "-store", mirror).stdout, "all right")

	// A mirror that is ahead stays so.
	publishJSON(t, 0, mirror, "-key", keys+"/release.key", someTree(t))
	publishJSON(t, 0, mirror, "-key", keys+"/release.key", tree)
	contains(t, copyTo(2, "-id", id).stderr, "refuse to go back")
	contains(t, copyTo(2, "-id", id, "-platform", "none").stderr, "no such object")
	ays(t, 0, "keygen", keys+"/other")
	contains(t, ays(t, 2, "copy", "-to", t.TempDir(), "-from", store, "-key", keys+"/other.pub").stderr, "not signed")
	contains(t, ays(t, 2, "copy", "-from", store).stderr, "-to")
	contains(t, ays(t, 2, "copy", "-to", store).stderr, "-from is needed")
}

// A copy that is killed goes on where it was, and is never seen half.
func TestKilledCopy(t *testing.T) {
	store, mirror := t.TempDir(), t.TempDir()
	publishJSON(t, 0, store, manyFiles(t, 300))
	slow := http.FileServer(http.Dir(store))
	var bad atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Millisecond)
		if bad.Load() && strings.HasPrefix(r.URL.Path, "/default/") {
			w.Write([]byte("garbage"))
			return
		}
		slow.ServeHTTP(w, r)
	}))
	defer srv.Close()
	for range 8 {
		cmd := command("copy", "-from", srv.URL, "-to", mirror)
		must(t, cmd.Start())
		time.Sleep(rand.N(60 * time.Millisecond))
		must(t, cmd.Process.Signal(syscall.SIGKILL))
		cmd.Wait()
		if heads, _ := filepath.Glob(mirror + "/md/*/*/head"); len(heads) > 0 {
			ays(t, 0, "verify", "-store", mirror)
		}
	}
	// A source that lies gets nowhere.
	other := t.TempDir()
	bad.Store(true)
	contains(t, ays(t, 2, "copy", "-from", srv.URL, "-to", other).stderr, "corrupt")
	if heads, _ := filepath.Glob(other + "/md/*/*/head"); len(heads) > 0 {
		t.Error("there is a head")
	}
	bad.Store(false)
	ays(t, 0, "copy", "-from", srv.URL, "-to", mirror)
	contains(t, ays(t, 0, "verify", "-store", mirror).stdout, "all right")
	var res struct{ Removed, Young int64 }
	must(t, json.Unmarshal([]byte(ays(t, 0, "gc", "-json", "-store", mirror).stdout), &res))
	if res.Young != 0 {
		t.Errorf("got %+v", res)
	}
	if left, _ := filepath.Glob(mirror + "/default/.tmp/*-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRepair(t *testing.T) {
	store, mirror := t.TempDir(), t.TempDir()
	publishJSON(t, 0, store, manyFiles(t, 30))
	ays(t, 0, "copy", "-from", store, "-to", mirror)
	repair := func(code int) string {
		t.Helper()
		return ays(t, code, "verify", "-store", store, "-repair", "-from", mirror).stdout
	}
	contains(t, repair(0), "0 objects mended", "all right")
	// All of it, in turns missing, empty, cut off and turned.
	blobs := blobsOf(t, store)
	for i, b := range blobs {
		stored, err := os.ReadFile(b)
		must(t, err)
		switch i % 4 {
		case 0:
			must(t, os.Remove(b))
		case 1:
			must(t, os.WriteFile(b, nil, 0o644))
		case 2:
			must(t, os.WriteFile(b, stored[:len(stored)-1], 0o644))
		case 3:
			stored[len(stored)/2] ^= 1
			must(t, os.WriteFile(b, stored, 0o644))
		}
	}
	head := store + "/md/" + id + "/any/head"
	must(t, os.WriteFile(head, []byte("garbage"), 0o644))
	ays(t, 1, "verify", "-store", store)
	contains(t, repair(0), fmt.Sprintf("%d objects mended", len(blobs)+1), "all right")
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right")
	contains(t, repair(0), "0 objects mended")

	// What neither has stays a problem, and a head is not put where that is needed.
	must(t, os.Remove(blobs[0]))
	gone := filepath.Join(mirror, "default", filepath.Base(blobs[0]))
	kept, err := os.ReadFile(gone)
	must(t, err)
	must(t, os.Remove(gone))
	must(t, os.WriteFile(head, []byte("garbage"), 0o644))
	contains(t, repair(1), "problems", "not put there")
	if now, err := os.ReadFile(head); err != nil || string(now) != "garbage" {
		t.Errorf("there is a head without its blobs: %q, %v", now, err)
	}
	must(t, os.WriteFile(gone, kept, 0o644))
	contains(t, repair(0), "2 objects mended", "all right")
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right")
	contains(t, ays(t, 2, "verify", "-store", store, "-repair").stderr, "go together")
}

// The order that the README tells: whoever looks at the mirror between any two
// steps sees whole trees.
func TestRsync(t *testing.T) {
	store, mirror := t.TempDir(), t.TempDir()
	tree := manyFiles(t, 20)
	publishJSON(t, 0, store, tree)
	steps := [][]string{
		{"-ac", "--delete", "--exclude=.*", store + "/md/", mirror + "/.md/"},
		{"-a", "--exclude=.*", "--exclude=/md/", store + "/", mirror + "/"},
		{"-ac", "--exclude=.*", "--exclude=/trees", mirror + "/.md/", mirror + "/md/"},
		{"-ac", "--delete", "--exclude=.*", mirror + "/.md/", mirror + "/md/"},
		{"-a", "--delete", "--exclude=.*", "--exclude=/md/", store + "/", mirror + "/"},
	}
	sync := func(look bool, between ...func()) {
		t.Helper()
		for i, s := range steps {
			cmd := exec.Command("rsync", s...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
			}
			if look || i > 2 {
				contains(t, ays(t, 0, "verify", "-store", mirror).stdout, "all right")
			}
			for _, f := range between {
				f()
			}
		}
	}
	sync(false)
	for i := range 3 {
		must(t, os.WriteFile(fmt.Sprintf("%s/%d", tree, i), []byte("changed"), 0o644))
		publishJSON(t, 0, store, tree)
		ays(t, 0, "gc", "-store", store, "-keep", "1")
		sync(true)
		if a, b := blobsOf(t, store), blobsOf(t, mirror); len(a) != len(b) {
			t.Errorf("%d objects in the store, %d in the mirror", len(a), len(b))
		}
	}
	// Publishes of the store go on meanwhile.
	n := 0
	sync(true, func() {
		n++
		must(t, os.WriteFile(tree+"/0", []byte(fmt.Sprint("meanwhile ", n)), 0o644))
		publishJSON(t, 0, store, tree)
	})
	sync(true)
	// A gc of the mirror finds nothing to do.
	contains(t, ays(t, 0, "gc", "-store", mirror).stdout, "removed 0 heads, 0 blobs")
}
