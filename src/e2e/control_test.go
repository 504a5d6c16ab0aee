package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/control"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := startClient(t, store.url())
	wantContent(t, 5*time.Second, filepath.Join(mount, names[0]), content(100_000))
	c.settled()

	for _, args := range [][]string{{"-socket", c.socket()}, {"-config", filepath.Join(c.dir, "aysfs.toml")}} {
		out := run(t, 10*time.Second, ays, append([]string{"status"}, args...)...)
		for _, want := range []string{mount, "e2e|app(1)", "store s", store.url()} {
			if !strings.Contains(out, want) {
				t.Errorf("status %q does not tell %q:\n%s", args, want, out)
			}
		}
	}
	var s control.Status
	if err := json.Unmarshal([]byte(run(t, 10*time.Second, ays, "status", "-json", "-socket", c.socket())), &s); err != nil {
		t.Fatal(err)
	}
	if s.ID != "e2e" || s.Version != "e2e" || s.PID != c.proc.Process.Pid || len(s.Mounts) != 1 || len(s.Stores) != 1 {
		t.Fatalf("status: %+v", s)
	}
	if m := s.Mounts[0]; m.Path != mount || m.Error != "" || !m.Fresh || m.Serial != 1 || m.Files != int64(len(names)) || m.Inodes < 2 {
		t.Errorf("mount: %+v", m)
	}
	if src := s.Stores[0].Tier.Sources[0]; src.Tier != "store s" || src.Hits != store.blobs.Load() || src.Bytes == 0 {
		t.Errorf("store: %+v, want %d hits", src, store.blobs.Load())
	}
	if s.Cache.Blobs < 2 || s.Cache.Disk == 0 || s.Cache.MaxSize != 10<<30 || s.Memory.Limit != 64<<20 {
		t.Errorf("cache: %+v, memory: %+v", s.Cache, s.Memory)
	}

	// curl is what people have at hand.
	out := run(t, 10*time.Second, "curl", "-sS", "--fail", "--unix-socket", c.socket(), "http://aysfs/metrics")
	sample := regexp.MustCompile(`^[a-z_]+(\{([a-z_]+="([^"\\]|\\.)*",?)*\})? [0-9.e+-]+$`)
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "# ") && !sample.MatchString(strings.TrimSuffix(line, "\n")) {
			t.Errorf("not a metric: %q", line)
		}
	}
	for _, want := range []string{`aysfs_mount_up{mount="` + mount + `",tree="e2e|app(1)"} 1`, `aysfs_info{id="e2e",version="e2e"} 1`} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("metrics do not have %s:\n%s", want, out)
		}
	}
	if st, err := os.Stat(c.socket()); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v, want it for root alone", st.Mode(), err)
	}
	nobody := exec.Command(ays, "status", "-socket", c.socket())
	nobody.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := try(t, 10*time.Second, nobody); exitCode(err) == 0 {
		t.Errorf("everybody may ask:\n%s", out)
	}
	c.stop()
	c.wantStatus(2, "is aysfs running?")
}

// TestStatusOfATreeThatIsNotThere: one mount can't be made, the other one works.
func TestStatusOfATreeThatIsNotThere(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := appClient(t, store.url())
	c.mount("e2e|other(1)")
	c.start()
	wantContent(t, 5*time.Second, filepath.Join(mount, names[0]), content(100_000))
	c.wantStatus(1, "NOT MOUNTED", "e2e|other(1)")
	c.stop()
}

func TestJSONLog(t *testing.T) {
	t.Parallel()
	store, _ := smallStore(t)
	c, mount := appClient(t, store.url())
	c.main = "log = \"json\"\nlog_level = \"debug\""
	c.start()
	run(t, 10*time.Second, "ls", "-l", mount)
	c.stop()
	for line := range strings.Lines(c.log()) {
		var entry struct{ Level, Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Level == "" || entry.Msg == "" {
			t.Errorf("%q: %v", line, err)
		}
	}
	if !strings.Contains(c.log(), `"msg":"mounted"`) {
		t.Error("does not say what was mounted")
	}
}
