package rootfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPath(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"usr/share", "etc", "var", "run"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"etc/absolute": "/usr/share",
		"etc/relative": "../usr/share",
		"etc/out":      "../../../../../../etc",
		"etc/twice":    "/etc/absolute/x",
		"etc/dangling": "/no/such/place",
		"var/run":      "/run",
		"etc/loop":     "loop",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/":                       "/",
		"/etc/file":               "/etc/file",
		"etc//./file":             "/etc/file",
		"/etc/absolute/a":         "/usr/share/a",
		"/etc/relative/a":         "/usr/share/a",
		"/etc/twice":              "/usr/share/x",
		"/etc/out/passwd":         "/etc/passwd",
		"/../../../etc/passwd":    "/etc/passwd",
		"/etc/dangling/a":         "/no/such/place/a",
		"/var/run/aysfs.sock":     "/run/aysfs.sock",
		"/not/there/yet":          "/not/there/yet",
		"/etc/file/below":         "/etc/file/below",
		"/etc/absolute/../x":      "/usr/x", // as the kernel has it
		"/etc/relative/../../etc": "/etc",
	} {
		if got, err := Path(root, path); err != nil || got != filepath.Join(root, want) {
			t.Errorf("%s: %s, %v; want %s in the image", path, got, err, want)
		}
	}
	if got, err := Path(root, "/etc/loop/x"); err == nil || !strings.Contains(err.Error(), "too many symlinks") {
		t.Errorf("a loop: %s, %v", got, err)
	}
}
