package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/redistest"
)

// secrets are what nobody may be told, in the forms that they go over a wire in.
type secrets map[string]string

func newSecrets(plain ...string) secrets {
	s := make(secrets)
	for _, p := range plain {
		s[p] = p
		s[fmt.Sprintf("%x", p)] = p
		for shift := range 3 { // wherever it begins in what is encoded
			b := base64.StdEncoding.EncodeToString(append(make([]byte, shift), p...))
			s[b[(shift*8+5)/6:len(b)-4]] = p
		}
	}
	return s
}

func (s secrets) in(t *testing.T, where string, text []byte) {
	t.Helper()
	for form, plain := range s {
		if i := bytes.Index(text, []byte(form)); i >= 0 {
			t.Errorf("%s tells %q: ...%q...", where, plain, text[max(0, i-100):min(len(text), i+len(form)+20)])
		}
	}
}

// inFiles looks into all files below dir but the config.
func (s secrets) inFiles(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, ".toml") {
			return err
		}
		b, err := os.ReadFile(path)
		s.in(t, path, b)
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestSecretsAreNotTold: no password of the config is in any log, page, file or answer
// of the client or the cache, whatever fails.
func TestSecretsAreNotTold(t *testing.T) {
	t.Parallel()
	const (
		ofStore = "hush-of-the-store"
		ofGrid  = "hush-of-the-grid"
		ofLocal = "hush-of-the-local"
		ofRedis = "hush-of-the-redis"
	)
	hushed := newSecrets(ofStore, ofGrid, ofLocal, ofRedis)
	store, names := smallStore(t)
	login := func(w http.ResponseWriter, r *http.Request) bool {
		if l, p, _ := r.BasicAuth(); l != "me" || p != ofStore {
			http.Error(w, fmt.Sprintf("no: %s", r.Header.Get("Authorization")), http.StatusUnauthorized)
			return true
		}
		return false
	}
	store.setFault(login)
	local, changed := redistest.Start(t, ofLocal), redistest.Start(t, ofRedis)
	g := newGridCache(t)
	g.ledis = fmt.Sprintf("max_size = \"1GiB\"\nport = 0\npasswd = %q\n[[http.user]]\nlogin = \"reader\"\npasswd = %q\n", ofLocal, ofGrid)
	g.start()
	c := newClient(t, store.url())
	c.main = "log_level = \"debug\"\nrefresh = \"1s\"\nio_timeout = \"3s\""
	c.stor = fmt.Sprintf("login = \"me\"\nsecret = %q", ofStore)
	_, port, _ := net.SplitHostPort(local.Addr)
	c.disk = fmt.Sprintf("[[cache.local]]\nport = %s\npasswd = %q\n[[cache.grid]]\nurl = %q\nlogin = \"reader\"\npasswd = %q\n", port, ofLocal, g.url, ofGrid)
	mount := c.debugMount(changed, "e2e|app(1)", `etc/.*\.conf`)
	c.start()
	wantContent(t, 10*time.Second, filepath.Join(mount, names[0]), content(100_000))
	if n := c.source("grid").Hits; n == 0 {
		t.Error("the grid cache, with its login, was of no use")
	}
	ask := func(when string) {
		t.Helper()
		for _, args := range [][]string{
			{"status", "-socket", c.socket()}, {"status", "-json", "-socket", c.socket()},
			{"explain", "-socket", c.socket(), filepath.Join(mount, names[0])}, {"explain", "-json", "-socket", c.socket(), mount},
			{"doctor", "-config", c.writeConfig()}, {"doctor", "-json", "-config", c.writeConfig()},
			{"health", "-socket", c.socket()},
		} {
			out, _ := try(t, time.Minute, exec.Command(ays, args...))
			hushed.in(t, fmt.Sprintf("%s, ays %q", when, args), []byte(out))
		}
		for _, of := range []struct{ socket, paths string }{{c.socket(), "status metrics healthz explain?path=/"}, {g.control(), " metrics healthz md/trees"}} {
			for path := range strings.SplitSeq(of.paths, " ") {
				out, _ := try(t, 30*time.Second, exec.Command("curl", "-sSi", "--unix-socket", of.socket, "http://x/"+path))
				hushed.in(t, when+", "+path, []byte(out))
			}
		}
		for path := range strings.SplitSeq(" metrics healthz md/trees ays/stor/s", " ") {
			out, _ := try(t, 30*time.Second, exec.Command("curl", "-sSi", "-u", "reader:"+ofGrid, g.url+"/"+path))
			hushed.in(t, when+", the cache's "+path, []byte(out))
		}
	}
	ask("all is well")

	// A store whose answers repeat what they were asked with.
	store.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Location", store.url()+"/elsewhere")
		http.Error(w, r.Header.Get("Authorization"), []int{302, 401, 403, 500, 418}[store.blobs.Load()%5])
		return true
	})
	for _, name := range names[1:4] {
		_, _ = readFile(t, 10*time.Second, filepath.Join(mount, name))
	}
	ask("the store refuses")
	store.down()
	local.Kill()
	changed.Kill()
	for _, name := range names[4:7] {
		_, _ = readFile(t, 10*time.Second, filepath.Join(mount, name))
	}
	ask("all is gone")
	g.stop()
	// Configs with mistakes beside and in the secrets.
	good := c.config()
	for _, bad := range []string{
		strings.Replace(good, `passwd = "`+ofGrid+`"`, `passwd = `+ofGrid, 1), strings.Replace(good, ofStore+`"`, ofStore, 1),
		strings.Replace(good, `secret = `, `secrt = `, 1), strings.Replace(good, `passwd = "`+ofRedis, `passwd = '''`+ofRedis, 1),
		strings.Replace(good, store.url(), "http://me:"+ofStore+"@"+store.addr, 1),
	} {
		file := filepath.Join(c.dir, "bad.toml")
		mustWrite(t, file, []byte(bad), 0o600)
		for _, cmd := range []*exec.Cmd{exec.Command(aysfs, "-config", file, "-check"), exec.Command(ays, "doctor", "-config", file)} {
			out, err := try(t, 30*time.Second, cmd)
			if err == nil {
				t.Errorf("a bad config passes:\n%s", out)
			}
			hushed.in(t, "a bad config", []byte(out))
		}
	}
	// What Go writes when a program crashes.
	c.proc.Process.Signal(syscall.SIGQUIT)
	if !c.proc.endsWithin(20 * time.Second) {
		t.Fatal("aysfs survives a SIGQUIT")
	}
	if !strings.Contains(c.log(), "goroutine ") {
		t.Error("no stacks")
	}
	for _, m := range mountsUnder(c.dir) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
	hushed.in(t, "the client's log", []byte(c.log()))
	hushed.in(t, "the cache's log", []byte(g.log()))
	hushed.inFiles(t, c.dir)
	hushed.inFiles(t, g.dir)
}

// underNoMask is a program that runs with a umask of 0.
func underNoMask(t *testing.T, program string) string {
	t.Helper()
	file := filepath.Join(shortDir(t), "run")
	mustWrite(t, file, fmt.Appendf(nil, "#!/bin/sh\numask 0\nexec %s \"$@\"\n", program), 0o755)
	return file
}

// TestOthersCantWrite: what the programs write is for their user to change, and what
// is secret for their user to read, with no umask at all; nobody else may ask on the
// sockets.
func TestOthersCantWrite(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	g := newGridCache(t)
	g.program = underNoMask(t, aysCache)
	g.start()
	c := newClient(t, store.url())
	c.program = underNoMask(t, aysfs)
	c.disk = g.config()
	redis := redistest.Start(t, "")
	mount := c.debugMount(redis, "e2e|app(1)", `etc/.*\.conf`)
	c.start()
	wantContent(t, 10*time.Second, filepath.Join(mount, names[0]), content(100_000))
	c.settled()
	keys := shortDir(t)
	run(t, 10*time.Second, underNoMask(t, ays), "keygen", filepath.Join(keys, "k"))
	stored := shortDir(t)
	run(t, time.Minute, underNoMask(t, ays), "publish", "-store", stored, "-id", "e2e|app(1)", "-key", filepath.Join(keys, "k.key"), store.tree)
	n := 0
	for dir, secret := range map[string]bool{c.cacheDir(): true, g.data(): true, keys: false, stored: false, c.dir: false} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if path == mount {
				return fs.SkipDir
			}
			st, err := os.Lstat(path)
			if err != nil {
				return err
			}
			n++
			mode := st.Mode()
			switch {
			case mode&fs.ModeSymlink != 0:
			case secret && d.Name() == "LOCK": // ledis' own way, where nobody else gets in
			case mode.Perm()&0o022 != 0:
				t.Errorf("others may write to %s: %v", path, mode)
			case (secret || strings.HasSuffix(path, ".key")) && mode.Perm()&0o077 != 0 && (path == dir || !d.IsDir()):
				t.Errorf("others may read %s: %v", path, mode)
			case mode&fs.ModeSocket != 0 && mode.Perm() != 0o600 && filepath.Base(path) != "notify":
				t.Errorf("others may ask on %s: %v", path, mode)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if n < 20 {
		t.Errorf("only %d files were looked at", n)
	}
	for _, socket := range []string{c.socket(), g.control()} {
		cmd := exec.Command("curl", "-sS", "--unix-socket", socket, "http://x/metrics")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := try(t, 10*time.Second, cmd); err == nil {
			t.Errorf("somebody else asks on %s: %s", socket, out)
		}
	}
	c.stop()
	g.stop()
}

// TestPlanted: what somebody put where the programs are going to write does not lead
// them astray.
func TestPlanted(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c := newClient(t, store.url())
	victim := filepath.Join(shortDir(t), "victim")
	mustWrite(t, victim, []byte("precious"), 0o644)
	// As in /tmp: all may write there, and have done so.
	if err := os.Mkdir(c.cacheDir(), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(c.cacheDir(), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{c.socket(), filepath.Join(c.cacheDir(), "lock"), filepath.Join(c.cacheDir(), "heads")} {
		if err := os.Symlink(victim, name); err != nil {
			t.Fatal(err)
		}
	}
	mount := c.mount("e2e|app(1)")
	c.start()
	wantContent(t, 10*time.Second, filepath.Join(mount, names[0]), content(100_000))
	if w := strings.Join(c.warnings(), ""); strings.Count(w, "other users may write to") != 1 {
		t.Errorf("warnings %q do not tell once that the cache is not used, and why", w)
	}
	if c.status().PID != c.proc.Process.Pid {
		t.Error("the control socket is somebody else's")
	}
	c.stop()
	if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
		t.Errorf("the victim has %q, %v", b, err)
	}
	if left, err := os.ReadDir(c.cacheDir()); err != nil || len(left) != 2 {
		t.Errorf("in the cache: %v, %v", left, err)
	}
	key := filepath.Join(shortDir(t), "k")
	if err := os.Symlink(victim, key+".key"); err != nil {
		t.Fatal(err)
	}
	if out, err := try(t, 10*time.Second, exec.Command(ays, "keygen", key)); err == nil {
		t.Errorf("a key was written through a symlink: %s", out)
	}
	if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
		t.Errorf("the victim has %q, %v", b, err)
	}
}

// TestSymlinksLeadNobodyAstray: a tree's symlinks are shown as they were published,
// and followed by those who use the mount, never by the daemon.
func TestSymlinksLeadNobodyAstray(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	outside := shortDir(t)
	write(t, outside, map[string]node{"conf/x": file(10)})
	tree := filepath.Join(dir, "tree")
	link := func(to string) node { return node{mode: os.ModeSymlink, target: to} }
	write(t, tree, map[string]node{
		"bin/app": file(100), "out": link(outside), "up": link("../../../../../../../.." + outside), "self": link("self"), "none": link("nowhere"), "dir/rel": link("../bin/app"),
	})
	store := newStore(t, "e2e|app(1)", tree)
	untouched := func() {
		t.Helper()
		if names, err := os.ReadDir(outside + "/conf"); err != nil || len(names) != 1 {
			t.Errorf("outside: %v, %v", names, err)
		}
		if m := mountsUnder(outside); len(m) > 0 {
			t.Errorf("mounted outside: %q", m)
		}
	}
	c, mount := startClient(t, store.url())
	sameTree(t, tree, mount)
	wantContent(t, 5*time.Second, filepath.Join(mount, "dir/rel"), content(100))
	wantContent(t, 5*time.Second, filepath.Join(mount, "out/conf/x"), content(10)) // the kernel's way, for its user
	if out, err := try(t, 10*time.Second, exec.Command(ays, "explain", "-socket", c.socket(), mount+"/bin/../../../../etc/passwd")); err == nil {
		t.Errorf("explained: %s", out)
	}
	c.stop()
	for name, k := range map[string]struct {
		set  func(c *client)
		want string
	}{
		"a directory of the tree by its symlink": {func(c *client) { c.mount("e2e|app(1)", `remote = "out"`) }, "symlink"},
		"one below it":                           {func(c *client) { c.mount("e2e|app(1)", `remote = "out/conf"`) }, "symlink"},
		"a path out of the tree":                 {func(c *client) { c.mount("e2e|app(1)", `remote = "../.."`) }, "remote"},
		"a mount in a mount, by a symlink": {func(c *client) {
			outer := c.mount("e2e|app(1)", `wait = "5s"`)
			c.mountAt(filepath.Join(outer, "out/conf"), "e2e|app(1)")
		}, `is a symlink`},
		"and by one that leads up": {func(c *client) {
			outer := c.mount("e2e|app(1)", `wait = "5s"`)
			c.mountAt(filepath.Join(outer, "up"), "e2e|app(1)")
		}, `is a symlink`},
		"a mount point that is one": {func(c *client) {
			c.mount("e2e|app(1)")
			if err := os.Symlink(outside+"/conf", filepath.Join(c.dir, "mnt0")); err != nil {
				t.Error(err)
			}
		}, "symbolic link"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, store.url())
			k.set(c)
			proc := c.begin()
			eventually(t, 20*time.Second, fmt.Sprintf("the log tells %q", k.want), func() bool { return strings.Contains(c.log(), k.want) })
			if proc.endsWithin(time.Second) {
				if exitCode(proc.err) == 0 {
					t.Error("it starts")
				}
			} else {
				c.kill()
			}
			untouched()
		})
	}
}

// TestSetuid: the bits are there if somebody published them on purpose, and do nothing.
func TestSetuid(t *testing.T) {
	t.Parallel()
	tree := shortDir(t)
	id, err := exec.LookPath("id")
	if err != nil {
		t.Fatal(err)
	}
	b := mustRead(t, id)
	write(t, tree, map[string]node{"id": {mode: 0o755, data: b}, "id-set": {mode: 0o755, data: b}})
	if err := os.Chmod(filepath.Join(tree, "id-set"), 0o755|os.ModeSetuid|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(tree, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	for name, flag := range map[string]string{"without": "", "with": "-keep-setuid"} {
		cmd := exec.Command(ays, "publish", "-allow-warnings", "-store", dir, "-id", "e2e|"+name+"(1)", tree)
		if flag != "" {
			cmd.Args = append(cmd.Args[:2:2], append([]string{flag}, cmd.Args[2:]...)...)
		}
		if out, err := try(t, time.Minute, cmd); exitCode(err) != 1 {
			t.Fatalf("%v: %s", err, out)
		}
	}
	c := newClient(t, serveStore(t, dir).url())
	without, with := c.mount("e2e|without(1)"), c.mount("e2e|with(1)")
	c.start()
	for path, want := range map[string]os.FileMode{without: 0o755, with: 0o755 | os.ModeSetuid | os.ModeSetgid} {
		if st, err := os.Stat(filepath.Join(path, "id-set")); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", path, st.Mode(), err, want)
		}
		if _, err := os.Lstat(filepath.Join(path, "null")); err == nil {
			t.Errorf("%s shows a device", path)
		}
		cmd := exec.Command(filepath.Join(path, "id-set"), "-u")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := try(t, 20*time.Second, cmd); err != nil || strings.TrimSpace(out) != "65534" {
			t.Errorf("%s runs as %q, %v", path, out, err)
		}
		options := ""
		mounts := mustRead(t, "/proc/mounts")
		for line := range strings.Lines(string(mounts)) {
			if f := strings.Fields(line); len(f) > 3 && f[1] == path {
				options = "," + f[3] + ","
			}
		}
		for _, o := range []string{",ro,", ",nosuid,", ",nodev,"} {
			if !strings.Contains(options, o) {
				t.Errorf("%s is mounted with %q, without %s", path, options, o)
			}
		}
	}
	c.stop()
}
