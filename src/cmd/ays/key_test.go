package main_test

import (
	"os"
	"strings"
	"testing"
)

// From one key to the next: signed by both for a while, then by the new alone,
// and what the old one signs from then on is refused.
func TestKeyRotation(t *testing.T) {
	tree, store, keys := someTree(t), t.TempDir(), t.TempDir()
	ays(t, 0, "keygen", keys+"/old")
	ays(t, 0, "keygen", keys+"/new")
	public := func(name string) string {
		text, err := os.ReadFile(keys + "/" + name + ".pub")
		must(t, err)
		return strings.TrimSpace(string(text))
	}
	verify := func(code int, keys ...string) {
		t.Helper()
		args := []string{"verify", "-store", store}
		for _, k := range keys {
			args = append(args, "-key", k)
		}
		ays(t, code, args...)
	}
	publishJSON(t, 0, store, "-key", keys+"/old.key", tree)
	verify(0, public("old"))
	verify(1, public("new"))
	if s := publishJSON(t, 0, store, "-key", keys+"/old.key", "-key", keys+"/new.key", tree); s.Serial != 2 || s.Key != "old, new" {
		t.Errorf("got %+v", s)
	}
	verify(0, public("old"))
	verify(0, public("new"))
	publishJSON(t, 0, store, "-key", keys+"/new.key", tree)
	verify(1, public("old"))
	verify(0, public("old"), public("new"))
	// Somebody has found the old key.
	publishJSON(t, 0, store, "-key", keys+"/old.key", tree)
	verify(0, public("old"), public("new"))
	verify(1, public("old")+" until 2", public("new"))
	contains(t, ays(t, 0, "log", "-store", store, "-id", id).stdout, "old, new")
}
