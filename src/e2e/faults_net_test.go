//go:build faults

package e2e

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/faults"
)

// netTimeout is io_timeout in these tests.
const netTimeout = 4 * time.Second

// faultServer stands in front of target, host and port.
func faultServer(t *testing.T, target string, seed uint64) *faults.Server {
	t.Helper()
	s, err := faults.NewServer(faults.Config{Target: target, Seed: seed})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// netTree writes a version of a tree of small and large files.
func netTree(t *testing.T, dir string, v versions, version byte) {
	t.Helper()
	nodes := map[string]node{}
	add := func(name string, size int) {
		seed := byte(len(v[name])) + version + byte(size)
		data := noise(size, seed)
		if size%2 == 0 {
			data = slices.Repeat(data[:size/2], 2)
		}
		nodes[name], v[name] = node{mode: 0o644, data: data}, append(v[name], data)
	}
	for i := range 60 {
		add(fmt.Sprintf("small/d%d/f%02d", i%6, i), 1+(i*i*7)%9000)
	}
	for i := range 12 {
		add(fmt.Sprintf("mid/f%02d", i), 100_000+i*50_001)
	}
	add("large", 3<<20)
	write(t, dir, nodes)
}

// netStore serves the first version of a netTree as e2e|app(1).
func netStore(t *testing.T) (*webStore, versions) {
	t.Helper()
	tree, v := shortDir(t), versions{}
	netTree(t, tree, v, 1)
	return newStore(t, "e2e|app(1)", tree), v
}

// netBed is a store, a cache and a local cache, each behind something that goes
// wrong, and clients that use more and more of these.
type netBed struct {
	*walker
	tree    string
	key     string
	store   *webStore
	cache   *gridCache
	toStore *faults.Server // from clients and the cache
	toCache *faults.Server
	toLocal *faults.Relay
	clients []*client
	mounts  []string
	serial  int
}

func newNetBed(t *testing.T, seed uint64) *netBed {
	t.Helper()
	b := &netBed{tree: shortDir(t), serial: 1}
	v := versions{}
	netTree(t, b.tree, v, 1)
	b.walker = newWalker(t, netTimeout, v)
	key, public := keyPair(t)
	b.key = key
	stor := fmt.Sprintf("key = %q", public)
	b.store = newStore(t, "e2e|app(1)", b.tree, "-key", b.key)
	b.toStore = faultServer(t, b.store.addr, seed)
	b.cache = newGridCache(t)
	b.cache.start()
	b.toCache = faultServer(t, b.cache.addr, seed+1)
	local := startLocalCache(t)
	var err error
	if b.toLocal, err = faults.NewRelay("127.0.0.1:"+local.port, seed+2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.toLocal.Close)
	_, localPort, _ := net.SplitHostPort(b.toLocal.Addr())
	dead := gridTable("http://" + freeAddr(t))
	grid := gridTable("http://" + b.toCache.Addr())
	for _, disk := range []string{
		`max_size = "0"`,
		`max_size = "0"` + dead + grid,
		`max_size = "16MiB"` + dead + grid + "\n[[cache.local]]\nport = " + localPort + "\n",
	} {
		c := newClient(t, "http://"+b.toStore.Addr())
		c.main = fmt.Sprintf("io_timeout = %q\nmemory = \"16MiB\"\nrefresh = \"1s\"", netTimeout)
		c.stor, c.disk = stor, disk
		b.clients, b.mounts = append(b.clients, c), append(b.mounts, c.mount("e2e|app(1)", `wait = "2s"`))
		c.start()
	}
	b.healed(30*time.Second, b.mounts...)
	return b
}

// publish has a new version of the tree.
func (b *netBed) publish() {
	b.t.Helper()
	b.serial++
	netTree(b.t, b.tree, b.versions, byte(b.serial))
	publish(b.t, b.store.dir, "e2e|app(1)", b.tree, "-key", b.key)
}

// fail has a share of everything go wrong.
func (b *netBed) fail(share float64, kinds []faults.Kind) {
	b.toStore.Set(share, kinds...)
	b.toCache.Set(share, kinds...)
	b.toLocal.Set(share, faults.Bytes...)
}

func (b *netBed) alive() {
	b.t.Helper()
	for _, c := range b.clients {
		if c.ended() {
			b.t.Fatalf("aysfs ended: %v", c.proc.err)
		}
		if log := c.log(); strings.Contains(log, "panic") || strings.Contains(log, "DATA RACE") {
			b.t.Errorf("a panic:\n%s", lastLines(log, 60))
		}
	}
	if b.cache.proc.endsWithin(0) {
		b.t.Fatalf("ays_cache ended: %v", b.cache.proc.err)
	}
	if log := b.cache.log(); strings.Contains(log, "panic") {
		b.t.Errorf("a panic:\n%s", lastLines(log, 60))
	}
}

// TestFaultsNet has everything between a client and the bytes go wrong, at random
// and in every way, while trees are read, published and mounted.
func TestFaultsNet(t *testing.T) {
	r := chances(t)
	b := newNetBed(t, r.Uint64())
	var slowest time.Duration
	starts := 0
	for round := range 6 * *faultsRounds {
		// At first all kinds, then some of them, more often.
		kinds, share := faults.Answers, 0.1+0.2*r.Float64()
		if round%3 != 0 {
			kinds = slices.Clone(kinds)
			r.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
			kinds, share = kinds[:1+r.IntN(6)], 0.2+0.8*r.Float64()
		}
		b.fail(share, kinds)
		if round%2 == 1 {
			// What has a head from before starts under it. Who has none may be told
			// by the store that there is no such tree, and ends.
			c := b.clients[len(b.clients)-1]
			if r.IntN(2) == 0 {
				c.stop()
			} else {
				c.kill()
			}
			c.start()
			starts++
		}
		b.begin(r.Uint64(), b.mounts...)
		time.Sleep(time.Duration(1+r.IntN(3)) * time.Second)
		if round%2 == 0 {
			b.publish()
		}
		time.Sleep(time.Duration(1+r.IntN(3)) * time.Second)
		b.halt()
		b.alive()
		b.fail(0, nil)
		slowest = max(slowest, b.healed(time.Minute, b.mounts...))
		for _, c := range b.clients {
			eventually(t, 30*time.Second, "the newest tree is shown", func() bool { return int(c.status().Mounts[0].Serial) == b.serial })
		}
		if t.Failed() {
			t.Fatalf("round %d, kinds %v, share %.2f", round, kinds, share)
		}
	}
	counts := b.toStore.Counts()
	for k, n := range b.toCache.Counts() {
		counts[k] += n
	}
	n := 0
	for _, k := range counts {
		n += k
	}
	b.alive()
	t.Logf("promise: %v; %d faults of %d kinds in %d requests, and %v in the local cache's answers; %d starts under them; all right again after %.1f s at most",
		b.calls, n, len(counts), b.toStore.Requests()+b.toCache.Requests(), b.toLocal.Counts(), starts, slowest.Seconds())
	t.Logf("%v", slices.Sorted(maps.Keys(counts)))
}
