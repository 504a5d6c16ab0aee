package config

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// FuzzParseClient checks that whatever the text is, there is a config with
// what it must have, or Problems that each have a line of the text and are
// themselves one line.
func FuzzParseClient(f *testing.F) {
	sample, err := os.ReadFile("testdata/aysfs.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{
		string(sample), minimal, "", "[", "[[", "a=[[", "a={", "a='", `a="\`, "a=\"\"\"\\", "[a]\nb=c", "a=[\n[b]", "a=[\nb=", "a={b={\n", "\xff", "a.b=1\na=2",
		"[main]\nid=[{},1]", "mount_files=[1]", "[[ays.stor]]\nname=\"\\u0000\"", "[a]\r\nb='''\r\n''' x", "'a'.\"\\u0062\"=1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if doc, err := parse("f", []byte(text), clientSchema); err == nil && len(scan(strings.TrimPrefix(text, "\ufeff")).twice) == 0 {
			checkPlaces(t, doc.root)
		}
		c, err := ParseClient("f", []byte(text))
		if err == nil {
			if c.Main.ID == "" || len(c.Stores) == 0 || len(c.Mounts) == 0 || c.Main.Memory < 16<<20 || c.Main.IOTimeout <= 0 {
				t.Fatalf("incomplete: %+v", c)
			}
			for _, m := range c.Mounts {
				if m.Name == "" || m.ID == "" || m.Store == "" || !strings.HasPrefix(m.Path, "/") || m.Line < 1 {
					t.Fatalf("incomplete: %+v", m)
				}
			}
			for _, s := range c.Stores {
				if s.Name == "" || s.URL == nil {
					t.Fatalf("incomplete: %+v", s)
				}
			}
			return
		}
		var ps Problems
		if !errors.As(err, &ps) || len(ps) == 0 || c != nil {
			t.Fatalf("%T: %v", err, err)
		}
		last := 1
		for _, p := range ps {
			if p.Line < last || p.Line > 1+strings.Count(text, "\n") || p.Msg == "" || strings.ContainsAny(p.String(), "\n\r") {
				t.Fatalf("%+v after line %d", p, last)
			}
			last = p.Line
		}
	})
}

// checkPlaces checks that the scanner has seen all that the library has.
func checkPlaces(t *testing.T, n node) {
	if n.place == nil || n.line < 1 {
		t.Fatalf("%s: no place", n.path)
	}
	if m, ok := n.value.(map[string]any); ok {
		for key := range m {
			checkPlaces(t, n.child(key))
		}
	}
	elems := n.elements()
	if len(elems) != len(n.place.elems) {
		t.Fatalf("%s: %d elements, but %d places", n.path, len(elems), len(n.place.elems))
	}
	for _, e := range elems {
		checkPlaces(t, e)
	}
}
