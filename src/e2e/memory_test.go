package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/bench/bulk"
	"github.com/aysfs/aysfs/src/object"
)

// TestMemoryOfManyInodes has the kernel hold hundreds of thousands of inodes, and
// forget most of them.
func TestMemoryOfManyInodes(t *testing.T) {
	const (
		memory   = 64 << 20 // the default
		perInode = 100
		kept     = 1000 // directories and files of which somebody holds the like of one
	)
	shape := bulk.Shape{Dirs: 300, Files: 1000}
	files := shape.Dirs * shape.Files
	dir := shortDir(t)
	if err := bulk.Publish(dir, object.TreeName{ID: "e2e|many(1)"}, shape); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, "file://"+dir)
	mount := c.mount("e2e|many(1)")
	c.start()
	inodes := func() int { return c.status().Mounts[0].Inodes }

	found := run(t, 3*time.Minute, "find", mount, "-type", "f", "-size", "1000c", "-printf", "x")
	if len(found) != files {
		t.Fatalf("find sees %d files of the right size, want %d", len(found), files)
	}
	held := inodes()
	if held < files/2 {
		t.Skipf("the kernel holds %d inodes only: this machine has too little memory", held)
	}
	walked := residentOf(t, c.proc.Process.Pid)
	t.Logf("%d inodes: %v", held, walked)
	if most := memory + int64(perInode*held); walked.total() > most {
		t.Errorf("%d inodes take %v, want at most %d", held, walked, most)
	}

	// Somebody keeps a few files open, far from each other.
	for d := 0; d < shape.Dirs; d += shape.Dirs / 100 {
		openFile(t, filepath.Join(mount, bulk.Dir(d), bulk.File(d)))
	}
	mustWrite(t, "/proc/sys/vm/drop_caches", []byte("2"), 0)
	var rest resident
	eventually(t, 30*time.Second, "the kernel forgets, and the memory is given back", func() bool {
		held := inodes()
		rest = residentOf(t, c.proc.Process.Pid)
		return held < kept && walked.total()-rest.total() > int64(files)*80
	})
	t.Logf("%d inodes: %v", inodes(), rest)
	if got, err := os.ReadFile(filepath.Join(mount, bulk.Dir(7), bulk.File(7))); err != nil || string(got) != string(bulk.Content(7)) {
		t.Errorf("read a file afterwards: %d bytes, %v", len(got), err)
	}
	c.stop()
}

// resident is the memory that a process has, in bytes, by proc_pid_status(5).
type resident struct{ anon, file, shmem int64 }

func (r resident) total() int64 { return r.anon + r.file + r.shmem }

func (r resident) String() string {
	return fmt.Sprintf("%d bytes: %d of its own, %d of files, %d shared", r.total(), r.anon, r.file, r.shmem)
}

func residentOf(t *testing.T, pid int) (r resident) {
	t.Helper()
	b := mustRead(t, fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		if n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64); err == nil {
			switch key {
			case "RssAnon":
				r.anon = n << 10
			case "RssFile":
				r.file = n << 10
			case "RssShmem":
				r.shmem = n << 10
			}
		}
	}
	return r
}
