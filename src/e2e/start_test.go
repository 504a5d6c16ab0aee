package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const startID = "e2e|start(1)"

// modules are small files of a kind in directories of a program's own, and others
// of another kind beside them.
func modules(dirs, files, size int, kind string) map[string]node {
	all := make(map[string]node)
	for i := range dirs {
		for j := range files {
			name := fmt.Sprintf("lib/package%03d/cache/m%02d", i, j)
			all[name+kind] = node{mode: 0o644, data: append(noise(size, byte(i)), byte(j))}
			all[name+".other"] = node{mode: 0o644, data: append(noise(size, byte(i)), byte(j), 1)}
		}
	}
	return all
}

// A program that starts for the first time of all finds what it picks out of many
// directories here, without a profile: the second module that it needs is asked for by
// nobody but the client.
func TestStartWithoutProfile(t *testing.T) {
	t.Parallel()
	const dirs, files = 20, 10
	tree := shortDir(t)
	all := modules(dirs, files, 6000, ".mod")
	write(t, tree, all)
	cat, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("cp", "-L", cat, filepath.Join(tree, "app")).Run(); err != nil {
		t.Fatal(err)
	}
	store := newStore(t, startID, tree)
	start := func(mount string) {
		t.Helper()
		name := "lib/package007/cache/m03.mod"
		out, err := exec.Command(filepath.Join(mount, "app"), filepath.Join(mount, name)).Output()
		if err != nil || !bytes.Equal(out, all[name].data) {
			t.Fatalf("%d bytes of %s: %v", len(out), name, err)
		}
	}

	c := newClient(t, store.url())
	mount := c.mount(startID)
	c.start()
	c.settled()
	before := store.blobs.Load()
	start(mount)
	eventually(t, time.Minute, "the modules come", func() bool { return store.blobs.Load()-before >= 1+dirs*files })
	c.settled()
	missed := misses(c)
	for i := range dirs {
		for j := range files {
			name := fmt.Sprintf("lib/package%03d/cache/m%02d.mod", i, j)
			wantContent(t, time.Minute, filepath.Join(mount, name), all[name].data)
		}
	}
	if n := misses(c) - missed; n > 0 {
		t.Errorf("%d modules had to be waited for", n)
	}
	if n := store.blobs.Load() - before; n > 1+dirs*files {
		t.Errorf("%d requests, for a program and %d modules", n, dirs*files)
	}

	c = newClient(t, store.url())
	mount = c.mount(startID, "prefetch = 0")
	c.start()
	if l, err := os.ReadDir(filepath.Join(mount, "lib/package007/cache")); err != nil || len(l) != 2*files {
		t.Fatalf("%d files: %v", len(l), err)
	}
	before = store.blobs.Load()
	start(mount)
	c.settled()
	if n := store.blobs.Load() - before; n != 2 {
		t.Errorf("%d requests for two files, with nothing to be fetched ahead", n)
	}
}

// Who reads one file out of each of many directories has no more come than twice as
// much again, and 1.5 MiB.
func TestRandomReadersHaveLittleCome(t *testing.T) {
	t.Parallel()
	const dirs, files, size, reads = 100, 20, 16 << 10, 30
	tree := shortDir(t)
	all := modules(dirs, files, size-1, ".dat")
	write(t, tree, all)
	store := newStore(t, startID, tree)
	c := newClient(t, store.url())
	mount := c.mount(startID)
	c.start()
	c.settled()
	before := store.blobs.Load()
	for i := range reads {
		name := fmt.Sprintf("lib/package%03d/cache/m%02d.dat", i*37%dirs, i%files)
		wantContent(t, time.Minute, filepath.Join(mount, name), all[name].data)
	}
	c.settled()
	if n := store.blobs.Load() - before; n > 3*reads+3<<19/size {
		t.Errorf("%d requests for %d files", n, reads)
	}
}
