package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestMountInAMount: an app's config lies in the app's own tree.
func TestMountInAMount(t *testing.T) {
	dir := shortDir(t)
	app, conf := filepath.Join(dir, "app"), filepath.Join(dir, "conf")
	write(t, app, map[string]node{
		"bin/app": file(3000), "cfg/sample": {mode: 0o644, data: []byte("sample")},
		"readme": {mode: 0o644, data: []byte("read me")},
	})
	write(t, conf, map[string]node{"cfg/main.conf": {mode: 0o600, data: []byte("port=1")}, "other": file(10)})
	store := newStore(t, "e2e|app(1)", app)
	publish(t, store.dir, "e2e|app!main", conf, "-repoid", "repo")
	for _, at := range []string{"cfg", "new", "deep/er/new", "cfg/below"} {
		for _, order := range []string{"outer first", "inner first"} {
			t.Run(at+", "+order, func(t *testing.T) {
				t.Parallel()
				c := newClient(t, store.url())
				outer := filepath.Join(c.dir, "app")
				inner := filepath.Join(outer, at)
				mountInner := func() {
					fmt.Fprintf(&c.mounts, "[[mount_config]]\npath = %q\nremote = \"cfg\"\nays.id = \"e2e|app!main\"\nays.repoid = \"repo\"\nstor.name = \"s\"\n", inner)
				}
				if order == "inner first" {
					mountInner()
				}
				c.mountAt(outer, "e2e|app(1)")
				if order == "outer first" {
					mountInner()
				}
				c.start()
				if n := len(mountsUnder(c.dir)); n != 2 {
					t.Fatalf("%d mounts, want 2", n)
				}
				wantContent(t, 5*time.Second, filepath.Join(outer, "readme"), []byte("read me"))
				wantContent(t, 5*time.Second, filepath.Join(outer, "bin/app"), content(3000))
				wantContent(t, 5*time.Second, filepath.Join(inner, "main.conf"), []byte("port=1"))
				if names, err := os.ReadDir(inner); err != nil || len(names) != 1 {
					t.Errorf("the inner mount shows %v, %v, want main.conf alone", names, err)
				}
				if at != "cfg" {
					wantContent(t, 5*time.Second, filepath.Join(outer, "cfg/sample"), []byte("sample"))
				}
				c.stop()
			})
		}
	}
}

func TestRemoteDirectory(t *testing.T) {
	dir := shortDir(t)
	write(t, dir, map[string]node{"a/b/file": file(100), "a/file": file(5), "c": file(1)})
	store := newStore(t, "e2e|app(1)", dir)
	for remote, want := range map[string]string{"a": "", "a/b": "", "a/file": "not a directory", "nowhere": `no directory`} {
		t.Run(remote, func(t *testing.T) {
			t.Parallel()
			c, mount := appClient(t, store.url(), fmt.Sprintf("remote = %q", remote))
			if want == "" {
				c.start()
				sameTree(t, filepath.Join(dir, remote), mount)
				c.stop()
				return
			}
			c.refuses(15*time.Second, want)
		})
	}
}

// TestPlatforms: the tree for the machine's own platform comes before the one
// for all of them.
func TestPlatforms(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	for _, p := range []string{"any", "ubuntu64"} {
		write(t, filepath.Join(dir, p), map[string]node{"platform": {mode: 0o644, data: []byte(p)}})
	}
	store := newStore(t, "e2e|both(1)", filepath.Join(dir, "any"))
	publish(t, store.dir, "e2e|both(1)", filepath.Join(dir, "ubuntu64"), "-platform", "ubuntu64")
	publish(t, store.dir, "e2e|general(1)", filepath.Join(dir, "any"), "-domain", "templates")
	c := newClient(t, store.url())
	want := map[string]string{
		c.mount("e2e|both(1)", `platform = "ubuntu64"`):              "ubuntu64",
		c.mount("e2e|both(1)", `platform = "debian64"`):              "any",
		c.mount("e2e|both(1)"):                                       "any",
		c.mount("e2e|general(1)", `platform = "ubuntu64"`):           "any",
		c.mount("e2e|general(1)", `dedupe_domain = "templates"`, ""): "any",
	}
	c.start()
	for path, platform := range want {
		wantContent(t, 5*time.Second, filepath.Join(path, "platform"), []byte(platform))
	}
	c.stop()
}
