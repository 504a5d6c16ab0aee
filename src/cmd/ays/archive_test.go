package main_test

import (
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// archive is a tar archive of a directory, made with the flags.
func archive(t *testing.T, dir string, flags ...string) string {
	t.Helper()
	name := t.TempDir() + "/archive"
	if out, err := exec.Command("tar", append(flags, "--format=pax", "-C", dir, "-cf", name, ".")...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return name
}

func TestPublishArchive(t *testing.T) {
	tree, store := someTree(t), t.TempDir()
	want := publishJSON(t, 0, store, tree)
	for _, flags := range [][]string{nil, {"--gzip"}} {
		name := archive(t, tree, flags...)
		if s := publishJSON(t, 0, store, name); !s.Unchanged || s.Root != want.Root || s.Files != want.Files {
			t.Errorf("%v: got %+v, want %+v", flags, s, want)
		}
		in, err := os.Open(name)
		must(t, err)
		defer in.Close()
		cmd := command("publish", "-store", store, "-id", id, "-")
		cmd.Stdin = in
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "unchanged") {
			t.Errorf("%v: %v: %s", flags, err, out)
		}
		info, err := os.Stat(name)
		must(t, err)
		must(t, os.Truncate(name, info.Size()/2))
		ays(t, 2, "publish", "-store", store, "-id", id, name)
	}
	must(t, os.Mkdir(tree+"/dev", 0o755))
	must(t, syscall.Mknod(tree+"/dev/null", syscall.S_IFCHR|0o644, 1<<8|3))
	name := archive(t, tree)
	contains(t, ays(t, 2, "publish", "-store", store, "-id", id, name).stderr, "path=dev/null kind=device", "nothing was published")
	if s := publishJSON(t, 1, store, "-allow-warnings", name); s.Warnings != 1 || s.Serial != 2 {
		t.Errorf("got %+v", s)
	}
	out, err := exec.Command("tar", "-P", "-cf", name, tree+"/README").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	contains(t, ays(t, 2, "publish", "-store", store, "-id", id, name).stderr, tree+`/README": the name is absolute`, "1 problems in the tree")
	contains(t, ays(t, 2, "publish", "-store", store, "-id", id, "-format", "dir", name).stderr, "not a directory")
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right")
}

// A publish that waits for its input can be stopped.
func TestInterruptedInput(t *testing.T) {
	store := t.TempDir()
	cmd := command("publish", "-store", store, "-id", id, "-")
	in, err := cmd.StdinPipe()
	must(t, err)
	defer in.Close()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	must(t, cmd.Start())
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if made, _ := filepath.Glob(store + "/default/.tmp/publish-*"); len(made) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not start")
		}
	}
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 2 {
		t.Errorf("exit code %d", code)
	}
	contains(t, stderr.String(), "interrupted; nothing was published")
	if left, _ := filepath.Glob(store + "/default/.tmp/publish-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPublishFlist(t *testing.T) {
	store, old := t.TempDir(), t.TempDir()
	must(t, os.Mkdir(old+"/md", 0o755))
	sum := fmt.Sprintf("%x", md5.Sum([]byte("#!/bin/sh\n")))
	dir := filepath.Join(old, "files", sum[:2], sum[2:4])
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(dir+"/"+sum, []byte("#!/bin/sh\n"), 0o644))
	list := old + "/md/mongodb.flist"
	must(t, os.WriteFile(list, []byte("/bin/mongod|"+sum+"|10\n"), 0o644))
	if s := publishJSON(t, 0, store, list); s.Files != 1 || s.Dirs != 2 {
		t.Errorf("got %+v", s)
	}
	if s := publishJSON(t, 0, store, "-files", old+"/files", list); !s.Unchanged {
		t.Errorf("got %+v", s)
	}
	must(t, os.Remove(dir+"/"+sum))
	contains(t, ays(t, 2, "publish", "-store", store, "-id", id, list).stderr, `"bin/mongod": there is no file `, sum[:2]+"/"+sum[2:4]+"/"+sum, "nothing was published")
}

// An image whose second layer hides what the first has, as a directory and as an
// archive of that.
func TestPublishImage(t *testing.T) {
	tree, store, layout := someTree(t), t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(layout+"/blobs/sha256", 0o755))
	blob := func(content []byte) (desc string) {
		sum := fmt.Sprintf("%x", sha256.Sum256(content))
		must(t, os.WriteFile(layout+"/blobs/sha256/"+sum, content, 0o644))
		return fmt.Sprintf(`"digest":"sha256:%s","size":%d`, sum, len(content))
	}
	layer := func(dir string, flags ...string) string {
		b, err := os.ReadFile(archive(t, dir, flags...))
		must(t, err)
		return `{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",` + blob(b) + `}`
	}
	second := t.TempDir()
	must(t, os.WriteFile(second+"/.wh.README", nil, 0o644))
	must(t, os.WriteFile(second+"/new", []byte("new"), 0o644))
	config := blob([]byte(`{"os":"linux","architecture":"amd64"}`))
	manifest := blob([]byte(`{"schemaVersion":2,"config":{` + config + `},"layers":[` + layer(tree, "--gzip") + `,` + layer(second) + `]}`))
	index := `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",` + manifest + `}]}`
	must(t, os.WriteFile(layout+"/index.json", []byte(index), 0o644))
	must(t, os.WriteFile(layout+"/oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))

	s := publishJSON(t, 0, store, "-platform", "linux-amd64", layout)
	if s.Files != 2 || s.Dirs != 2 || s.Symlinks != 1 {
		t.Errorf("got %+v", s)
	}
	name := archive(t, layout)
	if s := publishJSON(t, 0, store, "-platform", "linux-amd64", name); !s.Unchanged {
		t.Errorf("got %+v", s)
	}
	contains(t, ays(t, 2, "publish", "-store", store, "-id", id, "-platform", "linux-arm64", name).stderr, "no image for platform linux-arm64", "linux/amd64")
	contains(t, ays(t, 2, "publish", "-store", store, "-id", id, "-image", "v2", layout).stderr, `no image "v2"`)
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right")
	if s := publishJSON(t, 0, store, "-format", "tar", name); s.Files != 6 {
		t.Errorf("as it is, got %+v", s)
	}
}
