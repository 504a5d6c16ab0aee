package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestInitScript does with the init script what operators do, under the shells
// of Debian and of busybox.
func TestInitScript(t *testing.T) {
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	mustWrite(t, filepath.Join(tree, "file"), []byte("hello\n"), 0o644)
	s := newStore(t, "d|t(1)", tree)
	for _, shell := range []string{"dash", "busybox sh"} {
		t.Run(shell, func(t *testing.T) {
			c := newClient(t, s.url())
			c.main = `io_timeout = "2s"`
			c.mount("d|t(1)", `wait = "2s"`)
			c.writeConfig()
			script, err := filepath.Abs("testdata/init.sh")
			if err != nil {
				t.Fatal(err)
			}
			// In a process namespace nothing outlives the script.
			cmd := exec.Command("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
				"sh", script, shell, c.dir, top, c.program)
			out, err := try(t, time.Minute, cmd)
			if err != nil || !strings.HasSuffix(out, "all well\n") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
