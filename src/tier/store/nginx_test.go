package store_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// TestPipelineNginx brings thousands of blobs from an nginx, however that ends its
// connections: none is left waiting.
func TestPipelineNginx(t *testing.T) {
	codec, err := object.NewCodec(1)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var refs []tier.Ref
	if err := os.MkdirAll(filepath.Join(dir, "default"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 4000 {
		b := tiertest.Random(uint64(i), 1+i%5000)
		ref := tiertest.RefOf(b)
		if err := os.WriteFile(filepath.Join(dir, ref.String()), b, 0o644); err != nil {
			t.Fatal(err)
		}
		refs = append(refs, ref)
	}
	for name, test := range map[string]struct {
		directives string
		reloads    bool
		secure     bool
	}{
		"as it comes":           {},
		"reloaded":              {reloads: true},
		"few on each":           {directives: "keepalive_requests 20;"},
		"one on each":           {directives: "keepalive_timeout 0;"},
		"few connections":       {directives: "limit_conn one 3;"},
		"few at a time":         {directives: "limit_req zone=two burst=500;"},
		"slow connections":      {directives: "limit_rate 200k;"},
		"TLS":                   {secure: true},
		"TLS, reloaded":         {secure: true, reloads: true},
		"TLS, few on each":      {secure: true, directives: "keepalive_requests 20;"},
		"TLS, few connections":  {secure: true, directives: "limit_conn one 3;"},
		"TLS, slow connections": {secure: true, directives: "limit_rate 200k;"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := store.Config{Timeout: 20 * time.Second, Pipeline: true}
			var directives string
			if test.secure {
				cfg.CA = certificate(t)
				directives = fmt.Sprintf("ssl_certificate %s; ssl_certificate_key %[1]s; ", cfg.CA)
			}
			url, reload := startNginx(t, dir, directives+test.directives)
			cfg.URL = mustURL(t, url)
			src := open(t, cfg)
			chain := tier.NewChain(tier.ChainConfig{Groups: []tier.Group{groupOf(src)}, Codec: codec, Cache: tiertest.NewCache()})
			defer chain.Close()
			began, n := time.Now(), 0
			some := func(yield func(tier.Ref) bool) {
				for ref := range slices.Values(refs) {
					if n++; test.reloads && n%500 == 0 {
						reload()
					}
					if !yield(ref) {
						return
					}
				}
			}
			if err := chain.Bring(t.Context(), tier.ReadAhead, some, func(ref tier.Ref, err error) {
				if err != nil {
					t.Errorf("%v: %v", ref, err)
				}
			}); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// certificate writes a certificate for 127.0.0.1 and its key to a file.
func certificate(t *testing.T) string {
	t.Helper()
	s := httptest.NewTLSServer(nil) // which has one
	defer s.Close()
	key, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	file := filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// startNginx has an nginx serve a directory: where the directives name a certificate, over TLS,
// and by HTTP/2 to who wants it.
func startNginx(t *testing.T, root, directives string) (url string, reload func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	scheme, secure := "http", ""
	if strings.Contains(directives, "ssl_certificate") {
		scheme, secure = "https", "ssl http2"
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `
		daemon off;
		user root;
		pid pid;
		error_log stderr crit;
		events { worker_connections 500; }
		http {
			access_log off;
			client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
			limit_conn_zone $binary_remote_addr zone=one:1m;
			limit_req_zone $binary_remote_addr zone=two:1m rate=3000r/s;
			server { listen %s %s; root %s; %s }
		}`, addr, secure, root, directives), 0o644); err != nil {
		t.Fatal(err)
	}
	nginx := exec.Command("/usr/sbin/nginx", "-p", dir, "-e", "stderr", "-c", conf)
	nginx.Stderr = t.Output()
	if err := nginx.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nginx.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		_ = nginx.Wait() // of a signal
	})
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			break
		}
		if time.Since(start) > 10*time.Second {
			t.Fatal(err)
		}
	}
	return scheme + "://" + addr, func() {
		if err := nginx.Process.Signal(syscall.SIGHUP); err != nil {
			t.Error(err)
		}
	}
}
