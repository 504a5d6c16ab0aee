package foreground

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for line, want := range map[string]struct {
		words          Words
		code           int
		ok             bool
		stdout, stderr string // what is in them; empty: nothing is
	}{
		"":                          {words: Words{Config: "/etc/d.toml"}, ok: true},
		"-config x -check":          {words: Words{Config: "x", Check: true}, ok: true},
		"-config x start":           {words: Words{Config: "x", Command: "start"}, ok: true},
		"-version":                  {code: 0, stdout: "d 1.2 (abc)\n"},
		"-version start":            {code: 0, stdout: "d 1.2 (abc)\n"},
		"-help":                     {code: 0, stderr: "say what would be mounted, and exit with 0 or 2"},
		"-colour red":               {code: 2, stderr: "flag provided but not defined: -colour\nUsage of bin/d:\n"},
		"stop":                      {code: 2, stderr: `d: ["stop"] is not understood; all is set in the config, see d -help`},
		"start start":               {code: 2, stderr: `d: ["start" "start"] is not understood`},
		"start -config /etc/x.toml": {code: 2, stderr: "is not understood"},
	} {
		var stdout, stderr strings.Builder
		p := Program{Name: "d", Version: "1.2", Commit: "abc", Config: "/etc/d.toml", Purpose: "mounted", Stdout: &stdout, Stderr: &stderr}
		words, code, ok := p.Parse(strings.Fields("bin/d "+line), []string{"start"})
		if code != want.code || ok != want.ok || ok && words != want.words {
			t.Errorf("%q: %+v, exit code %d, ok %v", line, words, code, ok)
		}
		for said, want := range map[string]string{stdout.String(): want.stdout, stderr.String(): want.stderr} {
			if !strings.Contains(said, want) || want == "" && said != "" {
				t.Errorf("%q: it says %q, want %q", line, said, want)
			}
		}
	}
}
