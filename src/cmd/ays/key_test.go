package main_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The key need not be where trees are published: another program, here ays
// itself, signs.
func TestSignWith(t *testing.T) {
	tree, store, keys := someTree(t), t.TempDir(), t.TempDir()
	ays(t, 0, "keygen", keys+"/release")
	ays(t, 0, "keygen", keys+"/other")
	bin := os.Getenv(builtBinary)
	agent := bin + " sign -key " + keys + "/release.key"
	s := publishJSON(t, 0, store, "-sign-with", agent, "-public", keys+"/release.pub", tree)
	if s.Key != "release" {
		t.Errorf("got %+v", s)
	}
	contains(t, ays(t, 0, "verify", "-store", store, "-key", keys+"/release.pub").stdout, "all right")
	// The same head, however it is signed.
	if s := publishJSON(t, 0, store, "-key", keys+"/release.key", tree); !s.Unchanged {
		t.Errorf("signed by the key itself: %+v", s)
	}
	fails := func(want string, flags ...string) {
		t.Helper()
		args := append([]string{"publish", "-store", t.TempDir() + "/store", "-id", id}, flags...)
		contains(t, ays(t, 2, append(args, tree)...).stderr, want)
	}
	fails("no signature by other", "-sign-with", agent, "-public", keys+"/other.pub")
	fails("exit status 3", "-sign-with", "exit 3", "-public", keys+"/release.pub")
	fails("base64", "-sign-with", "echo '!'", "-public", keys+"/release.pub")
	fails("no signature by release", "-sign-with", "true", "-public", keys+"/release.pub")
	fails("go together", "-sign-with", agent)

	// What signs heads signs nothing else.
	cmd := exec.Command("/bin/sh", "-c", "echo pay 100 | "+agent)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not the text of a head") {
		t.Errorf("%v: %s", err, out)
	}
}

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
