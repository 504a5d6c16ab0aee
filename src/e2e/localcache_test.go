package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/tier"
)

// localCache is a redis on this machine, for [[cache.local]].
type localCache struct {
	port string
	proc *process
}

func startLocalCache(t *testing.T) *localCache {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	c := &localCache{port: port}
	c.proc = startProcess(t, exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", shortDir(t)))
	t.Cleanup(func() {
		c.proc.Process.Kill()
		c.proc.endsWithin(10 * time.Second)
	})
	eventually(t, 20*time.Second, "redis answers", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return c
}

// number asks for something that is answered with a number.
func (c *localCache) number(t *testing.T, command string) int64 {
	t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+c.port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "%s\r\n", command)
	line, err := bufio.NewReader(conn).ReadString('\n')
	n, nerr := strconv.ParseInt(strings.TrimSpace(strings.TrimPrefix(line, ":")), 10, 64)
	if err != nil || nerr != nil {
		t.Fatalf("%s: %q, %v", command, line, err)
	}
	return n
}

func (c *localCache) config() string { return "\n[[cache.local]]\nport = " + c.port + "\n" }

// source is what a client says of one of its tiers.
func (c *client) source(prefix string) tier.Stats {
	c.t.Helper()
	for _, s := range c.status().Stores[0].Tier.Sources {
		if strings.HasPrefix(s.Tier, prefix) {
			return s
		}
	}
	c.t.Fatalf("there is no tier %s", prefix)
	return tier.Stats{}
}

// signedStore is a store whose heads are signed, and what a client's config says
// of it.
func signedStore(t *testing.T, tree string) (store *webStore, stor string) {
	t.Helper()
	key, public := keyPair(t)
	return newStore(t, "e2e|app(1)", tree, "-key", key), fmt.Sprintf("key = %q", public)
}

// TestLocalCache: what one client has fetched, another one on the same machine
// finds in the local cache, with everything else gone.
func TestLocalCache(t *testing.T) {
	t.Parallel()
	tree := shortDir(t)
	nodes := map[string]node{"large": file(3 << 20)}
	for i := range 100 {
		nodes[fmt.Sprintf("d%d/f%d", i/10, i)] = file(1000 + i)
	}
	write(t, tree, nodes)
	store, stor := signedStore(t, tree)
	local := startLocalCache(t)
	machine := func() (*client, string) {
		c := newClient(t, store.url())
		c.main = "xattr = true\nmemory = \"256MiB\"" // nothing is dropped
		c.stor = stor
		c.disk = local.config()
		return c, c.mount("e2e|app(1)", "prefetch = 0")
	}
	first, mount := machine()
	first.start()
	sameTree(t, tree, mount)
	eventually(t, 30*time.Second, "what was fetched is in the local cache", func() bool {
		s := first.status().Stores[0].Tier
		return len(s.Fetching) == 0 && local.number(t, "HLEN files:default") >= first.source("store").Hits && local.number(t, "EXISTS md:e2e|app(1)/any") == 1
	})
	if ttl := local.number(t, "TTL files:default"); ttl < 40*3600 || ttl > 48*3600 {
		t.Errorf("the domain expires in %d s, want two days", ttl)
	}
	if n := first.status().Stores[0].Tier.Unfilled; n != 0 {
		t.Errorf("%d blobs were dropped", n)
	}
	first.stop()

	store.down()
	second, mount := machine()
	second.start()
	sameTree(t, tree, mount)
	if s := second.source("local"); s.Hits < 100 || s.Absent+s.Errors+s.Corrupt > 0 {
		t.Errorf("the local cache: %+v", s)
	}
	if n := second.source("store").Requests; n != 0 {
		t.Errorf("the store was asked for %d blobs", n)
	}
	buf := make([]byte, 100)
	n, err := unix.Lgetxattr(filepath.Join(mount, "large"), "user.aysfs.tier", buf)
	if got := string(buf[:max(n, 0)]); err != nil || got != "local" && got != "disk" {
		t.Errorf("tier of a file: %q, %v", got, err)
	}
	second.stop()
}

// TestLocalCacheCorrupt: what is wrong in the local cache is counted, purged and
// mended.
func TestLocalCacheCorrupt(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	local := startLocalCache(t)
	machine := func() (*client, string) {
		c := newClient(t, store.url())
		c.main = "xattr = true"
		c.disk = local.config()
		return c, c.mount("e2e|app(1)", "prefetch = 0")
	}
	first, mount := machine()
	first.start()
	buf := make([]byte, 100)
	n, err := unix.Lgetxattr(filepath.Join(mount, names[0]), "user.aysfs.digest", buf)
	if err != nil {
		t.Fatal(err)
	}
	digest := string(buf[:n])
	first.stop()

	local.number(t, "HSET files:default "+digest+" rubbish")
	second, mount := machine()
	second.start()
	wantContent(t, 20*time.Second, filepath.Join(mount, names[0]), content(100_000))
	if s := second.source("local"); s.Corrupt == 0 || s.Hits == 0 && s.Absent == 0 {
		t.Errorf("the local cache: %+v", s)
	}
	eventually(t, 30*time.Second, "the right blob is in its place", func() bool {
		return local.number(t, "HSTRLEN files:default "+digest) > 1000
	})
	second.stop()
}

// TestLocalCacheFrozen: a local cache that says nothing costs little time, and
// one warning.
func TestLocalCacheFrozen(t *testing.T) {
	t.Parallel()
	store, _ := smallStore(t)
	local := startLocalCache(t)
	c, mount := appClient(t, store.url(), "prefetch = 0")
	c.disk = local.config()
	if err := local.proc.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.start()
	sameTree(t, store.tree, mount)
	if s := c.source("local"); s.Hits > 0 || s.Errors == 0 {
		t.Errorf("the local cache: %+v", s)
	}
	if n := strings.Count(strings.Join(c.warnings(), ""), "tier=local"); n != 1 {
		t.Errorf("%d warnings of the local cache, want one: %q", n, c.warnings())
	}
	if err := local.proc.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	c.stop()
}
