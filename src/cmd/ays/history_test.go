package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// threeSerials publishes a tree three times to a store: with one file changed,
// one added and a directory removed, then with a change of mode alone.
func threeSerials(t *testing.T, store string, flags ...string) (tree string) {
	t.Helper()
	tree = someTree(t)
	must(t, os.MkdirAll(tree+"/old/deep", 0o755))
	must(t, os.WriteFile(tree+"/old/deep/file", []byte("x"), 0o644))
	must(t, os.WriteFile(tree+"/kind", []byte("a file"), 0o644))
	step := func(serial int64) {
		t.Helper()
		if s := publishJSON(t, 0, store, append(flags, tree)...); s.Serial != serial {
			t.Fatalf("got %+v, want serial %d", s, serial)
		}
	}
	step(1)
	must(t, os.WriteFile(tree+"/README", []byte("other"), 0o644))
	must(t, os.WriteFile(tree+"/bin/new\nline", []byte("new"), 0o644))
	must(t, os.RemoveAll(tree+"/old"))
	must(t, os.Remove(tree+"/kind"))
	must(t, os.Symlink("README", tree+"/kind"))
	step(2)
	must(t, os.Chmod(tree+"/bin", 0o700))
	step(3)
	return tree
}

func TestLogAndDiff(t *testing.T) {
	store, keys := t.TempDir(), t.TempDir()
	ays(t, 0, "keygen", keys+"/release")
	threeSerials(t, store, "-platform", "linux", "-key", keys+"/release.key")
	srv := httptest.NewServer(http.FileServer(http.Dir(store)))
	defer srv.Close()
	type entry struct {
		Serial, Files int64
		Keys          []string
		Since         *struct{ Added, Changed, Removed int64 }
	}
	for _, where := range []string{store, srv.URL} {
		var log []entry
		must(t, json.Unmarshal([]byte(ays(t, 0, "log", "-json", "-store", where, "-id", id, "-platform", "linux", "-key", keys+"/release.pub").stdout), &log))
		if len(log) != 3 || log[0].Serial != 3 || log[2].Serial != 1 || log[2].Since != nil || log[1].Files != 3 || len(log[0].Keys) != 1 {
			t.Fatalf("log of %s: %+v", where, log)
		}
		// README changed; bin/new\nline and the link kind came; kind, old,
		// old/deep and its file went.
		if s := log[1].Since; s == nil || s.Added != 2 || s.Changed != 1 || s.Removed != 4 {
			t.Errorf("serial 2 of %s: %+v", where, s)
		}
		if s := log[0].Since; s == nil || s.Added != 0 || s.Changed != 1 || s.Removed != 0 {
			t.Errorf("serial 3 of %s: %+v", where, s)
		}
		diff := ays(t, 0, "diff", "-store", where, "-platform", "linux", id+"@1", id+"@2").stdout
		want := "~ README\n+ \"bin/new\\nline\"\n- kind\n+ kind\n- old\n- old/deep\n- old/deep/file\n2 added, 1 changed, 4 removed\n"
		if diff != want {
			t.Errorf("diff from %s: %s, want %s", where, diff, want)
		}
		if out := ays(t, 0, "diff", "-store", where, "-platform", "linux", id+"@2", id).stdout; out != "~ bin\n0 added, 1 changed, 0 removed\n" {
			t.Errorf("a change of mode: %q", out)
		}
		if out := ays(t, 0, "diff", "-json", "-store", where, "-platform", "linux", id+"@3", id).stdout; out != "" {
			t.Errorf("no difference: %q", out)
		}
	}
	contains(t, ays(t, 0, "log", "-n", "1", "-store", store, "-id", id, "-platform", "linux").stdout, "SERIAL", "release", "+0")
	if out := ays(t, 2, "diff", "-store", store, "-platform", "linux", id+"@1", id+"@9").stderr; !strings.Contains(out, "no such object") || strings.Contains(out, "choose") {
		t.Errorf("a serial that never was: %s", out)
	}
	contains(t, ays(t, 2, "log", "-store", store, "-id", id).stderr, "no such object", "for linux: choose with -platform")
	contains(t, ays(t, 2, "diff", "-store", store, id+"@one", id).stderr, "ID@SERIAL")
}

// A rollback is a new serial with an old root, and costs no blob.
func TestRollback(t *testing.T) {
	store, keys := t.TempDir(), t.TempDir()
	ays(t, 0, "keygen", keys+"/release")
	ays(t, 0, "keygen", keys+"/other")
	sign := []string{"-key", keys + "/release.key"}
	threeSerials(t, store, sign...)
	blobs := func() int {
		found, err := filepath.Glob(store + "/default/*")
		must(t, err)
		return len(found)
	}
	before := blobs()
	back := func(code int, args ...string) outcome {
		t.Helper()
		return ays(t, code, append([]string{"rollback", "-store", store, "-id", id}, args...)...)
	}
	contains(t, back(0, "-serial", "1", "-key", keys+"/release.key").stdout, "published", "serial 4")
	if after := blobs(); after != before {
		t.Errorf("%d blobs, %d before", after, before)
	}
	contains(t, ays(t, 0, "diff", "-store", store, id+"@1", id+"@4").stdout, "0 added, 0 changed, 0 removed")
	contains(t, ays(t, 0, "verify", "-store", store, "-key", keys+"/release.pub").stdout, "all right")
	contains(t, back(0, "-serial", "4", "-key", keys+"/release.key").stdout, "unchanged", "serial 4")

	contains(t, back(2, "-serial", "7", "-key", keys+"/release.key").stderr, "no head with serial 7", "ays log")
	contains(t, back(2, "-serial", "2", "-key", keys+"/other.key").stderr, "not signed", "-from-key")
	contains(t, back(0, "-serial", "2", "-key", keys+"/other.key", "-from-key", keys+"/release.pub").stdout, "serial 5")
	contains(t, back(0, "-serial", "3", "-key", keys+"/release.key", "-from-key", "none").stdout, "serial 6")
	head, err := os.ReadFile(store + "/md/" + id + "/any/head")
	must(t, err)
	if !strings.Contains(string(head), "serial 6\n") {
		t.Errorf("the head is\n%s", head)
	}
	contains(t, back(0, "-serial", "3").stderr, "the new one will not be")
	if out := back(0, "-serial", "7"); out.stderr != "" {
		t.Errorf("it is not signed now, and yet: %s", out.stderr)
	}

	// What is not all there is not published again.
	must(t, os.RemoveAll(store+"/default"))
	contains(t, back(2, "-serial", "1", "-key", keys+"/release.key").stderr, "can't be published again", "no such object")
}

func TestPromote(t *testing.T) {
	store := t.TempDir()
	threeSerials(t, store, "-platform", "test")
	out := ays(t, 0, "promote", "-store", store, "-id", id, "-platform", "test", "-to-platform", "production").stdout
	contains(t, out, "published "+id+"@production, serial 1")
	out = ays(t, 0, "tag", "-json", "-store", store, "-id", id, "-platform", "test", "-serial", "1", "-to-id", "jumpscale|mongodb(stable)", "-to-platform", "any").stdout
	var res struct {
		ID, Platform string
		Serial       int64
	}
	must(t, json.Unmarshal([]byte(out), &res))
	if res.ID != "jumpscale|mongodb(stable)" || res.Platform != "" || res.Serial != 1 {
		t.Errorf("got %+v", res)
	}
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "3 trees", "all right")
	contains(t, ays(t, 0, "ls", "-store", store).stdout, "production", "mongodb(stable)")
	contains(t, ays(t, 2, "promote", "-store", store, "-id", id, "-platform", "test").stderr, "same tree")
	contains(t, ays(t, 2, "promote", "-store", store, "-id", id, "-platform", "none", "-to-platform", "test").stderr, "was never published here")
	for range 2 {
		contains(t, ays(t, 0, "promote", "-store", store, "-id", id, "-platform", "test", "-serial", "2", "-to-platform", "production").stdout, "serial 2")
	}
}

// What a diff of a large tree reads depends on what changed.
func TestDiffIsCheap(t *testing.T) {
	tree, store := t.TempDir(), t.TempDir()
	for d := range 300 {
		must(t, os.Mkdir(fmt.Sprintf("%s/d%03d", tree, d), 0o755))
		for f := range 60 { // all alike: it is the names that make catalogs
			name := fmt.Sprintf("%s/d%03d/%s-%d", tree, d, strings.Repeat("name", 25), f)
			if d+f == 0 {
				must(t, os.WriteFile(name, nil, 0o644))
			} else {
				must(t, os.Link(fmt.Sprintf("%s/d000/%s-0", tree, strings.Repeat("name", 25)), name))
			}
		}
	}
	publishJSON(t, 0, store, tree)
	must(t, os.WriteFile(tree+"/d150/new", nil, 0o644))
	publishJSON(t, 0, store, tree)
	asked := 0
	files := http.FileServer(http.Dir(store))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/default/") {
			asked++
		}
		files.ServeHTTP(w, r)
	}))
	contains(t, ays(t, 0, "diff", "-store", srv.URL, id+"@1", id).stdout, "+ d150/new", "1 added, 0 changed, 0 removed")
	srv.Close() // no more requests: asked is ours
	if asked > 6 {
		t.Errorf("%d objects were read", asked)
	}
}
