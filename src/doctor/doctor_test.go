package doctor

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/config"
)

func TestClock(t *testing.T) {
	for _, tc := range []struct {
		off  time.Duration
		want string
	}{{0, ""}, {time.Hour, "behind"}, {-time.Hour, "ahead of"}} {
		var c clock
		c.answered(http.Header{"Date": {time.Now().Add(tc.off).UTC().Format(http.TimeFormat)}})
		found := c.findings("x")
		if tc.want == "" && len(found) != 0 || tc.want != "" && (len(found) != 1 || found[0].Level != Warn || !strings.Contains(found[0].Found, tc.want)) {
			t.Errorf("%v off: %+v, want %q", tc.off, found, tc.want)
		}
	}
}

func TestCertificate(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	want := OK
	if left := time.Until(srv.Certificate().NotAfter); left < 0 {
		want = Fail
	} else if left < nearlyOut {
		want = Warn
	}
	found := certificate(t.Context(), "x", u)
	if len(found) != 1 || found[0].Level != want || !strings.Contains(found[0].Found, srv.Certificate().NotAfter.Format(time.RFC3339)) {
		t.Errorf("%+v, want %s", found, want)
	}
	// It is nobody's whom this machine trusts.
	found = grid(t.Context(), config.Grid{URL: u}, "test")
	if last := found[len(found)-1]; last.Level != Fail || !strings.Contains(last.Found, "certificate") {
		t.Errorf("a certificate of nobody's: %+v", found)
	}
}

func TestNoDevice(t *testing.T) {
	if f := fuseDevice(t.TempDir() + "/fuse"); f.Level != Fail || !strings.Contains(f.Do, "modprobe") {
		t.Errorf("%+v", f)
	}
}

func TestIdleProcessors(t *testing.T) {
	sys := t.TempDir()
	if f := idle(sys); f != nil {
		t.Errorf("without cpuidle: %+v", f)
	}
	put := func(name, text string) {
		t.Helper()
		at := filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const driver, ns = "devices/system/cpu/cpuidle/current_driver", "module/haltpoll/parameters/guest_halt_poll_ns"
	for _, c := range []struct {
		driver, ns string
		want       []Level
	}{
		{"acpi_idle", "0", nil},
		{"haltpoll", "200000", []Level{OK}},
		{"haltpoll", "0", []Level{Warn}},
	} {
		put(driver, c.driver)
		put(ns, c.ns)
		f := idle(sys)
		if len(f) != len(c.want) || len(f) == 1 && (f[0].Level != c.want[0] || (f[0].Do == "") != (c.want[0] == OK)) {
			t.Errorf("%s, %s ns: %+v, want %v", c.driver, c.ns, f, c.want)
		}
	}
}
