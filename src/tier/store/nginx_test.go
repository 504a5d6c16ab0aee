package store_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	}{
		"as it comes":      {"", false},
		"reloaded":         {"", true},
		"few on each":      {"keepalive_requests 20;", false},
		"one on each":      {"keepalive_timeout 0;", false},
		"few connections":  {"limit_conn one 3;", false},
		"few at a time":    {"limit_req zone=two burst=500;", false},
		"slow connections": {"limit_rate 200k;", false},
	} {
		t.Run(name, func(t *testing.T) {
			addr, reload := startNginx(t, dir, test.directives)
			src := open(t, store.Config{URL: mustURL(t, "http://"+addr), Timeout: 20 * time.Second, Pipeline: true})
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

// startNginx has an nginx serve a directory.
func startNginx(t *testing.T, root, directives string) (addr string, reload func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
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
			server { listen %s; root %s; %s }
		}`, addr, root, directives), 0o644); err != nil {
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
	return addr, func() {
		if err := nginx.Process.Signal(syscall.SIGHUP); err != nil {
			t.Error(err)
		}
	}
}
