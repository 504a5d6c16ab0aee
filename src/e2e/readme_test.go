package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// readmeLines are the lines of the README's example that begins with first, to
// the end of it.
func readmeLines(t *testing.T, first string) (lines []string) {
	t.Helper()
	text := mustRead(t, "../../README.md")
	_, rest, ok := strings.Cut(string(text), "\n    "+first)
	if !ok {
		t.Fatalf("the README has no example that begins with %q", first)
	}
	for line := range strings.Lines("    " + first + rest) {
		command, ok := strings.CutPrefix(line, "    ")
		if !ok {
			break
		}
		lines = append(lines, strings.TrimSpace(command))
	}
	return lines
}

// TestReadmeByCurl does what the README says that curl alone can do, in its words
// but for hosts and digests.
func TestReadmeByCurl(t *testing.T) {
	t.Parallel()
	const id, platform, cacheURL, storeURL = "jumpscale|mongodb(10.1.888)", "ubuntu64", "http://192.168.2.1:8080", "http://files.example.org:8080"
	mongod := bytes.Repeat([]byte("this is mongod\n"), 1000)
	tree := shortDir(t)
	write(t, tree, map[string]node{"bin/mongod": {mode: 0o755, data: mongod}, "bin/mongo": file(1000), "share/x": file(10)})
	store := newStore(t, id, tree, "-platform", platform)
	cache := startGridCache(t)

	const first = "C=" + cacheURL
	lines := readmeLines(t, first)
	if lines[0] != first || len(lines) != 6 {
		t.Fatalf("the example has other lines than this test knows: %q", lines)
	}
	home := shortDir(t)
	mustWrite(t, filepath.Join(home, ".curlrc"), []byte("silent\nshow-error\nfail\n"), 0o644)
	digest := "DIGEST"
	shell := func(line string) string {
		t.Helper()
		script := lines[0] + "\n" + line
		script = strings.NewReplacer(cacheURL, cache.url, storeURL, store.url(), "DIGEST", digest).Replace(script)
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
		cmd.Env = append(os.Environ(), "CURL_HOME="+home, "HOME="+home)
		out, err := try(t, time.Minute, cmd)
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		return out
	}
	for _, line := range lines[1:4] { // the announcements
		if !strings.Contains(line, " -d ") {
			t.Fatalf("%q tells the cache nothing", line)
		}
		shell(line)
	}
	var listing []struct {
		Name   string
		Size   int64
		Digest string
	}
	if out := shell(lines[4]); json.Unmarshal([]byte(out), &listing) != nil || len(listing) != 2 {
		t.Fatalf("the listing is %s", out)
	}
	if e := listing[1]; e.Name != "mongod" || e.Size != int64(len(mongod)) || e.Digest != fmt.Sprintf("%x", sha256.Sum256(mongod)) {
		t.Fatalf("the listing has %+v", e)
	}
	digest = listing[1].Digest
	if out := shell(lines[5]); out != digest+"  -\n" {
		t.Errorf("sha256sum says %q, want %s", out, digest)
	}
	if heads, blobs := store.heads.Load(), store.blobs.Load(); heads == 0 || blobs == 0 {
		t.Errorf("the store was asked for %d heads and %d blobs", heads, blobs)
	}
}
