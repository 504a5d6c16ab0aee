//go:build faults

package e2e

import (
	"crypto/tls"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/faults"
)

// TestFaultsFailover has one cache that works among many that don't, each in a way
// of its own. It is found at once, and the others are left alone.
func TestFaultsFailover(t *testing.T) {
	t.Parallel()
	store, v := netStore(t)
	cache := startGridCache(t)
	good := faultServer(t, cache.addr, 1)
	c := newClient(t, store.url())
	c.main = fmt.Sprintf("io_timeout = %q\nrefresh = \"1s\"", netTimeout)
	c.disk = `max_size = "0"`
	bad := map[faults.Kind]*faults.Server{}
	add := func(s *faults.Server) { c.disk += gridTable("http://" + s.Addr()) }
	for _, kind := range []faults.Kind{faults.Silent, faults.Status400, faults.Status503, faults.LowSpeed, faults.Reset, faults.Noise, faults.Status404} {
		bad[kind] = faultServer(t, cache.addr, 1)
		bad[kind].Set(1, kind)
		add(bad[kind])
	}
	add(good)
	mount := c.mount("e2e|app(1)", "prefetch = 0")
	c.start()
	w := newWalker(t, netTimeout, v)
	began := time.Now()
	w.healed(time.Minute, mount)
	first := time.Since(began)
	began = time.Now()
	if n := w.failed.Load(); n > 0 {
		t.Errorf("%d calls failed, with a cache and a store within reach", n)
	}
	w.healed(time.Minute, mount)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("a second walk, when all is known, took %v", took)
	}
	counts := map[faults.Kind]int64{}
	for kind, s := range bad {
		counts[kind] = s.Requests()
		// One for each blob would be hundreds. 404 is an answer, not a failure.
		if n := counts[kind]; n > 60 && kind != faults.Status404 {
			t.Errorf("%s: asked %d times", kind, n)
		}
	}
	// Nobody reads, and a new tree is seen all the same.
	began = time.Now()
	netTree(t, store.tree, v, 2)
	publish(t, store.dir, "e2e|app(1)", store.tree)
	eventually(t, 30*time.Second, "an idle client sees the new tree", func() bool { return c.status().Mounts[0].Serial == 2 })
	t.Logf("promise: 7 bad caches before a good one: %v, first walk %.1f s; they were asked %v times, the good one %d; a new tree seen after %.1f s",
		w.calls, first.Seconds(), counts, good.Requests(), time.Since(began).Seconds())
	c.stop()
}

// TestFaultsStorm has many threads read what a store refuses to give, over and
// over. The store is not to be stormed.
func TestFaultsStorm(t *testing.T) {
	t.Parallel()
	store, v := netStore(t)
	front := faultServer(t, store.addr, 1)
	c, mount := appClient(t, "http://"+front.Addr(), "prefetch = 0")
	c.main = fmt.Sprintf("io_timeout = %q", netTimeout)
	c.disk = `max_size = "0"`
	c.start()
	w := newWalker(t, netTimeout, v)
	const window = 3 * time.Second
	var total, asked int64
	for _, kind := range []faults.Kind{faults.Status503, faults.Reset, faults.Status404, faults.Status400, faults.Noise} {
		front.Set(1, kind)
		var reads atomic.Int64
		var all sync.WaitGroup
		stop := make(chan struct{})
		name := filepath.Join("small", "d0", "f06")
		before := front.Requests()
		for range 32 {
			all.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						w.read(mount, name, v[name], true)
						reads.Add(1)
					}
				}
			})
		}
		time.Sleep(window)
		close(stop)
		within(t, time.Minute, "the readers end", all.Wait)
		n := front.Requests() - before
		total, asked = total+reads.Load(), max(asked, n)
		if n > 50 {
			t.Errorf("%s: %d requests for %d reads of one file in %v", kind, n, reads.Load(), window)
		}
	}
	front.Set(0)
	took := w.healed(30*time.Second, mount)
	t.Logf("promise: a store that refuses was asked %d times at most for one file in %v, by 32 threads that read it %d times in all; read again after %.1f s",
		asked, window, total, took.Seconds())
	c.stop()
}

// TestFaultsTLS has handshakes fail at random.
func TestFaultsTLS(t *testing.T) {
	t.Parallel()
	store, v := netStore(t)
	var certs [2]tls.Certificate
	dir := shortDir(t)
	for i := range certs {
		cert, key := filepath.Join(dir, fmt.Sprint("cert", i)), filepath.Join(dir, fmt.Sprint("key", i))
		certificate(t, cert, key)
		var err error
		if certs[i], err = tls.LoadX509KeyPair(cert, key); err != nil {
			t.Fatal(err)
		}
	}
	front, err := faults.NewServer(faults.Config{Target: store.addr, Seed: chances(t).Uint64(),
		TLS: &tls.Config{Certificates: certs[:1]}, Bad: certs[1]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(front.Close)
	c, mount := appClient(t, "https://"+front.Addr(), "prefetch = 0")
	c.main = fmt.Sprintf("io_timeout = %q", netTimeout)
	c.disk = `max_size = "0"`
	c.stor = fmt.Sprintf("ca = %q", filepath.Join(dir, "cert0"))
	c.start()
	w := newWalker(t, netTimeout, v)
	// Connections end, so that there are handshakes.
	front.Set(0.5, append([]faults.Kind{faults.Close, faults.Reset}, faults.Handshakes...)...)
	w.begin(1, mount)
	time.Sleep(8 * time.Second)
	w.halt()
	front.Set(0)
	took := w.healed(30*time.Second, mount)
	t.Logf("promise: TLS: %v; %v; all right again after %.1f s", w.calls, front.Counts(), took.Seconds())
	c.stop()
}
