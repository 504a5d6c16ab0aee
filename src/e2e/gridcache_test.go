package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// gridCache is a machine with a cache server: its config and data, and ays_cache
// when it runs.
type gridCache struct {
	daemon
	// More lines for the tables of the config.
	ledis, stor, http string
	addr              string
	url               string
}

// newGridCache is a cache server that does not run yet.
func newGridCache(t *testing.T) *gridCache {
	t.Helper()
	g := &gridCache{daemon: daemon{t: t, dir: shortDir(t), program: aysCache}}
	g.at(freeAddr(t))
	t.Cleanup(g.end)
	return g
}

func startGridCache(t *testing.T) *gridCache {
	t.Helper()
	g := newGridCache(t)
	g.start()
	return g
}

// freeAddr is an address to listen on. Its port is below those that the kernel
// gives to clients, one of whom would have it while what listens there is down.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := 12_000 + rand.IntN(20_000)
		if _, given := givenPorts.LoadOrStore(port, true); given {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

// givenPorts are those of freeAddr: another test may not listen yet.
var givenPorts sync.Map

func (g *gridCache) at(addr string) { g.addr, g.url = addr, "http://"+addr }

func (g *gridCache) data() string    { return filepath.Join(g.dir, "data") }
func (g *gridCache) control() string { return filepath.Join(g.dir, "control") }

// config is what clients' configs say of it.
func (g *gridCache) config() string { return gridTable(g.url) }

// gridTable is what clients' configs say of a cache. It may be added to c.disk.
func gridTable(url string) string { return fmt.Sprintf("\n[[cache.grid]]\nurl = %q\n", url) }

// begin starts ays_cache and does not wait for anything.
func (g *gridCache) begin(env ...string) *process {
	g.t.Helper()
	if g.ledis == "" {
		g.ledis = `max_size = "1GiB"`
	}
	// A [[ledis]] without a port is not served.
	config := fmt.Sprintf("[main]\ndata = %q\ncontrol = %q\n[http]\nlisten = %q\n%s\n[stor]\n%s\n[[ledis]]\n%s\n",
		g.data(), g.control(), g.addr, g.http, g.stor, g.ledis)
	file := filepath.Join(g.dir, "ays_cache.toml")
	mustWrite(g.t, file, []byte(config), 0o600)
	return g.launch(env, "-config", file)
}

func (g *gridCache) start() {
	g.t.Helper()
	g.untilReady(func(env string) *process { return g.begin(env) })
}

// stop ends ays_cache as a service manager does.
func (g *gridCache) stop() {
	g.t.Helper()
	g.endsWell(30 * time.Second)
}

// get asks by the control socket, as the machine's root.
func (g *gridCache) get(path string) string {
	g.t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", g.control())
	}}
	resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Get("http://cache" + path)
	if err != nil {
		g.t.Fatalf("ask the cache for %s: %v", path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		g.t.Fatalf("ask the cache for %s: %s, %v", path, resp.Status, err)
	}
	return string(b)
}

// metric is the sum of a metric's values.
func (g *gridCache) metric(name string) (sum float64) {
	g.t.Helper()
	found := false
	for line := range strings.Lines(g.get("/metrics")) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			g.t.Fatalf("metric %q: %v", line, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		g.t.Fatalf("no metric %s", name)
	}
	return sum
}

// held is what a process holds of the system's.
type held struct {
	files    int // descriptors
	unlinked int // of them, and of its maps, those whose file is gone
	routines int
}

// holds counts what a process has open. It fails where that can't be read.
func holds(t *testing.T, p *process) (h held) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", p.Process.Pid)
	names, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		to, err := os.Readlink(proc + "fd/" + n.Name())
		if err != nil {
			continue // closed just now
		}
		h.files++
		if strings.HasSuffix(to, " (deleted)") {
			h.unlinked++
		}
	}
	maps := mustRead(t, proc+"maps")
	h.unlinked += bytes.Count(maps, []byte(" (deleted)\n"))
	return h
}

// relay carries connections to a server, until it is told to do worse.
type relay struct {
	listener net.Listener
	target   string
	mode     atomic.Int32

	mu    sync.Mutex
	conns map[net.Conn]bool // GUARDED_BY(mu)
	all   sync.WaitGroup
}

// What a relay does with bytes and connections.
const (
	carries  = iota
	swallows // takes all, and nothing comes out anywhere
	resets   // ends every connection by a RST
)

func newRelay(t *testing.T, target string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: l, target: target, conns: make(map[net.Conn]bool)}
	r.all.Go(r.accept)
	t.Cleanup(func() {
		l.Close()
		r.drop()
		r.all.Wait()
	})
	return r
}

func (r *relay) url() string { return "http://" + r.listener.Addr().String() }

// set has it do so from now on, with the connections that there are, too.
func (r *relay) set(mode int32) {
	r.mode.Store(mode)
	if mode == resets {
		r.drop()
	}
}

// drop ends all connections by a RST.
func (r *relay) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		reset(c)
	}
	clear(r.conns)
}

func reset(c net.Conn) {
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// keep remembers a connection.
func (r *relay) keep(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns[c] = true
}

func (r *relay) forget(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	c.Close()
}

func (r *relay) accept() {
	for {
		in, err := r.listener.Accept()
		if err != nil {
			return
		}
		if r.mode.Load() == resets {
			reset(in)
			continue
		}
		r.keep(in)
		r.all.Go(func() { r.carry(in) })
	}
}

func (r *relay) carry(in net.Conn) {
	defer r.forget(in)
	if r.mode.Load() == swallows {
		io.Copy(io.Discard, in)
		return
	}
	out, err := net.Dial("tcp", r.target)
	if err != nil {
		reset(in)
		return
	}
	r.keep(out)
	defer r.forget(out)
	var up sync.WaitGroup
	up.Go(func() { r.copy(out, in) })
	r.copy(in, out)
	up.Wait()
}

// copy ends both connections when one has ended.
func (r *relay) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if r.mode.Load() != swallows {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// checker reads whole trees in several mounts again and again, past what the
// kernel has of them, and compares with the source.
type checker struct {
	t        *testing.T
	contents map[string][]byte // by path in the tree
	names    []string
	limit    time.Duration // of any read
	reads    atomic.Int64
	failed   atomic.Int64 // by EIO
	stop     context.CancelFunc
	readers  sync.WaitGroup
}

func newChecker(t *testing.T, contents map[string][]byte, limit time.Duration) *checker {
	c := &checker{t: t, contents: contents, limit: limit}
	for name := range contents {
		c.names = append(c.names, name)
	}
	return c
}

// read reads one file. Wrong bytes, another error than EIO, and a read that takes
// too long fail the test; EIO is counted.
func (c *checker) read(mount, name string) {
	began := time.Now()
	got, err := readDirect(filepath.Join(mount, name))
	took := time.Since(began)
	want := c.contents[name]
	c.reads.Add(1)
	switch {
	case err == nil && !bytes.Equal(got, want[:min(len(want), 512<<10)]):
		c.t.Errorf("%s: wrong bytes", name)
	case err != nil && !errors.Is(err, unix.EIO):
		c.t.Errorf("%s: %v", name, err)
	case took > c.limit:
		c.t.Errorf("%s: took %v (%v)", name, took, err)
	case err != nil:
		c.failed.Add(1)
	}
}

// begin reads in each mount with some readers, until halt.
func (c *checker) begin(mounts ...string) {
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	for i, mount := range mounts {
		for j := range 3 {
			c.readers.Go(func() {
				r := rand.New(rand.NewPCG(uint64(i), uint64(j)))
				for ctx.Err() == nil && !c.t.Failed() {
					c.read(mount, c.names[r.IntN(len(c.names))])
				}
			})
		}
	}
}

// goOn waits until as many more reads are done, whatever comes of them.
func (c *checker) goOn(reads int64) {
	c.t.Helper()
	end := c.reads.Load() + reads
	eventually(c.t, time.Minute, "the readers go on", func() bool { return c.reads.Load() >= end || c.t.Failed() })
}

// halt ends the readers. It returns how many reads ended by EIO.
func (c *checker) halt() int64 {
	c.t.Helper()
	c.stop()
	within(c.t, c.limit+30*time.Second, "the readers end", c.readers.Wait)
	return c.failed.Swap(0)
}

// whole reads all of a mount once. It returns how many reads ended by EIO.
func (c *checker) whole(mount string) int64 {
	c.t.Helper()
	within(c.t, 2*time.Minute, "read a whole tree", func() {
		var all sync.WaitGroup
		names := make(chan string)
		for range 4 {
			all.Go(func() {
				for name := range names {
					c.read(mount, name)
				}
			})
		}
		for _, name := range c.names {
			names <- name
		}
		close(names)
		all.Wait()
	})
	return c.failed.Swap(0)
}
