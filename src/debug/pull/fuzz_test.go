package pull

import (
	"maps"
	"path"
	"strings"
	"testing"
	"unicode"

	"github.com/aysfs/aysfs/src/debug"
)

// FuzzPast lets the file say anything of what was pulled before. What can be read
// is written back the same.
func FuzzPast(f *testing.F) {
	f.Add([]byte(`[{"path":"a/b","md5":"5d41402abc4b2a76b9719d911017c592","mode":33261,"perm":493}]`))
	f.Add([]byte(`[{"path":"a\udcff","md5":""},{"path":"../x","md5":"x"}]`))
	f.Add([]byte(`[{"path":null}]`))
	f.Add([]byte(`[null]`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"path":7}`))
	f.Add([]byte(`[{"path":"\ud800`))
	w, err := openWorktree(f.Context(), f.TempDir()+"/tree", "m", false)
	must(f, err)
	f.Cleanup(w.close)
	f.Fuzz(func(t *testing.T, raw []byte) {
		must(t, w.root.WriteFile(w.past, raw, 0o600))
		was, err := w.readPast()
		if err != nil {
			return
		}
		must(t, w.writePast(was))
		is, err := w.readPast()
		if err != nil || !maps.Equal(was, is) {
			t.Fatalf("%q was %+v, is %+v, %v", raw, was, is, err)
		}
	})
}

// FuzzPaths checks which paths of redis are written to at all, and how they are
// told of.
func FuzzPaths(f *testing.F) {
	for _, p := range []string{
		"a/b", ".git/hooks/post-checkout", "a/.GIT/config", ".git ./config", "GIT~1/config", ".git::$INDEX_ALLOCATION/config", ".g\u200cit/config", "\u202a.git/x",
		".aysfs/lock", "a/.aysfs/x", ".gitignore", "new\nline", "\x1b[31m", strings.Repeat("n", 255), "\xff", "\u202etxt",
	} {
		f.Add(p, "m")
	}
	f.Fuzz(func(t *testing.T, p, mount string) {
		for _, c := range Printable(p) {
			if !unicode.IsPrint(c) {
				t.Fatalf("%q is shown as %q", p, Printable(p))
			}
		}
		if name := pastName(mount); strings.ContainsAny(name, "/\x00") || name == ".gitignore" || name == "lock" || name == path.Base(newName) {
			t.Fatalf("mount %q is kept in %q", mount, name)
		}
		if debug.CheckPath(p) != nil || reserved(p) != "" {
			return
		}
		for i, name := range strings.Split(p, "/") {
			plain := strings.Map(func(c rune) rune {
				if unicode.Is(unicode.Cf, c) { // HFS+ passes over these
					return -1
				}
				return unicode.ToLower(c)
			}, name)
			plain, _, _ = strings.Cut(plain, ":") // a stream of the file, to NTFS
			plain = strings.TrimRight(plain, ". ")
			if plain == ".git" || plain == "git~1" || i == 0 && plain == ownDir {
				t.Fatalf("%q would be written", p)
			}
		}
	})
}
