package main_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// newKeys makes keys and returns the directory they are in.
func newKeys(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		ays(t, 0, "keygen", dir+"/"+name)
	}
	return dir
}

// agent is a command that signs with these keys, for -sign-with.
func agent(keys ...string) string {
	cmd := "'" + os.Getenv(builtBinary) + "' sign"
	for _, k := range keys {
		cmd += " -key '" + k + ".key'"
	}
	return cmd
}

// The key need not be where trees are published.
func TestSignWith(t *testing.T) {
	tree, store, keys := someTree(t), t.TempDir(), newKeys(t, "old", "new")
	k, next := keys+"/old", keys+"/new"
	signed := func() int {
		b, err := os.ReadFile(keys + "/signed")
		must(t, err)
		return strings.Count(string(b), "once\n")
	}
	// What it signs is what the key itself would have signed.
	count := "echo once >>" + keys + "/signed; "
	publish := func(serial int64, flags ...string) {
		t.Helper()
		if s := publishJSON(t, 0, store, append(flags, tree)...); s.Serial != serial {
			t.Fatalf("got %+v, want serial %d", s, serial)
		}
	}
	publish(1, "-sign-with", count+agent(k), "-public", k+".pub")
	publish(1, "-sign-with", count+agent(k), "-public", k+".pub")
	publish(1, "-key", k+".key")
	if n := signed(); n != 1 {
		t.Errorf("one head was signed %d times", n)
	}
	contains(t, ays(t, 0, "verify", "-store", store, "-key", k+".pub").stdout, "all right")

	// The lines alone will do, and those that nobody asked for are left out.
	publish(2, "-key", k+".key", "-sign-with", agent(k, next)+" | grep '^—'", "-public", next+".pub")
	for _, only := range []string{k, next} {
		contains(t, ays(t, 0, "verify", "-store", store, "-key", only+".pub").stdout, "all right")
	}
	// With two keys the command is still run once.
	publish(2, "-sign-with", count+agent(next, k), "-public", k+".pub", "-public", next+".pub")
	must(t, os.WriteFile(tree+"/README", []byte("new"), 0o644))
	publish(3, "-sign-with", count+agent(next, k), "-public", k+".pub", "-public", next+".pub")
	if n := signed(); n != 2 {
		t.Errorf("two heads were signed %d times", n)
	}
	contains(t, ays(t, 0, "log", "-store", store, "-id", id, "-key", next+".pub", "-key", k+".pub").stdout, "old, new")
	contains(t, ays(t, 0, "ls", "-store", store).stdout, "old, new")

	// So does going back.
	contains(t, ays(t, 0, "rollback", "-store", store, "-id", id, "-serial", "2", "-sign-with", agent(next), "-public", next+".pub").stdout, "serial 4")
	contains(t, ays(t, 0, "promote", "-store", store, "-id", id, "-to-platform", "linux", "-sign-with", agent(next), "-public", next+".pub").stdout, "serial 1")
	contains(t, ays(t, 0, "verify", "-store", store, "-key", next+".pub").stdout, "2 trees", "all right")
}

// Whatever a command does instead of signing, nothing is published, and it is
// told what was wrong.
func TestSignWithBadCommands(t *testing.T) {
	tree, keys := someTree(t), newKeys(t, "release", "other")
	k, other := keys+"/release", keys+"/other"
	before := t.TempDir()
	publishJSON(t, 0, before, "-key", k+".key", tree)
	must(t, os.WriteFile(tree+"/README", []byte("new"), 0o644))
	head := filepath.Join("md", id, "any", "head")
	old, err := os.ReadFile(filepath.Join(before, head))
	must(t, err)
	must(t, os.WriteFile(keys+"/old", old, 0o644))
	for what, c := range map[string]struct {
		command string
		want    []string
	}{
		"fails":             {agent(k) + "; echo 'no token' >&2; exit 3", []string{"no token\n", "exit status 3"}},
		"is not there":      {"/nowhere/agent", []string{"not found", "exit status 127"}},
		"is killed":         {"kill -9 $$", []string{"signal: killed"}},
		"prints nothing":    {"true", []string{`it printed ""`, "the signed note"}},
		"prints rubbish":    {"echo hello", []string{`it printed "hello\n"`, "the signed note"}},
		"prints a line":     {"echo '— release !'", []string{"— release !", "the signed note"}},
		"prints the text":   {"cat", []string{"the signed note"}},
		"prints no end":     {"yes", []string{"more than 16384 bytes"}},
		"signs another":     {"sed 's/^serial 2/serial 3/' | " + agent(k), []string{"another text"}},
		"an old signature":  {"cat '" + keys + "/old' | grep '^—'", []string{"not a signature of the text by release+"}},
		"an old head":       {"cat '" + keys + "/old'", []string{"another text"}},
		"another key":       {agent(other), []string{"did not sign with release+", "-public"}},
		"more than is good": {"cat; echo; echo '— release AAAAAAAA'; echo x", []string{"the signed note"}},
		"waits":             {"exec sleep 60", []string{"more than 500ms", "-sign-timeout"}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			store := t.TempDir()
			must(t, os.CopyFS(store, os.DirFS(before)))
			limit := "1m"
			if what == "waits" {
				limit = "500ms"
			}
			began := time.Now()
			o := ays(t, 2, "publish", "-store", store, "-id", id, "-sign-with", c.command, "-public", k+".pub", "-sign-timeout", limit, tree)
			contains(t, o.stderr, append(c.want, "ays publish: ")...)
			if what == "waits" && time.Since(began) > 30*time.Second {
				t.Errorf("it was waited for %v", time.Since(began))
			}
			heads, err := filepath.Glob(store + "/md/*/*/*")
			must(t, err)
			if now, err := os.ReadFile(filepath.Join(store, head)); err != nil || string(now) != string(old) || slices.ContainsFunc(heads, func(f string) bool { return filepath.Base(f) == "head.1" }) {
				t.Errorf("the head changed (%v), of %q:\n%s", err, heads, now)
			}
			contains(t, ays(t, 0, "verify", "-store", store, "-key", k+".pub").stdout, "all right")
		})
	}
}

func TestSignFlags(t *testing.T) {
	tree, store, keys := someTree(t), t.TempDir(), newKeys(t, "release")
	k := keys + "/release"
	public, err := os.ReadFile(k + ".pub")
	must(t, err)
	bad := func(want string, flags ...string) {
		t.Helper()
		o := ays(t, 2, slices.Concat([]string{"publish", "-store", store, "-id", id}, flags, []string{tree})...)
		contains(t, o.stderr, want)
	}
	bad("go together", "-sign-with", agent(k))
	bad("go together", "-public", k+".pub")
	bad("sign twice", "-key", k+".key", "-key", k+".key")
	bad("sign twice", "-key", k+".key", "-sign-with", agent(k), "-public", k+".pub")
	bad("private key", "-sign-with", agent(k), "-public", k+".key")
	bad("neither a public key", "-sign-with", agent(k), "-public", "x")
	bad("until", "-sign-with", agent(k), "-public", strings.TrimSpace(string(public))+" until 7")
	bad("-sign-timeout", "-key", k+".key", "-sign-timeout", "0s")
	if heads, _ := filepath.Glob(store + "/md/*/*/head"); len(heads) > 0 {
		t.Errorf("published: %q", heads)
	}
}

// An agent signs heads and nothing else.
func TestSignSignsHeadsOnly(t *testing.T) {
	tree, store, keys := someTree(t), t.TempDir(), newKeys(t, "release")
	k := keys + "/release"
	publishJSON(t, 0, store, tree)
	head, err := os.ReadFile(filepath.Join(store, "md", id, "any", "head"))
	must(t, err)
	sign := func(code int, text string) (stdout, stderr string) {
		t.Helper()
		cmd := command("sign", "-key", k+".key")
		var out, errs strings.Builder
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &out, &errs
		cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != code {
			t.Fatalf("ays sign exited with %d, want %d: %s", got, code, errs.String())
		}
		return out.String(), errs.String()
	}
	signed, _ := sign(0, string(head))
	if rest, ok := strings.CutPrefix(signed, string(head)+"\n— release "); !ok || strings.Count(rest, "\n") != 1 {
		t.Errorf("signed is\n%s", signed)
	}
	for what, text := range map[string]string{
		"nothing":       "",
		"words":         "transfer everything\n",
		"signed before": signed,
		"more":          string(head) + "more\n",
		"cut off":       string(head[:len(head)-1]),
		"endless":       strings.Repeat("x", 100_000),
	} {
		out, errs := sign(2, text)
		if out != "" || !strings.Contains(errs, "only the text of a head is signed") {
			t.Errorf("%s: printed %q, %q", what, out, errs)
		}
	}
	contains(t, ays(t, 2, "sign").stderr, "-key is needed")
}

// The heads of a key that was lost are told from those before.
func TestVerifyWithALostKey(t *testing.T) {
	tree, store, keys := someTree(t), t.TempDir(), newKeys(t, "old", "new")
	public := func(name string) string {
		b, err := os.ReadFile(keys + "/" + name + ".pub")
		must(t, err)
		return strings.TrimSpace(string(b))
	}
	publishJSON(t, 0, store, "-key", keys+"/old.key", tree)
	verify := func(code int) string {
		t.Helper()
		return ays(t, code, "verify", "-store", store, "-key", public("old")+" until 1", "-key", public("new")).stdout
	}
	contains(t, verify(0), "all right")
	must(t, os.WriteFile(tree+"/README", []byte("new"), 0o644))
	publishJSON(t, 0, store, "-key", keys+"/old.key", tree)
	contains(t, verify(1), "serial 2 is signed by old+", "good until serial 1")
	// The same tree again, with the key that is left.
	contains(t, ays(t, 2, "rollback", "-store", store, "-id", id, "-serial", "2", "-key", keys+"/new.key").stderr, "not signed", "-from-key")
	contains(t, ays(t, 0, "publish", "-store", store, "-id", id, "-key", keys+"/new.key", tree).stdout, "serial 3, signed by new")
	contains(t, verify(0), "all right")
}
