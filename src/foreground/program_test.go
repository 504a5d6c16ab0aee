package foreground

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestBegin(t *testing.T) {
	type call = Call[string]
	for line, want := range map[string]struct {
		call           call
		code           int
		ok             bool
		stdout, stderr string // what is in them; empty: nothing is
	}{
		"":                          {call: call{"what is in /etc/d.toml", "/etc/d.toml", ""}, ok: true},
		"-config x":                 {call: call{"what is in x", "x", ""}, ok: true},
		"-config x worker":          {call: call{"what is in x", "x", "worker"}, ok: true},
		"-config bad":               {code: 2, stderr: "bad:1: it is bad\n"},
		"-config x -check":          {code: 0, stdout: "what is in x\n"},
		"-config bad -check":        {code: 2, stderr: "bad:1: it is bad\n"},
		"-config x start":           {code: 7, stdout: "start with x\n"},
		"-config bad start":         {code: 7, stdout: "start with bad\n"},
		"-version":                  {code: 0, stdout: "d 1.2 (abc)\n"},
		"-config bad -version stop": {code: 0, stdout: "d 1.2 (abc)\n"},
		"-help":                     {code: 0, stderr: "say what would be mounted, and exit with 0 or 2"},
		"-h":                        {code: 0, stderr: "usage: d [FLAGS] [start|stop|restart|"},
		"-colour red":               {code: 2, stderr: "flag provided but not defined: -colour\nusage: d [FLAGS]"},
		"go":                        {code: 2, stderr: `d: ["go"] is not understood; all is set in the config, see d -help`},
		"start start":               {code: 2, stderr: `d: ["start" "start"] is not understood`},
		"worker worker":             {code: 2, stderr: `d: ["worker" "worker"] is not understood`},
		"start -config /etc/x.toml": {code: 2, stderr: "is not understood"},
	} {
		var stdout, stderr strings.Builder
		p := Program[string]{
			Name: "d", Version: "1.2", Commit: "abc", File: "/etc/d.toml", Purpose: "mounted", Words: []string{"worker"},
			Load: func(file string) (string, error) {
				if file == "bad" {
					return "", errors.New("bad:1: it is bad")
				}
				return "what is in " + file, nil
			},
			Describe: func(w io.Writer, cfg string) { fmt.Fprintln(w, cfg) },
			Command: func(command, file string) int {
				fmt.Fprintln(&stdout, command, "with", file)
				return 7
			},
			Stdout: &stdout, Stderr: &stderr,
		}
		c, code, ok := p.Begin(strings.Fields("bin/d " + line))
		if code != want.code || ok != want.ok || ok && c != want.call {
			t.Errorf("%q: %+v, exit code %d, ok %v", line, c, code, ok)
		}
		for _, said := range []struct{ got, want string }{{stdout.String(), want.stdout}, {stderr.String(), want.stderr}} {
			if !strings.Contains(said.got, said.want) || said.want == "" && said.got != "" {
				t.Errorf("%q: it says %q, want %q", line, said.got, said.want)
			}
		}
	}
}
