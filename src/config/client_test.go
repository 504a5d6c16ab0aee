package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSample(t *testing.T) {
	sample, err := os.ReadFile("testdata/aysfs.toml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := LoadClient("testdata/aysfs.toml")
	if err != nil {
		t.Fatal(err)
	}
	want := Main{
		ID: "aUniqueIdForThisClient", Refresh: time.Minute, IOTimeout: 30 * time.Second, Memory: 64 << 20,
		Control: "/run/aysfs/aysfs.sock", Log: "text", LogLevel: slog.LevelInfo, LogFile: "/var/log/aysfs.log",
	}
	if c.Main != want {
		t.Errorf("main: got %+v, want %+v", c.Main, want)
	}
	if want := (Disk{"/var/cache/aysfs", 10 << 30, MinFree{Percent: 5}, 48 * time.Hour}); *c.Disk != want {
		t.Errorf("disk: got %+v, want %+v", *c.Disk, want)
	}
	if want := []Local{{Port: 999, Expiration: 48 * time.Hour}}; !reflect.DeepEqual(c.Local, want) {
		t.Errorf("local: got %+v, want %+v", c.Local, want)
	}
	if len(c.Grid) != 2 || c.Grid[0].URL.String() != "http://192.168.2.1:8080" || c.Grid[1].URL.Host != "192.168.2.2:8080" {
		t.Errorf("grid: got %+v", c.Grid)
	}
	if len(c.Stores) != 2 {
		t.Fatalf("stores: got %+v", c.Stores)
	}
	s := c.Stores[1]
	if s.Name != "customerx" || s.URL.String() != "https://files.ovc.aydo.com:8080/custx" || s.Login != "custx" ||
		s.Secret.Reveal() != "1234" || s.Keys != nil || s.CA != "" || s.Expiration != 0 {
		t.Errorf("store: got %+v", s)
	}
	if len(c.Mounts) != 2 {
		t.Fatalf("mounts: got %+v", c.Mounts)
	}
	m := c.Mounts[0]
	if len(m.DebugFilter) != 2 || !m.DebugFilter[0].MatchString("a/b.py") || m.DebugFilter[0].MatchString("a/b.pyc") {
		t.Errorf("debug_filter: got %v", m.DebugFilter)
	}
	m.DebugFilter = nil
	files := Mount{
		Name: "mongodb", Path: "/opt/jumpscale7/apps/mongodb", Platform: "ubuntu64", ID: "jumpscale|mongodb(10.1.888)",
		Store: "jumpscale", Debug: "kdsdebug", Redis: &c.Debug[0], Prefetch: 1, Wait: 30 * time.Second, Line: lineOf(sample, "[[mount_files]]"),
	}
	if !reflect.DeepEqual(m, files) {
		t.Errorf("mount_files: got %+v, want %+v", m, files)
	}
	conf := Mount{
		Name: "opt-jumpscale7-apps-mongodb-cfg", Path: "/opt/jumpscale7/apps/mongodb/cfg", Remote: "cfg",
		ID: "jumpscale|mongodb!main", RepoID: "1SdY294", Store: "customerx", Prefetch: 1, Wait: 30 * time.Second, Config: true,
		Line: lineOf(sample, "[[mount_config]]"),
	}
	if !reflect.DeepEqual(c.Mounts[1], conf) {
		t.Errorf("mount_config: got %+v, want %+v", c.Mounts[1], conf)
	}
	if want := []Debug{{Name: "kdsdebug", Addr: "127.0.0.1", Port: 555, MaxSize: 64 << 20}}; !reflect.DeepEqual(c.Debug, want) {
		t.Errorf("debug: got %+v, want %+v", c.Debug, want)
	}
}

func lineOf(text []byte, s string) int {
	before, _, _ := strings.Cut(string(text), s)
	return 1 + strings.Count(before, "\n")
}

// minimal has all that is needed, and so shows the defaults.
const minimal = `[main]
id = "me"
[[ays.stor]]
name = "s"
url = "http://h"
[[mount_files]]
name = "m"
path = "/opt/m"
ays.id = "d|n(1)"
stor.name = "s"
`

func TestDefaults(t *testing.T) {
	sample, err := LoadClient("testdata/aysfs.toml")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"plain":         minimal,
		"CRLF":          strings.ReplaceAll(minimal, "\n", "\r\n"),
		"BOM":           "\ufeff" + minimal,
		"no last line":  strings.TrimSuffix(minimal, "\n"),
		"inline tables": `main = {id = "me"}` + "\n" + `ays.stor = [{name = "s", url = "http://h/"}]` + "\n" + `mount_files = [{name = "m", path = "/opt/m", ays = {id = "d|n(1)"}, "stor"."name" = 's'}]`,
	} {
		c, err := ParseClient("f", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		main := sample.Main
		main.ID = "me"
		if c.Main != main {
			t.Errorf("%s: main: got %+v, want %+v", name, c.Main, main)
		}
		if *c.Disk != *sample.Disk {
			t.Errorf("%s: disk: got %+v, want %+v", name, c.Disk, sample.Disk)
		}
		if c.Seed != (Seed{Path: DefaultSeed}) || sample.Seed.Path != DefaultSeed || !sample.Seed.Named {
			t.Errorf("%s: seed: got %+v, sample %+v", name, c.Seed, sample.Seed)
		}
		if c.Local != nil || c.Grid != nil || c.Debug != nil || c.Stores[0].URL.String() != "http://h" {
			t.Errorf("%s: got %+v", name, c)
		}
		if m := c.Mounts[0]; m.Prefetch != 1 || m.Wait != 30*time.Second || m.Domain != "" || m.ID != "d|n(1)" || m.Store != "s" {
			t.Errorf("%s: mount: got %+v", name, m)
		}
	}
}

func TestValues(t *testing.T) {
	c, err := ParseClient("f", []byte(strings.Replace(minimal, `"me"`, "\"me\"\nrefresh = \"0\"\nlog_level = \"warn\"", 1)+`prefetch = 0
wait = "0"
[cache.disk]
max_size = "0"
[[cache.local]]
[[cache.local]]
port = 1
expiration = 0
[[mount_config]]
path = "/opt/my-app/cfg"
ays.id = "d|n!i"
stor.name = "s"
`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Main.Refresh != 0 || c.Main.LogLevel != slog.LevelWarn {
		t.Errorf("main: got %+v", c.Main)
	}
	if c.Disk != nil {
		t.Errorf("disk: got %+v, want none", c.Disk)
	}
	if want := []Local{{Port: 1}}; !reflect.DeepEqual(c.Local, want) {
		t.Errorf("local: got %+v, want %+v", c.Local, want)
	}
	if w := c.Mounts[0].Wait; w != 0 {
		t.Errorf("wait: got %v", w)
	}
	if c.Mounts[0].Prefetch != 0 {
		t.Errorf("prefetch: got %d", c.Mounts[0].Prefetch)
	}
	if got := c.Mounts[1].Name; !strings.HasPrefix(got, "opt-my-app-cfg-") || len(got) != len("opt-my-app-cfg-")+8 {
		t.Errorf("name of a path with a dash: got %q", got)
	}
}

func TestMadeNamesDiffer(t *testing.T) {
	seen := map[string]string{}
	long := "/" + strings.Repeat("x", 200)
	for _, p := range []string{"/a/b", "/a-b", "/a b", "/a", "/ä", "/ö", long, long + "y", "/a/b-c", "/a-b/c"} {
		got := nameOf(p)
		if _, err := parseName(got); err != nil {
			t.Errorf("%s: %v", p, err)
		}
		if other, twice := seen[got]; twice {
			t.Errorf("%s and %s are both named %s", p, other, got)
		}
		seen[got] = p
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadClient(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "-config") {
		t.Errorf("missing: got %v", err)
	}
	if _, err := LoadClient(dir); err == nil || !strings.Contains(err.Error(), "is a directory: name the file") {
		t.Errorf("directory: got %v", err)
	}
	pipe := filepath.Join(dir, "pipe") // which nobody writes to
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	const irregular = "/pipe: not a regular file"
	if _, err := LoadClient(pipe); err == nil || !strings.Contains(err.Error(), irregular+": name one with -config") {
		t.Errorf("pipe: got %v", err)
	}
	if at := ControlIn(pipe, "usual"); at != "usual" {
		t.Errorf("control in a pipe: got %s", at)
	}
	if _, err := (&document{}).parseCA(pipe); err == nil || !strings.Contains(err.Error(), irregular) {
		t.Errorf("pipe of certificates: got %v", err)
	}
	tls := fmt.Sprintf("[http]\ntls_cert = %q\ntls_key = %q\n", pipe, pipe)
	if _, err := ParseServer("f", []byte(tls)); err == nil || !strings.Contains(err.Error(), irregular) {
		t.Errorf("pipe of a certificate: got %v", err)
	}
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadClient(file)
	if want := file + ":1: the file is empty: start from the sample"; err == nil || err.Error() != want {
		t.Errorf("empty: got %v, want %s", err, want)
	}
}

func TestSecretsStayHidden(t *testing.T) {
	const password = "hunter2"
	c, err := ParseClient("f", []byte(minimal+`
[[cache.local]]
port = 1
passwd = "hunter2"
[[cache.grid]]
url = "http://h"
login = "me"
passwd = "hunter2"
[[ays.stor]]
name = "t"
url = "http://h"
login = "me"
secret = "hunter2"
[[debug]]
name = "d"
redis.addr = "h"
redis.port = 1
redis.passwd = "hunter2"
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Secret{c.Local[0].Passwd, c.Grid[0].Passwd, c.Stores[1].Secret, c.Debug[0].Passwd} {
		if s.Reveal() != password || s != NewSecret(password) {
			t.Errorf("got %q", s.Reveal())
		}
	}
	if s := (Secret{}); s.Reveal() != "" || s.String() != "" || s != NewSecret("") {
		t.Error("the zero Secret is not the empty one")
	}
	type holder struct{ store Store } // fmt calls no methods of what is in an unexported field
	var out strings.Builder
	for _, v := range []any{c, *c, c.Stores, c.Stores[1], c.Stores[1].Secret, &c.Stores[1].Secret, holder{c.Stores[1]}, &holder{c.Stores[1]}} {
		fmt.Fprintf(&out, "%v %+v %#v %s %q %x %d\n", v, v, v, v, v, v, v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		b, err := json.Marshal(v)
		fmt.Fprintln(&out, string(b), err)
	}
	for _, leak := range []string{password, fmt.Sprintf("%x", password), fmt.Sprint([]byte(password))} {
		if i := strings.Index(out.String(), leak); i >= 0 {
			t.Errorf("leaks: %s", out.String()[max(0, i-200):i+20])
		}
	}
	if !strings.Contains(out.String(), "***") {
		t.Error("nothing shows that there is a secret")
	}
}

func TestNoSeed(t *testing.T) {
	c, err := ParseClient("f", []byte(minimal+"[cache.disk]\nmax_size = \"0\"\nseed = \"\"\n"))
	if err != nil || c.Seed != (Seed{Named: true, Line: 13}) {
		t.Errorf("got %+v, %v", c, err)
	}
}

// TestConfigOfAnImage reads the config of a machine that doesn't run: what it names
// lies in the image, whatever is here.
func TestConfigOfAnImage(t *testing.T) {
	root := t.TempDir()
	text := strings.Replace(minimal, "url", "ca = \"/etc/ca.pem\"\nurl", 1)
	if _, err := ParseClientIn(root, "f", []byte(text)); err == nil || !strings.Contains(err.Error(), "f:5: ays.stor.ca: can't be read") {
		t.Errorf("without the file: %v", err)
	}
	pem := []byte(testCA)
	for _, dir := range []string{"etc", "usr/share"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(root, "usr/share/ca.pem"), pem, 0o644), os.Symlink("/usr/share/ca.pem", filepath.Join(root, "etc/ca.pem"))); err != nil {
		t.Fatal(err)
	}
	if c, err := ParseClientIn(root, "f", []byte(text)); err != nil || c.Stores[0].CA != "/etc/ca.pem" {
		t.Errorf("got %+v, %v", c, err)
	}
}

// TestControlIn finds the socket of a daemon whose config has since been spoilt.
func TestControlIn(t *testing.T) {
	for text, want := range map[string]string{
		"[main]\nid = \"x\"\ncontrol = \"/run/a.sock\"\n[[mount_files]]\nbad = [": "/run/a.sock", // no TOML
		"\ufeff[main]\r\ncontrol = '/run/a.sock' # there\r\nmemry = 1\r\n":        "/run/a.sock", // an unknown key
		"main.control = \"/run/a.sock\"\nbad":                                     "/run/a.sock",
		"bad = \"\n[main]\ncontrol = \"/run/a.sock\"\n":                           "/run/a.sock",
		"[main]\ncontrol = /run/a.sock\n":                                         "usual",
		"[main]\ncontrol = 5\n":                                                   "usual",
		"[main]\ncontrol = \"a.sock\"\n":                                          "usual",
		"[main]\ncontrol = \"\"\n":                                                "usual",
		"[main]\nid = \"x\"\n[[debug]]\ncontrol = \"/run/a.sock\"\n":              "usual",
		"": "usual",
	} {
		file := filepath.Join(t.TempDir(), "a.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := ControlIn(file, "usual"); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	if got := ControlIn(filepath.Join(t.TempDir(), "none"), "usual"); got != "usual" {
		t.Errorf("without a file: %s", got)
	}
}

// TestReadme looks for all keys in the README, which operators are told has them.
func TestReadme(t *testing.T) {
	raw, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(raw), "\n## Configuration\n")
	text, _, _ = strings.Cut(text, "\n## ")
	ofClient, ofServer, found := strings.Cut(text, "\n### Those of ays_cache\n")
	if !found {
		t.Fatal("no section of ays_cache's keys")
	}
	for _, s := range []struct {
		of     string
		schema schema
		text   string
	}{{"aysfs", clientSchema, ofClient}, {"ays_cache", serverSchema, ofServer}} {
		for _, key := range s.schema {
			if s.of == "ays_cache" && strings.HasPrefix(key.path, "ays.stor.") {
				continue // as the client's
			}
			want := "[" + key.path + "]"
			if key.kind != table && key.kind != tables {
				in := 0 // how much of the path is that of the table it is in
				for _, e := range s.schema {
					if (e.kind == table || e.kind == tables) && strings.HasPrefix(key.path, e.path+".") {
						in = max(in, len(e.path)+1)
					}
				}
				want = "`" + key.path[in:] + "`"
			}
			if !strings.Contains(s.text, want) {
				t.Errorf("the README does not tell of %s's %s", s.of, key.path)
			}
		}
	}
}
