// Demo shows the whole way on one machine: it publishes the Go toolchain that
// it was itself built with, serves the store over HTTP, mounts it, and compiles
// and runs a program with the mounted toolchain.
//
//	make demo
//
// It needs root, to mount, and the programs in bin. All that it makes is in
// .demo, which it empties first.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	work   = ".demo"
	treeID = "demo|go(1)"
	hello  = `package main

import (
	"fmt"
	"runtime"
)

func main() { fmt.Println("hello, compiled by", runtime.Version()) }
`
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("mounting needs root: run it as root (sudo make demo)")
	}
	dir, err := filepath.Abs(work)
	if err != nil {
		return err
	}
	if err := nothingMounted(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "hello"), 0o755); err != nil {
		return err
	}
	goroot, err := output(ctx, "go", "env", "GOROOT")
	if err != nil {
		return err
	}

	say("publish %s as %s", goroot, treeID)
	out, err := output(ctx, "bin/ays", "publish", "-store", filepath.Join(dir, "store"), "-id", treeID, goroot)
	if err != nil {
		return err
	}
	fmt.Println(indent(out))

	store, err := serve(filepath.Join(dir, "store"))
	if err != nil {
		return err
	}
	defer store.Close()
	mount := filepath.Join(dir, "go")
	say("serve it at %s and mount it at %s", store.url, mount)
	client, err := start(ctx, dir, mount, store.url)
	if err != nil {
		return err
	}
	defer client.stop()
	fmt.Printf("    ready after %v, %d requests\n", client.took, store.requests.Load())

	if err := os.WriteFile(filepath.Join(dir, "hello/main.go"), []byte(hello), 0o644); err != nil {
		return err
	}
	say("compile and run hello world with it, three times, each from an empty build cache")
	store.count()
	for _, run := range []struct{ name, goroot string }{
		{"cold, over HTTP", mount},
		{"warm, from the mount", mount},
		{"local disk, to compare", goroot},
	} {
		if err := compile(ctx, dir, run.name, run.goroot, store); err != nil {
			return err
		}
	}

	say("what ays status says")
	out, err = output(ctx, "bin/ays", "status", "-socket", client.socket)
	if err != nil {
		return err
	}
	fmt.Println(indent(out))

	say("stop")
	if err := client.stop(); err != nil {
		return err
	}
	if err := nothingMounted(dir); err != nil {
		return err
	}
	fmt.Printf("    no mount is left; store and cache stay in %s until the next time, or make clean\n", work)
	return nil
}

// compile builds and runs hello world with the toolchain in goroot and a build
// cache of its own.
func compile(ctx context.Context, dir, name, goroot string, store *store) error {
	cache, err := os.MkdirTemp(dir, "gocache")
	if err != nil {
		return err
	}
	defer os.RemoveAll(cache)
	begin := time.Now()
	cmd := exec.CommandContext(ctx, filepath.Join(goroot, "bin/go"), "run", "main.go")
	cmd.Dir = filepath.Join(dir, "hello")
	cmd.Env = append(os.Environ(), "GOROOT="+goroot, "GOCACHE="+cache, "GOTOOLCHAIN=local", "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go run, %s: %w\n%s", name, err, out)
	}
	requests, bytes := store.count()
	fmt.Printf("    %-23s %5.1f s   %4d requests, %5.1f MB over HTTP   %s", name, time.Since(begin).Seconds(), requests, float64(bytes)/1e6, out)
	return nil
}

// store serves a directory over HTTP, as any web server can.
type store struct {
	*http.Server
	url             string
	requests, bytes atomic.Int64
}

func serve(dir string) (*store, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &store{url: "http://" + l.Addr().String()}
	files := http.FileServer(http.Dir(dir))
	s.Server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		files.ServeHTTP(&counter{w, &s.bytes}, r)
	})}
	go s.Serve(l)
	return s, nil
}

type counter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// count returns what was asked for and sent since the last time.
func (s *store) count() (requests, bytes int64) { return s.requests.Swap(0), s.bytes.Swap(0) }

// client is a running aysfs.
type client struct {
	cmd    *exec.Cmd
	socket string
	took   time.Duration
	ended  chan error
}

func start(ctx context.Context, dir, mount, url string) (*client, error) {
	c := &client{socket: filepath.Join(dir, "aysfs.sock"), ended: make(chan error, 1)}
	config := filepath.Join(dir, "aysfs.toml")
	text := fmt.Sprintf(`[main]
id = "demo"
control = %q

[cache.disk]
path = %q

[[ays.stor]]
name = "demo"
url = %q

[[mount_files]]
name = "go"
path = %q
ays.id = %q
stor.name = "demo"
`, c.socket, filepath.Join(dir, "cache"), url, mount, treeID)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// It tells when it is ready, as it tells systemd.
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "ready"), Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	c.cmd = exec.Command("bin/aysfs", "-config", config)
	c.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "ready"))
	c.cmd.Stderr = log
	// Ctrl-C is for the demo, which then stops it.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	begin := time.Now()
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { c.ended <- c.cmd.Wait() }()
	said := make(chan error, 1)
	go func() {
		_, err := ready.Read(make([]byte, 100))
		said <- err
	}()
	select {
	case err = <-said:
	case err = <-c.ended:
		err = fmt.Errorf("aysfs ended: %w; see %s", err, log.Name())
		c.ended <- err
	case <-time.After(30 * time.Second):
		err = fmt.Errorf("aysfs is not ready after 30 s; see %s", log.Name())
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		c.stop()
		return nil, err
	}
	c.took = time.Since(begin).Round(time.Millisecond)
	return c, nil
}

// stop ends aysfs and returns how it ended. It may be called twice.
func (c *client) stop() error {
	c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-c.ended:
		c.ended <- err
		if err != nil {
			return fmt.Errorf("aysfs: %w", err)
		}
		return nil
	case <-time.After(20 * time.Second):
		c.cmd.Process.Kill()
		return errors.New("aysfs did not end in 20 s and was killed")
	}
}

func nothingMounted(dir string) error {
	table, err := os.ReadFile("/proc/self/mounts")
	if err == nil && strings.Contains(string(table), " "+dir+"/") {
		err = fmt.Errorf("something is mounted in %s", dir)
	}
	return err
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

var begin = time.Now()

func say(format string, a ...any) {
	fmt.Printf("\n[%5.1f s] %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, a...))
}

func indent(s string) string { return "    " + strings.ReplaceAll(s, "\n", "\n    ") }
