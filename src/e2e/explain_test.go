package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/redistest"
)

// explain is ays explain -json of a path.
func (c *client) explain(path string) (e control.Explanation) {
	c.t.Helper()
	out := run(c.t, 60*time.Second, ays, "explain", "-json", "-socket", c.socket(), path)
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		c.t.Fatal(err)
	}
	return e
}

func TestExplain(t *testing.T) {
	t.Parallel()
	tree, names := smallTree(t)
	write(t, tree, map[string]node{"empty": {mode: 0o644}, "dir/link": {mode: os.ModeSymlink, target: "x"}})
	mustWrite(t, filepath.Join(tree, "big"), content(3<<20), 0o644)
	store := newStore(t, "e2e|app(1)", tree)
	c, mount := startClient(t, store.url(), "prefetch = 0")
	file := filepath.Join(mount, names[0])

	e := c.explain(file)
	if e.Mount != mount || e.Inside != names[0] || e.Tree != "e2e|app(1)" || e.Serial != 1 || e.Store != "s" || e.Kind != "file" || e.Size != 100_000 ||
		e.Digest != fmt.Sprintf("%x", sha256.Sum256(content(100_000))) {
		t.Errorf("a file: %+v", e)
	}
	if len(e.Objects) != 1 || e.Objects[0].What != "content" || e.Objects[0].Here || len(e.Objects[0].Tiers) != 1 {
		t.Fatalf("a file that nobody has read: %+v", e.Objects)
	}
	if p := e.Objects[0].Tiers[0]; p.Tier != "store s" || !p.Has || p.Took <= 0 || p.Error != "" {
		t.Errorf("its store: %+v", p)
	}
	if e = c.explain(file); e.Objects[0].Here {
		t.Error("asking brought the file here")
	}
	wantContent(t, 5*time.Second, file, content(100_000))
	if e = c.explain(file); !e.Objects[0].Here || e.Objects[0].From != "store s" {
		t.Errorf("a file that was read: %+v", e.Objects[0])
	}

	e = c.explain(filepath.Join(mount, "big"))
	if e.Chunks < 3 || e.ChunksHere != 0 || len(e.Objects) != 2 || e.Objects[0].What != "chunk list" || e.Objects[1].What != "first chunk" || !e.Objects[1].Tiers[0].Has {
		t.Errorf("a large file: %+v", e)
	}
	wantContent(t, 10*time.Second, filepath.Join(mount, "big"), content(3<<20))
	if e = c.explain(filepath.Join(mount, "big")); e.ChunksHere != e.Chunks {
		t.Errorf("a large file that was read: %d of %d chunks are here", e.ChunksHere, e.Chunks)
	}
	if e = c.explain(filepath.Join(mount, "dir/link")); e.Kind != "symlink" || e.Target != "x" || e.Digest != "" || e.Objects[0].What != "catalog" {
		t.Errorf("a symlink: %+v", e)
	}
	if e = c.explain(mount); e.Kind != "dir" || e.Inside != "" || e.Digest == "" || !e.Objects[0].Here {
		t.Errorf("the root: %+v", e)
	}
	if e = c.explain(filepath.Join(mount, "empty")); e.Size != 0 || e.Digest != "" {
		t.Errorf("an empty file: %+v", e)
	}

	// A symlink outside leads in.
	link := filepath.Join(c.dir, "way")
	if err := os.Symlink(mount, link); err != nil {
		t.Fatal(err)
	}
	if e = c.explain(filepath.Join(link, names[0])); e.Path != file {
		t.Errorf("by a symlink: %+v", e)
	}
	for path, want := range map[string]string{
		filepath.Join(mount, "no"): "has no", "/etc/passwd": "in no mount", filepath.Join(file, "below"): "is a file",
	} {
		out, err := try(t, 10*time.Second, exec.Command(ays, "explain", "-socket", c.socket(), path))
		if exitCode(err) != 1 || !strings.Contains(out, want) || strings.Count(out, "nothing to explain") != 1 {
			t.Errorf("%s: %v, %q, want exit 1 and %q", path, err, out, want)
		}
	}

	// What is wrong with a tier is told, then and later.
	store.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		http.Error(w, "teapot", http.StatusForbidden)
		return true
	})
	e = c.explain(file)
	if p := e.Objects[0].Tiers[0]; p.Has || !strings.Contains(p.Error, "403") {
		t.Errorf("a store that refuses: %+v", p)
	}
	if !e.Objects[0].Here {
		t.Error("the file is no longer here")
	}
	store.setFault(nil)
	out := run(t, 30*time.Second, ays, "explain", "-config", filepath.Join(c.dir, "aysfs.toml"), file)
	for _, want := range []string{"e2e|app(1), serial 1", "on this machine", "store s", "has it"} {
		if !strings.Contains(out, want) {
			t.Errorf("explain does not tell %q:\n%s", want, out)
		}
	}
	c.stop()
}

// TestExplainCaches: each tier is told apart, nearest first, also where one has what
// another lacks, or is gone.
func TestExplainCaches(t *testing.T) {
	t.Parallel()
	tree, names := smallTree(t)
	store, stor := signedStore(t, tree)
	g := startGridCache(t)
	local := redistest.Start(t, "l")
	_, port, _ := net.SplitHostPort(local.Addr)
	c, mount := appClient(t, store.url(), "prefetch = 0")
	c.stor = stor
	c.disk = fmt.Sprintf("[[cache.local]]\nport = %s\npasswd = \"l\"\n[[cache.grid]]\nurl = %q\n", port, g.url)
	c.start()
	path := filepath.Join(mount, names[0])
	// tiers is what explain says of them: name prefix -> whether it has the file.
	tiers := func() (said []string) {
		t.Helper()
		e := c.explain(path)
		for _, p := range e.Objects[0].Tiers {
			kind, _, _ := strings.Cut(p.Tier, " ")
			switch {
			case p.Error != "":
				kind += " failed"
			case p.Has:
				kind += " has it"
			}
			said = append(said, kind)
		}
		return said
	}
	if got := strings.Join(tiers(), ", "); got != "local, grid, store has it" {
		t.Errorf("before it is read: %s", got)
	}
	wantContent(t, 10*time.Second, path, content(100_000))
	if e := c.explain(path); !e.Objects[0].Here || !strings.HasPrefix(e.Objects[0].From, "grid ") {
		t.Errorf("read by the grid cache: %+v", e.Objects[0])
	}
	eventually(t, 20*time.Second, "all have it", func() bool {
		return strings.Join(tiers(), ", ") == "local has it, grid has it, store has it"
	})
	store.down()
	local.Kill()
	eventually(t, 20*time.Second, "who is gone is told", func() bool {
		return strings.Join(tiers(), ", ") == "local failed, grid has it, store failed"
	})
	out := run(t, 30*time.Second, ays, "explain", "-socket", c.socket(), path)
	for _, want := range []string{"local", "grid " + g.addr, "refused"} {
		if !strings.Contains(out, want) {
			t.Errorf("explain does not tell %q:\n%s", want, out)
		}
	}
	c.stop()
}
