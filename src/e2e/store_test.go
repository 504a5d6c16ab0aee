package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSignedStore: with a key in the config, only what that key has signed is
// mounted.
func TestSignedStore(t *testing.T) {
	tree, _ := smallTree(t)
	keys := shortDir(t)
	public := map[string]string{}
	signedBy := map[string]*webStore{"nobody": newStore(t, "e2e|app(1)", tree)}
	for _, name := range []string{"ours", "theirs", "namesakes/ours"} {
		file := filepath.Join(keys, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var key string
		key, public[name] = keygen(t, file)
		signedBy[name] = newStore(t, "e2e|app(1)", tree, "-key", key)
	}
	for signer, store := range signedBy {
		for _, key := range []string{"ours", ""} {
			t.Run(fmt.Sprintf("signed by %s, key %q", signer, key), func(t *testing.T) {
				t.Parallel()
				c, mount := appClient(t, store.url())
				c.stor = fmt.Sprintf("key = %q", public[key])
				if key == "" || key == signer {
					c.start()
					sameTree(t, tree, mount)
					c.stop()
					return
				}
				c.refuses(15 * time.Second)
				if log := c.log(); !strings.Contains(log, "signature") && !strings.Contains(log, "signed") {
					t.Error("does not tell that the signature is missing")
				}
			})
		}
	}
}

// TestOlderHead: a store can't be rolled back behind a client's back.
func TestOlderHead(t *testing.T) {
	t.Parallel()
	store, _ := smallStore(t)
	head := filepath.Join(store.dir, "md/e2e|app(1)/any/head")
	old := mustRead(t, head)
	write(t, store.tree, map[string]node{"new": file(10)})
	publish(t, store.dir, "e2e|app(1)", store.tree)
	c, mount := startClient(t, store.url())
	sameTree(t, store.tree, mount)
	c.stop()
	mustWrite(t, head, old, 0o644)
	c.start()
	sameTree(t, store.tree, mount) // what was seen before
	if w := strings.Join(c.warnings(), ""); !strings.Contains(w, "older") {
		t.Errorf("warnings %q do not tell of the older head", w)
	}
	c.stop()
}

// TestNewTreeAfterRestart: a newer head is taken up at the next start.
func TestNewTreeAfterRestart(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := startClient(t, store.url())
	sameTree(t, store.tree, mount)
	c.stop()
	write(t, store.tree, map[string]node{names[0]: file(77), "new/dir/f": file(2 << 20)})
	if err := os.Remove(filepath.Join(store.tree, names[1])); err != nil {
		t.Fatal(err)
	}
	publish(t, store.dir, "e2e|app(1)", store.tree)
	before := store.blobs.Load()
	c.start()
	sameTree(t, store.tree, mount)
	if n := store.blobs.Load() - before; n > 20 {
		t.Errorf("%d blobs were fetched: what did not change should have been in the cache", n)
	}
	if s := c.status().Mounts[0].Serial; s != 2 {
		t.Errorf("serial %d, want 2", s)
	}
	c.stop()
}

func TestStoreInADirectory(t *testing.T) {
	t.Parallel()
	tree := mediumTree(t)
	dir := shortDir(t)
	publish(t, dir, "e2e|app(1)", tree)
	c, mount := startClient(t, "file://"+dir)
	sameTree(t, tree, mount)
	c.stop()
}

// TestNginx serves the store as the README says, over TLS and with a password.
func TestNginx(t *testing.T) {
	t.Parallel()
	tree := mediumTree(t)
	dir := shortDir(t)
	store := filepath.Join(dir, "store")
	publish(t, store, "e2e|app(1)", tree)
	certificate(t, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	for name, text := range map[string]string{
		"passwd": "web:{PLAIN}open sesame\n",
		"nginx.conf": fmt.Sprintf(`
daemon off;
user root;
worker_processes 1;
pid %[1]s/pid;
error_log stderr;
events {}
http {
    access_log %[1]s/access.log;
    client_body_temp_path %[1]s/temp; proxy_temp_path %[1]s/temp; fastcgi_temp_path %[1]s/temp;
    uwsgi_temp_path %[1]s/temp; scgi_temp_path %[1]s/temp;
    gzip on; gzip_types *; gzip_min_length 10;
    server {
        listen %[2]s ssl;
        ssl_certificate %[1]s/cert.pem;
        ssl_certificate_key %[1]s/key.pem;
        auth_basic "store"; auth_basic_user_file %[1]s/passwd;
        root %[1]s/store;
        keepalive_requests 100000;
        location ~ /(head|trees|profile)$ { add_header Cache-Control no-cache; }
        location / { add_header Cache-Control "public, max-age=31536000, immutable"; }
    }
}
`, dir, addr),
	} {
		mustWrite(t, filepath.Join(dir, name), []byte(text), 0o644)
	}
	nginx := exec.Command("/usr/sbin/nginx", "-p", dir, "-e", "stderr", "-c", filepath.Join(dir, "nginx.conf"))
	server := startProcess(t, nginx)
	t.Cleanup(func() { server.Process.Signal(os.Interrupt); server.endsWithin(5 * time.Second) })
	eventually(t, 10*time.Second, "nginx listens", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	for name, stor := range map[string]struct{ lines, want string }{
		"right":          {fmt.Sprintf("login = \"web\"\nsecret = \"open sesame\"\nca = \"%s/cert.pem\"", dir), ""},
		"wrong password": {fmt.Sprintf("login = \"web\"\nsecret = \"open Barley\"\nca = \"%s/cert.pem\"", dir), "denied"},
		"no password":    {fmt.Sprintf("ca = \"%s/cert.pem\"", dir), "denied"},
		"unknown CA":     {"login = \"web\"\nsecret = \"open sesame\"", "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			c, mount := appClient(t, "https://"+addr)
			c.main = `io_timeout = "3s"`
			c.stor = stor.lines
			if stor.want == "" {
				c.start()
				sameTree(t, tree, mount)
				c.stop()
			} else {
				c.begin()
				eventually(t, 10*time.Second, "the log tells that it is "+stor.want, func() bool { return strings.Contains(c.log(), stor.want) })
				if left := mountsUnder(c.dir); len(left) != 0 {
					t.Errorf("mounted: %q", left)
				}
			}
			if strings.Contains(c.log(), "sesame") || strings.Contains(c.log(), "Barley") {
				t.Error("the log has the password")
			}
		})
	}
}

// certificate writes a self-signed one for 127.0.0.1.
func certificate(t *testing.T, certFile, keyFile string) {
	t.Helper()
	certificateUntil(t, certFile, keyFile, time.Now().Add(time.Hour))
}

func certificateUntil(t *testing.T, certFile, keyFile string, ends time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: ends,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(crand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		mustWrite(t, file, pem.EncodeToMemory(block), 0o600)
	}
}
