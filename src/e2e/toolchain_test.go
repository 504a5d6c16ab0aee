package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestToolchain publishes a tree that people really use, compares and uses it,
// and does so again with the network gone.
func TestToolchain(t *testing.T) {
	goroot := strings.TrimSpace(run(t, time.Minute, "go", "env", "GOROOT"))
	store := newStore(t, "e2e|go(1)", goroot, "-platform", runtime.GOOS+"-"+runtime.GOARCH)
	c := newClient(t, store.url())
	c.main = `io_timeout = "5s"`
	mount := c.mount("e2e|go(1)", `platform = "`+runtime.GOOS+"-"+runtime.GOARCH+`"`)
	c.start()

	// Where it comes from does not show in a program, so what was compiled
	// before on the local disk may be used there.
	want := compileWith(t, goroot, "")
	if got := compileWith(t, mount, "GOCACHE="+t.TempDir()); !bytes.Equal(got, want) {
		t.Error("a program compiled on the mount is another one than compiled on the local disk")
	}
	sameTree(t, goroot, mount)
	c.settled()
	c.stop()

	store.down()
	c.start()
	sameTree(t, goroot, mount)
	c.stop()
}

// compileWith compiles a part of the toolchain with itself.
func compileWith(t *testing.T, goroot, env string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "gofmt")
	cmd := exec.Command(filepath.Join(goroot, "bin/go"), "build", "-trimpath", "-o", out, "cmd/gofmt")
	cmd.Dir = filepath.Join(goroot, "src")
	cmd.Env = append(os.Environ(), env, "GOROOT="+goroot, "GOTOOLCHAIN=local", "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if msg, err := try(t, 3*time.Minute, cmd); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, msg)
	}
	b := mustRead(t, out)
	return b
}
