package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/digest"
)

// rewrite puts another config in place at once, as an editor does.
func (c *client) rewrite(text string) {
	c.t.Helper()
	replace(c.t, filepath.Join(c.dir, "aysfs.toml"), []byte(text), 0o644)
}

func (c *client) hup() { c.proc.Process.Signal(syscall.SIGHUP) }

// reload puts another config in place, has it read, and waits until it is in
// force, by what status says.
func (c *client) reload(text string, inForce func(*control.Status) bool) {
	c.t.Helper()
	c.rewrite(text)
	c.hup()
	eventually(c.t, 30*time.Second, "the new config is in force", func() bool { return inForce(c.status()) })
}

// wholeTree reads all of a tree, and tells what is not as it should be. It may be
// called from any goroutine.
func wholeTree(dir string, want map[string][]byte) error {
	seen := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		seen++
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(b, want[strings.TrimPrefix(path, dir+"/")]) {
			return fmt.Errorf("%s: wrong bytes", path)
		}
		return nil
	})
	if err == nil && seen != len(want) {
		err = fmt.Errorf("%s: %d files, want %d", dir, seen, len(want))
	}
	return err
}

func contentsOf(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		all[strings.TrimPrefix(path, dir+"/")], err = os.ReadFile(path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func (c *client) descriptors() int {
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.proc.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	return len(names)
}

// TestManyReloads reloads a hundred times under readers of twenty mounts. Each
// reload changes all that can be, and one mount comes and goes.
func TestManyReloads(t *testing.T) {
	tree := shortDir(t)
	nodes := map[string]node{}
	for i := range 12 {
		nodes[fmt.Sprintf("d%d/f%d", i%3, i)] = file(3000 + 1000*i)
	}
	write(t, tree, nodes)
	want := contentsOf(t, tree)
	store := newStore(t, "e2e|app(1)", tree)
	c := newClient(t, store.url())
	c.main = "memory = \"64MiB\""
	mounts := c.mountTimes(20, "e2e|app(1)")
	c.start()
	for _, m := range mounts {
		if err := wholeTree(m, want); err != nil {
			t.Fatal(err)
		}
	}
	before := c.status()

	end := make(chan struct{})
	var readers sync.WaitGroup
	var rounds atomic.Int64
	for i := range 4 {
		readers.Go(func() {
			for n := i; ; n++ {
				select {
				case <-end:
					return
				default:
				}
				if err := wholeTree(mounts[n%len(mounts)], want); err != nil {
					t.Error(err)
					return
				}
				rounds.Add(1)
			}
		})
	}
	base := c.config()
	extra := filepath.Join(c.dir, "extra")
	change := func(i int) {
		text := strings.Replace(base, "64MiB", fmt.Sprintf("%dMiB\"\nrefresh = \"%ds\"\nio_timeout = \"%ds", 64+i, 10+i, 20+i%5), 1)
		text = strings.Replace(text, "[[ays.stor]]", fmt.Sprintf("max_size = \"%dMiB\"\nmin_free = \"%dMiB\"\n[[ays.stor]]\ncache.expiration = %d", 200+i, 1+i, i), 1)
		if i%2 == 0 {
			text += fmt.Sprintf("[[mount_files]]\nname = \"extra\"\npath = %q\nays.id = \"e2e|app(1)\"\nstor.name = \"s\"\n", extra)
		}
		c.reload(text, func(s *control.Status) bool { return s.Memory.Limit == int64(64+i)<<20 })
		if i%2 == 0 {
			eventually(t, 20*time.Second, "the new mount is there", func() bool { return wholeTree(extra, want) == nil })
		}
	}
	const reloads = 100
	var goroutines, descriptors int
	var heap int64
	settle := func() (g, d int, h int64) {
		g = 1 << 30
		// The least of some looks: readers come and go.
		for range 10 {
			s := c.status()
			g, d, h = min(g, s.Memory.Routines), c.descriptors(), s.Memory.Resident
			time.Sleep(20 * time.Millisecond)
		}
		return g, d, h
	}
	for i := 1; i <= reloads; i++ {
		change(i)
		if i == 21 {
			goroutines, descriptors, heap = settle()
		}
	}
	close(end)
	readers.Wait()
	change(reloads + 1)
	eventually(t, 30*time.Second, "no growth of goroutines and descriptors", func() bool {
		g, d, _ := settle()
		return g <= goroutines+20 && d <= descriptors+10
	})
	if _, _, h := settle(); h > heap+64<<20 {
		t.Errorf("resident memory went from %d to %d bytes", heap, h)
	}
	s := c.status()
	for i, m := range s.Mounts {
		if b := before.Mounts[i]; m.Path != b.Path || !m.Since.Equal(b.Since) || m.Moves != 0 || m.Error != "" {
			t.Errorf("a mount that did not change was touched: %+v, was %+v", m, b)
		}
	}
	if s.Cache.MaxSize != (200+reloads+1)<<20 {
		t.Errorf("the disk cache has a limit of %d", s.Cache.MaxSize)
	}
	for _, w := range c.warnings() {
		if !strings.Contains(w, "op=reload mount="+extra) { // somebody may look into it while it goes
			t.Errorf("a warning: %s", w)
		}
	}
	if rounds.Load() < 20 {
		t.Errorf("only %d trees were read meanwhile", rounds.Load())
	}
	t.Logf("%d trees read during %d reloads", rounds.Load(), reloads)
	c.stop()
}

// TestReloadDifference goes through what a reload changes, and what it can't.
func TestReloadDifference(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, stays := appClient(t, store.url())
	c.main = "#main"
	c.disk = "max_size = \"32MiB\""
	c.start()
	base := c.config()
	wantContent(t, 5*time.Second, filepath.Join(stays, names[0]), content(100_000))

	// A mount more, and one in it.
	going := c.mount("e2e|app(1)")
	inner := filepath.Join(going, "in/ner")
	c.mountAt(inner, "e2e|app(1)")
	two := c.config()
	c.reload(two, func(s *control.Status) bool { return len(s.Mounts) == 3 })
	comesToHave(t, 20*time.Second, "the inner mount is there", filepath.Join(inner, names[0]), content(100_000))
	wantContent(t, 5*time.Second, filepath.Join(going, names[1]), content(100_001))

	// And away again, with somebody in it, who goes on.
	f := openFile(t, filepath.Join(going, names[2]))
	c.reload(base, func(s *control.Status) bool { return len(s.Mounts) == 1 })
	eventually(t, 20*time.Second, "they are unmounted", func() bool { return len(mountsUnder(c.dir)) == 1 })
	eventually(t, 20*time.Second, "it is told that somebody still uses a mount that went", func() bool { return strings.Contains(c.log(), "unmounted lazily") })
	got := make([]byte, 100_002)
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, content(100_002)) {
		t.Errorf("a file that was open: %v", err)
	}

	// Another store: what has not been read yet comes from there.
	other := serveStore(t, store.dir)
	moved := strings.Replace(base, store.url(), other.url(), 1)
	c.reload(moved, func(s *control.Status) bool { return s.Stores[0].URL == other.url() })
	eventually(t, 20*time.Second, "the new store is asked for the head", func() bool { return other.heads.Load() > 0 })
	c.settled()
	asked := store.blobs.Load()
	wantContent(t, 5*time.Second, filepath.Join(stays, names[9]), content(100_009))
	if other.blobs.Load() == 0 || store.blobs.Load() != asked {
		t.Errorf("the new store was asked for %d blobs, the old one for %d", other.blobs.Load(), store.blobs.Load()-asked)
	}

	// Limits, and the level of the log.
	c.reload(strings.Replace(strings.Replace(moved, "32MiB", "24MiB", 1), "#main", "log_level = \"debug\"", 1),
		func(s *control.Status) bool { return s.Cache.MaxSize == 24<<20 })
	os.Stat(filepath.Join(stays, "no such name"))
	eventually(t, 20*time.Second, "the log has more in it", func() bool { return strings.Contains(c.log(), "level=DEBUG") })

	// What can't change is named, and the rest is taken.
	c.reload(strings.Replace(strings.Replace(moved, `id = "e2e"`, `id = "other"`, 1), c.cacheDir(), c.dir+"/elsewhere", 1),
		func(s *control.Status) bool { return len(s.NeedRestart) > 0 && s.Cache.MaxSize == 32<<20 })
	s := c.status()
	if s.ID != "e2e" || s.Cache.Path != c.cacheDir() || fmt.Sprint(s.NeedRestart) != "[main.id cache.disk.path]" {
		t.Errorf("id %s, cache %s, needs a restart: %v", s.ID, s.Cache.Path, s.NeedRestart)
	}
	eventually(t, 20*time.Second, "the log names what can't change", func() bool { return strings.Contains(c.log(), "main.id, cache.disk.path") })
	c.reload(moved, func(s *control.Status) bool { return len(s.NeedRestart) == 0 })

	// One that can't be used is told until it is mended, and changes nothing.
	c.reload(moved+"colour = \"red\"\n", func(s *control.Status) bool {
		return strings.Contains(s.ConfigError, "mount_files.colour: unknown key")
	})
	c.wantStatus(1, "CAN'T BE USED", "mount_files.colour: unknown key")
	eventually(t, 20*time.Second, "the log has it, too", func() bool { return strings.Contains(c.log(), "can't be used") })
	c.hup()
	time.Sleep(500 * time.Millisecond)
	if n := strings.Count(c.log(), "can't be used"); n != 1 {
		t.Errorf("one bad config is logged %d times", n)
	}
	wantContent(t, 5*time.Second, filepath.Join(stays, names[3]), content(100_003))
	c.reload(moved, func(s *control.Status) bool { return s.ConfigError == "" })
	if m := c.status().Mounts[0]; m.Moves != 0 || m.Path != stays {
		t.Errorf("the mount that stays: %+v", m)
	}

	// An outer mount around one that is there, which is then mounted again in it.
	outer := filepath.Join(c.dir, "o")
	c.mounts.Reset()
	c.mountAt(filepath.Join(outer, "sub"), "e2e|app(1)")
	c.reload(c.config(), func(s *control.Status) bool {
		return len(s.Mounts) == 1 && s.Mounts[0].Path == outer+"/sub" && s.Mounts[0].Error == ""
	})
	c.stop()
}

// TestKernelCachesOutliveAReload: what was read once is not asked for again.
func TestKernelCachesOutliveAReload(t *testing.T) {
	t.Parallel()
	store, _ := smallStore(t)
	c, mount := appClient(t, store.url(), "prefetch = 2")
	c.main = "memory = \"64MiB\""
	c.start()
	want := contentsOf(t, store.tree)
	if err := wholeTree(mount, want); err != nil {
		t.Fatal(err)
	}
	c.settled()
	before := c.status()
	c.reload(strings.Replace(c.config(), "64MiB", "65MiB", 1), func(s *control.Status) bool { return s.Memory.Limit == 65<<20 })
	if err := wholeTree(mount, want); err != nil {
		t.Fatal(err)
	}
	// The chain is another one, and has counted nothing.
	if n := c.status().Stores[0].Tier.Near; n.CacheHits > 2 || n.Misses > 0 {
		t.Errorf("after the reload the client was asked again: %+v", n)
	}
	if s := c.status(); s.Mounts[0].Inodes != before.Mounts[0].Inodes {
		t.Errorf("the kernel holds %d inodes, held %d", s.Mounts[0].Inodes, before.Mounts[0].Inodes)
	}
	c.stop()
}

// TestConfigFileChanges: the file is watched, however it is changed.
func TestConfigFileChanges(t *testing.T) {
	t.Parallel()
	store, _ := smallStore(t)
	c, _ := appClient(t, store.url())
	c.main = "memory = \"64MiB\""
	// As a config manager has it: the file is a symlink into a directory of its
	// own, by way of another one.
	text := func(i int) []byte { return []byte(strings.Replace(c.config(), "64MiB", fmt.Sprintf("%dMiB", i), 1)) }
	file := filepath.Join(c.dir, "aysfs.toml")
	c.start()
	inForce := func(i int) {
		t.Helper()
		eventually(t, 30*time.Second, fmt.Sprintf("config %d is in force", i), func() bool {
			s := c.status()
			return s.Memory.Limit == int64(i)<<20 && s.ConfigError == ""
		})
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(file, text(70), 0o644))
	inForce(70)

	must(os.WriteFile(file+".swp", text(71), 0o644)) // vim
	must(os.Rename(file, file+"~"))
	must(os.Rename(file+".swp", file))
	inForce(71)

	for i := 72; i < 75; i++ { // a config map
		dir := filepath.Join(c.dir, fmt.Sprint("v", i))
		must(os.Mkdir(dir, 0o755))
		must(os.WriteFile(filepath.Join(dir, "aysfs.toml"), text(i), 0o644))
		must(os.Symlink(dir, filepath.Join(c.dir, "..next")))
		must(os.Rename(filepath.Join(c.dir, "..next"), filepath.Join(c.dir, "..data")))
		if i == 72 {
			must(os.Symlink("..data/aysfs.toml", file+".new"))
			must(os.Rename(file+".new", file))
		}
		inForce(i)
	}

	// Truncated, and written bit by bit: each part is a good config of fewer
	// mounts, or none.
	f, err := os.Create(file)
	must(err)
	whole := text(80)
	for at := 0; at < len(whole); at += 40 {
		_, err := f.Write(whole[at:min(at+40, len(whole))])
		must(err)
		time.Sleep(20 * time.Millisecond)
	}
	time.Sleep(time.Second)
	if s := c.status(); s.Memory.Limit != 74<<20 || s.ConfigError != "" || len(s.Mounts) != 1 {
		t.Errorf("a half-written config: limit %d, error %q", s.Memory.Limit, s.ConfigError)
	}
	must(f.Close())
	inForce(80)

	must(os.Truncate(file, 0))
	eventually(t, 30*time.Second, "an empty config is refused", func() bool { return c.status().ConfigError != "" })
	if s := c.status(); s.Memory.Limit != 80<<20 || len(s.Mounts) != 1 || s.Mounts[0].Error != "" {
		t.Errorf("an empty config changed something: %+v", s)
	}
	must(os.WriteFile(file, text(81), 0o644))
	inForce(81)

	reloads := func() int { return strings.Count(c.log(), "config reloaded") }
	n := reloads()
	for i := range 50 {
		must(os.WriteFile(file, text(100+i), 0o644))
	}
	inForce(149)
	if n = reloads() - n; n > 25 {
		t.Errorf("a burst of 50 changes was %d reloads", n)
	}
	if m := c.status().Mounts[0]; m.Moves != 0 || m.Error != "" {
		t.Errorf("the mount: %+v", m)
	}
	must(os.Remove(filepath.Join(c.dir, "..data")))
	c.stop()
}

// TestRandomEdits edits a good config at random. The client never ends, and what
// runs changes only where -check passes.
func TestRandomEdits(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := appClient(t, store.url(), "prefetch = 1", "wait = \"5s\"")
	c.main = "memory = \"64MiB\"\nrefresh = \"1m\""
	c.start()
	good := c.config()
	file := filepath.Join(c.dir, "aysfs.toml")
	r := rand.New(rand.NewPCG(7, 8))
	bad, fine := 0, 0
	for bad+fine < 150 {
		text := []byte(good)
		for range 1 + r.IntN(4) {
			at := r.IntN(len(text))
			switch r.IntN(4) {
			case 0:
				text[at] = byte(32 + r.IntN(95))
			case 1:
				text = append(text[:at], text[min(at+1+r.IntN(8), len(text)):]...)
			case 2:
				text = append(text[:at], append([]byte{byte(r.IntN(256))}, text[at:]...)...)
			case 3:
				lines := bytes.SplitAfter(text, []byte("\n"))
				i, j := r.IntN(len(lines)), r.IntN(len(lines))
				lines[i], lines[j] = lines[j], lines[i]
				text = bytes.Join(lines, nil)
			}
			if len(text) == 0 {
				break
			}
		}
		if (bad+fine)%10 == 9 {
			text = []byte(strings.Replace(good, "64MiB", fmt.Sprintf("%dMiB", 65+bad+fine), 1))
		}
		cfg, err := config.ParseClient(file, text)
		if err == nil && (len(cfg.Mounts) != 1 || cfg.Mounts[0].Path != mount || cfg.Main.Control != c.socket()) {
			continue // it would mount somewhere on this machine
		}
		c.rewrite(string(text))
		c.hup()
		if err != nil {
			bad++
			first, _, _ := strings.Cut(err.Error(), "\n")
			eventually(t, 30*time.Second, "the bad config is told: "+first, func() bool { return c.status().ConfigError == err.Error() })
		} else {
			fine++
			eventually(t, 30*time.Second, "the good config is in force", func() bool {
				s := c.status()
				return s.ConfigError == "" && s.Memory.Limit == cfg.Main.Memory
			})
		}
		if err != nil && bad%10 == 0 {
			if m := c.status().Mounts; len(m) != 1 || m[0].Path != mount {
				t.Fatalf("a config that can't be used changed the mounts: %+v\n%s", m, text)
			}
		}
	}
	if bad < 20 || fine < 5 {
		t.Errorf("%d bad and %d good configs: this test is of no use", bad, fine)
	}
	c.reload(good, func(s *control.Status) bool {
		return s.ConfigError == "" && s.Stores[0].Name == "s" && s.Mounts[0].Error == ""
	})
	wantContent(t, 10*time.Second, filepath.Join(mount, names[0]), content(100_000))
	t.Logf("%d bad and %d good configs", bad, fine)
	c.stop()
}

// refuseAll answers everything with an error.
// TestReloadDuringAMove: a reload that wants another directory in a mount, while that is
// about to move to a newer tree, does not bring the older one back.
func TestReloadDuringAMove(t *testing.T) {
	t.Parallel()
	dir, tree := shortDir(t), shortDir(t)
	publishVersion(t, dir, tree, 1)
	conf := shortDir(t)
	write(t, conf, map[string]node{"main.conf": {mode: 0o600, data: []byte("port=1")}})
	publish(t, dir, "e2e|conf(1)", conf)
	store := serveStore(t, dir)
	c, outer := appClient(t, store.url())
	c.main = "refresh = \"0\""
	c.start()
	c.shows(outer, 1, 1)

	publishVersion(t, dir, tree, 2)
	late := digest.Of(version(2)["version"]).String()
	come, asked := make(chan struct{}), make(chan struct{}, 100)
	store.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, late) {
			asked <- struct{}{}
			<-come
		}
		return false
	})
	c.hup()
	select {
	case <-asked:
	case <-time.After(10 * time.Second):
		t.Fatal("the move has not begun")
	}
	inner := filepath.Join(outer, "in/ner")
	c.mountAt(inner, "e2e|conf(1)")
	c.reload(c.config(), func(s *control.Status) bool { return len(s.Mounts) == 2 })
	time.Sleep(time.Second) // so that the inner mount waits for its directory
	close(come)
	comesToHave(t, 20*time.Second, "the inner mount", filepath.Join(inner, "main.conf"), []byte("port=1"))
	wantContent(t, 5*time.Second, filepath.Join(outer, "version"), version(2)["version"])
	for line := range strings.Lines(c.log()) {
		if strings.Contains(line, "moved to another tree") && strings.Contains(line, "serial=1") {
			t.Errorf("it went back: %s", line)
		}
	}
	c.stop()
}

// TestReloadAtTheEndOfAWalk: who fetches ahead of a reader in order has nothing more to
// ask for, and is asked again, when another chain comes.
func TestReloadAtTheEndOfAWalk(t *testing.T) {
	t.Parallel()
	const files = 12
	dir, all, names := shortDir(t), make(map[string]node), make([]string, files)
	for i := range names {
		names[i] = fmt.Sprintf("f%02d", i)
		all[names[i]] = node{mode: 0o644, data: fmt.Appendf(nil, "this is %s", names[i])}
	}
	write(t, dir, all)
	store := newStore(t, "e2e|app(1)", dir)
	c, mount := appClient(t, store.url(), "prefetch = 0")
	c.start()
	last := digest.Of(all[names[files-1]].data).String()
	asked := make(chan struct{}, 100)
	store.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, last) {
			return false
		}
		asked <- struct{}{}
		time.Sleep(3 * time.Second) // longer than a reload takes
		return false
	})
	for _, name := range names[:4] {
		wantContent(t, 10*time.Second, filepath.Join(mount, name), all[name].data)
	}
	select {
	case <-asked:
	case <-time.After(10 * time.Second):
		t.Fatal("the last file is not fetched ahead")
	}
	c.main = "io_timeout = \"20s\"" // which takes another chain
	c.rewrite(c.config())
	eventually(t, 10*time.Second, "the reload", func() bool { return strings.Contains(c.log(), "config reloaded") })
	store.setFault(nil)
	for _, name := range names {
		wantContent(t, 10*time.Second, filepath.Join(mount, name), all[name].data)
	}
	c.stop()
}

func refuseAll(w http.ResponseWriter, _ *http.Request) bool {
	w.WriteHeader(http.StatusServiceUnavailable)
	return true
}
