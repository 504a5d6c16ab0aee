package control

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"log/slog"

	"github.com/aysfs/aysfs/src/tier"
)

func listen(t *testing.T, path string, s Status) *Server {
	t.Helper()
	srv, err := Listen(path, func() Status { return s }, nil, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	return srv
}

var busy = Status{
	ID: `odd "id"` + "\n", Version: "1.2.3", Since: time.Unix(1_700_000_000, 0), PID: 7,
	Mounts: []Mount{{Path: "/a", Tree: "x|y(1)", Serial: 4, Inodes: 9}, {Path: "/b", Error: "no such tree"}},
	Cache:  Cache{Path: "/var/cache/aysfs", Blobs: 12, Hits: 34},
	Files:  Files{Open: 21, Most: 4096},
	Stores: []Store{{Name: "s", Tier: tier.ChainStatus{
		Fetching: []tier.Fetching{{Domain: "default"}},
		Sources:  []tier.Stats{{Tier: "store s", Requests: 5, Hits: 3, Corrupt: 2, Bytes: 99, Latency: 1500 * time.Millisecond}},
	}}},
}

func TestStatusOverTheSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run/aysfs.sock")
	srv := listen(t, path, busy)
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, want it for its owner alone, %v", st.Mode(), err)
	}
	got, err := Fetch(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != busy.ID || len(got.Mounts) != 2 || got.Mounts[1].Error != "no such tree" || got.Stores[0].Tier.Sources[0].Corrupt != 2 {
		t.Errorf("got %+v", got)
	}
	if err := Healthy(t.Context(), path); err == nil || !strings.Contains(err.Error(), "/b: no such tree") {
		t.Errorf("healthy with a mount that isn't there: %v", err)
	}
	well := filepath.Join(t.TempDir(), "sock")
	listen(t, well, Status{Mounts: []Mount{{Path: "/a", Problem: "the store is away"}}})
	if err := Healthy(t.Context(), well); err != nil {
		t.Errorf("unhealthy because a store is away: %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("beside the socket there are %v", entries)
	}
	srv.Close()
	if _, err := Fetch(t.Context(), path); err == nil || !strings.Contains(err.Error(), "is aysfs running?") {
		t.Errorf("after Close: %v", err)
	}
}

func TestSocketOfAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listen(t, path, busy)
	if _, err := Listen(path, nil, nil, slog.Default()); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a socket that answers was taken over: %v", err)
	}
	// One that nobody answers on is what a killed process leaves.
	dead := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	listen(t, dead, busy)
	if _, err := Fetch(t.Context(), dead); err != nil {
		t.Error(err)
	}
}

func TestMetrics(t *testing.T) {
	text := string(busy.metrics())
	for _, want := range []string{
		`aysfs_info{id="odd \"id\"\n",version="1.2.3"} 1`,
		`aysfs_mount_up{mount="/a",tree="x|y(1)"} 1`,
		`aysfs_mount_up{mount="/b",tree=""} 0`,
		`aysfs_cache_hits_total 34`,
		`aysfs_open_files 21`,
		`aysfs_max_files 4096`,
		`aysfs_fetching{store="s"} 1`,
		`aysfs_tier_answers_total{store="s",tier="store s",answer="corrupt"} 2`,
		`aysfs_tier_seconds_total{store="s",tier="store s"} 1.5`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	line := regexp.MustCompile(`^(# (HELP|TYPE) aysfs_\w+ .+|aysfs_\w+(\{(\w+="([^"\\]|\\.)*",?)+\})? [0-9.e+-]+)$`)
	for l := range strings.Lines(text) {
		if !line.MatchString(strings.TrimSuffix(l, "\n")) {
			t.Errorf("not a line of the exposition format: %q", l)
		}
	}
}

func TestDescriptors(t *testing.T) {
	before, most := Descriptors()
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if now, _ := Descriptors(); before <= 0 || now != before+1 || most < now {
		t.Errorf("%d descriptors, and %d with one more, of at most %d", before, now, most)
	}
}
