package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/profile"
)

const id = "jumpscale|mongodb(10.1.888)"

func TestUsage(t *testing.T) {
	contains(t, ays(t, 0, "help").stdout, "publish", "verify", "keygen")
	contains(t, ays(t, 0, "publish", "-h").stdout, "-keep-setuid", "TREE")
	contains(t, ays(t, 0, "version").stdout, "ays 1.2.3 (abcdef) go")
	contains(t, ays(t, 0, "-version").stdout, "ays 1.2.3")
	contains(t, ays(t, 2).stderr, "usage")
	contains(t, ays(t, 2, "publsih").stderr, `no command "publsih"`)
	contains(t, ays(t, 2, "publish", "-nonsense", "x").stderr, "nonsense")

	tree, store := someTree(t), t.TempDir()
	contains(t, ays(t, 2, "publish", tree).stderr, "-store and -id")
	contains(t, ays(t, 2, "publish", "-store", store, "-id", id).stderr, "missing TREE")
	contains(t, ays(t, 2, "publish", "-store", store, "-id", id, tree, "-json").stderr, "flags come first")
	contains(t, ays(t, 2, "publish", "-store", store, "-id", "mongodb", tree).stderr, "ays.id")
	contains(t, ays(t, 2, "publish", "-store", "ftp://h/s", "-id", id, tree).stderr, "writes to a directory store")
	contains(t, ays(t, 2, "publish", "-store", store, "-id", id, tree+"/none").stderr, "no such file")
	contains(t, ays(t, 2, "publish", "-store", store, "-id", id, "-key", tree+"/README", tree).stderr, "keygen")
	contains(t, ays(t, 2, "verify").stderr, "-store")
	contains(t, ays(t, 2, "verify", "-store", store+"/none").stderr, "no such file")
	contains(t, ays(t, 2, "verify", "-store", store).stderr, "no trees")
	contains(t, ays(t, 2, "verify", "-store", store, "-platform", "x").stderr, "need -id")
	contains(t, ays(t, 2, "verify", "-store", store, "-id", id, "-key", "garbage").stderr, "neither")
	contains(t, ays(t, 2, "verify", "-store", "ftp://h/").stderr, "scheme")
	contains(t, ays(t, 2, "verify", "-store", "http://me:secret@127.0.0.1:1/").stderr, "-secret-file")
	contains(t, ays(t, 2, "ls", "-store", store, "-login", "me").stderr, "go together")
}

func TestPublishAndVerify(t *testing.T) {
	tree, store := someTree(t), t.TempDir()+"/store"
	o := ays(t, 0, "publish", "-store", store, "-id", id, "-platform", "linux-amd64", tree)
	contains(t, o.stdout, "published "+id+"@linux-amd64, serial 1, not signed", "2 files, 2 directories, 1 symlinks", "new objects")
	if o.stderr != "" {
		t.Errorf("without a terminal, stderr has %q", o.stderr)
	}
	contains(t, ays(t, 0, "publish", "-store", store, "-id", id, "-platform", "linux-amd64", tree).stdout, "unchanged")
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right")
	ays(t, 0, "verify", "-store", "file://"+store, "-id", id, "-platform", "linux-amd64")
	contains(t, ays(t, 1, "verify", "-store", store, "-id", id).stdout, "head", "1 problems")

	blobs, err := filepath.Glob(store + "/default/*")
	must(t, err)
	for _, b := range blobs {
		if stored, err := os.ReadFile(b); err == nil && strings.HasPrefix(string(stored), "#!") {
			must(t, os.Remove(b))
		}
	}
	o = ays(t, 1, "verify", "-store", store)
	contains(t, o.stdout, `"bin/mongod": blob`, "1 problems")
}

func TestVerifyWarnsOfProfiles(t *testing.T) {
	tree, store := someTree(t), t.TempDir()
	ays(t, 0, "publish", "-store", store, "-id", id, tree)
	file := filepath.Join(store, "md", id, "any", profile.File)
	good, err := (&profile.Profile{Time: time.Now()}).Encode()
	must(t, err)
	must(t, os.WriteFile(file, good, 0o644))
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "\nall right\n")
	for _, b := range [][]byte{good[:len(good)-1], make([]byte, profile.MaxBytes+1)} {
		must(t, os.WriteFile(file, b, 0o644))
		contains(t, ays(t, 0, "verify", "-store", store).stdout, "warning: "+id+": profile: ", "all right but for 1 warnings")
	}
	must(t, os.RemoveAll(store+"/default"))
	contains(t, ays(t, 1, "verify", "-store", store).stdout, "warning: "+id+": profile: ", "1 problems")
}

func TestWarningsGoToStderr(t *testing.T) {
	tree := someTree(t)
	must(t, unix.Mkfifo(tree+"/pipe", 0o644))
	o := ays(t, 1, "publish", "-json", "-allow-warnings", "-store", t.TempDir(), "-id", id, tree)
	contains(t, o.stderr, "level=WARN", "path=pipe")
	var res struct{ Skipped int }
	must(t, json.Unmarshal([]byte(o.stdout), &res))
	if res.Skipped != 1 {
		t.Errorf("got %s", o.stdout)
	}
}

func TestJSON(t *testing.T) {
	tree, store, keys := someTree(t), t.TempDir(), t.TempDir()
	ays(t, 0, "keygen", keys+"/release")
	args := []string{"publish", "-json", "-store", store, "-id", id, "-repoid", "repo", "-domain", "apps", "-key", keys + "/release.key", tree}
	type result struct {
		ID, RepoID, Platform, Domain, Root, Key string
		Unchanged                               bool
		Serial, Files, Dirs, Symlinks, Bytes    int64
		NewBlobs                                int64 `json:"new_blobs"`
		NewBytes                                int64 `json:"new_bytes"`
		Seconds                                 float64
		Time                                    time.Time
	}
	var first, second result
	out := ays(t, 0, args...).stdout
	if strings.Count(out, "\n") != 1 {
		t.Errorf("more than one line: %s", out)
	}
	must(t, json.Unmarshal([]byte(out), &first))
	if first.ID != id || first.RepoID != "repo" || first.Domain != "apps" || first.Key != "release" || first.Serial != 1 ||
		first.Unchanged || first.Files != 2 || first.Dirs != 2 || first.Symlinks != 1 || first.Bytes != 8010 ||
		first.NewBlobs != 4 || first.NewBytes == 0 || first.Seconds <= 0 || len(first.Root) != 64 {
		t.Errorf("got %+v", first)
	}
	must(t, json.Unmarshal([]byte(ays(t, 0, args...).stdout), &second))
	if !second.Unchanged || second.NewBlobs != 0 || second.Root != first.Root || !second.Time.Equal(first.Time) {
		t.Errorf("got %+v", second)
	}
	var trees []struct {
		result
		Keys []string
	}
	must(t, json.Unmarshal([]byte(ays(t, 0, "ls", "-json", "-store", store).stdout), &trees))
	if len(trees) != 1 || trees[0].ID != id || trees[0].RepoID != "repo" || trees[0].Serial != 1 || trees[0].Files != 2 ||
		trees[0].Root != first.Root || len(trees[0].Keys) != 1 || trees[0].Keys[0] != "release" {
		t.Errorf("got %+v", trees)
	}
	contains(t, ays(t, 0, "ls", "-store", store).stdout, "repo/"+id, "apps", "release", "7.8 KiB")
	if out := ays(t, 0, "ls", "-json", "-store", t.TempDir()).stdout; out != "[]\n" {
		t.Errorf("an empty store is %q", out)
	}
}

func TestKeys(t *testing.T) {
	tree, store, keys := someTree(t), t.TempDir(), t.TempDir()
	out := ays(t, 0, "keygen", keys+"/release").stdout
	ays(t, 0, "keygen", keys+"/other")
	info, err := os.Stat(keys + "/release.key")
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the private key has mode %v", info.Mode())
	}
	pub, err := os.ReadFile(keys + "/release.pub")
	must(t, err)
	public := strings.TrimSpace(string(pub))
	contains(t, out, "key = \""+public+"\"", "release.key")

	before, err := os.ReadFile(keys + "/release.key")
	must(t, err)
	contains(t, ays(t, 2, "keygen", keys+"/release").stderr, "already")
	must(t, os.Remove(keys+"/release.pub"))
	ays(t, 2, "keygen", keys+"/release")
	if after, err := os.ReadFile(keys + "/release.key"); err != nil || string(after) != string(before) {
		t.Errorf("the private key changed (%v)", err)
	}
	for _, bad := range []string{"a b", "a+b", "none/x"} {
		ays(t, 2, "keygen", keys+"/"+bad)
	}
	if made, err := filepath.Glob(keys + "/a*"); err != nil || len(made) > 0 {
		t.Errorf("made %v (%v)", made, err)
	}

	ays(t, 0, "publish", "-store", store, "-id", id, "-key", keys+"/release.key", tree)
	ays(t, 0, "verify", "-store", store, "-key", public)
	contains(t, ays(t, 1, "verify", "-store", store, "-key", keys+"/other.pub").stdout, "not signed by the configured key (other)")
	contains(t, ays(t, 2, "publish", "-store", store, "-id", id, "-key", keys+"/other.pub", tree).stderr, "signing key")
}

func TestPrivateStoreOverHTTP(t *testing.T) {
	tree, store := someTree(t), t.TempDir()
	ays(t, 0, "publish", "-store", store, "-id", id, tree)
	files := http.FileServer(http.Dir(store))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if login, secret, _ := r.BasicAuth(); login != "me" || secret != "s3cret " {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer srv.Close()
	secret := t.TempDir() + "/secret"
	must(t, os.WriteFile(secret, []byte("s3cret \n"), 0o600))
	contains(t, ays(t, 0, "verify", "-store", srv.URL, "-login", "me", "-secret-file", secret).stdout, "all right")
	contains(t, ays(t, 0, "ls", "-store", srv.URL+"/", "-login", "me", "-secret-file", secret).stdout, id)
	o := ays(t, 2, "verify", "-store", srv.URL, "-login", "other", "-secret-file", secret)
	if strings.Contains(o.stdout+o.stderr, "s3cret") {
		t.Errorf("the secret is told: %s", o.stderr)
	}
	ays(t, 2, "ls", "-store", srv.URL)
	srv.Close()
	ays(t, 2, "verify", "-store", srv.URL, "-id", id)
}

// Whatever a file's size, a publish takes the same memory.
func TestMemoryIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 10 GiB")
	}
	tree := t.TempDir()
	must(t, os.WriteFile(tree+"/sparse", nil, 0o644))
	must(t, os.Truncate(tree+"/sparse", 10<<30))
	o := ays(t, 0, "publish", "-store", t.TempDir(), "-id", id, tree)
	if kib := o.state.SysUsage().(*syscall.Rusage).Maxrss; kib > 200<<10 {
		t.Errorf("publishing 10 GiB took %d KiB", kib)
	} else {
		t.Logf("%d KiB", kib)
	}
}

func TestInterrupted(t *testing.T) {
	tree, store := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(tree+"/sparse", nil, 0o644))
	must(t, os.Truncate(tree+"/sparse", 64<<30))
	cmd := command("publish", "-store", store, "-id", id, tree)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	must(t, cmd.Start())
	for range 200 {
		if made, _ := filepath.Glob(store + "/default/.tmp/publish-*"); len(made) > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	start := time.Now()
	cmd.Wait()
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it went on for %v", took)
	}
	if code := cmd.ProcessState.ExitCode(); code != 2 {
		t.Errorf("exit code %d", code)
	}
	contains(t, stderr.String(), "interrupted; nothing was published")
	if left, _ := filepath.Glob(store + "/default/.tmp/publish-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// The progress line is for terminals.
func TestProgressOnATerminal(t *testing.T) {
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	defer ptmx.Close()
	must(t, unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	must(t, err)
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	must(t, err)
	tree := t.TempDir()
	must(t, os.WriteFile(tree+"/sparse", nil, 0o644))
	must(t, os.Truncate(tree+"/sparse", 300<<20))
	cmd := command("publish", "-json", "-store", t.TempDir(), "-id", id, tree)
	var stdout strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, tty
	must(t, cmd.Start())
	tty.Close()
	shown, _ := io.ReadAll(ptmx) // ends with EIO when the other end is closed
	must(t, cmd.Wait())
	if !regexp.MustCompile(`\d of 1 files, .* of 300\.0 MiB, .*/s`).Match(shown) {
		t.Errorf("the terminal shows %q", shown)
	}
	if !json.Valid([]byte(stdout.String())) {
		t.Errorf("stdout has %q", stdout.String())
	}
}
