package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/control"
)

// client is a machine with aysfs: its config and cache, and aysfs when it runs.
type client struct {
	daemon
	word string // after the config: what it is run as
	// More lines for the tables of the config.
	main, disk, stor string
	storeURL         string
	mounts           strings.Builder
}

// newClient is a machine that knows the store at url as "s".
func newClient(t *testing.T, url string) *client {
	c := &client{daemon: daemon{t: t, dir: shortDir(t), program: aysfs}, storeURL: url}
	t.Cleanup(func() {
		for _, m := range mountsUnder(c.dir) {
			unix.Unmount(m, unix.MNT_DETACH)
		}
	})
	t.Cleanup(c.end)
	return c
}

// appClient is a machine with one mount, of e2e|app(1), and where that is. More
// lines of the mount's table may follow.
func appClient(t *testing.T, url string, lines ...string) (c *client, mount string) {
	c = newClient(t, url)
	return c, c.mount("e2e|app(1)", lines...)
}

// startClient is appClient, and starts it.
func startClient(t *testing.T, url string, lines ...string) (c *client, mount string) {
	t.Helper()
	c, mount = appClient(t, url, lines...)
	c.start()
	return c, mount
}

// mount adds a mount to the config, and returns its path. More lines of its
// table may follow.
func (c *client) mount(id string, lines ...string) string {
	n := strings.Count(c.mounts.String(), "[[")
	path := filepath.Join(c.dir, fmt.Sprintf("mnt%d", n))
	c.mountAt(path, id, lines...)
	return path
}

// mountTimes mounts a tree n times.
func (c *client) mountTimes(n int, id string, lines ...string) (paths []string) {
	for range n {
		paths = append(paths, c.mount(id, lines...))
	}
	return paths
}

func (c *client) mountAt(path, id string, lines ...string) {
	n := strings.Count(c.mounts.String(), "[[")
	fmt.Fprintf(&c.mounts, "[[mount_files]]\nname = \"m%d\"\npath = %q\nays.id = %q\nstor.name = \"s\"\n%s\n", n, path, id, strings.Join(lines, "\n"))
}

func (c *client) cacheDir() string { return filepath.Join(c.dir, "cache") }
func (c *client) socket() string   { return filepath.Join(c.dir, "control") }

func (c *client) config() string {
	return fmt.Sprintf(`[main]
id = "e2e"
control = %q
%s
[cache.disk]
path = %q
%s
[[ays.stor]]
name = "s"
url = %q
%s
%s`, c.socket(), c.main, c.cacheDir(), c.disk, c.storeURL, c.stor, c.mounts.String())
}

// writeConfig writes the config file and returns its name.
func (c *client) writeConfig() string {
	c.t.Helper()
	file := filepath.Join(c.dir, "aysfs.toml")
	mustWrite(c.t, file, []byte(c.config()), 0o644)
	return file
}

// begin starts aysfs and does not wait for anything.
func (c *client) begin(env ...string) *process {
	c.t.Helper()
	args := []string{"-config", c.writeConfig()}
	if c.word != "" {
		args = append(args, c.word)
	}
	return c.launch(env, args...)
}

// start starts aysfs and waits until it tells that it is ready, as it tells a
// service manager.
func (c *client) start() {
	c.t.Helper()
	c.untilReady(func(env string) *process { return c.begin(env) })
}

// stop ends aysfs as a service manager does. It must be gone soon, with success
// and with its mounts.
func (c *client) stop() {
	c.t.Helper()
	c.endsWell(15 * time.Second)
	if left := mountsUnder(c.dir); len(left) > 0 {
		c.t.Errorf("still mounted: %q", left)
	}
}

// refuses starts aysfs, which must end with exit code 1 within limit, and have told
// words.
func (c *client) refuses(limit time.Duration, words ...string) {
	c.t.Helper()
	proc := c.begin()
	if !proc.endsWithin(limit) || exitCode(proc.err) != 1 {
		c.t.Errorf("aysfs: %v, want exit 1", proc.err)
	}
	for _, w := range words {
		if !strings.Contains(c.log(), w) {
			c.t.Errorf("does not tell %q", w)
		}
	}
	if strings.Contains(c.log(), "again and again") {
		c.t.Errorf("tells that something goes on, and ends:\n%s", c.log())
	}
}

// warnings are the lines of the log that somebody should look at.
func (c *client) warnings() []string {
	var w []string
	for line := range strings.Lines(c.log()) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			w = append(w, line)
		}
	}
	return w
}

// status is what aysfs tells of itself.
func (c *client) status() *control.Status {
	c.t.Helper()
	s, err := fetchStatus(c)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// fetchStatus is status where nobody may answer just now.
func fetchStatus(c *client) (*control.Status, error) { return statusAt(c.socket()) }

// statusAt is what the aysfs behind a control socket tells of itself.
func statusAt(socket string) (*control.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return control.Fetch(ctx, socket)
}

// wantStatus runs ays status, which must exit with code and tell words.
func (c *client) wantStatus(code int, words ...string) {
	c.t.Helper()
	out, err := try(c.t, 10*time.Second, exec.Command(ays, "status", "-socket", c.socket()))
	if exitCode(err) != code {
		c.t.Errorf("ays status: %v, want exit %d:\n%s", err, code, out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			c.t.Errorf("ays status does not tell %q:\n%s", w, out)
		}
	}
}

// settled waits until the disk cache has taken what it is going to take.
func (c *client) settled() {
	c.t.Helper()
	var last int64 = -1
	quiet := 0
	eventually(c.t, 30*time.Second, "the disk cache is written", func() bool {
		n := c.status().Cache.Blobs
		if n == last {
			quiet++
		} else {
			quiet = 0
		}
		last = n
		return quiet > 25
	})
}
