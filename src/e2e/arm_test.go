//go:build appliance

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestArm has the programs for small machines do their work in an emulator of the
// processor that is meant: a tree is fetched over HTTP by way of an ays_cache, read
// whole, and read again with no network; another is published and verified.
func TestArm(t *testing.T) {
	for _, p := range []struct {
		name string
		env  []string
		emu  string
	}{
		{"v6", []string{"GOARCH=arm", "GOARM=6"}, "qemu-arm-static -cpu arm1176"},
		{"v7", []string{"GOARCH=arm", "GOARM=7"}, "qemu-arm-static -cpu cortex-a7"},
		{"arm64", []string{"GOARCH=arm64"}, "qemu-aarch64-static -cpu cortex-a53"},
	} {
		t.Run(p.name, func(t *testing.T) {
			dir := shortDir(t)
			cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -X main.version=e2e", "-o", dir+"/bin/",
				"../cmd/aysfs", "../cmd/ays", "../cmd/ays_cache")
			cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), p.env...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			program := func(name string) string {
				script := filepath.Join(dir, name)
				text := fmt.Sprintf("#!/bin/sh\nexec %s %s/bin/%s \"$@\"\n", p.emu, dir, name)
				mustWrite(t, script, []byte(text), 0o755)
				return script
			}
			onArm(t, program("aysfs"), program("ays"), program("ays_cache"))
		})
	}
}

func onArm(t *testing.T, aysfs, ays, aysCache string) {
	tree := shortDir(t)
	nodes := map[string]node{
		"empty": file(0), "page": file(4096), "one-blob": file(1 << 20), "large": file(9<<20 + 5),
		"bin/tool":    {mode: 0o755, data: noise(70_000, 1)},
		"link":        {mode: os.ModeSymlink | 0o777, target: "bin/tool"},
		"a/b/c/d/e/f": file(100),
	}
	for i := range 300 {
		nodes[fmt.Sprintf("many/%d/file-%d", i%7, i)] = file(i * 37)
	}
	write(t, tree, nodes)

	store := shortDir(t)
	run(t, 3*time.Minute, ays, "publish", "-store", store, "-id", "e2e|app(1)", tree)
	run(t, 3*time.Minute, ays, "verify", "-store", store)
	again := run(t, 3*time.Minute, ays, "publish", "-store", store, "-id", "e2e|app(1)", tree)
	if !strings.Contains(again, "unchanged") {
		t.Errorf("published anew:\n%s", again)
	}
	origin := serveStore(t, store)

	cache := newGridCache(t)
	cache.program = aysCache
	cache.ledis = "max_size = \"1GiB\"\nmin_free = \"1%\""
	cache.start()

	c, mount := appClient(t, origin.url())
	c.program = aysfs
	c.disk = cache.config()
	c.start()
	sameTree(t, tree, mount)
	c.settled()
	c.stop()
	if origin.blobs.Load() == 0 {
		t.Error("the store was asked for nothing")
	}

	origin.down()
	cache.kill()
	c.start()
	sameTree(t, tree, mount)
	c.stop()
}
