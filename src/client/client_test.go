package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tree"
)

func TestArrange(t *testing.T) {
	var cfgs []config.Mount
	for _, p := range []string{"/opt/app/cfg/deep", "/opt/app", "/opt/app-two", "/opt/app/cfg", "/opt/app/lib", "/srv"} {
		cfgs = append(cfgs, config.Mount{Path: p})
	}
	outer := map[string]string{"/opt/app/cfg": "/opt/app", "/opt/app/cfg/deep": "/opt/app/cfg", "/opt/app/lib": "/opt/app"}
	grafts := map[string][]string{"/opt/app": {"cfg", "lib"}, "/opt/app/cfg": {"deep"}}
	for range 2 {
		seen := make(map[*mount]bool)
		for _, m := range arrange(cfgs) {
			got := ""
			if m.outer != nil {
				got = m.outer.cfg.Path
				if !seen[m.outer] {
					t.Errorf("%s comes before %s that it lies in", m.cfg.Path, got)
				}
			}
			seen[m] = true
			if got != outer[m.cfg.Path] {
				t.Errorf("%s lies in %q, want %q", m.cfg.Path, got, outer[m.cfg.Path])
			}
			if !slices.Equal(m.grafts, grafts[m.cfg.Path]) {
				t.Errorf("%s needs %v, want %v", m.cfg.Path, m.grafts, grafts[m.cfg.Path])
			}
		}
		slices.Reverse(cfgs)
	}
}

func TestDescribe(t *testing.T) {
	cfg, err := config.ParseClient("test", []byte(`
[main]
id = "x"
[[ays.stor]]
name = "s"
url = "https://files.example.org/files"
login = "me"
secret = "hush"
[[mount_config]]
path = "/opt/app/cfg"
remote = "cfg"
ays.id = "d|app!main"
stor.name = "s"
[[mount_files]]
name = "app"
path = "/opt/app"
ays.id = "d|app(1)"
platform = "ubuntu64"
stor.name = "s"
debug = "lab"
debug_filter = ['.*[.]py', 'etc/.*']
[[debug]]
name = "lab"
redis.addr = "192.168.2.1"
redis.port = 6379
redis.passwd = "hush"
[[cache.local]]
port = 999
passwd = "hush"
[[cache.grid]]
url = "http://192.168.2.1:8080"
login = "me"
passwd = "hush"
`))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	Describe(&b, cfg)
	for _, want := range []string{"2 mounts", "/opt/app\n", "d|app(1)@ubuntu64 from https://files.example.org/files", "d|app!main directory cfg", "in the mount at /opt/app",
		"debug lab: 2 patterns of paths can be changed, by redis at 192.168.2.1 port 6379", "/var/cache/aysfs, up to 10240 MiB", "local cache: port 999", "grid cache: http://192.168.2.1:8080\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "hush") {
		t.Error("the secret is shown")
	}
	cfg.Mounts[0].DebugFilter, cfg.Mounts[1].DebugFilter = nil, nil
	b.Reset()
	if Describe(&b, cfg); !strings.Contains(b.String(), "debug lab: no paths") {
		t.Errorf("without a debug_filter:\n%s", &b)
	}
	cfg.Disk = nil // as with max_size = "0"
	b.Reset()
	if Describe(&b, cfg); !strings.Contains(b.String(), "no prefetch") {
		t.Errorf("without a disk cache:\n%s", &b)
	}
}

// TestRearrange goes from one config to the next, and looks at which mounts stay.
func TestRearrange(t *testing.T) {
	cfg := func(path, id string) config.Mount { return config.Mount{Path: path, ID: id, Prefetch: 1} }
	before := []config.Mount{cfg("/a", "1"), cfg("/a/in", "2"), cfg("/a/in/deep", "3"), cfg("/b", "4"), cfg("/c", "5")}
	quiet := cfg("/b", "4")
	quiet.Prefetch, quiet.Wait, quiet.Line, quiet.Config = 2, 5, 99, true
	for name, c := range map[string]struct {
		now               []config.Mount
		added, gone, kept []string
	}{
		"nothing": {now: before, kept: []string{"/a", "/a/in", "/a/in/deep", "/b", "/c"}},
		"another order": {
			now:  []config.Mount{before[4], before[2], before[3], before[1], before[0]},
			kept: []string{"/a", "/a/in", "/a/in/deep", "/b", "/c"},
		},
		"keys that act on a mount that is there": {
			now:  []config.Mount{before[0], before[1], before[2], quiet, before[4]},
			kept: []string{"/a", "/a/in", "/a/in/deep", "/b", "/c"},
		},
		"another tree: what lies in it is mounted anew": {
			now:   []config.Mount{cfg("/a", "9"), before[1], before[2], before[3], before[4]},
			added: []string{"/a", "/a/in", "/a/in/deep"}, gone: []string{"/a", "/a/in", "/a/in/deep"}, kept: []string{"/b", "/c"},
		},
		"one in the middle goes": {
			now:   []config.Mount{before[0], before[2], before[3], before[4]},
			added: []string{"/a/in/deep"}, gone: []string{"/a/in", "/a/in/deep"}, kept: []string{"/a", "/b", "/c"},
		},
		"one around others comes": {
			now:   append([]config.Mount{cfg("/", "0")}, before...),
			added: []string{"/", "/a", "/a/in", "/a/in/deep", "/b", "/c"}, gone: []string{"/a", "/a/in", "/a/in/deep", "/b", "/c"},
		},
		"none": {gone: []string{"/a", "/a/in", "/a/in/deep", "/b", "/c"}},
	} {
		if name == "one around others comes" {
			c.now[0].Path = "" // the root itself can't be configured; its paths begin like this
			c.added[0] = ""
		}
		p := rearrange(arrange(before), c.now)
		paths := func(ms []*mount) (all []string) {
			for _, m := range ms {
				all = append(all, m.cfg.Path)
			}
			return all
		}
		var kept []*mount
		for _, u := range p.kept {
			kept = append(kept, u.mount)
			if u.mount.path != u.cfg.Path {
				t.Errorf("%s: %s becomes %s", name, u.mount.path, u.cfg.Path)
			}
		}
		if !slices.Equal(paths(p.added), c.added) || !slices.Equal(paths(p.gone), c.gone) || !slices.Equal(paths(kept), c.kept) {
			t.Errorf("%s: added %q, gone %q, kept %q", name, paths(p.added), paths(p.gone), paths(kept))
		}
		seen := map[*mount]bool{nil: true}
		for _, m := range p.all {
			if !seen[m.outer] {
				t.Errorf("%s: %s lies in a mount that is no more, or comes later", name, m.path)
			}
			seen[m] = true
		}
		if len(p.all) != len(c.now) {
			t.Errorf("%s: %d mounts of %d", name, len(p.all), len(c.now))
		}
	}
}

// TestLive names what a running client can't change, and keeps that.
func TestLive(t *testing.T) {
	was := &config.Client{Main: config.Main{ID: "a", Control: "/c", Log: "text"}, Disk: &config.Disk{Path: "/d", MaxSize: 1}}
	now := &config.Client{Main: config.Main{ID: "b", Control: "/e", Log: "json", Xattr: true, Refresh: 5}, Disk: &config.Disk{Path: "/f", MaxSize: 2}}
	cfg, keys := live(was, now)
	if !slices.Equal(keys, []string{"main.id", "main.control", "main.log", "main.xattr", "cache.disk.path"}) {
		t.Errorf("refused: %q", keys)
	}
	if cfg.Main.ID != "a" || cfg.Main.Control != "/c" || cfg.Main.Log != "text" || cfg.Main.Xattr || cfg.Disk.Path != "/d" {
		t.Errorf("changed: %+v", cfg)
	}
	if cfg.Main.Refresh != 5 || cfg.Disk.MaxSize != 2 || now.Disk.Path != "/f" {
		t.Errorf("not taken: %+v", cfg)
	}
	if cfg, keys := live(was, &config.Client{Main: was.Main}); cfg.Disk == nil || len(keys) != 1 {
		t.Errorf("a disk cache turned off: %v, %q", cfg.Disk, keys)
	}
	if _, keys := live(was, was); keys != nil {
		t.Errorf("nothing differs: %q", keys)
	}
}

// TestOlder: a cache that has not heard of the newest head is passed over.
func TestOlder(t *testing.T) {
	note := func(serial int64) []byte {
		d := digest.Of(nil)
		h := object.Head{Tree: object.TreeName{ID: "d|app(1)"}, Serial: serial, Time: time.Unix(1, 0).UTC(), Domain: "default",
			Root: d, RootSize: 1, RootMode: 0o755, Index: d, IndexSize: 1, Catalog: d, Catalogs: 1, MaxSize: 1}
		b, err := h.Sign(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := object.OpenHead(b, nil); err != nil {
			t.Fatal(err)
		}
		return b
	}
	if !older(note(1), note(2)) || older(note(2), note(2)) || older(note(3), note(2)) || older(note(1), nil) || older([]byte("x"), note(1)) {
		t.Error("older heads are not told")
	}
}

// TestKeptHeads: the last head is known where the disk can't keep it.
func TestKeptHeads(t *testing.T) {
	var k keptHeads
	if _, err := k.Head("t"); !errors.Is(err, tier.ErrAbsent) {
		t.Error(err)
	}
	k.disk = brokenHeads{}
	if err := k.PutHead("t", []byte("note")); !errors.Is(err, tier.ErrUnavailable) {
		t.Error(err)
	}
	if b, err := k.Head("t"); string(b) != "note" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

type brokenHeads struct{}

func (brokenHeads) Head(string) ([]byte, error)  { return nil, tier.ErrAbsent }
func (brokenHeads) PutHead(string, []byte) error { return tier.ErrUnavailable }

func TestPins(t *testing.T) {
	var p pins
	a, b := tier.Ref{Domain: "d", Limit: 1}, tier.Ref{Domain: "e", Limit: 2}
	p.add([]tier.Ref{a, b})
	p.add([]tier.Ref{a})
	p.drop([]tier.Ref{a, b})
	a.Limit = 9
	if !p.has(a) || p.has(b) {
		t.Error("what another mount needs is pinned, and nothing else")
	}
	p.drop([]tier.Ref{a})
	if p.has(a) || len(p.refs) != 0 {
		t.Errorf("left: %v", p.refs)
	}
}

// However much metadata trees have, so much of it is pinned, and no more is remembered.
func TestPinsAreBounded(t *testing.T) {
	var p pins
	ref := func(i int) tier.Ref {
		return tier.Ref{Domain: "default", Digest: digest.Of(fmt.Append(nil, i)), Limit: 5}
	}
	var refs []tier.Ref
	for i := range mostPins {
		refs = append(refs, ref(i))
	}
	if n := p.add(refs[1:]); n != mostPins-1 {
		t.Fatalf("%d are pinned", n)
	}
	more := []tier.Ref{refs[0], refs[1], ref(-1)}
	n := p.add(more)
	if n != 1 || !p.has(refs[0]) || p.has(ref(-1)) {
		t.Errorf("where there is room for one, %d are pinned", n)
	}
	p.drop(more[:n])
	p.drop(refs[1:])
	if p.all != 0 || len(p.refs) != 0 {
		t.Errorf("left: %d, %d", p.all, len(p.refs))
	}
}

// newClient is a client that mounts nothing yet.
func newClient(t *testing.T, text string) *Client {
	t.Helper()
	t.Cleanup(func() { debug.SetMemoryLimit(math.MaxInt64) })
	cfg, err := config.ParseClient("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{Config: cfg, Version: "v1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What a mount needs to start without network is pinned before it has started, and until
// the client has ended: others are read meanwhile, and what comes of that is written.
func TestPinnedFromTheStart(t *testing.T) {
	root, store := t.TempDir(), t.TempDir()
	if err := os.WriteFile(root+"/file", []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	name := object.TreeName{ID: "d|app(1)"}
	if _, err := publish.Run(t.Context(), publish.Options{Store: store, Tree: name, Root: root, Workers: 1}); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(oneMount(t, store), "/opt/app", root+"/file/a", 1) // which can't be made
	c := newClient(t, text)
	o := c.origins["s"]
	found := o.look(t.Context(), name)
	if found.Err != nil {
		t.Fatal(found.Err)
	}
	var refs []tier.Ref
	seen := tree.New(found.Head, o, c.metadata)
	err := seen.Metadata(t.Context(), func(ref tier.Ref) bool {
		refs = append(refs, ref)
		return seen.Fetch(t.Context(), ref) == nil
	})
	c.Stop()
	if err != nil || len(refs) < 2 {
		t.Fatal(refs, err)
	}
	if err := os.RemoveAll(store); err != nil {
		t.Fatal(err)
	}
	c = newClient(t, text)
	defer c.Stop()
	for _, ref := range refs {
		if !c.cache.Has(ref) || !c.pins.has(ref) {
			t.Errorf("%v: kept %v, pinned %v", ref, c.cache.Has(ref), c.pins.has(ref))
		}
	}
	// It stays so while another mount takes that one's place.
	cfg, err := config.ParseClient("test", []byte(strings.Replace(text, "/file/a", "/file/b", 1)))
	if err != nil {
		t.Fatal(err)
	}
	c.begin(c.mounts[0])
	if err := c.apply(c.config(), cfg); err != nil {
		t.Fatal(err)
	}
	for _, ref := range refs {
		if !c.pins.has(ref) {
			t.Errorf("%v: not pinned for what is mounted anew", ref)
		}
	}
	m := c.mounts[0]
	c.end()
	c.work.Wait() // it was given up
	c.prefetchAll(m, true)
	for _, ref := range refs {
		if !c.pins.has(ref) {
			t.Errorf("%v: not pinned when the client ends", ref)
		}
	}
}

// What only a mount needs that the config has no longer is not pinned.
func TestUnpinned(t *testing.T) {
	c := newClient(t, strings.Replace(oneMount(t, t.TempDir()), "/opt/app", "/dev/null/app", 1)) // which can't be made
	defer c.Stop()
	for _, leave := range []func(*mount){c.begin, func(m *mount) { c.prefetchAll(m, true) }} {
		m, ref := newMount(c.mounts[0].cfg), tier.Ref{Domain: "d"}
		c.prepare(m)
		m.repin(&c.pins, []tier.Ref{ref}[:c.pins.add([]tier.Ref{ref})])
		m.end()
		leave(m)
		c.work.Wait()
		if c.pins.has(ref) {
			t.Error("pinned for a mount that is gone")
		}
	}
}

// oneMount is the config of a mount of a tree that a directory has, with a cache.
func oneMount(t *testing.T, store string) string {
	t.Helper()
	return fmt.Sprintf(`
[main]
id = "x"
[cache.disk]
path = %q
[[ays.stor]]
name = "s"
url = "file://%s"
[[mount_files]]
name = "app"
path = "/opt/app"
ays.id = "d|app(1)"
platform = "ubuntu64"
stor.name = "s"
`, t.TempDir()+"/cache", store)
}

// A store may be taken from the config while it is asked all the time.
func TestRetireWhileUsed(t *testing.T) {
	for range 20 {
		c := newClient(t, oneMount(t, t.TempDir()))
		o := c.origins["s"]
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					ch := o.use()
					ch.users.Done()
					select {
					case <-ch.closed:
						return
					default:
					}
				}
			})
		}
		c.retireOrigin(o)
		all.Wait()
		delete(c.origins, "s")
		c.Stop()
	}
}

// What somebody else unmounted is mounted anew, also where it goes on for who is in it.
func TestRearrangeWhatIsGone(t *testing.T) {
	path := t.TempDir()
	c := newClient(t, strings.Replace(oneMount(t, t.TempDir()), "/opt/app", path, 1))
	defer c.Stop()
	if err := c.pend(c.mounts[0]); err != nil {
		t.Fatal(err)
	}
	cfgs := c.config().Mounts
	if p := rearrange(c.mounts, cfgs); len(p.kept) != 1 {
		t.Errorf("a mount that is there: %+v", p)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if p := rearrange(c.mounts, cfgs); len(p.added) != 1 || len(p.gone) != 1 {
		t.Errorf("a mount that is gone: %+v", p)
	}
}

// A reload doesn't wait for a move under way, and who does wait has patience of its own.
func TestReloadDuringAMove(t *testing.T) {
	c := newClient(t, oneMount(t, t.TempDir()))
	defer c.Stop()
	m := c.mounts[0]
	m.shown.head = &object.Head{}
	if err := m.turn.Acquire(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	defer m.turn.Release(1)
	updated := make(chan bool)
	go func() {
		c.update(update{m, m.cfg, []string{"inner"}}, c.cfg)
		close(updated)
	}()
	select {
	case <-updated:
	case <-time.After(5 * time.Second):
		t.Fatal("it waits")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.regraft(ctx, m); !errors.Is(err, tier.ErrUnavailable) {
		t.Errorf("who mounts in it: %v", err)
	}
}
