package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// summary is what publish -json prints, as far as tests look at it.
type summary struct {
	Unchanged                               bool
	Serial, Files, Dirs, Symlinks, Warnings int64
	Read                                    int64 `json:"read_files"`
	NewBlobs                                int64 `json:"new_blobs"`
	NewBytes                                int64 `json:"new_bytes"`
	Root, Key                               string
}

// publishJSON publishes with -json to a store and checks the exit code.
func publishJSON(t *testing.T, code int, store string, args ...string) summary {
	t.Helper()
	var s summary
	o := ays(t, code, append([]string{"publish", "-json", "-store", store, "-id", id}, args...)...)
	if err := json.Unmarshal([]byte(o.stdout), &s); err != nil {
		t.Fatalf("%v in %q; stderr %q", err, o.stdout, o.stderr)
	}
	return s
}

// deepTree makes directories below root, whose path relative to it is longer
// than the system takes at once, with a file in the last.
func deepTree(t *testing.T, root string) {
	t.Helper()
	at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	name := strings.Repeat("d", 200)
	for range 22 { // 22*201 bytes
		must(t, unix.Mkdirat(at, name, 0o755))
		next, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		must(t, err)
		unix.Close(at)
		at = next
	}
	fd, err := unix.Openat(at, "file", unix.O_CREAT|unix.O_WRONLY, 0o644)
	must(t, err)
	_, err = unix.Write(fd, []byte("deep\n"))
	must(t, err)
	unix.Close(fd)
	must(t, unix.Symlinkat("file", at, "link"))
	unix.Close(at)
}

// All that is odd and yet can be published is, with exit code 0.
func TestOddTree(t *testing.T) {
	tree, store := t.TempDir(), t.TempDir()
	deepTree(t, tree)
	for _, name := range []string{"new\nline", "not\xffutf8", strings.Repeat("n", 255), ".hidden", "-rf", "empty"} {
		must(t, os.WriteFile(tree+"/"+name, []byte(name), 0o644))
	}
	must(t, os.Truncate(tree+"/empty", 0))
	must(t, os.Mkdir(tree+"/empty-dir", 0o755))
	must(t, os.Symlink("b", tree+"/a"))
	must(t, os.Symlink("a", tree+"/b"))
	must(t, os.Symlink("/etc/passwd", tree+"/absolute"))
	must(t, os.Symlink("no/where", tree+"/dangling"))
	must(t, os.Link(tree+"/-rf", tree+"/hard-link"))
	s := publishJSON(t, 0, store, tree)
	if s.Files != 8 || s.Dirs != 24 || s.Symlinks != 5 || s.Warnings != 0 {
		t.Errorf("got %+v", s)
	}
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right")
}

// What can't be published as it is is named; whether the rest is published is
// the publisher's to say.
func TestWarnings(t *testing.T) {
	tree, store := someTree(t), t.TempDir()+"/store"
	must(t, unix.Mkfifo(tree+"/pi\npe", 0o644))
	must(t, unix.Mknod(tree+"/null", unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))))
	must(t, os.Chmod(tree+"/bin/mongod", 0o755|os.ModeSetuid))
	o := ays(t, 2, "publish", "-store", store, "-id", id, tree)
	contains(t, o.stderr, `path="pi\npe" kind=pipe`, "path=null kind=device", "path=bin/mongod mode=4755", "3 warnings; nothing was published", "-allow-warnings")
	if heads, _ := filepath.Glob(store + "/md/*/*/head"); len(heads) > 0 {
		t.Fatalf("there is a head: %v", heads)
	}
	for range 2 {
		if s := publishJSON(t, 1, store, "-allow-warnings", tree); s.Warnings != 3 || s.Files != 2 || s.Serial != 1 {
			t.Errorf("got %+v", s)
		}
	}
	if s := publishJSON(t, 1, store, "-allow-warnings", "-keep-setuid", tree); s.Warnings != 2 || s.Serial != 2 {
		t.Errorf("got %+v", s)
	}
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right")
}

func TestOtherFileSystemInside(t *testing.T) {
	tree, store := someTree(t), t.TempDir()
	must(t, os.Mkdir(tree+"/mnt", 0o700))
	must(t, unix.Mount("tmpfs", tree+"/mnt", "tmpfs", 0, "size=1m,mode=755"))
	t.Cleanup(func() { must(t, unix.Unmount(tree+"/mnt", 0)) })
	must(t, os.WriteFile(tree+"/mnt/other", []byte("other"), 0o644))
	if s := publishJSON(t, 0, store, tree); s.Files != 3 || s.Dirs != 3 {
		t.Errorf("got %+v", s)
	}
	if s := publishJSON(t, 0, store, "-xdev", tree); s.Files != 2 || s.Dirs != 3 {
		t.Errorf("with -xdev, got %+v", s)
	}
	contains(t, ays(t, 0, "publish", "-store", store, "-id", id, "-xdev", tree).stderr, "path=mnt", "another file system")
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right")
}

func TestManyEntriesInOneDirectory(t *testing.T) {
	const n = 100_000
	tree, store := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(tree+"/0", []byte("the same in all"), 0o644))
	for i := 1; i < n; i++ {
		// Links are faster made than files, and may not be as many as that.
		if i%50_000 == 0 {
			must(t, os.WriteFile(fmt.Sprintf("%s/%d", tree, i), []byte("the same in all"), 0o644))
			continue
		}
		must(t, os.Link(fmt.Sprintf("%s/%d", tree, i/50_000*50_000), fmt.Sprintf("%s/%d", tree, i)))
	}
	if s := publishJSON(t, 0, store, tree); s.Files != n {
		t.Errorf("got %+v", s)
	}
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right", fmt.Sprint(n))
}

// A file that does not stand still is named, and nothing is published.
func TestFileThatGrows(t *testing.T) {
	tree, store := manyFiles(t, 3), t.TempDir()
	f, err := os.OpenFile(tree+"/log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	must(t, err)
	defer f.Close()
	_, err = f.Write(make([]byte, 20<<20))
	must(t, err)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				f.WriteString("one more line\n")
			}
		}
	}()
	o := ays(t, 2, "publish", "-store", store, "-id", id, tree)
	close(stop)
	<-stopped
	contains(t, o.stderr, `"log": changed while it was read`, "1 problems", "nothing was published")
	if s := publishJSON(t, 0, store, tree); s.Files != 5 || s.Serial != 1 {
		t.Errorf("once it stands still: %+v", s)
	}
}
