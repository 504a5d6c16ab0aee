package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/doctor"
)

func TestDoctor(t *testing.T) {
	t.Parallel()
	tree, _ := smallTree(t)
	store := newStore(t, "e2e|app(1)", tree)
	c := newClient(t, store.url())
	mount := c.mount("e2e|app(1)")
	// examine is what it says of about, and whether all is well.
	examine := func(about string) (found []doctor.Finding, code int) {
		t.Helper()
		out, err := try(t, 60*time.Second, exec.Command(ays, "doctor", "-json", "-config", c.writeConfig()))
		var all []doctor.Finding
		if err := json.Unmarshal([]byte(out), &all); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, f := range all {
			if strings.HasPrefix(f.About, about) {
				found = append(found, f)
			}
		}
		return found, exitCode(err)
	}
	want := func(about string, level doctor.Level, text string) {
		t.Helper()
		found, code := examine(about)
		if len(found) == 0 {
			t.Fatalf("says nothing of %s", about)
		}
		last := found[len(found)-1]
		if last.Level != level || !strings.Contains(last.Found, text) || (last.Do == "") != (level == doctor.OK) || (code == 1) != (level == doctor.Fail) {
			t.Errorf("of %s: exit %d, %+v, want %s, %q", about, code, found, level, text)
		}
	}
	want("/dev/fuse", doctor.OK, "")
	want("store s", doctor.OK, "serial 1")
	want("disk cache", doctor.OK, "free")
	want("mount "+mount, doctor.OK, "not mounted")
	if _, err := os.Stat(c.cacheDir()); err == nil {
		t.Error("it made the disk cache")
	}

	c.start()
	want("mount "+mount, doctor.OK, "it answers")
	c.kill()
	want("mount "+mount, doctor.Fail, "stale")
	c.start() // takes it away
	c.stop()

	c.stor = "key = \"" + publicKey(t) + "\""
	want("store s", doctor.Fail, "not signed")
	c.stor = ""
	store.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "no", http.StatusUnauthorized)
		return true
	})
	want("store s", doctor.Fail, "check login")
	store.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
		return false
	})
	want("store s", doctor.Warn, "ahead of")
	store.setFault(nil)
	store.down()
	want("store s", doctor.Fail, "refused")
	store.up()

	c.main = "refresh = \"often\""
	want("config", doctor.Fail, "refresh")
	out, err := try(t, 10*time.Second, exec.Command(ays, "doctor", "-config", filepath.Join(c.dir, "aysfs.toml")))
	if exitCode(err) != 1 || !strings.Contains(out, "fail  config") || !strings.Contains(out, "-> mend it") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// publicKey is a new key's public half.
func publicKey(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(ays, "keygen", "example")
	cmd.Dir = dir
	if out, err := try(t, 10*time.Second, cmd); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "example.pub"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
