//go:build faults

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// storedBlobs are the digests of all blobs in a directory store.
func storedBlobs(t *testing.T, dir string) (all []digest.Digest) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "default"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if d, err := digest.Parse(e.Name()); err == nil {
			all = append(all, d)
		}
	}
	if len(all) == 0 {
		t.Fatalf("no blobs in %s", dir)
	}
	return all
}

// webClient asks a cache as a client of its own does that is no mount.
type webClient struct {
	cache string
	codec *object.Codec
	http  *http.Client
}

// newWebClient tells the cache of itself and of its store.
func newWebClient(cache, store, name string, codec *object.Codec) (*webClient, error) {
	c := &webClient{cache, codec, &http.Client{Transport: &http.Transport{DisableCompression: true}, Timeout: time.Minute}}
	for path, form := range map[string]url.Values{
		"/ays/client/" + name: {"platform": {"ubuntu64"}},
		"/ays/stor/s":         {"url": {store}},
	} {
		resp, err := c.http.PostForm(cache+path, form)
		if err != nil {
			return nil, err
		}
		resp.Body.Close()
		if resp.StatusCode >= 300 {
			return nil, fmt.Errorf("%s: %s", path, resp.Status)
		}
	}
	return c, nil
}

const maxLoadBlob = 64 << 20

// get fetches one blob, and verifies it.
func (c *webClient) get(d digest.Digest) error {
	req, err := http.NewRequest(http.MethodGet, c.cache+"/default/"+d.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept-Encoding", "zstd")
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", d, resp.Status)
	}
	_, err = c.codec.Unpack(d, b, maxLoadBlob)
	return err
}

// batch fetches blobs by one request, and verifies them.
func (c *webClient) batch(ds []digest.Digest) error {
	var list strings.Builder
	for _, d := range ds {
		fmt.Fprintln(&list, d)
	}
	resp, err := c.http.Post(c.cache+"/default", "text/plain", strings.NewReader(list.String()))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	left := make(map[digest.Digest]bool)
	for _, d := range ds {
		left[d] = true
	}
	for len(left) > 0 {
		f, err := object.ReadFrame(resp.Body, maxLoadBlob)
		if err != nil {
			return err
		}
		if f.Status != object.FrameBlob || !left[f.Digest] {
			return fmt.Errorf("%s: %v, asked for: %v", f.Digest, f.Status, left[f.Digest])
		}
		if _, err := c.codec.Unpack(f.Digest, f.Stored, maxLoadBlob); err != nil {
			return err
		}
		delete(left, f.Digest)
	}
	return nil
}

// countBlobs has the store count what it is asked for, by digest.
func (s *webStore) countBlobs() (counts func() map[string]int) {
	var mu sync.Mutex
	seen := make(map[string]int)
	s.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/default/"); ok {
			mu.Lock()
			seen[rest]++
			mu.Unlock()
		}
		return false
	})
	return func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

// samples takes note of what a cache takes until it is stopped.
func (g *gridCache) samples() (stop func() curve) {
	done, all := make(chan struct{}), make(chan curve, 1)
	go func() {
		var c curve
		defer func() { all <- c }()
		for {
			now := takes(g.t, g.proc.Process.Pid)
			now.routines = int64(g.metric("ays_cache_goroutines"))
			c = append(c, now)
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return sync.OnceValue(func() curve {
		close(done)
		return <-all
	})
}

// TestFaultsLoadGrid has 64 clients begin at once with a cache that has nothing:
// its store is asked once for each blob.
func TestFaultsLoadGrid(t *testing.T) {
	t.Parallel()
	r := chances(t)
	const mounts, others = 12, 52
	tree := shortDir(t)
	nodes := map[string]node{"large": {mode: 0o644, data: noise(4<<20, 1)}}
	for i := range 200 {
		nodes[fmt.Sprintf("d%d/small%d", i%9, i)] = file(500 + 100*i)
	}
	for i := range 20 {
		nodes[fmt.Sprintf("d%d/medium%d", i%9, i)] = node{mode: 0o644, data: noise(150_000+i, byte(10+i))}
	}
	write(t, tree, nodes)
	store := newStore(t, "e2e|app(1)", tree)
	store.delay.Store(int64(5 * time.Millisecond)) // so that many wait for the same
	counts := store.countBlobs()
	blobs := storedBlobs(t, store.dir)
	cache := startGridCache(t)
	idle := takes(t, cache.proc.Process.Pid)
	stop := cache.samples()
	codec, err := object.NewCodec(2)
	if err != nil {
		t.Fatal(err)
	}

	began := time.Now()
	var all sync.WaitGroup
	var served atomic.Int64
	for i := range others {
		seed := r.Uint64()
		all.Go(func() {
			c, err := newWebClient(cache.url, store.url(), fmt.Sprint("web", i), codec)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.http.CloseIdleConnections()
			mine := append([]digest.Digest(nil), blobs...)
			rand.New(rand.NewPCG(seed, 0)).Shuffle(len(mine), func(a, b int) { mine[a], mine[b] = mine[b], mine[a] })
			for len(mine) > 0 {
				n := 1
				if i%4 == 0 {
					n = min(50, len(mine))
					err = c.batch(mine[:n])
				} else {
					err = c.get(mine[0])
				}
				if err != nil {
					t.Errorf("web client %d: %v", i, err)
					return
				}
				served.Add(int64(n))
				mine = mine[n:]
			}
		})
	}
	var clients []*client
	var paths []string
	for range mounts {
		c, mount := behind(t, store, cache)
		c.begin()
		clients, paths = append(clients, c), append(paths, mount)
	}
	failed := int64(0)
	for i, c := range clients {
		eventually(t, time.Minute, "it is mounted", func() bool {
			s, err := fetchStatus(c)
			return err == nil && len(s.Mounts) == 1 && s.Mounts[0].Serial == 1
		})
		run(t, 2*time.Minute, "diff", "-r", "--no-dereference", tree, paths[i])
	}
	within(t, 2*time.Minute, "the web clients end", all.Wait)
	took := time.Since(began)
	for _, c := range clients {
		failed += failures(c)
		c.stop()
	}
	seen := stop()
	peak := seen.peak(0, len(seen))

	most, more := 0, int64(0)
	for _, n := range counts() {
		most = max(most, n)
		more += int64(n - 1)
	}
	if len(counts()) != len(blobs) {
		t.Errorf("the store was asked for %d blobs of %d", len(counts()), len(blobs))
	}
	if more > failed {
		t.Errorf("the store was asked %d times for what it had given, up to %d times for one blob, after %d failures of the cache", more, most, failed)
	}
	// What the crowd took is given back. Connections to the store are kept for the next
	// fetch.
	store.down()
	var rest taken
	eventually(t, time.Minute, "the cache gives back what 64 clients took", func() bool {
		rest = takes(t, cache.proc.Process.Pid)
		rest.routines = int64(cache.metric("ays_cache_goroutines"))
		return rest.files <= idle.files+16+int64(len(cache.boltFiles())) && rest.routines < 60
	})
	t.Logf("promise: 64 clients (%d mounts) of one empty cache, %d blobs: the store was asked %d times, %d of them again after %d failures; %d blobs served to web clients, all in %v; the cache at most %v, then %v",
		mounts, len(blobs), int64(len(counts()))+more, more, failed, served.Load(), took.Round(time.Millisecond), peak, rest)
	cache.stop()
}

// TestFaultsLoadQuota has a client with a disk cache and a cache server, both too
// small for the tree, serve what is read of it, most of that a fifth of the tree.
func TestFaultsLoadQuota(t *testing.T) {
	t.Parallel()
	r := chances(t)
	long := time.Duration(*faultsRounds) * 12 * time.Second
	const disk, ledis = 16 << 20, 24 << 20
	tree, contents := noisyTree(t, 300, func(int) int { return 60_000 + r.IntN(200_000) })
	store := newStore(t, "e2e|app(1)", tree)
	cache := newGridCache(t)
	cache.ledis = fmt.Sprintf("max_size = \"%dMiB\"", ledis>>20)
	cache.start()
	c, _ := behind(t, store, cache)
	c.disk = fmt.Sprintf("max_size = \"%dMiB\"\n", disk>>20) + c.disk
	c.mounts.Reset()
	mount := c.mount("e2e|app(1)", "prefetch = 0")
	c.start()
	run(t, time.Minute, "ls", "-lR", mount)

	check := newChecker(t, contents, 30*time.Second)
	hot := check.names[:len(check.names)/6]
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range 4 {
		r := rand.New(rand.NewPCG(r.Uint64(), 0))
		check.readers.Go(func() {
			for ctx.Err() == nil && !t.Failed() {
				names := hot
				if r.IntN(10) < 3 {
					names = check.names
				}
				check.read(mount, names[r.IntN(len(names))])
			}
		})
	}
	stop := cache.samples()
	var seen curve
	var most [2]int64
	for began := time.Now(); time.Since(began) < long; time.Sleep(50 * time.Millisecond) {
		now := takes(t, c.proc.Process.Pid)
		now.routines = int64(c.status().Memory.Routines)
		if time.Since(began) > 2*time.Second {
			seen = append(seen, now)
		}
		most[0] = max(most[0], diskUse(t, c.cacheDir()))
		most[1] = max(most[1], diskUse(t, cache.data()))
	}
	cancel()
	within(t, time.Minute, "the readers end", check.readers.Wait)
	served := stop()
	s := c.status().Cache
	blobs, hits, misses := store.blobs.Load(), cache.metric("ays_cache_blob_hits_total"), cache.metric("ays_cache_blob_misses_total")
	share := float64(s.Hits) / float64(s.Hits+s.Misses)
	t.Logf("promise: %d reads, %d failed; the disk cache had at most %.1f of %d MiB, evicted %d MiB and had %.0f %% of what was read; the cache server at most %.1f of %d MiB, %.0f hits, %.0f misses; the store was asked for %d blobs",
		check.reads.Load(), check.failed.Load(), float64(most[0])/(1<<20), disk>>20, s.Evicted>>20, 100*share, float64(most[1])/(1<<20), ledis>>20, hits, misses, blobs)
	if most[0] > disk || most[1] > ledis {
		t.Errorf("%d and %d bytes on disk, at most %d and %d allowed", most[0], most[1], disk, ledis)
	}
	if n := check.failed.Load(); n > 0 {
		t.Errorf("%d reads failed, with the store within reach", n)
	}
	if s.Evicted == 0 || share < 0.3 {
		t.Errorf("%d bytes were evicted, %.0f %% of what was read was there", s.Evicted, 100*share)
	}
	seen.flat(t, "the client")
	served[min(len(served), 20):].flat(t, "the cache server") // the first two seconds fill it
	c.stop()
	cache.stop()
}

// TestFaultsLoadConnections has strangers take all connections of a cache: those that
// say nothing, those that say it byte by byte, and those that don't take what they
// asked for.
func TestFaultsLoadConnections(t *testing.T) {
	t.Parallel()
	r := chances(t)
	const most, strangers = 400, 1500
	tree, contents := limitTree(t)
	store := newStore(t, "e2e|app(1)", tree)
	cache := newGridCache(t)
	cache.http = fmt.Sprintf("max_connections = %d\nheader_timeout = \"3s\"\nidle_timeout = \"4s\"\nstall_timeout = \"3s\"", most)
	cache.start()
	idle := takes(t, cache.proc.Process.Pid)
	c, mount := behind(t, store, cache)
	c.main = `io_timeout = "10s"`
	c.disk = "max_size = \"0\"\n" + c.disk
	c.start()
	sameTree(t, tree, mount)

	blobs := storedBlobs(t, store.dir)
	over := make(chan struct{})
	var all sync.WaitGroup
	var dialled atomic.Int64
	for i := range strangers {
		r := rand.New(rand.NewPCG(r.Uint64(), uint64(i)))
		all.Go(func() {
			for {
				select {
				case <-over:
					return
				case <-time.After(time.Duration(r.IntN(400)) * time.Millisecond):
				}
				conn, err := net.DialTimeout("tcp", cache.addr, 10*time.Second)
				if err != nil {
					continue
				}
				dialled.Add(1)
				molest(conn, i%4, blobs[r.IntN(len(blobs))], over)
				reset(conn)
			}
		})
	}
	check := newChecker(t, contents, 20*time.Second)
	check.begin(mount)
	stop := cache.samples()
	for began := time.Now(); time.Since(began) < time.Duration(*faultsRounds)*10*time.Second; time.Sleep(200 * time.Millisecond) {
		if body := cache.get("/healthz"); !strings.Contains(body, "ok") {
			t.Errorf("healthz on the control socket: %q", body)
		}
	}
	failed := check.halt()
	under := check.reads.Load()
	peak := stop()
	close(over)
	within(t, time.Minute, "the strangers leave", all.Wait)
	top := peak.peak(0, len(peak))
	said := strings.Count(cache.log(), "too many connections")
	if failed > 0 {
		t.Errorf("%d reads failed, with the store within reach", failed)
	}
	if top.files > most+idle.files+64 {
		t.Errorf("%d descriptors, with at most %d connections", top.files, most)
	}
	if said == 0 || said > 5 {
		t.Errorf("%d lines of the log tell that there are too many connections", said)
	}
	began, before := time.Now(), c.source("grid").Hits
	eventually(t, time.Minute, "the client gets blobs from the cache again", func() bool {
		check.whole(mount)
		return c.source("grid").Hits > before+20
	})
	back := time.Since(began)
	eventually(t, time.Minute, "the cache is as before", func() bool {
		now := takes(t, cache.proc.Process.Pid)
		return now.files <= idle.files+48+int64(len(cache.boltFiles()))
	})
	t.Logf("promise: %d connections by %d strangers, at most %d at once: %d reads, %d failed; the cache at most %v; back %v after they left",
		dialled.Load(), strangers, most, under, failed, top, back.Round(time.Millisecond))
	c.stop()
	cache.stop()
}

// molest has a server deal with a connection of some kind, until that ends it.
func molest(conn net.Conn, kind int, blob digest.Digest, over <-chan struct{}) {
	var said string
	switch kind {
	case 0: // says nothing
	case 1: // says it byte by byte
		said = "GET / HTTP/1.1\r\nHost: cache\r\nX-Slow: " + strings.Repeat("x", 1000)
	case 2: // does not take it
		if c, ok := conn.(*net.TCPConn); ok {
			c.SetReadBuffer(4096)
		}
		io.WriteString(conn, strings.Repeat(fmt.Sprintf("GET /default/%s HTTP/1.1\r\nHost: cache\r\n\r\n", blob), 20))
		select {
		case <-over:
		case <-time.After(5 * time.Second):
		}
		return
	case 3: // a body byte by byte
		io.WriteString(conn, "POST /default HTTP/1.1\r\nHost: cache\r\nContent-Length: 65000\r\n\r\n")
		said = strings.Repeat("0", 1000)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		io.Copy(io.Discard, conn)
	}()
	for i := 0; ; i++ {
		select {
		case <-gone:
			return
		case <-over:
			reset(conn)
			<-gone
			return
		case <-time.After(500 * time.Millisecond):
			if i < len(said) {
				io.WriteString(conn, said[i:i+1])
			}
		}
	}
}

// TestFaultsLoadPaused stops caches without ending them: clients do without, in
// time, and come back.
func TestFaultsLoadPaused(t *testing.T) {
	t.Parallel()
	for _, caches := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d caches", caches), func(t *testing.T) {
			t.Parallel()
			tree, contents := limitTree(t)
			store := newStore(t, "e2e|app(1)", tree)
			var all []*gridCache
			for range caches {
				all = append(all, startGridCache(t))
			}
			c, mount := behind(t, store, all...)
			c.main = "" // all as by default
			c.disk = "max_size = \"0\"\n" + c.disk
			c.start()
			sameTree(t, tree, mount)
			check := newChecker(t, contents, 30*time.Second)
			check.whole(mount)
			check.begin(mount)
			check.goOn(50)
			var slowest, back time.Duration
			for range 2 * *faultsRounds {
				all[0].proc.signal(t, syscall.SIGSTOP)
				for range 40 {
					before := time.Now()
					name := check.names[rand.IntN(len(check.names))]
					var b []byte
					var err error
					within(t, time.Minute, "read "+name, func() { b, err = readDirect(filepath.Join(mount, name)) })
					slowest = max(slowest, time.Since(before))
					if err != nil || !bytes.Equal(b, contents[name]) {
						t.Errorf("%s: %d bytes, %v", name, len(b), err)
					}
				}
				check.goOn(200)
				all[0].proc.signal(t, syscall.SIGCONT)
				began, served := time.Now(), all[0].metric("ays_cache_blob_hits_total")
				eventually(t, time.Minute, "the cache serves again", func() bool { return all[0].metric("ays_cache_blob_hits_total") > served+20 })
				back = max(back, time.Since(began))
			}
			reads := check.reads.Load()
			failed := check.halt()
			if failed > 0 {
				t.Errorf("%d reads failed, with the store within reach", failed)
			}
			t.Logf("promise: %d caches, one of them paused: %d reads, %d failed, the slowest of a pause %v; in use again after %v",
				caches, reads, failed, slowest.Round(time.Millisecond), back.Round(time.Millisecond))
			c.stop()
			for _, g := range all {
				g.stop()
			}
		})
	}
}
