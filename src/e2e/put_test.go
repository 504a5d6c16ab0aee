package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPublishToCache: a cache takes what is published, keeps it whatever happens,
// and is the store that clients mount from.
func TestPublishToCache(t *testing.T) {
	t.Parallel()
	const id = "e2e|app(1)"
	tree, _ := smallTree(t)
	write(t, tree, map[string]node{"large": file(3 << 20), "lib/empty": file(0), "lib/run": {mode: 0o755, data: noise(5000, 1)}})
	secrets := shortDir(t)
	secret := func(text string) string {
		name := filepath.Join(secrets, text)
		mustWrite(t, name, []byte(text+"\n"), 0o600)
		return name
	}
	private, public := keyPair(t)
	key := "key = '" + public + "'\n"

	g := newGridCache(t)
	g.ledis = "max_size = \"64MiB\"\nmin_free = \"0%\"\n[publish]\n" + key +
		"[[http.user]]\nlogin = \"writer\"\npasswd = \"w\"\nwrite = true\n[[http.user]]\nlogin = \"reader\"\npasswd = \"r\"\n"
	g.start()
	flags := func(login, password string, more ...string) []string {
		return append([]string{"publish", "-json", "-store", g.url, "-login", login, "-secret-file", secret(password), "-id", id}, more...)
	}
	publish := func(more ...string) (p struct {
		Serial    int64
		Unchanged bool
		Read      int64 `json:"read_files"`
		NewBlobs  int64 `json:"new_blobs"`
	}) {
		t.Helper()
		out := run(t, time.Minute, ays, flags("writer", "w", append(more, "-key", private, tree)...)...)
		if err := json.Unmarshal([]byte(out), &p); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		return p
	}
	refused := func(what, want string, args ...string) {
		t.Helper()
		out, err := try(t, time.Minute, exec.Command(ays, args...))
		if exitCode(err) != 2 || !strings.Contains(out, want) {
			t.Errorf("%s: %v, %q, want exit 2 with %q", what, err, out, want)
		}
	}
	// mounted is what a machine sees that has cached nothing.
	mounted := func() {
		t.Helper()
		c := newClient(t, g.url)
		c.stor = "login = \"reader\"\nsecret = \"r\"\n" + key
		mount := c.mount(id)
		c.start()
		sameTree(t, tree, mount)
		c.stop()
	}

	refused("a wrong password", "401", flags("writer", "r", tree)...)
	refused("no right", "write = true", flags("reader", "r", tree)...)
	refused("no signature", "not signed", flags("writer", "w", tree)...)
	if p := publish(); p.Serial != 1 {
		t.Errorf("the first publish: %+v", p)
	}
	g.kill()
	g.start()
	mounted()

	state := secrets + "/state"
	if p := publish("-state", state); !p.Unchanged || p.NewBlobs != 0 {
		t.Errorf("the same again: %+v", p)
	}
	write(t, tree, map[string]node{"new": file(1000)})
	if p := publish("-state", state); p.Serial != 2 || p.NewBlobs != 3 {
		t.Errorf("a new file, with a catalog and an index: %+v", p)
	}
	g.kill()
	// A cache that evicted all it cached has what was published.
	if err := os.RemoveAll(filepath.Join(g.data(), "ledis")); err != nil {
		t.Fatal(err)
	}
	g.start()
	mounted()

	// Its directory is a store as any other, while the cache runs.
	dir := filepath.Join(g.data(), "published")
	run(t, time.Minute, ays, "verify", "-store", dir)
	run(t, time.Minute, ays, "rollback", "-store", dir, "-id", id, "-serial", "1", "-key", private)
	run(t, time.Minute, ays, "gc", "-store", dir, "-keep", "2")
	if p := publish(); p.Serial != 4 || p.NewBlobs != 0 {
		t.Errorf("after a rollback: %+v", p)
	}
	mounted()
	for _, args := range [][]string{{"gc"}, {"rollback", "-id", id, "-serial", "1"}} {
		refused(args[0], "where the directory is", append([]string{args[0], "-store", g.url}, args[1:]...)...)
	}
	refused("copy", "where the directory is", "copy", "-from", dir, "-to", g.url)
	g.stop()
}
