package main_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestStateFile(t *testing.T) {
	tree, store, state := someTree(t), t.TempDir(), t.TempDir()+"/state"
	s := publishJSON(t, 0, store, "-state", state, tree)
	if s.Unread != 0 {
		t.Errorf("got %+v", s)
	}
	// For two seconds the files are too fresh to be told from what they may
	// become.
	for deadline := time.Now().Add(30 * time.Second); s.Unread != 2; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("all files are still read: %+v", s)
		}
		s = publishJSON(t, 0, store, "-state", state, tree)
	}
	if !s.Unchanged || s.Files != 2 {
		t.Errorf("got %+v", s)
	}
	if s := publishJSON(t, 0, store, "-state", state, "-full", tree); s.Unread != 0 {
		t.Errorf("with -full, got %+v", s)
	}
	contains(t, ays(t, 0, "publish", "-store", store, "-id", id, "-state", state, tree).stdout, "unread  2 files")
	must(t, os.WriteFile(tree+"/README", []byte("changed"), 0o644))
	if s := publishJSON(t, 0, store, "-state", state, tree); s.Unread != 1 || s.Unchanged {
		t.Errorf("got %+v", s)
	}

	// Without the flag it is in the user's directory for caches.
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	publishJSON(t, 0, store, "-state", "none", tree)
	if made, _ := filepath.Glob(cache + "/*"); len(made) > 0 {
		t.Errorf("made %v", made)
	}
	publishJSON(t, 0, store, tree)
	if made, _ := filepath.Glob(cache + "/aysfs/publish/*.state"); len(made) != 1 {
		t.Errorf("made %v", made)
	}
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	contains(t, ays(t, 0, "publish", "-store", store, "-id", id, tree).stderr, "no place for a state file")
}
