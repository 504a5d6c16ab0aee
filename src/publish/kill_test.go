package publish_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// A publish is killed at random moments. Each time the head must be whole, the
// old one or the new, all that it reaches must be there, and no final name may
// stand for anything but its content.
func TestKilledPublish(t *testing.T) {
	const kills, files = 20, 60
	root := makeTree(t, nil)
	store := t.TempDir()
	for i := range files {
		must(t, os.WriteFile(fmt.Sprintf("%s/f%d", root, i), []byte(noise(uint64(i), 2000)), 0o644))
	}
	child := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		// The race detector would sleep for a second at the end, and be killed
		// asleep.
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", childEnv+"="+store, childRoot+"="+root)
		cmd.Stderr = os.Stderr
		return cmd
	}
	start := time.Now()
	must(t, child().Run())
	takes := time.Since(start)

	head := filepath.Join(store, "md", testID, "any/head")
	codec, err := object.NewCodec(2)
	must(t, err)
	checked := map[string]bool{}
	cut := 0 // publishes that the kill came in the way of
	var serial int64 = 1
	for round := range kills {
		for i := range files {
			content := noise(uint64(1000+round*files+i), 2000)
			must(t, os.WriteFile(fmt.Sprintf("%s/f%d", root, i), []byte(content), 0o644))
		}
		must(t, os.WriteFile(root+"/large", []byte(noise(uint64(round), 9<<17)), 0o644))
		cmd := child()
		must(t, cmd.Start())
		time.Sleep(rand.N(takes))
		must(t, cmd.Process.Signal(syscall.SIGKILL))
		// What the machine does besides changes how long one takes.
		if err := cmd.Wait(); err != nil {
			cut++
			takes += takes / 8
		} else {
			takes -= takes / 4
		}

		h, err := object.OpenHead([]byte(readFile(t, head)), nil)
		must(t, err)
		if h.Serial != serial && h.Serial != serial+1 {
			t.Errorf("serial %d after %d", h.Serial, serial)
		}
		serial = h.Serial
		mustBeClean(t, store)
		for _, path := range blobPaths(t, store) {
			if checked[path] {
				continue
			}
			checked[path] = true
			stored := readFile(t, filepath.Join(store, path))
			if _, err := codec.Unpack(parseDigest(t, filepath.Base(path)), []byte(stored), 1<<20); errors.Is(err, digest.ErrMismatch) {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	t.Logf("%d of %d publishes were cut off; one takes %v", cut, kills, takes)
	if cut < kills/4 {
		t.Errorf("only %d of %d publishes were cut off: this shows nothing", cut, kills)
	}
	must(t, child().Run())
	p := readBack(t, store)
	for path, content := range p.content {
		if want := readFile(t, filepath.Join(root, path)); content != want {
			t.Errorf("%q: published content differs", path)
		}
	}
	if len(p.content) != files+1 {
		t.Errorf("%d files published", len(p.content))
	}
	mustBeClean(t, store)
	mustHaveNoTemp(t, store)
	if left, err := filepath.Glob(store + "/md/*/*/.head.tmp"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

// What a publish that is alive has not finished is nobody else's to remove.
func TestTemporaryFilesOfTheLivingStay(t *testing.T) {
	store := t.TempDir()
	tmp := filepath.Join(store, "default/.tmp")
	alive, dead := filepath.Join(tmp, "publish-1"), filepath.Join(tmp, "publish-2")
	for _, dir := range []string{alive, dead} {
		must(t, os.MkdirAll(dir, 0o755))
		must(t, os.WriteFile(dir+"/blob", []byte("half a bl"), 0o644))
	}
	lock, err := os.Create(alive + "/lock")
	must(t, err)
	defer lock.Close()
	must(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	run(t, store, makeTree(t, map[string]string{"a": "0"}))
	if _, err := os.Stat(alive + "/blob"); err != nil {
		t.Errorf("a living publish's file: %v", err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dead publish's directory is still there (%v)", err)
	}
}
