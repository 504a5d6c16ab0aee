package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/redistest"
)

// lines are those of a log that have all words.
func lines(log string, words ...string) (found []string) {
next:
	for line := range strings.Lines(log) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

// loud are the words of a line that is to be seen by default.
func loud(level string, words ...string) []string { return append(words, "level="+level) }

// TestFailuresOfAClient: whatever fails, one line of the log says what, where, why and
// what helps, however often it fails.
func TestFailuresOfAClient(t *testing.T) {
	t.Parallel()
	tree, names := smallTree(t)
	const id = "e2e|app(1)"
	every := func(c *client) { c.main += "\nlog_level = \"debug\"\nrefresh = \"1s\"\nio_timeout = \"2s\"" }
	readAll := func(mount string) {
		for _, name := range names {
			_, _ = readFile(t, 10*time.Second, filepath.Join(mount, name))
		}
	}
	for name, k := range map[string]struct {
		// set makes the failure's place, before the start, provoke the failure. Either may be nil.
		set     func(t *testing.T, c *client, s *webStore)
		provoke func(t *testing.T, c *client, s *webStore, mount string)
		want    []string // words of the line
		again   []string // words of those that follow while it goes on; nil: none do
		rated   bool     // there may be another one each second
	}{
		"a store that goes": {
			provoke: func(_ *testing.T, _ *client, s *webStore, _ string) { s.down() },
			want:    loud("WARN", "the store can't be asked for newer heads: what is shown stays", "store=s", id, "mnt0", "connection refused"),
			again:   loud("DEBUG", "the store can't be asked for newer heads"),
		},
		"a login that is not taken any more": {
			provoke: func(_ *testing.T, _ *client, s *webStore, _ string) {
				s.setFault(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusForbidden); return true })
			},
			want:  loud("WARN", "the store can't be asked for newer heads", "status 403", "check login and secret of store s"),
			again: loud("DEBUG", "the store can't be asked for newer heads"),
		},
		"a tree that goes": {
			provoke: func(t *testing.T, _ *client, s *webStore, _ string) {
				if err := os.RemoveAll(filepath.Join(s.dir, "md")); err != nil {
					t.Fatal(err)
				}
			},
			want:  loud("WARN", "the store no longer has the tree: what is shown stays", "store=s", id, "mnt0", "404"),
			again: loud("DEBUG", "the store no longer has the tree"),
		},
		"a page instead of a head": {
			provoke: func(_ *testing.T, _ *client, s *webStore, _ string) {
				s.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
					w.Header().Set("Content-Type", "text/html")
					fmt.Fprint(w, "<html>please log in</html>")
					return true
				})
			},
			want:  loud("WARN", "the store can't be asked for newer heads", "text/html", "of a proxy or a login form maybe"),
			again: loud("DEBUG", "the store can't be asked for newer heads"),
		},
		"an older head": {
			provoke: func(t *testing.T, _ *client, s *webStore, mount string) {
				head := filepath.Join(s.dir, "md", id, "any/head")
				old := mustRead(t, head)
				more := shortDir(t)
				write(t, more, map[string]node{"other": file(10)})
				publish(t, s.dir, id, more)
				eventually(t, 20*time.Second, "the new tree shows", func() bool { _, err := os.Lstat(filepath.Join(mount, "other")); return err == nil })
				mustWrite(t, head, old, 0o644)
			},
			want:  loud("ERROR", "the store's head is refused: what is shown stays", "store=s", id, "older"),
			again: loud("DEBUG", "the store's head is refused"),
		},
		"files that are gone": {
			provoke: func(_ *testing.T, _ *client, s *webStore, mount string) {
				s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
					http.NotFound(w, r)
					return true
				})
				readAll(mount)
				readAll(mount)
			},
			want:  loud("ERROR", "a request failed", "mnt0", id, "op=LookUpInode ", "store s", "status 404", "omitted="),
			rated: true,
		},
		"files that are others": {
			provoke: func(_ *testing.T, _ *client, s *webStore, mount string) {
				s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
					if strings.HasPrefix(r.URL.Path, "/md/") {
						return false
					}
					fmt.Fprint(w, "something else")
					return true
				})
				readAll(mount)
				readAll(mount)
			},
			want:  loud("WARN", "corrupt blob", `tier="store s"`, "digest="),
			rated: true,
		},
		"a grid cache that is not there": {
			set: func(_ *testing.T, c *client, _ *webStore) { c.disk = "[[cache.grid]]\nurl = \"http://127.0.0.1:1\"" },
			provoke: func(_ *testing.T, _ *client, _ *webStore, mount string) {
				readAll(mount)
			},
			want:  loud("WARN", "can't tell a grid cache what is mounted", `tier="grid 127.0.0.1:1"`, "connection refused", "again_in="),
			again: loud("DEBUG", "can't tell a grid cache what is mounted"),
		},
		"a local cache that is not there": {
			set:     func(_ *testing.T, c *client, _ *webStore) { c.disk = "[[cache.local]]\nport = 1" },
			provoke: func(_ *testing.T, _ *client, _ *webStore, mount string) { readAll(mount) },
			want:    loud("WARN", "leaving a local cache alone", "127.0.0.1:1", "connection refused"),
		},
		"a redis that goes": {
			set: func(_ *testing.T, c *client, _ *webStore) {
				c.mounts.Reset()
				c.debugMount(&redistest.Server{Addr: "127.0.0.1:1"}, id, "x")
			},
			provoke: func(_ *testing.T, _ *client, _ *webStore, mount string) {
				for range 20 {
					_ = os.WriteFile(filepath.Join(mount, "x"), nil, 0o644)
				}
			},
			want: loud("WARN", "redis can't be asked: changed files show as last known, writes fail", "mnt0", "connection refused"),
		},
		"a config with a mistake": {
			provoke: func(t *testing.T, c *client, _ *webStore, _ string) {
				c.main += "\nmemory = \"much\""
				c.writeConfig()
			},
			want: loud("ERROR", "the new config can't be used, the old one stays in force", "aysfs.toml:", "main.memory", "write"),
		},
		"a control socket of another": {
			set: func(t *testing.T, c *client, _ *webStore) {
				l, err := net.Listen("unix", c.socket())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.Close() })
			},
			want: loud("WARN", "going on without the control socket", "another process answers there; stop it, or set [main] control"),
		},
		"a cache directory of another": {
			set: func(t *testing.T, c *client, _ *webStore) {
				mustWrite(t, c.cacheDir(), nil, 0o600)
			},
			want: loud("WARN", "going on without the disk cache", "/cache", "not a directory"),
		},
		"an end of mounts that are in use": {
			provoke: func(t *testing.T, c *client, _ *webStore, mount string) {
				f, err := os.Open(filepath.Join(mount, names[0]))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { f.Close() })
				c.stop()
			},
			want: loud("WARN", "unmounted lazily: files are open or somebody works in it", "mnt0"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, id, tree)
			c := newClient(t, s.url())
			every(c)
			mount := c.mount(id, "prefetch = 0")
			if k.set != nil {
				k.set(t, c, s)
			}
			began := time.Now()
			c.start()
			if k.provoke != nil {
				k.provoke(t, c, s, mount)
			}
			eventually(t, 30*time.Second, fmt.Sprintf("the log has %q", k.want), func() bool { return len(lines(c.log(), k.want...)) > 0 })
			if k.again != nil {
				eventually(t, 30*time.Second, "it fails again", func() bool { return len(lines(c.log(), k.again...)) > 1 })
			}
			most := 1
			if k.rated {
				most += int(time.Since(began) / time.Second)
			}
			if said := lines(c.log(), k.want[:1]...); len(said) == 0 || k.again == nil && len(said) > most {
				t.Errorf("%d lines, at most %d: %q", len(said), most, said)
			}
			if said := lines(c.log(), k.want...); len(said) > most {
				t.Errorf("%d lines, at most %d: %q", len(said), most, said)
			}
		})
	}
}

// TestFailuresToStart: what can't work at all is said on the way out.
func TestFailuresToStart(t *testing.T) {
	t.Parallel()
	s, _ := smallStore(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, k := range map[string]struct {
		set  func(c *client)
		want []string
	}{
		"no such tree":          {func(c *client) { c.mount("e2e|none(1)") }, loud("ERROR", "nothing could be mounted", "mnt0", "e2e|none(1)", "store s", "no such object")},
		"no such directory":     {func(c *client) { c.mount("e2e|app(1)", `remote = "nope"`) }, loud("ERROR", "nothing could be mounted", "mnt0", `has no directory`, "nope")},
		"a file as mount point": {func(c *client) { c.mount("e2e|app(1)"); _ = os.WriteFile(filepath.Join(c.dir, "mnt0"), nil, 0o600) }, loud("ERROR", "nothing could be mounted", "mnt0", "not usable as a mount point", "it is not a directory")},
		"a key of another":      {func(c *client) { c.stor = fmt.Sprintf("key = %q", publicKey(t)); c.mount("e2e|app(1)") }, loud("ERROR", "nothing could be mounted", "store s", "not signed by")},
	} {
		c := newClient(t, s.url())
		k.set(c)
		proc := c.begin()
		if !proc.endsWithin(30*time.Second) || exitCode(proc.err) != 1 {
			t.Errorf("%s: %v, want exit 1", name, proc.err)
		}
		if said := lines(c.log(), k.want...); len(said) != 1 {
			t.Errorf("%s: %q, want %q once in\n%s", name, said, k.want, c.log())
		}
	}
	g := newGridCache(t)
	g.at(taken.Addr().String())
	proc := g.begin()
	if want := loud("ERROR", "can't start", taken.Addr().String(), "address already in use"); !proc.endsWithin(30*time.Second) || exitCode(proc.err) != 1 || len(lines(g.log(), want...)) != 1 {
		t.Errorf("a port that is taken: %v, want %q once in\n%s", proc.err, want, g.log())
	}
}

// TestFailuresOfACache is TestFailuresOfAClient for the cache server.
func TestFailuresOfACache(t *testing.T) {
	t.Parallel()
	s, _ := smallStore(t)
	g := newGridCache(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	g.ledis = "max_size = \"1GiB\"\nport = " + port
	g.stor = "timeout = \"2s\""
	g.start()
	once := func(what string, words ...string) {
		t.Helper()
		eventually(t, 20*time.Second, fmt.Sprintf("%s: the log has %q", what, words), func() bool { return len(lines(g.log(), words...)) > 0 })
		if said := lines(g.log(), words...); len(said) != 1 {
			t.Errorf("%s: %q", what, said)
		}
	}
	once("a port that is taken", loud("ERROR", "going on without ledis' port", port, "address already in use")...)
	curl := func(args ...string) {
		t.Helper()
		run(t, 20*time.Second, "curl", append([]string{"-sS", "-o", "/dev/null"}, args...)...)
	}
	curl(g.url+"/ays/stor/s", "-d", "url="+s.url())
	curl(g.url+"/ays/mount/c/m", "--data-urlencode", "ays.id=e2e|app(1)", "-d", "stor.name=s")
	curl(g.url + "/md/c/m/")
	s.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "no", http.StatusInternalServerError)
		return true
	})
	for i := range 20 {
		curl(fmt.Sprintf("%s/default/%064x", g.url, i))
	}
	once("a store that fails", loud("WARN", "trouble with a store", "store=s", "status 500")...)
	s.setFault(nil)
	for i := range 20 {
		curl(fmt.Sprintf("%s/default/%064x", g.url, 100+i))
	}
	once("it answers again", loud("INFO", "a store answers again", "store=s")...)
	// One that does so every other time.
	var n atomic.Int64
	s.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
		if n.Add(1)%2 == 0 {
			return false
		}
		http.Error(w, "no", http.StatusInternalServerError)
		return true
	})
	began := time.Now()
	for i := range 40 {
		curl(fmt.Sprintf("%s/default/%064x", g.url, 200+i))
	}
	if said := len(lines(g.log(), loud("WARN", "trouble with a store")...)); said > 2+int(time.Since(began)/(10*time.Second)) {
		t.Errorf("a store that fails now and then: %d lines", said)
	}
	file := filepath.Join(g.dir, "ays_cache.toml")
	b := mustRead(t, file)
	mustWrite(t, file, append(b, "\nx = 1\n"...), 0o600)
	once("a config with a mistake", loud("ERROR", "the new config can't be used, the old one stays in force", "ays_cache.toml:")...)
	other := exec.Command(aysCache, "-config", file)
	if out, err := try(t, 20*time.Second, other); exitCode(err) != 2 || !strings.Contains(out, "ays_cache.toml:") {
		t.Errorf("started with it: %v, %s", err, out)
	}
	g.stop()
}
