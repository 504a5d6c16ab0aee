package main_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// settle publishes until no file is read any more: what changed within the last
// tick of a clock is read once more.
func settle(t *testing.T, store string, args ...string) summary {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		s := publishJSON(t, 0, store, args...)
		if s.Read == 0 {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("files are read over and over: %+v", s)
		}
	}
}

func TestUnchangedIsNotRead(t *testing.T) {
	tree, store := manyFiles(t, 40), t.TempDir()
	must(t, os.MkdirAll(tree+"/a/b", 0o755))
	must(t, os.WriteFile(tree+"/a/b/c", []byte("c"), 0o644))
	must(t, os.WriteFile(tree+"/a-b", []byte("sorts between"), 0o644))
	first := publishJSON(t, 0, store, tree)
	if first.Read != 43 {
		t.Errorf("first: %+v", first)
	}
	s := settle(t, store, tree)
	if !s.Unchanged || s.Files != 43 || s.Root != first.Root || s.NewBlobs != 0 {
		t.Errorf("unchanged: %+v", s)
	}
	if s := publishJSON(t, 0, store, "-full", tree); s.Read != 43 || !s.Unchanged {
		t.Errorf("-full: %+v", s)
	}
	settle(t, store, tree)

	// One file with other content, and the size and time of before.
	info, err := os.Stat(tree + "/7")
	must(t, err)
	content, err := os.ReadFile(tree + "/7")
	must(t, err)
	must(t, os.WriteFile(tree+"/7", bytes.ToUpper(content), 0o644))
	must(t, os.Chtimes(tree+"/7", info.ModTime(), info.ModTime()))
	s = publishJSON(t, 0, store, tree)
	if s.Read != 1 || s.Unchanged || s.NewBlobs != 3 {
		t.Errorf("one changed: %+v", s)
	}
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right")

	// What somebody removed from the store is read again, chunks, too.
	settle(t, store, tree)
	blobs := blobsOf(t, store)
	for _, b := range blobs {
		must(t, os.Remove(b))
	}
	if s := publishJSON(t, 0, store, tree); s.Read != 43 || !s.Unchanged {
		t.Errorf("with no blob left: %+v", s)
	}
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right")

	// The same after a rollback, and when a gc has been there.
	before := settle(t, store, tree)
	must(t, os.WriteFile(tree+"/8", []byte("eight"), 0o644))
	publishJSON(t, 0, store, tree)
	settle(t, store, tree)
	ays(t, 0, "rollback", "-store", store, "-id", id, "-serial", "2")
	ays(t, 0, "gc", "-store", store, "-keep", "1")
	if s := publishJSON(t, 0, store, tree); s.Unchanged || s.Root == before.Root || s.Read != 1 {
		t.Errorf("after a rollback and a gc: %+v", s)
	}
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right")

	// A damaged state is as good as none.
	settle(t, store, tree)
	states, err := filepath.Glob(store + "/md/*/*/.state")
	must(t, err)
	if len(states) != 1 {
		t.Fatalf("states: %v", states)
	}
	info, err = os.Stat(states[0])
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the state has mode %v", info.Mode())
	}
	raw, err := os.ReadFile(states[0])
	must(t, err)
	for _, bad := range [][]byte{nil, raw[:len(raw)/2], append(bytes.Clone(raw[:100]), bytes.ToUpper(raw[100:])...)} {
		must(t, os.WriteFile(states[0], bad, 0o600))
		if s := publishJSON(t, 0, store, tree); !s.Unchanged || s.Read != 43 {
			t.Errorf("with a damaged state: %+v", s)
		}
	}

	// A state elsewhere.
	mine := t.TempDir() + "/state"
	if s := publishJSON(t, 0, store, "-state", mine, tree); s.Read != 43 {
		t.Errorf("with another state: %+v", s)
	}
	settle(t, store, "-state", mine, tree)
}
