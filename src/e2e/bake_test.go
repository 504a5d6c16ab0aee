package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/bench/link"
	"github.com/aysfs/aysfs/src/control"
)

// image is a machine's root, and the machine when it runs.
type image struct {
	daemon
	root   string
	source string // the config, outside of the image
	// offline is a network namespace with nothing in it, not even a way to itself.
	offline *link.Thread

	// What newAppImage has in it.
	tree, cfg, key string // directories, and the file of the key that signs
	store          *webStore
}

// newImage is an image with aysfs and a config, and nothing else.
func newImage(t *testing.T, config string) *image {
	t.Helper()
	root := shortDir(t)
	im := &image{
		daemon: daemon{t: t, dir: filepath.Join(root, "run"), program: "/usr/sbin/aysfs"},
		root:   root, source: filepath.Join(shortDir(t), "image.toml"),
	}
	for _, dir := range []string{"dev", "proc", "run", "usr/sbin"} {
		if err := os.MkdirAll(im.at(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, 10*time.Second, "cp", aysfs, im.at(im.program))
	if err := unix.Mknod(im.at("dev/fuse"), unix.S_IFCHR|0o600, int(unix.Mkdev(10, 229))); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("proc", im.at("proc"), "proc", 0, ""); err != nil {
		t.Fatal(err)
	}
	im.write(config)
	var err error
	if im.offline, err = link.NewNamespace(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 { // where a test has laid a mount over it all there is more below
			for _, m := range mountsUnder(im.root) {
				unix.Unmount(m, unix.MNT_DETACH)
			}
			unix.Unmount(im.root, unix.MNT_DETACH)
		}
	})
	t.Cleanup(im.end)
	t.Cleanup(im.offline.End)
	return im
}

func (im *image) write(config string) {
	im.t.Helper()
	mustWrite(im.t, im.source, []byte(config), 0o640)
}

// bake bakes what the config names, and returns what it says.
func (im *image) bake(flags ...string) string {
	im.t.Helper()
	return run(im.t, 2*time.Minute, ays, append([]string{"bake", "-config", im.source, "-rootfs", im.root}, flags...)...)
}

// at is where a path of the image is here.
func (im *image) at(path string) string { return filepath.Join(im.root, path) }

// boot starts aysfs in the image, in a network namespace; nil is this one.
func (im *image) boot(ns *link.Thread) {
	im.t.Helper()
	im.namespace = ns
	im.untilReady(func(env string) *process {
		return im.launchCommand(&exec.Cmd{
			Path: im.program, Dir: "/", Env: []string{strings.Replace(env, im.root, "", 1)},
			SysProcAttr: &syscall.SysProcAttr{Chroot: im.root},
		})
	})
}

func (im *image) shutDown() {
	im.t.Helper()
	im.endsWell(20 * time.Second)
}

// bootsOffline boots the image where there is no network, has f look at it, and shuts
// it down.
func (im *image) bootsOffline(f func()) {
	im.t.Helper()
	im.boot(im.offline)
	f()
	im.shutDown()
}

func (im *image) socket() string { return im.at("run/aysfs/aysfs.sock") }

func (im *image) status() *control.Status {
	im.t.Helper()
	s, err := statusAt(im.socket())
	if err != nil {
		im.t.Fatal(err)
	}
	return s
}

// shows wants the app to have a serial.
func (im *image) shows(serial int64, when string) {
	im.t.Helper()
	if s := im.status(); s.Mounts[0].Serial != serial {
		im.t.Errorf("%s serial %d is shown, want %d", when, s.Mounts[0].Serial, serial)
	}
}

// has wants a file of the app to have a content.
func (im *image) has(name string, want []byte) {
	im.t.Helper()
	wantContent(im.t, 10*time.Second, filepath.Join(im.at("opt/apps/app"), name), want)
}

// newAppImage is an image whose config names the trees of bakeTree in a store that
// has signed them. more is for its table [main].
func newAppImage(t *testing.T, more string) *image {
	t.Helper()
	tree, cfg := bakeTree(t)
	key, public := keyPair(t)
	store := newStore(t, "e2e|app(1)", tree, "-key", key)
	publish(t, store.dir, "e2e|app!main", cfg, "-key", key)
	im := newImage(t, imageConfig(store.url(), public, more))
	im.tree, im.cfg, im.key, im.store = tree, cfg, key, store
	return im
}

// publishes publishes the app's tree with some nodes changed.
func (im *image) publishes(changed map[string]node) {
	im.t.Helper()
	write(im.t, im.tree, changed)
	publish(im.t, im.store.dir, "e2e|app(1)", im.tree, "-key", im.key)
}

func imageConfig(store, key, more string) string {
	return fmt.Sprintf(`[main]
id = "image"
io_timeout = "3s"
%s
[[ays.stor]]
name = "s"
url = %q
key = %q

[[mount_files]]
name = "app"
path = "/opt/apps/app"
ays.id = "e2e|app(1)"
stor.name = "s"

[[mount_config]]
path = "/opt/apps/app/cfg"
ays.id = "e2e|app!main"
stor.name = "s"
`, more, store, key)
}

// bakeTree is a tree with a bit of everything, and the one with its config.
func bakeTree(t *testing.T) (tree, cfg string) {
	t.Helper()
	tree, cfg = shortDir(t), shortDir(t)
	nodes := map[string]node{
		"bin/program": {mode: 0o755, data: noise(300_000, 1)},
		"lib/large":   {mode: 0o644, data: noise(5<<20, 2)},
		"bin/link":    {mode: os.ModeSymlink, target: "../lib/large"},
		"empty":       {mode: 0o644},
		"none":        {mode: os.ModeDir | 0o700},
	}
	for i := range 300 {
		nodes[fmt.Sprintf("lib/d%d/f%03d", i%17, i)] = file(10 + i*i)
	}
	write(t, tree, nodes)
	write(t, cfg, map[string]node{"app.conf": {mode: 0o600, data: []byte("port = 1\n")}})
	return tree, cfg
}

// TestBakedImageBootsWithoutNetwork bakes an image, makes its root read-only but for
// what is thrown away with each boot, and boots it where there is no network at all.
func TestBakedImageBootsWithoutNetwork(t *testing.T) {
	t.Parallel()
	im := newAppImage(t, "")
	said := im.bake("-with-data")
	for _, want := range []string{"/opt/apps/app: ", "serial 1, signed by the store's key", "303 files", "seed /usr/share/aysfs/seed: "} {
		if !strings.Contains(said, want) {
			t.Errorf("bake does not say %q:\n%s", want, said)
		}
	}
	im.store.down()

	if err := os.MkdirAll(im.at("var/cache/aysfs"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		from, to, kind string
		flags          uintptr
	}{
		{im.root, im.root, "", unix.MS_BIND | unix.MS_REC},
		{"", im.root, "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY},
		{"tmpfs", im.at("run"), "tmpfs", 0},
		{"tmpfs", im.at("var/cache/aysfs"), "tmpfs", 0},
	} {
		if err := unix.Mount(m.from, m.to, m.kind, m.flags, ""); err != nil {
			t.Fatalf("mount %s: %v", m.to, err)
		}
	}
	before := time.Now()
	im.boot(im.offline)
	t.Logf("ready %v after the start", time.Since(before))
	if strings.Contains(im.log(), "level=ERROR") {
		t.Error("there are errors in the log")
	}
	for _, dir := range []string{"bin", "lib", "none"} {
		sameTree(t, filepath.Join(im.tree, dir), filepath.Join(im.at("opt/apps/app"), dir))
	}
	sameTree(t, im.cfg, im.at("opt/apps/app/cfg"))
	if out := run(t, 10*time.Second, "ls", im.at("opt/apps/app")); out != "bin\ncfg\nempty\nlib\nnone\n" {
		t.Errorf("ls says %q", out)
	}
	s := im.status()
	if s.Seed == nil || s.Seed.Hits == 0 || s.Seed.Misses > 0 || s.Seed.Corrupt > 0 || s.Seed.HitBytes < 5<<20 {
		t.Errorf("seed: %+v", s.Seed)
	}
	if s.Cache.Blobs > 0 || s.Cache.Bypassed != "" || s.Cache.HitBytes != 0 {
		t.Errorf("cache: %+v", s.Cache)
	}
	for _, src := range s.Stores[0].Tier.Sources {
		if src.Requests > 0 {
			t.Errorf("%s was asked %d times", src.Tier, src.Requests)
		}
	}
	out := run(t, 10*time.Second, ays, "status", "-socket", im.socket())
	if !strings.Contains(out, "seed: /usr/share/aysfs/seed, ") {
		t.Errorf("status does not tell of the seed:\n%s", out)
	}
	im.shutDown()
}

// TestBakedImageLivesOn damages a seed, which network mends and its absence makes an
// error, and then has the tree change.
func TestBakedImageLivesOn(t *testing.T) {
	t.Parallel()
	im := newAppImage(t, "xattr = true")
	im.bake("-with-data")
	baked, err := os.ReadFile(im.at("etc/aysfs/aysfs.toml"))
	if want, _ := os.ReadFile(im.source); err != nil || !bytes.Equal(baked, want) {
		t.Errorf("config in the image: %q, %v", baked, err)
	}

	// One byte of the program is another one now.
	program := noise(300_000, 1)
	segments, err := filepath.Glob(im.at("usr/share/aysfs/seed/seg-*"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments %q, %v", segments, err)
	}
	flipped := 0
	for _, s := range segments {
		b := mustRead(t, s)
		if i := bytes.Index(b, program); i >= 0 {
			b[i+123_456] ^= 1
			flipped++
			mustWrite(t, s, b, 0o600)
		}
	}
	if flipped != 1 {
		t.Fatalf("the program is in the seed %d times", flipped)
	}
	app := im.at("opt/apps/app")
	im.boot(im.offline)
	wantError(t, 10*time.Second, filepath.Join(app, "bin/program"), syscall.EIO)
	wantContent(t, 5*time.Second, filepath.Join(app, "lib/large"), noise(5<<20, 2))
	if s := im.status(); s.Seed.Corrupt != 1 {
		t.Errorf("seed: %+v", s.Seed)
	}
	im.shutDown()

	im.boot(nil)
	im.has("bin/program", program)
	buf := make([]byte, 100)
	if n, err := unix.Getxattr(filepath.Join(app, "lib/large"), "user.aysfs.tier", buf); err != nil || string(buf[:n]) != "seed" {
		t.Errorf("tier of a file in the seed: %q, %v", buf[:max(n, 0)], err)
	}
	eventually(t, 20*time.Second, "what was fetched is kept", func() bool { return im.status().Cache.Blobs > 0 })
	if s := im.status(); s.Seed.Corrupt != 1 || s.Cache.Blobs > 3 {
		t.Errorf("seed: %+v; cache: %+v", s.Seed, s.Cache)
	}
	im.shutDown()
	im.bootsOffline(func() { im.has("bin/program", program) })

	// A newer tree is shown as soon as there is a network, and stays without.
	im.publishes(map[string]node{"bin/program": {mode: 0o755, data: noise(300_000, 3)}})
	im.boot(nil)
	eventually(t, 30*time.Second, "the newer tree is shown", func() bool { return im.status().Mounts[0].Serial == 2 })
	im.store.blobs.Store(0)
	im.has("bin/program", noise(300_000, 3))
	im.has("lib/large", noise(5<<20, 2))
	if n := im.store.blobs.Load(); n > 1 {
		t.Errorf("%d requests for one blob that is not in the seed", n)
	}
	im.shutDown()
	im.bootsOffline(func() {
		im.shows(2, "without network")
		im.has("bin/program", noise(300_000, 3))
	})

	// A new image has a newer head than what the last one left in the cache.
	im.publishes(map[string]node{"bin/program": {mode: 0o755, data: noise(300_000, 4)}})
	im.store.blobs.Store(0)
	im.bake("-with-data")
	if n := im.store.blobs.Load(); n > 6 {
		t.Errorf("%d requests to bake a tree again of which one file has changed", n)
	}
	im.bootsOffline(func() {
		im.shows(3, "with a newer seed")
		im.has("bin/program", noise(300_000, 4))
	})
}

// TestBakeIsCutOff kills a bake at many points, of an image that has been baked
// before: what it has stays usable, and the next bake goes on.
func TestBakeIsCutOff(t *testing.T) {
	t.Parallel()
	im := newAppImage(t, "")
	im.bake("-with-data")
	manifest := mustRead(t, im.at("usr/share/aysfs/seed/seed.json"))

	nodes := map[string]node{}
	for i := range 100 {
		nodes[fmt.Sprintf("new/f%03d", i)] = node{mode: 0o644, data: noise(50_000+i, byte(i))}
	}
	im.publishes(nodes)
	// The store itself pulls the plug, each time at the same number of requests: only
	// who goes on where the last one was comes to an end.
	rounds := 0
	for ended := false; !ended; rounds++ {
		if rounds == 20 {
			t.Fatal("a bake does not go on where the last one was cut off")
		}
		var n atomic.Int64
		cmd := exec.Command(ays, "bake", "-config", im.source, "-rootfs", im.root, "-with-data")
		started := make(chan struct{})
		im.store.setFault(func(http.ResponseWriter, *http.Request) bool {
			<-started
			if n.Add(1) >= 50 {
				cmd.Process.Kill()
			}
			return false
		})
		p := startProcess(t, cmd)
		close(started)
		if !p.endsWithin(time.Minute) {
			t.Fatal("bake does not end")
		}
		ended = p.err == nil
		if now := mustRead(t, im.at("usr/share/aysfs/seed/seed.json")); ended == bytes.Equal(now, manifest) {
			t.Errorf("round %d: ended well: %v, but the seed is the old one: %v", rounds, ended, !ended)
		}
		if rounds == 1 && !ended {
			// What was there is all there still, for a machine without network.
			im.bootsOffline(func() {
				im.shows(1, "after a bake that was cut off")
				im.has("lib/large", noise(5<<20, 2))
			})
		}
	}
	if rounds < 3 {
		t.Errorf("came to an end in round %d: not what this test is about", rounds)
	}
	im.store.setFault(nil)
	im.bootsOffline(func() {
		sameTree(t, filepath.Join(im.tree, "new"), im.at("opt/apps/app/new"))
		im.has("lib/large", noise(5<<20, 2))
	})
}
