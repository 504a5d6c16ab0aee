package main_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Publish and gc are killed side by side, at random moments. After each round
// all that the heads reach is there; at the end a gc leaves nothing else.
func TestKilledPublishAndGC(t *testing.T) {
	const rounds, most, enough, files = 200, 600, 10, 40
	tree, store := t.TempDir(), t.TempDir()
	write := func(round int) {
		for f := range files {
			// Content that comes and goes, so that publishes rely on what gc is about
			// to remove.
			content := fmt.Sprint("content ", (round*7+f)%(2*files), " of many")
			must(t, os.WriteFile(fmt.Sprintf("%s/%d", tree, f), []byte(content), 0o644))
		}
	}
	write(0)
	publish := []string{"publish", "-store", store, "-id", id, tree}
	gc := []string{"gc", "-store", store, "-keep", "2"}
	start := time.Now()
	ays(t, 0, publish...)
	ays(t, 0, gc...)
	takes := time.Since(start)
	killed, round := 0, 1
	for ; round <= rounds || killed < enough && round <= most; round++ {
		write(round)
		a, b := command(publish...), command(gc...)
		must(t, a.Start())
		time.Sleep(rand.N(takes / 4))
		must(t, b.Start())
		time.Sleep(rand.N(takes / 2))
		must(t, a.Process.Signal(syscall.SIGKILL))
		must(t, b.Process.Signal(syscall.SIGKILL))
		before := killed
		for _, cmd := range []interface{ Wait() error }{a, b} {
			if cmd.Wait() != nil {
				killed++
			}
		}
		if killed == before {
			takes = max(takes*9/10, time.Millisecond) // it was slower when it was measured
		}
		ays(t, 0, "verify", "-store", store)
	}
	t.Logf("%d were cut off in %d rounds; one publish with a gc takes %v", killed, round, takes)
	if killed < enough {
		t.Errorf("only %d were cut off: this shows nothing", killed)
	}
	// All heads are whole, not the newest alone: gc would say so.
	var res struct {
		Blobs, Heads, Removed, Young int64
	}
	must(t, json.Unmarshal([]byte(ays(t, 0, "gc", "-json", "-store", store, "-keep", "2").stdout), &res))
	ays(t, 0, "verify", "-store", store)
	blobs, err := filepath.Glob(store + "/default/????????*")
	must(t, err)
	if int64(len(blobs)) != res.Blobs || res.Young != 0 {
		t.Errorf("%d blobs are left, of which heads reach %d; %+v", len(blobs), res.Blobs, res)
	}
	if left, _ := filepath.Glob(store + "/default/.tmp/*-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if left, _ := filepath.Glob(store + "/md/*/*/.head.tmp"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestGCFlags(t *testing.T) {
	store := t.TempDir()
	threeSerials(t, store)
	contains(t, ays(t, 0, "gc", "-store", store, "-keep-within", "30d", "-dry-run").stdout, "kept    3 heads of 1 trees", "would remove 0 heads")
	contains(t, ays(t, 0, "gc", "-store", store, "-keep", "2").stdout, "kept    2 heads", "removed 1 heads")
	contains(t, ays(t, 0, "gc", "-store", store, "-keep-within", "1ns").stdout, "kept    1 heads", "removed 1 heads")
	contains(t, ays(t, 2, "gc", "-store", store, "-keep-within", "soon").stderr, "keep-within")
	contains(t, ays(t, 2, "gc").stderr, "-store")
	contains(t, ays(t, 2, "gc", "-store", t.TempDir()).stderr, "no store that was published to")
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right")
}
