package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const goodConfig = `[main]
id = "me"
control = "%[1]s/control"
[cache.disk]
path = "%[1]s/cache"
[[ays.stor]]
name = "s"
url = "http://127.0.0.1:1"
[[mount_files]]
name = "m"
path = "%[1]s/mnt"
ays.id = "e2e|app(1)"
stor.name = "s"
`

// TestWrongConfigs is about what a person sees; src/config tests the rest.
func TestWrongConfigs(t *testing.T) {
	for name, c := range map[string]struct{ more, want string }{
		"unknown key":        {"colour = \"red\"\n", "14: mount_files.colour: unknown key"},
		"wrong type":         {"prefetch = \"all\"\n", "14: mount_files.prefetch: "},
		"duplicate path":     {"[[mount_config]]\npath = \"%[1]s/mnt\"\nays.id = \"e2e|app!1\"\nstor.name = \"s\"\n", "15: mount_config.path: "},
		"unknown store":      {"[[mount_config]]\npath = \"/x\"\nays.id = \"e2e|app!1\"\nstor.name = \"t\"\n", "17: mount_config.stor.name: "},
		"bad id":             {"[[mount_config]]\npath = \"/x\"\nays.id = \"app\"\nstor.name = \"s\"\n", "16: mount_config.ays.id: "},
		"unquoted value":     {"platform = ubuntu64\n", "14: mount_files.platform: "},
		"backslash in \"\"":  {"debug_filter = [\".*\\.py\"]\n", "14: mount_files.debug_filter: "},
		"private key as key": {"[[ays.stor]]\nname = \"t\"\nurl = \"http://x\"\nkey = \"PRIVATE+KEY+x\"\n", "17: ays.stor.key: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			file := filepath.Join(dir, "aysfs.toml")
			mustWrite(t, file, fmt.Appendf(nil, goodConfig+c.more, dir), 0o644)
			for _, args := range [][]string{{"-check"}, {}} {
				out, err := try(t, 10*time.Second, exec.Command(aysfs, append(args, "-config", file)...))
				if code := exitCode(err); code != 2 || !strings.HasPrefix(out, file+":"+c.want) || strings.Count(out, "\n") != 1 {
					t.Errorf("exit %d, want 2 and %s:%s…\n%s", code, file, c.want, out)
				}
			}
			if left := mountsUnder(dir); len(left) != 0 {
				t.Errorf("mounted: %q", left)
			}
		})
	}
}

func exitCode(err error) int {
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

func TestCheckTellsWhatWouldBeMounted(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	file := filepath.Join(dir, "aysfs.toml")
	mustWrite(t, file, fmt.Appendf(nil, goodConfig, dir), 0o644)
	out := run(t, 10*time.Second, aysfs, "-check", "-config", file)
	for _, want := range []string{dir + "/mnt", "e2e|app(1)", "http://127.0.0.1:1", dir + "/cache"} {
		if !strings.Contains(out, want) {
			t.Errorf("does not tell %s:\n%s", want, out)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("-check made something: %v, %v", entries, err)
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	if out := run(t, 10*time.Second, aysfs, "-version"); !strings.HasPrefix(out, "aysfs e2e (") {
		t.Errorf("got %q", out)
	}
	for _, args := range [][]string{{"-no-such-flag"}, {"an argument"}, {"-config", "/no/such/file"}} {
		out, err := try(t, 10*time.Second, exec.Command(aysfs, args...))
		if exitCode(err) != 2 || out == "" {
			t.Errorf("aysfs %q: %v, %q, want exit 2 and a message", args, err, out)
		}
	}
}
