package main_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// baked is what bake -json prints.
type baked struct {
	Mounts []struct {
		Path     string
		Serial   int64
		Signed   bool
		Metadata int
		Files    int
		Bytes    int64
	}
	Blobs, Bytes, Fresh, Disk int64
	Outside, Missing          int
	FirstMissing              string `json:"first_missing"`
}

// countingStore serves a directory and remembers what was asked for.
func countingStore(t *testing.T, dir string) (url string, asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var paths []string
	files := http.FileServer(http.Dir(dir))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		paths = append(paths, r.URL.Path)
		mu.Unlock()
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, func() []string {
		mu.Lock()
		defer mu.Unlock()
		all := paths
		paths = nil
		return all
	}
}

// bakeConfig names one store and mounts its trees at /opt/ID.
func bakeConfig(t *testing.T, url, more string, ids ...string) string {
	t.Helper()
	text := fmt.Sprintf("[main]\nid = \"image\"\nio_timeout = \"2s\"\n%s\n[[ays.stor]]\nname = \"s\"\nurl = %q\n", more, url)
	for _, id := range ids {
		name, _, _ := strings.Cut(strings.TrimPrefix(id, "d|"), "(")
		text += fmt.Sprintf("[[mount_files]]\nname = %q\npath = \"/opt/%s\"\nays.id = %q\nstor.name = \"s\"\n", name, name, id)
	}
	file := filepath.Join(t.TempDir(), "image.toml")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func bakeJSON(t *testing.T, args ...string) (b baked) {
	t.Helper()
	o := ays(t, 0, append([]string{"bake", "-json"}, args...)...)
	if err := json.Unmarshal([]byte(o.stdout), &b); err != nil {
		t.Fatalf("%v\n%s", err, o.stdout)
	}
	return b
}

// TestBakeTrace bakes what a list names, through symlinks, those from one tree to
// another included, and nothing else.
func TestBakeTrace(t *testing.T) {
	store, root := t.TempDir(), t.TempDir()
	app, lib := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(app+"/bin", 0o755))
	must(t, os.MkdirAll(app+"/share/a/b", 0o755))
	must(t, os.MkdirAll(lib+"/lib", 0o755))
	large := make([]byte, 3<<20)
	for i := range large {
		large[i] = byte(i * i >> 8)
	}
	for file, data := range map[string][]byte{
		app + "/bin/program": []byte("program"), app + "/bin/other": []byte("other"), app + "/share/a/1": []byte("one"),
		app + "/share/a/b/2": []byte("two"), app + "/share/3": []byte("three"), lib + "/lib/large": large, lib + "/lib/unused": []byte("unused"),
	} {
		must(t, os.WriteFile(file, data, 0o644))
	}
	must(t, os.Symlink("/opt/lib/lib", app+"/lib"))
	must(t, os.Symlink("program", app+"/bin/p"))
	must(t, os.Symlink("loop", app+"/loop"))
	ays(t, 0, "publish", "-store", store, "-id", "d|app(1)", app)
	ays(t, 0, "publish", "-store", store, "-id", "d|lib(1)", lib)
	url, asked := countingStore(t, store)
	cfg := bakeConfig(t, url, "", "d|app(1)", "d|lib(1)")

	b := bakeJSON(t, "-config", cfg, "-rootfs", root)
	if len(b.Mounts) != 2 || b.Mounts[0].Files != 0 || b.Blobs == 0 || b.Mounts[0].Serial != 1 || b.Mounts[0].Signed {
		t.Errorf("metadata alone: %+v", b)
	}
	metadata := b.Blobs
	if got := asked(); len(got) != int(metadata)+2 {
		t.Errorf("%d requests for two heads and %d objects", len(got), metadata)
	}
	for _, dir := range []string{"/opt/app", "/opt/lib"} {
		if fi, err := os.Stat(root + dir); err != nil || !fi.IsDir() {
			t.Errorf("no place for the mount at %s: %v", dir, err)
		}
	}
	trace := filepath.Join(t.TempDir(), "trace")
	must(t, os.WriteFile(trace, []byte(strings.Join([]string{
		"# what the program opened", "/etc/ld.so.cache", "/opt/app/bin/p", "/opt/app/lib/large", "/opt/app/share/a/",
		"/opt/app/no/such", "/opt/app/bin/program/x", "/opt/app/loop", "/opt/app/bin", "bin/program", "/opt/app",
	}, "\n")), 0o644))
	b = bakeJSON(t, "-config", cfg, "-rootfs", root, "-trace", trace)
	if b.Mounts[0].Files != 3 || b.Mounts[0].Bytes != int64(len("programonetwo")) || b.Mounts[1].Files != 1 || b.Mounts[1].Bytes != 3<<20 {
		t.Errorf("traced: %+v", b)
	}
	if b.Outside != 1 || b.Missing != 3 || b.FirstMissing != "/opt/app/no/such" {
		t.Errorf("%d paths outside, %d missing, %q the first", b.Outside, b.Missing, b.FirstMissing)
	}
	for _, path := range asked() {
		if strings.HasSuffix(path, sha("unused")) || strings.HasSuffix(path, sha("other")) || strings.HasSuffix(path, sha("three")) {
			t.Errorf("%s was fetched, which the trace does not name", path)
		}
	}

	// All of it now, of which nothing is fetched twice; and then metadata alone again.
	b = bakeJSON(t, "-config", cfg, "-rootfs", root, "-with-data")
	if b.Mounts[0].Files != 5 || b.Mounts[1].Files != 2 || b.Fresh != int64(len("otherthreeunused")) {
		t.Errorf("all: %+v", b)
	}
	blobs := 0
	for _, path := range asked() {
		if strings.HasPrefix(path, "/default/") {
			blobs++
		}
	}
	if blobs != 3 {
		t.Errorf("%d requests for 3 files that were not there", blobs)
	}
	if b = bakeJSON(t, "-config", cfg, "-rootfs", root); b.Blobs != metadata || b.Fresh != 0 {
		t.Errorf("metadata alone again: %+v, want %d blobs", b, metadata)
	}
}

// TestBakeFails has bake tell what is wrong, and leave the image as it was.
func TestBakeFails(t *testing.T) {
	store, keys := t.TempDir(), t.TempDir()
	ays(t, 0, "keygen", keys+"/release")
	ays(t, 0, "keygen", keys+"/other")
	tree := manyFiles(t, 20)
	ays(t, 0, "publish", "-store", store, "-id", "d|app(1)", "-key", keys+"/release.key", tree)
	url, _ := countingStore(t, store)
	other, err := os.ReadFile(keys + "/other.pub")
	must(t, err)
	good := bakeConfig(t, url, "", "d|app(1)")
	replace := func(old, new string) string {
		t.Helper()
		text, err := os.ReadFile(good)
		must(t, err)
		file := filepath.Join(t.TempDir(), "image.toml")
		must(t, os.WriteFile(file, []byte(strings.Replace(string(text), old, new, 1)), 0o600))
		return file
	}
	empty := filepath.Join(t.TempDir(), "empty")
	must(t, os.WriteFile(empty, nil, 0o644))
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	must(t, os.WriteFile(elsewhere, []byte("/etc/passwd\n"), 0o644))
	mistyped := filepath.Join(t.TempDir(), "mistyped")
	must(t, os.WriteFile(mistyped, []byte("/opt/app/none\n"), 0o644))
	root := t.TempDir()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no root":           {[]string{"-config", good}, "-rootfs is needed"},
		"root is a file":    {[]string{"-config", good, "-rootfs", good}, "is not a directory"},
		"no such root":      {[]string{"-config", good, "-rootfs", root + "/no"}, "the image's root"},
		"no config":         {[]string{"-rootfs", root}, "/etc/aysfs/aysfs.toml"},
		"bad config":        {[]string{"-config", replace(`id = "image"`, `ix = "image"`), "-rootfs", root}, "image.toml:2: main.ix: unknown key"},
		"no seed wanted":    {[]string{"-config", replace("[[ays", "[cache.disk]\nseed = \"\"\n[[ays"), "-rootfs", root}, "image.toml:6: cache.disk.seed: is empty"},
		"no ca":             {[]string{"-config", replace("url", "ca = \"/etc/ca.pem\"\nurl"), "-rootfs", root}, "ays.stor.ca: can't be read"},
		"wrong domain":      {[]string{"-config", replace("stor.name", "dedupe_domain = \"mine\"\nstor.name"), "-rootfs", root}, "image.toml:8: mount_files.dedupe_domain: the tree is in default, this says mine"},
		"wrong key":         {[]string{"-config", replace("url", fmt.Sprintf("key = %q\nurl", strings.TrimSpace(string(other)))), "-rootfs", root}, "not signed by the configured key"},
		"no such tree":      {[]string{"-config", replace("d|app(1)", "d|app(2)"), "-rootfs", root}, "mount /opt/app: find d|app(2)"},
		"no such directory": {[]string{"-config", replace("stor.name", "remote = \"no\"\nstor.name"), "-rootfs", root}, `no directory "no"`},
		"store away":        {[]string{"-config", replace(url, "http://127.0.0.1:1"), "-rootfs", root}, "connection refused"},
		"no trace":          {[]string{"-config", good, "-rootfs", root, "-trace", root + "/no"}, "trace: "},
		"empty trace":       {[]string{"-config", good, "-rootfs", root, "-trace", empty}, "there is no path in it"},
		"useless trace":     {[]string{"-config", good, "-rootfs", root, "-trace", elsewhere}, "none of the trace's paths is in a mount"},
		"mistyped trace":    {[]string{"-config", good, "-rootfs", root, "-trace", mistyped}, "in a tree that the config mounts, /opt/app/none the first"},
	} {
		t.Run(name, func(t *testing.T) {
			contains(t, ays(t, 2, append([]string{"bake"}, test.args...)...).stderr, test.want)
			if _, err := os.Stat(root + "/etc/aysfs/aysfs.toml"); err == nil {
				t.Error("there is a config in the image all the same")
			}
		})
	}
	b := bakeJSON(t, "-config", good, "-rootfs", root, "-with-data")
	if b.Blobs == 0 {
		t.Errorf("%+v", b)
	}
	manifest, err := os.ReadFile(root + "/usr/share/aysfs/seed/seed.json")
	must(t, err)

	// A blob that the store has lost, and one that it has wrong.
	must(t, os.WriteFile(tree+"/new", []byte("new file"), 0o644))
	ays(t, 0, "publish", "-store", store, "-id", "d|app(1)", "-key", keys+"/release.key", tree)
	blob := store + "/default/" + sha("new file")
	must(t, os.WriteFile(blob, []byte("bad file"), 0o644))
	contains(t, ays(t, 2, "bake", "-config", good, "-rootfs", root, "-with-data").stderr, "corrupt object")
	must(t, os.Remove(blob))
	contains(t, ays(t, 2, "bake", "-config", good, "-rootfs", root, "-with-data").stderr, "no such object")
	if now, err := os.ReadFile(root + "/usr/share/aysfs/seed/seed.json"); err != nil || string(now) != string(manifest) {
		t.Errorf("a bake that failed has changed the seed: %v", err)
	}
}

// TestBakeFromTheImage bakes from a store that lies in the image itself, with the
// config that is there.
func TestBakeFromTheImage(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(root+"/etc/aysfs", 0o755))
	must(t, os.MkdirAll(root+"/data", 0o755))
	must(t, os.Symlink("/data/store", root+"/srv"))
	tree := manyFiles(t, 10)
	ays(t, 0, "publish", "-store", root+"/data/store", "-id", "d|app(1)", tree)
	text, err := os.ReadFile(bakeConfig(t, "file:///srv", "", "d|app(1)"))
	must(t, err)
	must(t, os.WriteFile(root+"/etc/aysfs/aysfs.toml", text, 0o600))
	o := ays(t, 0, "bake", "-rootfs", root, "-with-data")
	contains(t, o.stdout, "/opt/app: d|app(1), serial 1, not signed", "11 files", "config /etc/aysfs/aysfs.toml", "seed /usr/share/aysfs/seed: ")
	if fi, err := os.Stat(root + "/etc/aysfs/aysfs.toml"); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the config is %v, %v", fi, err)
	}
}

func sha(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// The image's root may be named as seen from here, and the store may lie in it.
func TestBakeRelative(t *testing.T) {
	parent, tree := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(tree+"/f", []byte("f"), 0o644))
	ays(t, 0, "publish", "-store", parent+"/image/store", "-id", "d|app(1)", tree)
	cfg := bakeConfig(t, "file:///store", "", "d|app(1)")
	t.Chdir(parent)
	if b := bakeJSON(t, "-config", cfg, "-rootfs", "image", "-with-data"); len(b.Mounts) != 1 || b.Mounts[0].Files != 1 {
		t.Errorf("%+v", b)
	}
}
