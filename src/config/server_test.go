package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// The sample says what is the default: it and no text at all are the same.
func TestServerSample(t *testing.T) {
	sample, err := LoadServer("testdata/ays_cache.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, none := range []string{"", "\n \n", "\ufeff", "# nothing\n", "[main]\n"} {
		c, err := ParseServer("empty", []byte(none))
		if err != nil || !reflect.DeepEqual(c, sample) {
			t.Errorf("%q: %+v, %v, want %+v", none, c, err, sample)
		}
	}
	want := HTTP{
		Listen: ":8080", MaxConnections: 4096, MaxHeader: 32 << 10, MaxBody: 1 << 20, MaxBatch: 4096, MaxObject: 64 << 20,
		HeaderTimeout: 10 * time.Second, StallTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
	}
	if !reflect.DeepEqual(sample.HTTP, want) {
		t.Errorf("http: %+v, want %+v", sample.HTTP, want)
	}
	if l := (Ledis{Port: 999, Bind: "127.0.0.1", MaxSize: 100 << 30, MinFree: MinFree{Percent: 5}}); !reflect.DeepEqual(sample.Ledis, l) {
		t.Errorf("ledis: %+v, want %+v", sample.Ledis, l)
	}
	if sample.Main.Data != "/var/lib/ays_cache" || sample.Main.ID != "" || sample.Main.Memory != 128<<20 {
		t.Errorf("main: %+v", sample.Main)
	}
}

// What is a comment in the sample is right, too.
func TestServerSampleUncommented(t *testing.T) {
	sample, err := os.ReadFile("testdata/ays_cache.toml")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(sample)) {
		if rest, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(rest, " ") {
			line = rest
		}
		lines = append(lines, line)
	}
	text := strings.Join(lines, "")
	first := strings.Index(text, "[[ledis]]")
	second := strings.Index(text, "# A remote ledis")
	c, err := ParseServer("all", []byte(text[:first]+text[second:]))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Ledis.Addr) != 2 || !c.Ledis.Cluster || c.Ledis.Port != 0 {
		t.Errorf("ledis: %+v", c.Ledis)
	}
	if len(c.Stores) != 1 || c.Stores[0].Name != "jumpscale" || len(c.HTTP.Users) != 1 || c.HTTP.Users[0].Login != "grid" || c.HTTP.Users[0].Hashed() {
		t.Errorf("%+v", c)
	}
}

func TestServerProblems(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.pem")
	if err := os.WriteFile(bad, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"[http]\nlisten = '8080'":                                                    "2: http.listen: \"8080\" is not an address",
		"[http]\nlisten = ':99999'":                                                  "2: http.listen: the port is out of range",
		"[http]\ntls_cert = '/x'":                                                    "http.tls_key: is missing",
		"[http]\ntls_key = '/x'":                                                     "http.tls_cert: is missing",
		"[http]\ntls_cert = '" + bad + "'\ntls_key = '" + bad + "'":                  "2: http.tls_cert: can't be used",
		"[http]\nmax_header = '1B'":                                                  "2: http.max_header: \"1B\" is out of range",
		"[http]\nmax_conections = 1":                                                 "2: http.max_conections: unknown key: did you mean max_connections?",
		"[[http.user]]\npasswd = 'x'":                                                "http.user.login: is missing",
		"[[http.user]]\nlogin = 'a'":                                                 "http.user.passwd: is missing",
		"[[http.user]]\nlogin = 'a:b'\npasswd = 'x'":                                 "2: http.user.login: \"a:b\" has a colon",
		"[[http.user]]\nlogin = 'a'\npasswd = '$2y$hush'":                            "3: http.user.passwd: starts like a bcrypt hash",
		"[[http.user]]\nlogin='a'\npasswd='x'\n[[http.user]]\nlogin='a'\npasswd='y'": "5: http.user.login: \"a\" is on line 2 already",
		"[[http.user]]\nlogin='a'\npasswd='x'\nwrite='yes'":                          "4: http.user.write: wants true or false",
		"[publish]\nkey = 'x'":                                                       "2: publish.key: this is not a public key",
		"[[ays.stor]]\nname = 'published'\nurl = 'http://a'":                         "2: ays.stor.name: \"published\" is what is published to the cache itself",
		"[[ledis]]\nport = 1\n[[ledis]]\nport = 2":                                   "3: ledis: is there twice",
		"[[ledis]]\nbind = 'localhost'":                                              "2: ledis.bind: \"localhost\" is not an IP address",
		"[[ledis]]\naddr = ['10.0.0.5']":                                             "2: ledis.addr: \"10.0.0.5\" is not the address of a server",
		"[[ledis]]\naddr = ['10.0.0.5:1', '10.0.0.6:1']":                             "2: ledis.addr: has more than one address",
		"[[ledis]]\ncluster = true":                                                  "2: ledis.cluster: needs nodes",
		"[stor]\nallow = ['']":                                                       "2: stor.allow: is empty",
		"[stor]\nallow = '*'":                                                        "2: stor.allow: wants a list",
		"[stor]\nrefresh = '1ms'":                                                    "2: stor.refresh: \"1ms\" is too short",
		"[main]\nmemory = '1MiB'":                                                    "2: main.memory: \"1MiB\" is too little",
		"[[ays.stor]]\nname = 'x'":                                                   "ays.stor.url: is missing",
		"[[mount_files]]\nname = 'x'":                                                "mount_files: unknown key",
	} {
		_, err := ParseServer("f", []byte(text))
		var ps Problems
		if !errors.As(err, &ps) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: a secret is shown: %v", text, err)
		}
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("x"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseServer("f", []byte("[[http.user]]\nlogin = 'a'\npasswd = '"+string(hash)+"'"))
	if err != nil || !c.HTTP.Users[0].Hashed() {
		t.Errorf("a bcrypt hash: %v", err)
	}
	if c, err = ParseServer("f", []byte("[[http.user]]\nlogin = 'a'\npasswd = 'x'\nwrite = true\n[[http.user]]\nlogin = 'b'\npasswd = 'x'")); err != nil || !c.HTTP.Users[0].Write || c.HTTP.Users[1].Write {
		t.Errorf("who may publish: %+v, %v", c, err)
	}
	if c, err = ParseServer("f", []byte("[stor]\nallow = []")); err != nil || len(c.Stor.Allow) != 0 {
		t.Errorf("no stores from clients: %+v, %v", c, err)
	}
}

func TestPattern(t *testing.T) {
	for _, k := range []struct {
		p    Pattern
		s    string
		want bool
	}{
		{"*", "", true}, {"*", "x", true}, {"a", "a", true}, {"a", "ab", false}, {"a*", "ab", true}, {"a*", "ba", false}, {"*a", "ba", true},
		{"a*b*c", "abc", true}, {"a*b*c", "a1b2c", true}, {"a*b*c", "acb", false}, {"ab*ba", "aba", false}, {"a*a", "a", false}, {"a**b", "ab", true},
		{"https://files.example.org/*", "https://files.example.org/x/y", true}, {"https://files.example.org/*", "https://files.example.org.evil/x", false},
		{"http://*.example.org/*", "http://a.example.org/x", true}, {"*b*", "abc", true}, {"*bb*bb*", "abbb", false},
	} {
		if got := k.p.Match(k.s); got != k.want {
			t.Errorf("%q matches %q: %v", k.p, k.s, got)
		}
	}
}

// FuzzParseServer checks that whatever the text is, there is a config with what
// it must have, or Problems of one line each.
func FuzzParseServer(f *testing.F) {
	sample, err := os.ReadFile("testdata/ays_cache.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(sample))
	f.Add("[[ledis]]\naddr=['a:1']\n[[http.user]]\nlogin='x'\npasswd='$2a$'")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseServer("f", []byte(text))
		if err == nil {
			if c.HTTP.Listen == "" || c.HTTP.MaxBody <= 0 || c.HTTP.StallTimeout <= 0 || c.Stor.Timeout <= 0 || c.Main.Data == "" || c.Ledis.MaxSize <= 0 {
				t.Fatalf("incomplete: %+v", c)
			}
			return
		}
		var ps Problems
		if !errors.As(err, &ps) || len(ps) == 0 {
			t.Fatalf("%T: %v", err, err)
		}
		for _, p := range ps {
			if p.Line < 1 || p.Msg == "" || strings.ContainsAny(p.String(), "\n\r") {
				t.Fatalf("%+v", p)
			}
		}
	})
}
