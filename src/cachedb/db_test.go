package cachedb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/ledisbolt"
	"github.com/aysfs/aysfs/src/ledisconn"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/resp"
	"github.com/aysfs/aysfs/src/server"
	"github.com/aysfs/aysfs/src/tier"
)

func TestMain(m *testing.M) {
	ledisbolt.Register() // before tests run beside each other
	os.Exit(m.Run())
}

func openEmbedded(t testing.TB, dir string) *Embedded {
	t.Helper()
	e, err := Open(Options{Dir: dir, Store: ledisbolt.Options{SegmentSize: 4 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// serveLedis is an embedded database that others reach over RESP: it speaks
// ledis' dialect.
func serveLedis(t testing.TB, passwd string) string {
	e := openEmbedded(t, t.TempDir())
	s := resp.New(resp.Config{DB: e.Ledis(), Passwd: passwd, Field: e.Field, Drop: e.Drop, EmptyField: LedisHeadField})
	ln, err := resp.Listen("", 0)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(s.Close)
	return ln.Addr().String()
}

// redisServer is a redis of its own, on a free port.
func redisServer(t testing.TB, args ...string) (addr string, p *os.Process) {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = ln.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	ln.Close()
	// The port of a cluster's bus is 10,000 higher, and has to be one too.
	if n, _ := strconv.Atoi(port); n > 50_000 {
		port = strconv.Itoa(n - 30_000)
		addr = net.JoinHostPort("127.0.0.1", port)
	}
	cmd := exec.Command(path, append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir()}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return addr, cmd.Process
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func redisCluster(t testing.TB) []string {
	t.Helper()
	cli, err := exec.LookPath("redis-cli")
	if err != nil {
		t.Fatal(err)
	}
	var addrs []string
	for range 3 {
		addr, _ := redisServer(t, "--cluster-enabled", "yes")
		addrs = append(addrs, addr)
	}
	out, err := exec.Command(cli, append([]string{"--cluster", "create"}, append(slices.Clone(addrs), "--cluster-yes")...)...).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("All 16384 slots covered")) {
		t.Fatalf("%v: %s", err, out)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		ready := 0
		for _, addr := range addrs {
			_, port, _ := net.SplitHostPort(addr)
			out, _ := exec.Command(cli, "-p", port, "cluster", "info").CombinedOutput()
			if bytes.Contains(out, []byte("cluster_state:ok")) && bytes.Contains(out, []byte("cluster_known_nodes:3")) {
				ready++
			}
		}
		if ready == 3 {
			return addrs
		}
		if time.Now().After(end) {
			t.Fatal("the cluster never was ready")
		}
	}
}

func dial(t testing.TB, opt RemoteOptions) *Remote {
	t.Helper()
	r, err := Dial(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestDB(t *testing.T) {
	backends := map[string]func(*testing.T) server.Data{
		"embedded": func(t *testing.T) server.Data { return openEmbedded(t, t.TempDir()) },
		"ledis over RESP": func(t *testing.T) server.Data {
			r := dial(t, RemoteOptions{Addrs: []string{serveLedis(t, "secret")}, Passwd: "secret"})
			if !r.conn.Ledis() {
				t.Error("not known as ledis")
			}
			return r
		},
		"redis": func(t *testing.T) server.Data {
			addr, _ := redisServer(t, "--requirepass", "secret")
			r := dial(t, RemoteOptions{Addrs: []string{"127.0.0.1:1", addr}, Passwd: "secret"})
			if r.conn.Ledis() {
				t.Error("taken for ledis")
			}
			return r
		},
		"redis cluster": func(t *testing.T) server.Data {
			return dial(t, RemoteOptions{Addrs: redisCluster(t), Cluster: true})
		},
	}
	for name, open := range backends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t)
			for what, test := range suite() {
				t.Run(what, func(t *testing.T) { test(t, db) })
			}
		})
	}
}

// suite is what every database has to pass. Its tests use names of their own.
func suite() map[string]func(*testing.T, server.Data) {
	return map[string]func(*testing.T, server.Data){
		"blobs": testBlobs, "domains": testDomains, "trees": testTrees, "tables": testTables,
		"concurrency": testConcurrency, "cancelled": testCancelled,
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func absent(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, tier.ErrAbsent) {
		t.Fatalf("want absent, got %v", err)
	}
}

func value(n, size int) []byte {
	d := digest.Of(fmt.Append(nil, n))
	return bytes.Repeat(d[:], size/len(d)+1)[:size]
}

func wantBlob(t testing.TB, db server.Data, domain string, d digest.Digest, want []byte) {
	t.Helper()
	b, err := db.Blob(context.Background(), domain, d)
	must(t, err)
	defer b.Release()
	if !bytes.Equal(b.Data, want) {
		t.Fatalf("blob of %d bytes, want %d", len(b.Data), len(want))
	}
}

// What is kept of trees, and that a domain is dropped, is for others: programs that use
// the database over RESP.

func head(ctx context.Context, db server.Data, tree object.TreeName) ([]byte, error) {
	switch db := db.(type) {
	case *Embedded:
		return db.get(ctx, ledisconn.TreeKey(tree), LedisHeadField)
	case *Remote:
		return db.get(ctx, "head", ledisconn.TreeKey(tree), db.headField())
	}
	panic("another database")
}

func listing(ctx context.Context, db server.Data, tree object.TreeName, dir string) ([]byte, error) {
	switch db := db.(type) {
	case *Embedded:
		return db.get(ctx, ledisconn.TreeKey(tree), dirField(dir))
	case *Remote:
		return db.get(ctx, "listing", ledisconn.TreeKey(tree), dirField(dir))
	}
	panic("another database")
}

func dropDomain(ctx context.Context, db server.Data, domain string) error {
	if db, ok := db.(*Embedded); ok {
		return db.DropDomain(ctx, domain)
	}
	return db.(*Remote).conn.Drop(ctx, "drop", ledisconn.FilesKey(domain))
}

func testBlobs(t *testing.T, db server.Data) {
	ctx := context.Background()
	for i, size := range []int{0, 1, 100, 4095, 4096, 5000, 1 << 20} {
		v := value(i, size)
		d := digest.Of(v)
		_, err := db.Blob(ctx, "blobs", d)
		absent(t, err)
		if ok, err := db.HasBlob(ctx, "blobs", d); ok || err != nil {
			t.Fatal(ok, err)
		}
		must(t, db.PutBlob(ctx, "blobs", d, v))
		wantBlob(t, db, "blobs", d, v)
		must(t, db.PutBlob(ctx, "blobs", d, []byte("another form")))
		wantBlob(t, db, "blobs", d, v)
		if ok, err := db.HasBlob(ctx, "blobs", d); !ok || err != nil {
			t.Fatal(ok, err)
		}
		_, err = db.Blob(ctx, "another", d)
		absent(t, err)
		if i%2 == 0 {
			must(t, db.DeleteBlob(ctx, "blobs", d))
			must(t, db.DeleteBlob(ctx, "blobs", d))
			_, err := db.Blob(ctx, "blobs", d)
			absent(t, err)
		}
	}
}

func testDomains(t *testing.T, db server.Data) {
	ctx := context.Background()
	var want []string
	for i := range 30 {
		name := fmt.Sprintf("dom-%02d", i)
		want = append(want, name)
		for j := range 5 {
			v := value(j, 10_000)
			must(t, db.PutBlob(ctx, name, digest.Of(v), v))
		}
	}
	names := func() []string {
		all, err := db.Domains(ctx)
		must(t, err)
		return slices.DeleteFunc(all, func(s string) bool { return !strings.HasPrefix(s, "dom-") })
	}
	if got := names(); !slices.Equal(got, want) {
		t.Fatalf("domains %q", got)
	}
	for _, name := range want[:29] {
		must(t, dropDomain(ctx, db, name))
	}
	must(t, dropDomain(ctx, db, "never-was"))
	if got := names(); !slices.Equal(got, want[29:]) {
		t.Fatalf("domains %q", got)
	}
	v := value(3, 10_000)
	_, err := db.Blob(ctx, want[0], digest.Of(v))
	absent(t, err)
	wantBlob(t, db, want[29], digest.Of(v), v)
}

func testTrees(t *testing.T, db server.Data) {
	ctx := context.Background()
	trees := []object.TreeName{
		{ID: "jumpscale|mongodb(10.1.888)", Platform: "linux64"}, {ID: "jumpscale|mongodb(10.1.888)"},
		{ID: "jumpscale|mongodb!main", RepoID: "repo"}, {ID: "jumpscale|mongodb!main@linux64"},
	}
	deep := strings.Repeat("directory/", 200)
	dirs := []string{"", "bin", "bin/a b", "not utf-8 \xff\xfe\n", strings.Repeat("x", 1023), strings.Repeat("x", 1024), deep + "a", deep + "b"}
	for i, tree := range trees {
		_, err := head(ctx, db, tree)
		absent(t, err)
		must(t, db.PutHead(ctx, tree, fmt.Append(nil, "old head")))
		must(t, db.PutHead(ctx, tree, fmt.Append(nil, "head", i)))
		for j, dir := range dirs {
			_, err := listing(ctx, db, tree, dir)
			absent(t, err)
			must(t, db.PutListing(ctx, tree, dir, value(100*i+j, 10*j+5000*i)))
		}
	}
	check := func(i int) {
		t.Helper()
		note, err := head(ctx, db, trees[i])
		if err != nil || string(note) != fmt.Sprint("head", i) {
			t.Fatalf("head %q, %v", note, err)
		}
		for j, dir := range dirs {
			l, err := listing(ctx, db, trees[i], dir)
			if err != nil || !bytes.Equal(l, value(100*i+j, 10*j+5000*i)) {
				t.Fatalf("listing of %.30q: %d bytes, %v", dir, len(l), err)
			}
		}
	}
	for i := range trees {
		check(i)
	}
	must(t, db.DropTree(ctx, trees[0]))
	must(t, db.DropTree(ctx, trees[0]))
	_, err := head(ctx, db, trees[0])
	absent(t, err)
	_, err = listing(ctx, db, trees[0], "bin")
	absent(t, err)
	check(1)
}

func testTables(t *testing.T, db server.Data) {
	ctx := context.Background()
	_, err := db.Value(ctx, "stores", "a")
	absent(t, err)
	all, err := db.Values(ctx, "stores")
	if err != nil || len(all) != 0 {
		t.Fatal(all, err)
	}
	for i := range 20 {
		must(t, db.PutValue(ctx, "stores", fmt.Sprint(i), fmt.Append(nil, "value ", i)))
	}
	must(t, db.PutValue(ctx, "clients", "1", nil))
	must(t, db.DeleteValue(ctx, "stores", "3"))
	must(t, db.DeleteValue(ctx, "stores", "3"))
	v, err := db.Value(ctx, "stores", "7")
	if err != nil || string(v) != "value 7" {
		t.Fatalf("%q, %v", v, err)
	}
	if v, err := db.Value(ctx, "clients", "1"); err != nil || len(v) != 0 {
		t.Fatalf("%q, %v", v, err)
	}
	all, err = db.Values(ctx, "stores")
	if err != nil || len(all) != 19 || string(all["19"]) != "value 19" {
		t.Fatal(all, err)
	}
	for _, key := range []string{"", strings.Repeat("k", 1025)} {
		if err := db.PutValue(ctx, "stores", key, nil); err == nil {
			t.Errorf("a key of %d bytes was taken", len(key))
		}
	}
}

func testConcurrency(t *testing.T, db server.Data) {
	ctx := context.Background()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 30 {
				v := value(i, 1000*i)
				d := digest.Of(v)
				if err := db.PutBlob(ctx, "many", d, v); err != nil {
					t.Error(err)
					return
				}
				b, err := db.Blob(ctx, "many", d)
				if err != nil || !bytes.Equal(b.Data, v) {
					t.Errorf("%d: %d bytes, %v", g, len(b.Data), err)
					return
				}
				b.Release()
			}
		})
	}
	wg.Wait()
}

func testCancelled(t *testing.T, db server.Data) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := db.Blob(ctx, "blobs", digest.Of(nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if _, err := head(ctx, db, object.TreeName{ID: "a|b(1)"}); !errors.Is(err, context.Canceled) {
		t.Errorf("head: %v", err)
	}
}

// TestFrozen stops a redis in its tracks: calls return in time, and work again
// once it goes on.
func TestFrozen(t *testing.T) {
	t.Parallel()
	addr, p := redisServer(t)
	r := dial(t, RemoteOptions{Addrs: []string{addr}, Timeout: 300 * time.Millisecond, Conns: 3})
	ctx := context.Background()
	v := value(1, 1000)
	d := digest.Of(v)
	must(t, r.PutBlob(ctx, "d", d, v))
	must(t, p.Signal(syscall.SIGSTOP))
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			for range 3 {
				start := time.Now()
				_, err := r.Blob(ctx, "d", d)
				if took := time.Since(start); !errors.Is(err, tier.ErrUnavailable) || errors.Is(err, context.Canceled) || took > 1500*time.Millisecond {
					t.Errorf("after %v: %v", took, err)
				}
			}
		})
	}
	wg.Wait()
	limited, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	// Where all connections have been given up by now, it says so at once.
	if _, err := r.Blob(limited, "d", d); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, tier.ErrUnavailable) || time.Since(start) > time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	must(t, p.Signal(syscall.SIGCONT))
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		b, err := r.Blob(ctx, "d", d)
		if err == nil && bytes.Equal(b.Data, v) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it never came back: %v", err)
		}
	}
	// Dialling a frozen one ends too.
	must(t, p.Signal(syscall.SIGSTOP))
	start = time.Now()
	if _, err := Dial(ctx, RemoteOptions{Addrs: []string{addr}, Timeout: 300 * time.Millisecond}); !errors.Is(err, tier.ErrUnavailable) || time.Since(start) > 3*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func TestWrongPasswd(t *testing.T) {
	t.Parallel()
	redis, _ := redisServer(t, "--requirepass", "secret")
	for _, addr := range []string{redis, serveLedis(t, "secret")} {
		for _, passwd := range []string{"", "wrong"} {
			_, err := Dial(context.Background(), RemoteOptions{Addrs: []string{addr}, Passwd: passwd, Timeout: time.Second})
			if !errors.Is(err, tier.ErrDenied) {
				t.Errorf("password %q: %v", passwd, err)
			}
		}
	}
}

// TestReopen has what was there before a restart.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	e, err := Open(Options{Dir: dir})
	must(t, err)
	v := value(1, 100_000)
	must(t, e.PutBlob(ctx, "d", digest.Of(v), v))
	must(t, e.PutValue(ctx, "stores", "a", []byte("b")))
	if _, err := Open(Options{Dir: dir}); !errors.Is(err, ledisbolt.ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	must(t, e.Close())
	e = openEmbedded(t, dir)
	wantBlob(t, e, "d", digest.Of(v), v)
	if got, err := e.Value(ctx, "stores", "a"); err != nil || string(got) != "b" {
		t.Errorf("%q, %v", got, err)
	}
	if u := e.Usage(); len(u) != 1 || u[0].Blobs != 1 {
		t.Errorf("%+v", u)
	}
}

// TestMakeRoom fills a database that may have little.
func TestMakeRoom(t *testing.T) {
	dir := t.TempDir()
	e, err := Open(Options{Dir: dir, MaxSize: 6 << 20, Store: ledisbolt.Options{SegmentSize: 1 << 20}})
	must(t, err)
	defer e.Close()
	ctx := context.Background()
	kept := value(-1, 1000)
	must(t, e.PutValue(ctx, "stores", "a", kept))
	for i := range 300 {
		v := value(i, 50_000)
		must(t, e.PutBlob(ctx, "d", digest.Of(v), v))
		if i%20 == 0 {
			if err := e.Sync(); err != nil && !errors.Is(err, ledisbolt.ErrBlobsDropped) {
				t.Fatal(err)
			}
			if _, err := e.makeRoom(ctx); err != nil {
				t.Fatal(err)
			}
			if st := e.Stats(); st.Bytes > 6<<20 {
				t.Fatalf("%+v", st)
			}
		}
	}
	if v, err := e.Value(ctx, "stores", "a"); err != nil || !bytes.Equal(v, kept) {
		t.Error(err)
	}
	if st := e.Stats(); st.Evicted == 0 || st.Bytes < 3<<20 || st.Blobs < 60 {
		t.Errorf("%+v", st)
	}
	if _, err := os.Stat(filepath.Join(dir, "main.bolt")); err != nil {
		t.Error(err)
	}
}

func TestKeys(t *testing.T) {
	tree := object.TreeName{ID: "jumpscale|mongodb(10.1.888)", Platform: "linux64"}
	long := strings.Repeat("d/", 600)
	for got, want := range map[string]string{
		ledisconn.FilesKey("default"):                                "files:default",
		ledisconn.TreeKey(tree):                                      "md:jumpscale|mongodb(10.1.888)/linux64",
		ledisconn.TreeKey(object.TreeName{ID: "a|b!c", RepoID: "r"}): "md:r/a|b!c/any",
		dirField(""):        "/",
		dirField("usr/bin"): "/usr/bin",
		dirField(long):      "sha256:" + digest.Of([]byte("/"+long)).String(),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if !Private([]byte(tableKey("stores"))) || Private([]byte("files:ays")) || Private([]byte("md:x")) {
		t.Error("private keys")
	}
}
