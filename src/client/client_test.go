package client

import (
	"slices"
	"strings"
	"testing"

	"github.com/aysfs/aysfs/src/config"
)

func TestArrange(t *testing.T) {
	var cfgs []config.Mount
	for _, p := range []string{"/opt/app/cfg/deep", "/opt/app", "/opt/app-two", "/opt/app/cfg", "/opt/app/lib", "/srv"} {
		cfgs = append(cfgs, config.Mount{Path: p})
	}
	outer := map[string]string{"/opt/app/cfg": "/opt/app", "/opt/app/cfg/deep": "/opt/app/cfg", "/opt/app/lib": "/opt/app"}
	grafts := map[string][]string{"/opt/app": {"cfg", "lib"}, "/opt/app/cfg": {"deep"}}
	for range 2 {
		seen := make(map[*mount]bool)
		for _, m := range arrange(cfgs) {
			got := ""
			if m.outer != nil {
				got = m.outer.cfg.Path
				if !seen[m.outer] {
					t.Errorf("%s comes before %s that it lies in", m.cfg.Path, got)
				}
			}
			seen[m] = true
			if got != outer[m.cfg.Path] {
				t.Errorf("%s lies in %q, want %q", m.cfg.Path, got, outer[m.cfg.Path])
			}
			if !slices.Equal(m.grafts, grafts[m.cfg.Path]) {
				t.Errorf("%s needs %v, want %v", m.cfg.Path, m.grafts, grafts[m.cfg.Path])
			}
		}
		slices.Reverse(cfgs)
	}
}

func TestDescribe(t *testing.T) {
	cfg, err := config.ParseClient("test", []byte(`
[main]
id = "x"
[[ays.stor]]
name = "s"
url = "https://files.example.org/files"
login = "me"
secret = "hush"
[[mount_config]]
path = "/opt/app/cfg"
remote = "cfg"
ays.id = "d|app!main"
stor.name = "s"
[[mount_files]]
name = "app"
path = "/opt/app"
ays.id = "d|app(1)"
platform = "ubuntu64"
stor.name = "s"
`))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	Describe(&b, cfg)
	for _, want := range []string{"2 mounts", "/opt/app\n", "d|app(1)@ubuntu64 from https://files.example.org/files", "d|app!main directory cfg", "in the mount at /opt/app"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "hush") {
		t.Error("the secret is shown")
	}
}
