package main_test

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/debug"
	"github.com/aysfs/aysfs/src/redistest"
)

// debugBed is a redis with the changes of mount "apps", and how ays gets there.
type debugBed struct {
	t     *testing.T
	redis *redistest.Server
	store *debug.Store
	flags []string
}

func newDebugBed(t *testing.T) *debugBed {
	t.Parallel()
	b := &debugBed{t: t, redis: redistest.Start(t, "open sesame")}
	b.store = debug.New(debug.Options{Addr: b.redis.Addr, Passwd: "open sesame", Mount: "apps", Client: "web17"})
	t.Cleanup(func() { must(t, b.store.Close()) })
	passwd := t.TempDir() + "/passwd"
	must(t, os.WriteFile(passwd, []byte("open sesame\n"), 0o600))
	b.flags = []string{"-redis", b.redis.Addr, "-passwd-file", passwd, "-mount", "apps"}
	return b
}

// put records a file; without content it is removed.
func (b *debugBed) put(path, content string, mode uint32) {
	b.t.Helper()
	f := debug.File{Change: debug.Change{Path: path}}
	if content != "" {
		sum := md5.Sum([]byte(content))
		f = debug.File{Change: debug.Change{Path: path, MD5: hex.EncodeToString(sum[:]), Size: int64(len(content)), Mode: mode}, Data: strings.NewReader(content)}
	}
	must(b.t, b.store.Record(b.t.Context(), []debug.File{f}))
}

// ays runs "ays debug CMD".
func (b *debugBed) ays(code int, cmd string, args ...string) outcome {
	b.t.Helper()
	o := ays(b.t, code, append(append([]string{"debug", cmd}, b.flags...), args...)...)
	if strings.Contains(o.stdout+o.stderr, "sesame") {
		b.t.Errorf("a password is told:\n%s%s", o.stdout, o.stderr)
	}
	return o
}

func TestDebugUsage(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, "open sesame")
	contains(t, ays(t, 0, "help").stdout, "debug ")
	contains(t, ays(t, 0, "debug", "help").stdout, "debug pull", "debug watch", "debug log", "debug clear")
	contains(t, ays(t, 2, "debug").stderr, "usage: ays debug")
	contains(t, ays(t, 2, "debug", "push").stderr, `no command "push"`)
	contains(t, ays(t, 0, "debug", "pull", "-h").stdout, "usage: ays debug pull [FLAGS] DIR", "-dry-run", "-passwd-file")
	contains(t, ays(t, 2, "debug", "pull", t.TempDir()).stderr, "-redis and -mount are needed")
	for wrong, want := range map[string]string{
		"nonsense": "host:port", ":6379": "host:port", "h": "host:port", "me:sesame@h:1": "host:port", "http://h:1": "a URL of http", "redis://me:sesame@h:1": "no users",
		"redis://:sesame@h:1/3": "database 0", "redis://:sesame%zz@h:1": "%XX", "redis://": "host:port",
	} {
		o := ays(t, 2, "debug", "log", "-redis", wrong, "-mount", "m")
		contains(t, o.stderr, want)
		if strings.Contains(o.stderr, "sesame") {
			t.Errorf("a password is told: %s", o.stderr)
		}
	}
	contains(t, ays(t, 2, "debug", "log", "-redis", "127.0.0.1:1", "-mount", "m").stderr, "127.0.0.1:1", "refused", "redis.addr")
	contains(t, ays(t, 2, "debug", "log", "-redis", redis.Addr, "-mount", "m").stderr, redis.Addr, "-passwd-file")
	o := ays(t, 2, "debug", "clear", "-redis", "redis://:sesame@"+redis.Addr, "-mount", "m")
	contains(t, o.stderr, "access denied", "-passwd-file")
	if strings.Contains(o.stderr, "sesame") {
		t.Errorf("a password is told: %s", o.stderr)
	}
	contains(t, ays(t, 2, "debug", "log", "-redis", redis.Addr, "-mount", "m", "-passwd-file", "/none").stderr, "no such file")
	contains(t, ays(t, 2, "debug", "log", "-redis", redis.Addr, "-mount", "m", "-store", "/x").stderr, "go together")
	contains(t, ays(t, 0, "debug", "clear", "-redis", "redis://:open%20sesame@"+redis.Addr, "-mount", "m").stdout, "nothing of mount m")
}

func TestDebugPull(t *testing.T) {
	b := newDebugBed(t)
	dir := t.TempDir() + "/work"
	b.put("bin/run", "#!/bin/sh\n", 0o100755)
	b.put("etc/app.conf", "a = 1\n", 0)
	contains(t, b.ays(0, "pull", "-dry-run", filepath.Dir(dir)).stdout, "added    bin/run", "nothing was done; it would be: 2 written, 0 removed, 0 problems")
	contains(t, b.ays(0, "pull", dir).stdout, "added    bin/run", "added    etc/app.conf", "2 written, 0 removed, 0 problems")
	must(t, os.WriteFile(dir+"/etc/app.conf", []byte("ours\n"), 0o644))
	b.put("etc/app.conf", "theirs\n", 0)
	b.put("\x1b[31mred", "x", 0)
	o := b.ays(1, "pull", dir)
	contains(t, o.stdout, `added    "\x1b[31mred"`, "1 problems")
	contains(t, o.stderr, "ays debug pull: etc/app.conf: changed there, but changed here", "etc/app.conf.aysfs-")
	contains(t, b.ays(0, "pull", dir).stdout, "0 written") // told once
	contains(t, b.ays(0, "pull", "-force", dir).stdout, "changed  etc/app.conf", "1 written")
	if raw, err := os.ReadFile(dir + "/etc/app.conf"); err != nil || string(raw) != "theirs\n" {
		t.Errorf("%q, %v", raw, err)
	}
}

func TestDebugWatch(t *testing.T) {
	b := newDebugBed(t)
	dir := t.TempDir()
	cmd := command(append(append([]string{"debug", "watch"}, b.flags...), dir)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill() }()
	for i := range 3 {
		content := fmt.Sprint(i)
		b.put("file", content, 0)
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if raw, err := os.ReadFile(dir + "/file"); err == nil && string(raw) == content {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%d never came", i)
			}
		}
	}
	must(t, cmd.Process.Signal(syscall.SIGINT))
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
		t.Errorf("%v: %s", err, stderr.String())
	}
}

// TestDebugLog shows changes as diffs that patch takes.
func TestDebugLog(t *testing.T) {
	b := newDebugBed(t)
	tree, store := t.TempDir(), t.TempDir()+"/store"
	must(t, os.MkdirAll(tree+"/opt/app/etc", 0o755))
	var lines strings.Builder
	for i := range 100_000 {
		fmt.Fprintln(&lines, "line", i, "of a file of many chunks")
	}
	long := lines.String()
	huge := strings.Repeat(long, 2) // more than a diff takes
	must(t, os.WriteFile(tree+"/opt/app/etc/app.conf", []byte("one\ntwo\nthree\n"), 0o644))
	must(t, os.WriteFile(tree+"/opt/app/old", []byte("old\n"), 0o644))
	must(t, os.WriteFile(tree+"/opt/app/long", []byte(long), 0o644))
	must(t, os.WriteFile(tree+"/opt/app/huge", []byte(huge), 0o644))
	ays(t, 0, "publish", "-store", store, "-id", id, tree)

	b.put("etc/app.conf", "one\n2\nthree\n", 0)
	b.put("new file", "new, without a newline", 0)
	b.put("old", "", 0)
	b.put("etc/app.conf", "one\n2\n3\n", 0)
	b.put("binary", "\x00\x01", 0)
	b.put("long", strings.Replace(long, "line 77777 of", "line seventy-seven of", 1), 0)
	b.put("huge", huge+"more\n", 0)
	b.put("etc/app.conf", "one\n2\n3\n", 0o100755)
	b.put("scratch", "s\n", 0)
	b.put("scratch", "", 0)
	b.put("never", "", 0)

	o := b.ays(0, "log").stdout
	if strings.Count(o, "\n") != 11 || strings.Contains(o, "---") {
		t.Errorf("got %s", o)
	}
	contains(t, o, "  web17  changed  etc/app.conf  ", "  web17  removed  old  ", time.Now().UTC().Format("2006-"))
	o = b.ays(0, "log", "-n", "2").stdout
	if strings.Count(o, "\n") != 2 {
		t.Errorf("got %s", o)
	}
	contains(t, o, "scratch", "never")

	from := []string{"-p", "-store", store, "-id", id, "-remote", "opt/app"}
	o = b.ays(0, "log", from...).stdout
	contains(t, o, "--- a/etc/app.conf\n+++ b/etc/app.conf\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n", "-three\n+3\n", "--- /dev/null\n+++ b/new file\n",
		"--- a/old\n+++ /dev/null\n", "binary: 0 bytes, then 2", "-line 77777 of a file of many chunks\n+line seventy-seven of a file of many chunks\n", "not compared", "the same content as before", "nothing was there before")
	// The last diffs start where those before ended.
	contains(t, b.ays(0, "log", append(from, "-n", "8")...).stdout, " one\n 2\n-three\n+3\n")
	work := t.TempDir()
	must(t, os.CopyFS(work, os.DirFS(tree+"/opt/app")))
	for part := range strings.SplitSeq(o, "\n\n") {
		if i := strings.Index(part, "--- "); i >= 0 {
			patch := exec.Command("git", "-C", work, "apply", "-")
			patch.Stdin = strings.NewReader(part[i:] + "\n")
			if out, err := patch.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s\n%s", err, out, part)
			}
		}
	}
	for path, want := range map[string]string{"etc/app.conf": "one\n2\n3\n", "new file": "new, without a newline"} {
		if raw, err := os.ReadFile(work + "/" + path); err != nil || string(raw) != want {
			t.Errorf("%s: %q, %v", path, raw, err)
		}
	}
	if left, err := os.ReadDir(work); err != nil || len(left) != 4 { // etc, huge, long, new file
		t.Errorf("%v, %v", left, err)
	}

	contains(t, b.ays(0, "log", "-p").stdout, "no store was named: shown as if it was new\n--- /dev/null\n+++ b/etc/app.conf\n")
	contains(t, b.ays(2, "log", "-p", "-store", store, "-id", id, "-remote", "none").stderr, "no directory")
	contains(t, b.ays(2, "log", "-p", "-store", store, "-id", "other|tree(1)").stderr, "other|tree(1)")
	sum := md5.Sum([]byte("new, without a newline"))
	b.redis.CLI("HDEL", "debug:files:apps", hex.EncodeToString(sum[:]))
	contains(t, b.ays(1, "log", "-p").stdout, "can't be shown", "no such object")
}

func TestDebugClear(t *testing.T) {
	b := newDebugBed(t)
	b.put("a", "one", 0)
	b.put("a", "two", 0)
	has := func(want int64) {
		t.Helper()
		if n, err := b.store.Count(t.Context()); err != nil || n.Entries != want {
			t.Errorf("got %+v, %v", n, err)
		}
	}
	answer := func(code int, text string) string {
		t.Helper()
		cmd := command(append([]string{"debug", "clear"}, b.flags...)...)
		cmd.Stdin = strings.NewReader(text)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != code {
			t.Errorf("%q: exit code %d: %s", text, got, out)
		}
		return string(out)
	}
	contains(t, b.ays(0, "clear", "-dry-run").stdout, "nothing was dropped; there are of mount apps 1 paths, 2 contents, 2 log entries")
	contains(t, b.ays(2, "clear").stderr, "nothing was dropped") // with nobody to ask
	contains(t, answer(2, "no\n"), "can't be undone", "nothing was dropped")
	has(2)
	if said := b.ays(0, "log").stderr; said != "" {
		t.Errorf("log says %q", said)
	}
	contains(t, answer(0, "yes\n"), "dropped of mount apps")
	contains(t, b.ays(0, "log").stderr, "there is nothing of mount apps")
	has(0)
	contains(t, answer(0, ""), "nothing of mount apps")
	b.put("a", "one", 0)
	contains(t, b.ays(0, "clear", "-yes").stdout, "dropped of mount apps 1 paths, 1 contents, 1 log entries")
	has(0)
}

// TestDebugByScript does a pull with nothing but redis-cli, as the layout
// promises that one can, and has it come out as ours does.
func TestDebugByScript(t *testing.T) {
	b := newDebugBed(t)
	for i := range 20 {
		b.put(fmt.Sprintf("dir %d/file%d", i%3, i), fmt.Sprintln("content", i), 0)
	}
	b.put("run", "#!/bin/sh\n", 0o100755)
	b.put("dir 0/file0", "", 0)
	script := `set -e
	r() { redis-cli -p "$PORT" --raw "$@"; }
	r HKEYS debug:paths:apps | while IFS= read -r path; do
		IFS=, read -r md5 size mode <<< "$(r HGET debug:paths:apps "$path")"
		if [ -z "$md5" ]; then rm -f "$path"; continue; fi
		mkdir -p "$(dirname "$path")"
		r HGET debug:files:apps "$md5" | head -c "$size" > "$path"
		echo "$md5  $path" | md5sum -c --quiet
		[ -z "$mode" ] || chmod "${mode: -3}" "$path"
	done
	[ "$(r LLEN debug:log:apps)" = 22 ]`
	theirs, ours := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(theirs+"/dir 0", 0o755))
	must(t, os.WriteFile(theirs+"/dir 0/file0", []byte("to go"), 0o644))
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = theirs
	_, port, _ := strings.Cut(b.redis.Addr, ":")
	cmd.Env = append(os.Environ(), "PORT="+port, "REDISCLI_AUTH=open sesame")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b.ays(0, "pull", ours)
	if out, err := exec.Command("diff", "-r", "-x", ".aysfs", theirs, ours).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	for _, dir := range []string{theirs, ours} {
		if info, err := os.Stat(dir + "/run"); err != nil || info.Mode() != 0o755 {
			t.Errorf("%v, %v", info, err)
		}
	}
}
