package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/bench/link"
	"github.com/aysfs/aysfs/src/control"
)

// shortDir is t.TempDir with a short name, as sockets need it, that anybody may
// look into.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// publish publishes tree to the store in dir.
func publish(t *testing.T, dir, id, tree string, flags ...string) {
	t.Helper()
	run(t, 2*time.Minute, ays, slices.Concat([]string{"publish", "-store", dir, "-id", id}, flags, []string{tree})...)
}

// webStore serves a directory store over HTTP, counts what it is asked for, and
// can be made to fail.
type webStore struct {
	t    *testing.T
	dir  string
	addr string
	http *http.Server
	// listener is closed apart: http may not know of it yet.
	listener net.Listener
	// namespace is where it listens; nil: here.
	namespace *link.Thread

	heads, profiles, blobs atomic.Int64 // requests
	delay                  atomic.Int64 // of each answer, in nanoseconds
	// fault may answer instead; it is true then.
	fault atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
}

// newStore serves a new store that has the tree.
func newStore(t *testing.T, id, tree string, flags ...string) *webStore {
	t.Helper()
	dir := shortDir(t)
	publish(t, dir, id, tree, flags...)
	return serveStore(t, dir)
}

func serveStore(t *testing.T, dir string) *webStore {
	t.Helper()
	return serveStoreAt(t, dir, freeAddr(t), nil)
}

// serveStoreAt serves at an address of a network namespace; nil is this one.
func serveStoreAt(t *testing.T, dir, addr string, ns *link.Thread) *webStore {
	t.Helper()
	s := &webStore{t: t, dir: dir, addr: addr, namespace: ns}
	s.up()
	t.Cleanup(s.down)
	return s
}

// up begins to serve, again at the same address.
func (s *webStore) up() {
	s.t.Helper()
	var l net.Listener
	err := inside(s.namespace, func() (err error) {
		l, err = net.Listen("tcp", s.addr)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr, s.listener = l.Addr().String(), l
	s.http = &http.Server{Handler: http.HandlerFunc(s.serve)}
	go s.http.Serve(l)
}

// down drops all connections; new ones are refused.
func (s *webStore) down() {
	s.http.Close()
	s.listener.Close()
}

func (s *webStore) serve(w http.ResponseWriter, r *http.Request) {
	switch {
	case !strings.HasPrefix(r.URL.Path, "/md/"):
		s.blobs.Add(1)
	case strings.HasSuffix(r.URL.Path, "/profile"):
		s.profiles.Add(1)
	default:
		s.heads.Add(1)
	}
	select {
	case <-time.After(time.Duration(s.delay.Load())):
	case <-r.Context().Done():
		return
	}
	if f := s.fault.Load(); f != nil && (*f)(w, r) {
		return
	}
	http.FileServer(http.Dir(s.dir)).ServeHTTP(w, r)
}

// setFault makes requests fail by f; nil ends that.
func (s *webStore) setFault(f func(http.ResponseWriter, *http.Request) bool) {
	if f == nil {
		s.fault.Store(nil)
		return
	}
	s.fault.Store(&f)
}

// stall lets every request wait for an answer that doesn't come.
func stall(_ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}

func (s *webStore) url() string { return "http://" + s.addr }

// client is a machine: a config, a cache, and aysfs when it runs.
type client struct {
	t       *testing.T
	dir     string
	program string
	word    string // after the config: what it is run as
	// More lines for the tables of the config.
	main, disk, stor string
	storeURL         string
	mounts           strings.Builder
	namespace        *link.Thread // where it runs; nil: here
	proc             *process     // the last one
}

// newClient is a machine that knows the store at url as "s".
func newClient(t *testing.T, url string) *client {
	c := &client{t: t, dir: shortDir(t), program: aysfs, storeURL: url}
	t.Cleanup(func() {
		if c.proc != nil && !c.ended() {
			c.proc.Process.Kill()
			c.proc.endsWithin(10 * time.Second)
		}
		for _, m := range mountsUnder(c.dir) {
			unix.Unmount(m, unix.MNT_DETACH)
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", c.dir, lastLines(c.log(), 40))
		}
	})
	return c
}

func lastLines(s string, n int) string {
	lines := strings.SplitAfter(s, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// mount adds a mount to the config, and returns its path. More lines of its
// table may follow.
func (c *client) mount(id string, lines ...string) string {
	n := strings.Count(c.mounts.String(), "[[")
	path := filepath.Join(c.dir, fmt.Sprintf("mnt%d", n))
	c.mountAt(path, id, lines...)
	return path
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
	if err := os.WriteFile(file, []byte(c.config()), 0o644); err != nil {
		c.t.Fatal(err)
	}
	return file
}

// begin starts aysfs and does not wait for anything.
func (c *client) begin(env ...string) *process {
	c.t.Helper()
	logFile, err := os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		c.t.Fatal(err)
	}
	defer logFile.Close()
	cmd := exec.Command(c.program, "-config", c.writeConfig())
	if c.word != "" {
		cmd.Args = append(cmd.Args, c.word)
	}
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	c.proc = startIn(c.t, c.namespace, cmd)
	return c.proc
}

// start starts aysfs and waits until it tells that it is ready, as it tells a
// service manager.
func (c *client) start() {
	c.t.Helper()
	untilReady(c.t, c.dir, func(env string) *process { return c.begin(env) })
}

// untilReady waits until the daemon that begin starts tells that it is ready, as
// it tells a service manager. dir is for the socket that it tells so.
func untilReady(t *testing.T, dir string, begin func(env string) *process) {
	t.Helper()
	addr := &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}
	os.Remove(addr.Name)
	conn, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p := begin("NOTIFY_SOCKET=" + addr.Name)
	go func() {
		<-p.ended
		conn.Close()
	}()
	buf := make([]byte, 100)
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "READY=1\n" {
		t.Fatalf("%s is not ready: %q, %v", p, buf[:n], err)
	}
}

// stop ends aysfs as a service manager does. It must be gone soon, with success
// and with its mounts.
func (c *client) stop() {
	c.t.Helper()
	c.proc.Process.Signal(syscall.SIGTERM)
	if !c.proc.endsWithin(15 * time.Second) {
		c.t.Fatal("aysfs still runs 15 s after SIGTERM")
	}
	if c.proc.err != nil {
		c.t.Errorf("aysfs ended with %v", c.proc.err)
	}
	if left := mountsUnder(c.dir); len(left) > 0 {
		c.t.Errorf("still mounted: %q", left)
	}
}

// kill ends aysfs without any warning.
func (c *client) kill() {
	c.t.Helper()
	c.proc.Process.Kill()
	if !c.proc.endsWithin(10 * time.Second) {
		c.t.Fatal("aysfs outlives a SIGKILL")
	}
}

func (c *client) ended() bool { return c.proc.endsWithin(0) }

// log is all that aysfs has said so far.
func (c *client) log() string {
	b, _ := os.ReadFile(filepath.Join(c.dir, "log"))
	return string(b)
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

func (c *client) status() *control.Status {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := control.Fetch(ctx, c.socket())
	if err != nil {
		c.t.Fatal(err)
	}
	return s
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

// sameTree tells by two programs of others what differs between two trees:
// names and contents, then all that rsync knows of.
func sameTree(t *testing.T, want, got string) {
	t.Helper()
	run(t, time.Minute, "diff", "-r", "--no-dereference", want, got)
	if out := run(t, time.Minute, "rsync", "-nac", "--delete", "-i", want+"/", got+"/"); out != "" {
		t.Errorf("rsync would change:\n%s", lastLines(out, 20))
	}
}

// readFile is os.ReadFile, which must return within d.
func readFile(t *testing.T, d time.Duration, file string) (b []byte, err error) {
	t.Helper()
	within(t, d, "read "+file, func() { b, err = os.ReadFile(file) })
	return b, err
}

// wantContent reads a file, which must be as it should within d.
func wantContent(t *testing.T, d time.Duration, file string, want []byte) {
	t.Helper()
	if got, err := readFile(t, d, file); err != nil {
		t.Error(err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("%s: other content than was published", file)
	}
}

// wantError reads a file, which must fail with want within d.
func wantError(t *testing.T, d time.Duration, file string, want syscall.Errno) {
	t.Helper()
	if b, err := readFile(t, d, file); !errors.Is(err, want) {
		t.Errorf("read %s: got %d bytes and error %v, want %v", file, len(b), err, want)
	}
}
