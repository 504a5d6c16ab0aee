package object_test

import (
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aysfs/aysfs/src/object"
)

func TestTreeName(t *testing.T) {
	for _, c := range []struct {
		name             object.TreeName
		dir, url, string string
	}{
		{object.TreeName{ID: "jumpscale|mongodb(10.1.888)"},
			"md/jumpscale|mongodb(10.1.888)/any", "md/jumpscale%7Cmongodb%2810.1.888%29/any", "jumpscale|mongodb(10.1.888)"},
		{object.TreeName{ID: "a|b!main", RepoID: "repo", Platform: "linux-arm"},
			"md/repo/a|b!main/linux-arm", "md/repo/a%7Cb%21main/linux-arm", "repo/a|b!main@linux-arm"},
		{object.TreeName{ID: "ü ?|#%(1 2)"}, "md/ü ?|#%(1 2)/any", "md/%C3%BC%20%3F%7C%23%25%281%202%29/any", "ü ?|#%(1 2)"},
	} {
		must(t, c.name.Validate())
		if c.name.Dir() != c.dir || c.name.URLPath() != c.url || c.name.String() != c.string {
			t.Errorf("got %q, %q, %q", c.name.Dir(), c.name.URLPath(), c.name.String())
		}
		back, err := object.ParseTreeDir(c.dir)
		if err != nil || back != c.name {
			t.Errorf("ParseTreeDir(%q) gave %+v, %v", c.dir, back, err)
		}
	}
}

func TestTreeNameRefuses(t *testing.T) {
	for _, id := range []string{
		"", "mongodb", "a|b", "a|b()", "|b(1)", "a|(1)", "a|b(1)x", "a|b!", "a|b!x(1)", "a||b(1)", "a|b/c(1)", "../x|b(1)",
		".a|b(1)", "a|b(\n)", "a|b(1)\n", "a|b(\xff)", "a|b\\(1)", "a|b(\x7f)", "a|" + strings.Repeat("b", 255) + "(1)",
	} {
		if (object.TreeName{ID: id}).Validate() == nil {
			t.Errorf("id %q is valid", id)
		}
	}
	for _, s := range []string{"/", "..", ".x", "a b", "a\n", "trees", strings.Repeat("r", 129)} {
		if (object.TreeName{ID: "a|b(1)", RepoID: s}).Validate() == nil {
			t.Errorf("repo id %q is valid", s)
		}
	}
	for _, s := range []string{"/", "..", "any", "a b", "a\n", strings.Repeat("p", 65)} {
		if (object.TreeName{ID: "a|b(1)", Platform: s}).Validate() == nil {
			t.Errorf("platform %q is valid", s)
		}
	}
	for _, dir := range []string{"", "md", "md/a|b(1)", "x/a|b(1)/any", "md/r/a|b(1)/any/x", "md//a|b(1)/any", "md/a|b(1)/", "md/a|b(1)/any/"} {
		if n, err := object.ParseTreeDir(dir); err == nil {
			t.Errorf("ParseTreeDir(%q) gave %+v", dir, n)
		}
	}
}

func TestDomains(t *testing.T) {
	for _, d := range []string{"", "default", "a", "0.x_y-z", strings.Repeat("d", 64)} {
		if err := object.ValidateDomain(d); err != nil {
			t.Errorf("%q: %v", d, err)
		}
	}
	for _, d := range []string{"md", "ays", "metrics", "healthz", "debug", "A", ".x", "a/b", "a b", "a\n", "..", strings.Repeat("d", 65)} {
		if object.ValidateDomain(d) == nil {
			t.Errorf("%q is valid", d)
		}
	}
}

// FuzzTreeNames checks that the directory of a tree has one spelling, stays below
// md, and comes back from its URL; and that a domain is one plain segment.
func FuzzTreeNames(f *testing.F) {
	for _, s := range []string{
		"md/jumpscale|mongodb(10.1.888)/any", "md/repo/a|b!main/linux-arm", "md/ü ?|#%(1 2)/any", "md/../a|b(1)/any", "md/a|b(..)/any",
		"md/a|b!%2e%2e%2f/p", "md/.|b(1)/any", "md/trees/a|b(1)/any", "md/r/a|b(\u2028)/any", "md/a|b(1)\x00/any", "default", "md", "a..b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if object.ValidateDomain(s) == nil && s != "" && (strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" || s[0] == '.' || url.PathEscape(s) != s) {
			t.Errorf("domain %q", s)
		}
		n, err := object.ParseTreeDir(s)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Errorf("%q", err)
			}
			return
		}
		if n.Validate() != nil || n.Dir() != s || !filepath.IsLocal(s) || filepath.Clean(s) != s || !strings.HasPrefix(s, "md/") {
			t.Errorf("%q is taken as %+v", s, n)
		}
		u, err := url.ParseRequestURI("/" + n.URLPath())
		if err != nil || u.Path != "/"+s || u.RawQuery != "" || u.Fragment != "" {
			t.Errorf("%q: %q is another path: %+v, %v", s, n.URLPath(), u, err)
		}
		for part := range strings.SplitSeq(s, "/") {
			if len(part) > 255 || part == "." || part == ".." {
				t.Errorf("%q has the name %q", s, part)
			}
		}
		if strings.ContainsAny(n.String(), "\n\r\x00\x1b") {
			t.Errorf("%q in logs", n)
		}
	})
}
