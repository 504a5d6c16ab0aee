package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/bench/link"
	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/profile"
)

const profileID = "e2e|program(1)"

// program is a tree, and what reads some of it, in an order that no walk has.
type program struct {
	tree  string
	reads []string
	files map[string]node
	think time.Duration // what it does with what it has read
}

// newProgram is a program in a tree of 400 files, of which it reads 60, and two
// pieces of one large one.
func newProgram(t *testing.T) *program {
	t.Helper()
	p := &program{tree: shortDir(t), files: make(map[string]node)}
	var all []string
	for i := range 400 {
		name := fmt.Sprintf("lib/d%02d/f%03d", i%20, i)
		p.files[name] = node{mode: 0o644, data: noise(2000+i, byte(i))}
		all = append(all, name)
	}
	p.files["large"] = node{mode: 0o644, data: noise(9<<20, 1)}
	write(t, p.tree, p.files)
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(all))[:60] {
		p.reads = append(p.reads, all[i])
	}
	return p
}

// servedProgram is a new program, and a store that has its tree.
func servedProgram(t *testing.T) (*program, *webStore) {
	t.Helper()
	p := newProgram(t)
	return p, newStore(t, profileID, p.tree)
}

// programClient is a machine with the program's tree, and where that is.
func programClient(t *testing.T, url string, lines ...string) (c *client, mount string) {
	c = newClient(t, url)
	return c, c.mount(profileID, lines...)
}

// run is what the program does on a mount.
func (p *program) run(t *testing.T, mount string) {
	t.Helper()
	for _, name := range p.reads {
		wantContent(t, time.Minute, filepath.Join(mount, name), p.files[name].data)
		time.Sleep(p.think)
	}
	large, err := os.Open(filepath.Join(mount, "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer large.Close()
	for _, off := range []int64{7 << 20, 100} {
		b := make([]byte, 4096)
		if _, err := large.ReadAt(b, off); err != nil || !bytes.Equal(b, p.files["large"].data[off:off+4096]) {
			t.Errorf("large at %d: %v", off, err)
		}
	}
}

// recorded runs a program on a new machine until its needs are known, and where
// they are to go.
func (p *program) recorded(t *testing.T, c *client, mount string) {
	t.Helper()
	c.start()
	p.run(t, mount)
	if r := c.status().Mounts[0].Profile; r == nil || !r.Recording {
		t.Errorf("nothing is recorded: %+v", r)
	}
	c.stop() // which ends the recording
}

// fetchedAhead waits until a mount's profile was fetched, and returns what is
// known of it.
func fetchedAhead(t *testing.T, c *client) *control.Mount {
	t.Helper()
	var m control.Mount
	eventually(t, time.Minute, "the profile was fetched ahead", func() bool {
		m = c.status().Mounts[0]
		return m.PrefetchProfile != nil && !m.PrefetchProfile.Running
	})
	c.settled()
	return &m
}

// misses is how often something had to wait for a fetch.
func misses(c *client) int64 { return c.status().Stores[0].Tier.Near.Misses }

// wantNoMisses runs the program, which is to find all that it needs.
func (p *program) wantNoMisses(t *testing.T, c *client, mount string) {
	t.Helper()
	m := fetchedAhead(t, c)
	// Six listings at the most, in one catalog, and as many blobs as files.
	if n := m.PrefetchProfile.Objects; n < int64(len(p.reads)) || m.PrefetchProfile.Failed > 0 {
		t.Errorf("fetched ahead: %+v", m.PrefetchProfile)
	}
	if n, all := c.status().Cache.Blobs, int64(len(p.files)); n > all/2 {
		t.Errorf("%d blobs of a tree of %d files: that is more than the program needs", n, all)
	}
	before := misses(c)
	p.run(t, mount)
	if n := misses(c) - before; n > 0 {
		t.Errorf("%d reads had to wait for the network", n)
	}
}

// wantProfileFrom wants a mount's profile to be from somewhere that begins so.
func wantProfileFrom(t *testing.T, c *client, from string) {
	t.Helper()
	if m := c.status().Mounts[0].Profile; m == nil || !strings.HasPrefix(m.From, from) {
		t.Errorf("profile: %+v, want it from %s", m, from)
	}
}

func TestProfileGoesThroughTheGrid(t *testing.T) {
	t.Parallel()
	p, store := servedProgram(t)
	grid := newGridCache(t)
	grid.stor = "refresh = \"1s\""
	grid.start()
	machine := func() (*client, string) {
		c, mount := programClient(t, store.url())
		c.disk = grid.config()
		return c, mount
	}
	first, mount := machine()
	p.recorded(t, first, mount)

	second, mount := machine()
	second.start()
	p.wantNoMisses(t, second, mount)
	if m := second.status().Mounts[0].Profile; m == nil || !strings.HasPrefix(m.From, "grid ") || m.Runs != 1 {
		t.Errorf("profile: %+v", m)
	}
	out, _ := runCommand(t, ays, "status", "-socket", second.socket())
	for _, want := range []string{"needs from 1 runs", "profile 6", "metadata 2 of 2"} {
		if !strings.Contains(out, want) {
			t.Errorf("ays status does not tell %q:\n%s", want, out)
		}
	}
	second.stop()
	if n := store.profiles.Load(); n != 1 {
		t.Errorf("the store was asked for a profile %d times, want once for all", n)
	}

	// The next version: some files have another content, some are gone, the large one
	// has grown in front.
	changed := p.reads[3]
	p.files[changed] = node{mode: 0o644, data: noise(5000, 99)}
	p.files["large"] = node{mode: 0o644, data: append(noise(100, 3), p.files["large"].data...)}
	write(t, p.tree, map[string]node{changed: p.files[changed], "large": p.files["large"]})
	if err := os.Remove(filepath.Join(p.tree, p.reads[7])); err != nil {
		t.Fatal(err)
	}
	p.reads = append(p.reads[:7], p.reads[8:]...)
	publish(t, store.dir, profileID, p.tree)
	note := mustRead(t, filepath.Join(store.dir, "md", profileID, "any/head"))
	eventually(t, 30*time.Second, "the cache has the new head", func() bool {
		return run(t, time.Minute, "curl", "-s", grid.url+"/md/e2e%7Cprogram(1)/any/head?stor=s") == string(note)
	})
	third, mount := machine()
	third.start()
	p.wantNoMisses(t, third, mount)
	third.stop()
}

// loseBlobs takes all blobs from a client that has stopped, as for want of room, and
// leaves its profiles.
func loseBlobs(t *testing.T, c *client) {
	t.Helper()
	for _, pattern := range []string{"seg-*", "clean"} {
		files, err := filepath.Glob(filepath.Join(c.cacheDir(), pattern))
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestProfileOfThisMachine(t *testing.T) {
	t.Parallel()
	p, store := servedProgram(t)
	c, mount := programClient(t, store.url())
	p.recorded(t, c, mount)
	asked := store.profiles.Load()
	loseBlobs(t, c)
	c.start()
	p.wantNoMisses(t, c, mount)
	if m := c.status().Mounts[0].Profile; m == nil || m.From != "this machine" {
		t.Errorf("profile: %+v", m)
	}
	c.stop()
	if n := store.profiles.Load(); n != asked {
		t.Errorf("the store was asked for a profile %d times more", n-asked)
	}
	// What a run needs is seen whatever was fetched ahead of it.
	c.start()
	if m := c.status().Mounts[0].Profile; m == nil || m.Runs != 2 || m.Needs < len(p.reads) {
		t.Errorf("after two runs: %+v", m)
	}
	c.stop()
}

// TestProfileOfANewVersion: what the publisher knows of a new version is asked for, though
// this machine has run the old one just now.
func TestProfileOfANewVersion(t *testing.T) {
	t.Parallel()
	p, store := servedProgram(t)
	c, mount := programClient(t, store.url())
	p.recorded(t, c, mount)
	loseBlobs(t, c)
	time.Sleep(1100 * time.Millisecond) // times of profiles and heads are in seconds
	if err := os.Rename(filepath.Join(p.tree, "lib"), filepath.Join(p.tree, "lib2")); err != nil {
		t.Fatal(err)
	}
	files := map[string]node{"large": p.files["large"]}
	for i, name := range p.reads {
		p.reads[i] = strings.Replace(name, "lib", "lib2", 1)
	}
	for name, n := range p.files {
		if name != "large" {
			n.data = append([]byte("2"), n.data...)
			files[strings.Replace(name, "lib", "lib2", 1)] = n
		}
	}
	p.files = files
	write(t, p.tree, p.files)
	publish(t, store.dir, profileID, p.tree)
	run(t, time.Minute, ays, "profile", "record", "-store", store.dir, "-id", profileID, "--", p.script(t), "{}")
	c.start()
	p.wantNoMisses(t, c, mount)
	c.stop()
}

// TestProfileIsToldWhenAProgramHasStarted: a grid has it while the machine runs.
func TestProfileIsToldWhenAProgramHasStarted(t *testing.T) {
	t.Parallel()
	p, store := servedProgram(t)
	grid := startGridCache(t)
	c, mount := programClient(t, store.url())
	c.disk = grid.config()
	c.start()
	run(t, time.Minute, "ls", "-l", mount) // is nobody's start
	p.run(t, mount)
	eventually(t, time.Minute, "the cache has a profile", func() bool {
		_, err := runCommand(t, "curl", "-sf", "-o", filepath.Join(c.dir, "profile"), grid.url+"/ays/profile/e2e/m0")
		return err == nil
	})
	out := run(t, time.Minute, ays, "profile", "show", "-file", filepath.Join(c.dir, "profile"))
	if !strings.Contains(out, p.reads[0]) || !strings.Contains(out, "1 runs") {
		t.Errorf("the profile shows\n%s", out)
	}
	if m := c.status().Mounts[0].Profile; m.Recording {
		t.Errorf("still recording: %+v", m)
	}
	c.stop()
}

// A program that starts at once, with the store 20 ms away, finds most of what it needs
// here: it waits for less than it would without a profile, and nothing is asked for
// twice.
func TestProfileRunsAheadOfTheProgram(t *testing.T) {
	t.Parallel()
	p := newProgram(t)
	p.think = 10 * time.Millisecond
	dir := shortDir(t)
	publish(t, dir, profileID, p.tree)
	run(t, time.Minute, ays, "profile", "record", "-store", dir, "-id", profileID, "--", p.script(t), "{}")
	here, err := link.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(here.End)
	way, err := link.New(link.Config{RoundTrip: 20 * time.Millisecond, Mbits: 1000, Near: "198.18.1.1", Far: "198.18.1.2"}, here)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(way.Close)
	store := serveStoreAt(t, dir, "198.18.1.2:80", way.Far())
	waits := func(prefetch int) int64 {
		c, mount := programClient(t, store.url(), fmt.Sprintf("prefetch = %d", prefetch))
		c.namespace = here
		c.start()
		before := store.blobs.Load()
		p.run(t, mount)
		n := misses(c)
		if prefetch > 0 {
			fetchedAhead(t, c)
			// What waits has others fetched ahead as well, but nothing twice. The large
			// file's chunks, and metadata, are less than 100.
			if got := store.blobs.Load() - before; got > int64(len(p.files))+100 {
				t.Errorf("%d requests in a tree of %d files", got, len(p.files))
			}
		}
		c.stop()
		return n
	}
	with, without := waits(1), waits(0)
	t.Logf("waited for %d blobs with a profile, %d without", with, without)
	if with > without/2 {
		t.Errorf("waited for %d blobs with a profile, %d without", with, without)
	}
}

// script is a program that reads what run reads, below the directory in $1.
func (p *program) script(t *testing.T) string {
	t.Helper()
	file := filepath.Join(shortDir(t), "program")
	var text strings.Builder
	fmt.Fprintf(&text, "#!/bin/sh\nset -e\ncd \"$1\"\n")
	for _, name := range p.reads {
		fmt.Fprintf(&text, "cat %s >/dev/null\n", name)
	}
	fmt.Fprintf(&text, "dd if=large of=/dev/null bs=4k count=1 skip=1792 status=none\ndd if=large of=/dev/null bs=4k count=1 status=none\n")
	mustWrite(t, file, []byte(text.String()), 0o755)
	return file
}

func TestProfileRecordAndShow(t *testing.T) {
	t.Parallel()
	p, store := servedProgram(t)
	script := p.script(t)
	if out, err := runCommand(t, ays, "profile", "show", "-store", store.dir, "-id", profileID); err == nil || !strings.Contains(out, "has no profile") {
		t.Errorf("show before there is one: %v\n%s", err, out)
	}
	out := run(t, time.Minute, ays, "profile", "record", "-store", store.dir, "-id", profileID, "--", script, "{}")
	if !strings.Contains(out, "recorded ") {
		t.Errorf("record says %s", out)
	}
	out = run(t, time.Minute, ays, "profile", "show", "-store", store.url(), "-id", profileID)
	at := 0
	for _, name := range append(p.reads, "large") {
		i := strings.Index(out, " /"+name+"\n")
		if i < at {
			t.Fatalf("%s is not there, or not in order:\n%s", name, out)
		}
		at = i
	}
	if !strings.Contains(out, "1 runs") {
		t.Errorf("no totals:\n%s", out)
	}
	// What fails leaves the profile as it is.
	for _, args := range [][]string{{"false"}, {"true"}, {"/no/such/program"}} {
		args := append([]string{"profile", "record", "-store", store.dir, "-id", profileID, "--"}, args...)
		if out, err := runCommand(t, ays, args...); err == nil {
			t.Errorf("%q: %s", args, out)
		}
	}
	wrong := []string{"profile", "record", "-store", store.dir, "-id", profileID, "-for", "-1s", "--", "ls", "{}"}
	if out, err := runCommand(t, ays, wrong...); err == nil || !strings.Contains(out, "-for -1s") {
		t.Errorf("%q: %v, %s", wrong, err, out)
	}
	if out, err := runCommand(t, ays, "profile", "show", "-file", script); err == nil || !strings.Contains(out, script+": not a profile") {
		t.Errorf("show a script: %v, %s", err, out)
	}
	// It goes along with the tree.
	mirror := filepath.Join(shortDir(t), "mirror")
	run(t, time.Minute, ays, "copy", "-from", store.url(), "-to", mirror)
	run(t, time.Minute, ays, "gc", "-store", mirror)
	run(t, time.Minute, ays, "verify", "-store", mirror)
	if again := run(t, time.Minute, ays, "profile", "show", "-store", mirror, "-id", profileID); again != out {
		t.Errorf("a mirror shows\n%s", again)
	}
	run(t, time.Minute, ays, "profile", "record", "-for", "200ms", "-store", mirror, "-id", profileID, "--", "sh", "-c", "cat {}/lib/d00/* >/dev/null; exec sleep 100")
	// What a script has started ends with it; and what goes on all the same doesn't matter.
	out = run(t, time.Minute, ays, "profile", "record", "-for", "200ms", "-store", mirror, "-id", profileID, "--", "sh", "-c", "cd {}; cat lib/d00/* >/dev/null; sleep 100; true")
	if strings.Contains(out, "still uses") {
		t.Errorf("its sleep goes on: %s", out)
	}
	out = run(t, time.Minute, ays, "profile", "record", "-store", mirror, "-id", profileID, "--", "sh", "-c", "cd {}; cat lib/d00/* >/dev/null; sleep 8 >/dev/null 2>&1 &")
	if !strings.Contains(out, "still uses") || !strings.Contains(out, "recorded ") {
		t.Errorf("with a sleep that goes on: %s", out)
	}
	if out := run(t, time.Minute, ays, "profile", "show", "-store", mirror, "-id", profileID); !strings.Contains(out, "4 runs") {
		t.Errorf("merged:\n%s", out)
	}

	c, mount := programClient(t, store.url())
	c.start()
	p.wantNoMisses(t, c, mount)
	wantProfileFrom(t, c, "store ")
	c.stop()

	// Mounts of one tree have one, and each tells of it.
	c = newClient(t, store.url())
	c.mount(profileID)
	c.mount(profileID, `remote = "lib"`)
	c.start()
	for i := range 2 {
		eventually(t, time.Minute, "a mount knows the profile", func() bool {
			m := c.status().Mounts[i].Profile
			return m != nil && m.Needs > 0
		})
	}
	c.stop()
}

// Whatever a store, or a cache, has for a profile: files have their content, soon.
func TestHostileProfiles(t *testing.T) {
	t.Parallel()
	p, store := servedProgram(t)
	everything := profile.NewRecording()
	for i := range profile.MaxNeeds {
		everything.File(fmt.Sprintf("lib/../../etc/%d", i), 1)
		everything.File(fmt.Sprintf("lib/no/such/file/%d", i), 1<<20)
		everything.Chunk(p.reads[0], int64(i)<<30, 1<<30)
		everything.Listing(fmt.Sprintf("large/%d", i))
	}
	hostile, err := profile.Merge(nil, everything.Profile()).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"garbage": func(w http.ResponseWriter, r *http.Request) bool { w.Write(noise(1000, 1)); return true },
		"html": func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, "<html>log in, please</html>")
			return true
		},
		"endless":   func(w http.ResponseWriter, r *http.Request) bool { io.Copy(w, zeros{}); return true },
		"cut off":   func(w http.ResponseWriter, r *http.Request) bool { w.Write(hostile[:len(hostile)/2]); return true },
		"hostile":   func(w http.ResponseWriter, r *http.Request) bool { w.Write(hostile); return true },
		"forbidden": func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(http.StatusForbidden); return true },
		"broken":    func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true },
		"stalled":   stall,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mine := serveStore(t, store.dir)
			mine.setFault(func(w http.ResponseWriter, r *http.Request) bool {
				return strings.HasSuffix(r.URL.Path, "/profile") && fault(w, r)
			})
			c, mount := programClient(t, mine.url())
			c.start()
			within(t, time.Minute, "run", func() { p.run(t, mount) })
			if s := c.status(); len(s.Mounts) != 1 || s.Mounts[0].Error != "" {
				t.Errorf("%+v", s.Mounts)
			}
			c.stop()
		})
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestProfileOfPrivateStore: a cache gives what programs need to those who may
// read the tree.
func TestProfileOfPrivateStore(t *testing.T) {
	t.Parallel()
	p, store := servedProgram(t)
	store.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if login, secret, _ := r.BasicAuth(); login == "me" && secret == "word" {
			return false
		}
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	grid := startGridCache(t)
	machine := func() (*client, string) {
		c, mount := programClient(t, store.url())
		c.stor = "login = \"me\"\nsecret = \"word\""
		c.disk = grid.config()
		return c, mount
	}
	first, mount := machine()
	p.recorded(t, first, mount)
	second, mount := machine()
	second.start()
	p.wantNoMisses(t, second, mount)
	wantProfileFrom(t, second, "grid ")
	second.stop()
	for _, login := range []string{"", "me:wrong"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, grid.url+"/ays/profile/e2e/m0", nil)
		if err != nil {
			t.Fatal(err)
		}
		if user, secret, ok := strings.Cut(login, ":"); ok {
			req.SetBasicAuth(user, secret)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound || len(b) > 0 {
			t.Errorf("login %q: status %d, %d bytes", login, resp.StatusCode, len(b))
		}
	}
}

// TestPrefetchOfTheWholeTree: it comes in the background, and ays status tells how
// far it is.
func TestPrefetchOfTheWholeTree(t *testing.T) {
	t.Parallel()
	p, store := servedProgram(t)
	c, mount := programClient(t, store.url(), "prefetch = 2")
	c.start()
	var m control.Mount
	eventually(t, time.Minute, "the whole tree is here", func() bool {
		m = c.status().Mounts[0]
		return m.PrefetchTree != nil && !m.PrefetchTree.Running
	})
	if b := m.PrefetchTree; b.Bytes != m.Bytes || b.OfBytes != m.Bytes || b.Error != "" || b.Failed > 0 {
		t.Errorf("%+v of %d bytes", b, m.Bytes)
	}
	out, _ := runCommand(t, ays, "status", "-socket", c.socket())
	if !strings.Contains(out, "tree 4") {
		t.Errorf("ays status:\n%s", out)
	}
	c.settled()
	store.down()
	sameTree(t, p.tree, mount)
	c.stop()
}

// TestPrefetchOfATooLargeTree: it ends where the cache is full, having dropped nothing
// of what is there, and tells so. It goes on when the cache may be larger.
func TestPrefetchOfATooLargeTree(t *testing.T) {
	t.Parallel()
	tree := shortDir(t)
	files := map[string]node{}
	for i := range 64 {
		files[fmt.Sprintf("f%02d", i)] = node{mode: 0o644, data: noise(512<<10, byte(i))}
	}
	write(t, tree, files)
	store := newStore(t, profileID, tree)
	c := newClient(t, store.url())
	c.disk = `max_size = "16MiB"`
	c.mount(profileID, "prefetch = 2")
	for i := range 2 { // the second time with a cache that is full
		c.start()
		eventually(t, time.Minute, "the cache is full", func() bool {
			b := c.status().Mounts[0].PrefetchTree
			return b != nil && !b.Running
		})
		c.settled()
		s := c.status()
		if b := s.Mounts[0].PrefetchTree; !strings.Contains(b.Error, "full") || b.Bytes < 4<<20 || s.Cache.Evicted > 0 || s.Cache.Dropped > 0 {
			t.Errorf("%+v in a cache of %+v", b, s.Cache)
		}
		if i == 0 {
			c.stop()
		}
	}
	c.reload(strings.Replace(c.config(), "16MiB", "1GiB", 1), func(s *control.Status) bool {
		b := s.Mounts[0].PrefetchTree
		return b != nil && !b.Running && b.Error == "" && b.Bytes == s.Mounts[0].Bytes
	})
	c.stop()
}

// TestPrefetchOfWhatIsNotKept: nothing comes ahead of need that the disk cache would not
// keep.
func TestPrefetchOfWhatIsNotKept(t *testing.T) {
	t.Parallel()
	p, store := servedProgram(t)
	c, mount := programClient(t, store.url(), "prefetch = 2")
	dir := c.cacheDir()
	if err := errors.Join(os.MkdirAll(dir, 0o700), unix.Mount("none", dir, "tmpfs", unix.MS_RDONLY, "mode=700")); err != nil {
		t.Fatal(err)
	}
	gone := func() { unix.Unmount(dir, unix.MNT_DETACH) }
	t.Cleanup(gone)
	c.start()
	wantContent(t, time.Minute, filepath.Join(mount, p.reads[0]), p.files[p.reads[0]].data)
	time.Sleep(2 * time.Second)
	if n := c.status().Stores[0].Tier.Sources[0].Hits; n > 10 {
		t.Errorf("%d objects came for one file", n)
	}
	if w := c.warnings(); len(w) != 1 || !strings.Contains(w[0], "disk cache") {
		t.Errorf("warnings: %q, want one about the cache", w)
	}
	gone()
	c.stop()
}

// TestPrefetchComesBack: what can't be had comes when it can, without a restart.
func TestPrefetchComesBack(t *testing.T) {
	t.Parallel()
	p := newProgram(t)
	store := newStore(t, profileID, p.tree)
	of := p.files[p.reads[0]].data
	blob := filepath.Join(store.dir, "default", digest.Of(of).String())
	if err := os.Rename(blob, blob+".gone"); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, store.url())
	mount := c.mount(profileID, "prefetch = 2")
	c.start()
	var b *control.Bringing
	eventually(t, time.Minute, "all else is here", func() bool {
		b = c.status().Mounts[0].PrefetchTree
		return b != nil && !b.Running
	})
	if b.Failed != 1 || !strings.Contains(b.Error, "1 object could not be had") {
		t.Errorf("without a blob: %+v", b)
	}
	if err := os.Rename(blob+".gone", blob); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the rest is here", func() bool {
		b = c.status().Mounts[0].PrefetchTree
		return b != nil && !b.Running && b.Error == "" && b.Failed == 0
	})
	c.settled()
	store.down()
	sameTree(t, p.tree, mount)
	c.stop()
}

// TestPrefetchSwitchedOn: a mount whose needs nobody wanted to know has them recorded
// from the reload on that asks for it.
func TestPrefetchSwitchedOn(t *testing.T) {
	t.Parallel()
	p, store := servedProgram(t)
	c, mount := programClient(t, store.url(), "prefetch = 0")
	c.start()
	p.run(t, mount)
	if r := c.status().Mounts[0].Profile; r != nil {
		t.Errorf("recorded with prefetch = 0: %+v", r)
	}
	text := strings.Replace(c.config(), "prefetch = 0", "prefetch = 1", 1)
	c.reload(text, func(s *control.Status) bool { return s.Mounts[0].Profile != nil && s.Mounts[0].Profile.Recording })
	for name, f := range p.files {
		if name != "large" && !slices.Contains(p.reads, name) { // else the kernel has it
			wantContent(t, time.Minute, filepath.Join(mount, name), f.data)
			break
		}
	}
	eventually(t, time.Minute, "it is recorded", func() bool {
		r := c.status().Mounts[0].Profile
		return r != nil && r.Recorded > 0
	})
	c.stop()
}

// runCommand is run for a program that may fail.
func runCommand(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	return try(t, time.Minute, exec.Command(name, args...))
}
