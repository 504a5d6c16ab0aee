package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/object"
)

// TestColdWalk lists 20,000 files over a link with 10 ms a round trip. A whole
// tree's metadata must cost one request a catalog, and the head and the index.
func TestColdWalk(t *testing.T) {
	const dirs, perDir = 400, 50
	tree := shortDir(t)
	for d := range dirs {
		dir := filepath.Join(tree, fmt.Sprintf("part-%d/package-with-some-name-%03d", d%9, d))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for f := range perDir {
			// As long as names are; the content does not matter, it is not read.
			name := fmt.Sprintf("%s-%02d.txt", strings.Repeat("long-name-", 8), f)
			mustWrite(t, filepath.Join(dir, name), []byte{byte(f)}, 0o644)
		}
	}
	store := newStore(t, "e2e|app(1)", tree)
	note := mustRead(t, filepath.Join(store.dir, "md/e2e|app(1)/any/head"))
	head, err := object.OpenHead(note, nil)
	if err != nil {
		t.Fatal(err)
	}
	if head.Catalogs < 2 || head.Catalogs > 20 {
		t.Fatalf("%d catalogs: not what this test is about", head.Catalogs)
	}
	list := func(dir string) string {
		return run(t, time.Minute, "find", dir, "-printf", `%P %y %m %s %T@\n`)
	}
	want := withoutSizesOfDirs(list(tree))
	store.delay.Store(int64(10 * time.Millisecond))
	for prefetch := range 2 {
		t.Run(fmt.Sprintf("prefetch = %d", prefetch), func(t *testing.T) {
			store.heads.Store(0)
			store.blobs.Store(0)
			c, mount := startClient(t, store.url(), fmt.Sprintf("prefetch = %d", prefetch))
			if n := store.heads.Load(); n != 1 {
				t.Errorf("%d requests for heads, want 1", n)
			}
			begin := time.Now()
			got := withoutSizesOfDirs(list(mount))
			took := time.Since(begin)
			if len(got) != dirs*(perDir+1)+9+1 {
				t.Errorf("found %d names", len(got))
			}
			for line := range got {
				if !want[line] {
					t.Fatalf("find says %q of the mount, but not of the tree", line)
				}
			}
			if n := store.blobs.Load(); n > 1+head.Catalogs {
				t.Errorf("%d requests for metadata, want 1 for the index and %d for catalogs", n, head.Catalogs)
			}
			t.Logf("%d names in %v, %d catalogs", len(got), took, head.Catalogs)
			c.stop()
		})
	}
}

// withoutSizesOfDirs has the lines of find's output; what a directory's size is
// is up to each file system.
func withoutSizesOfDirs(out string) map[string]bool {
	lines := map[string]bool{}
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		if f[1] == "d" {
			f[3] = ""
		}
		lines[strings.Join(f, " ")] = true
	}
	return lines
}
