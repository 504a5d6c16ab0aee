package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/doctor"
	"github.com/aysfs/aysfs/src/redistest"
)

func TestDoctor(t *testing.T) {
	t.Parallel()
	store, _ := smallStore(t)
	c, mount := appClient(t, store.url())
	want := func(about string, level doctor.Level, text string) {
		t.Helper()
		c.diagnosed(about, level, text)
	}
	want("/dev/fuse", doctor.OK, "")
	want("store s", doctor.OK, "serial 1")
	want("disk cache", doctor.OK, "free")
	want("mount "+mount, doctor.OK, "not mounted")
	if _, err := os.Stat(c.cacheDir()); err == nil {
		t.Error("it made the disk cache")
	}

	c.start()
	want("mount "+mount, doctor.OK, "it answers")
	c.kill()
	want("mount "+mount, doctor.Fail, "stale")
	c.start() // takes it away
	c.stop()

	c.stor = "key = \"" + publicKey(t) + "\""
	want("store s", doctor.Fail, "not signed")
	c.stor = ""
	store.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "no", http.StatusUnauthorized)
		return true
	})
	want("store s", doctor.Fail, "check login")
	store.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
		return false
	})
	want("store s", doctor.Warn, "ahead of")
	store.setFault(nil)
	store.down()
	want("store s", doctor.Fail, "refused")
	store.up()

	c.main = "refresh = \"often\""
	want("config", doctor.Fail, "refresh")
	out, err := try(t, 10*time.Second, exec.Command(ays, "doctor", "-config", filepath.Join(c.dir, "aysfs.toml")))
	if exitCode(err) != 1 || !strings.Contains(out, "fail  config") || !strings.Contains(out, "-> mend it") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// diagnosed checks what ays doctor last says of about, and its exit code.
func (c *client) diagnosed(about string, level doctor.Level, text string) {
	c.t.Helper()
	out, err := try(c.t, 60*time.Second, exec.Command(ays, "doctor", "-json", "-config", c.writeConfig()))
	var all, found []doctor.Finding
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	worst := 0
	for _, f := range all {
		if f.Level == doctor.Fail {
			worst = 1
		}
		if strings.HasPrefix(f.About, about) {
			found = append(found, f)
		}
	}
	if len(found) == 0 {
		c.t.Fatalf("says nothing of %s", about)
	}
	last := found[len(found)-1]
	if last.Level != level || !strings.Contains(last.Found, text) || (last.Do == "") != (level == doctor.OK) || exitCode(err) != worst {
		c.t.Errorf("of %s: exit %d, %+v, want %s, %q", about, exitCode(err), found, level, text)
	}
}

// secureStore is a store over TLS whose certificate ends then.
func secureStore(t *testing.T, dir string, ends time.Time) (url, ca string) {
	t.Helper()
	ca = filepath.Join(shortDir(t), "ca.pem")
	key := filepath.Join(filepath.Dir(ca), "key.pem")
	certificateUntil(t, ca, key, ends)
	cert, err := tls.LoadX509KeyPair(ca, key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.FileServer(http.Dir(dir)))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, ca
}

func TestDoctorOverTLS(t *testing.T) {
	t.Parallel()
	tree, _ := smallTree(t)
	dir := shortDir(t)
	publish(t, dir, "e2e|app(1)", tree)
	for _, k := range []struct {
		left      time.Duration
		trusted   bool
		level     doctor.Level
		text      string
		head      doctor.Level
		headsText string
	}{
		{90 * 24 * time.Hour, true, doctor.OK, "ends", doctor.OK, "serial 1"},
		{10 * 24 * time.Hour, true, doctor.Warn, "ends", doctor.OK, "serial 1"},
		{-time.Minute, true, doctor.Fail, "ends", doctor.Fail, "have its certificate renewed"},
		{90 * 24 * time.Hour, false, doctor.OK, "ends", doctor.Fail, "set ca"},
	} {
		url, ca := secureStore(t, dir, time.Now().Add(k.left))
		c := newClient(t, url)
		if k.trusted {
			c.stor = fmt.Sprintf("ca = %q", ca)
		}
		c.mount("e2e|app(1)")
		out, _ := try(t, 60*time.Second, exec.Command(ays, "doctor", "-json", "-config", c.writeConfig()))
		var all []doctor.Finding
		if err := json.Unmarshal([]byte(out), &all); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		ok := 0
		for _, f := range all {
			if f.About == "store s "+url && f.Level == k.level && strings.Contains(f.Found, "certificate "+k.text) {
				ok++
			}
			if strings.HasPrefix(f.About, "store s "+url+", tree") && f.Level == k.head && strings.Contains(f.Found, k.headsText) {
				ok++
			}
		}
		if ok != 2 {
			t.Errorf("%+v:\n%s", k, out)
		}
	}
}

func TestDoctorOfCaches(t *testing.T) {
	t.Parallel()
	tree, _ := smallTree(t)
	store, _ := signedStore(t, tree)
	g := newGridCache(t)
	g.ledis = "max_size = \"1GiB\"\n[[http.user]]\nlogin = \"reader\"\npasswd = \"r\"\n"
	g.start()
	local, debug := redistest.Start(t, "l"), redistest.Start(t, "d")
	_, port, _ := net.SplitHostPort(local.Addr)
	c := newClient(t, store.url())
	caches := func(gridPasswd, localPasswd string) {
		c.disk = fmt.Sprintf("[[cache.local]]\nport = %s\npasswd = %q\n[[cache.grid]]\nurl = %q\nlogin = \"reader\"\npasswd = %q\n", port, localPasswd, g.url, gridPasswd)
	}
	caches("r", "l")
	mount := c.debugMount(debug, "e2e|app(1)", "x")
	c.diagnosed("grid cache "+g.url, doctor.OK, "it answers")
	c.diagnosed("local cache 127.0.0.1:"+port, doctor.OK, "it answers")
	c.diagnosed("redis d "+debug.Addr, doctor.OK, "it answers")
	c.diagnosed("config", doctor.Warn, "anybody may read the passwords in it") // tests have them so
	caches("wrong", "wrong")
	c.diagnosed("grid cache "+g.url, doctor.Fail, "401")
	c.diagnosed("local cache 127.0.0.1:"+port, doctor.Fail, "denied")
	caches("r", "l")
	c.stor = fmt.Sprintf("key = %q", publicKey(t)) // another publisher's
	c.diagnosed("store s", doctor.Fail, "not signed by")
	c.stor = ""
	g.stop()
	local.Kill()
	debug.Kill()
	c.diagnosed("grid cache "+g.url, doctor.Fail, "refused")
	c.diagnosed("local cache 127.0.0.1:"+port, doctor.Fail, "refused")
	c.diagnosed("redis d "+debug.Addr, doctor.Fail, "refused")
	if err := os.MkdirAll(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(mount, "x"), nil, 0o644)
	c.diagnosed("mount "+mount, doctor.Fail, "not empty")
	if err := os.Mkdir(c.cacheDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	c.diagnosed("disk cache", doctor.OK, "free")
	if err := os.Chmod(c.cacheDir(), 0o777); err != nil {
		t.Fatal(err)
	}
	c.diagnosed("disk cache", doctor.Fail, "other users may write")

	// A cache whose clock is another one: what is between sets the Date.
	skewed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusNotFound)
	}))
	defer skewed.Close()
	c.disk = fmt.Sprintf("[[cache.grid]]\nurl = %q\n", skewed.URL)
	c.diagnosed("grid cache "+skewed.URL, doctor.Warn, "behind the server")
}

// TestDoctorOfWhatStopsAStart has the doctor find what a start fails for.
func TestDoctorOfWhatStopsAStart(t *testing.T) {
	t.Parallel()
	store, _ := smallStore(t)
	full, fixed := shortDir(t), shortDir(t)
	write(t, full, map[string]node{"x": file(1)})
	if err := unix.Mount("none", fixed, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(fixed, unix.MNT_DETACH) })
	for _, k := range []struct{ path, remote, about, text string }{
		{full, "", "mount " + full, "not empty"},
		{fixed + "/a/b", "", "mount " + fixed, "can't be made in " + fixed + ": read-only file system"},
		{"", "nowhere", "store s", `has no directory "nowhere"`},
	} {
		c := newClient(t, store.url())
		if k.path == "" {
			k.path = filepath.Join(c.dir, "m")
		}
		c.mountAt(k.path, "e2e|app(1)", fmt.Sprintf("remote = %q", k.remote))
		c.diagnosed(k.about, doctor.Fail, k.text)
		c.refuses(15 * time.Second)
	}
	// What lies in another mount needs no directory of its own.
	c, outer := appClient(t, store.url())
	c.mountAt(outer+"/in/ner", "e2e|app(1)")
	write(t, outer, map[string]node{"in/ner/x": file(1)})
	c.diagnosed("mount "+outer+"/in/ner", doctor.OK, "not mounted")

	c = newClient(t, "file://"+fixed+"/gone")
	c.mount("e2e|app(1)")
	c.diagnosed("store s", doctor.Fail, "can't be read")
}

// publicKey is a new key's public half.
func publicKey(t *testing.T) string {
	t.Helper()
	_, public := keyPair(t)
	return public
}
