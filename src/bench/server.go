package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/aysfs/aysfs/src/bench/link"
)

// server is an nginx of our own at the far end of the link. It serves files as
// they lie in root.
type server struct {
	*process
	far  *link.Thread // where it runs
	root string
	url  string
	ca   string // file with the certificate, where url is https
	log  string // one line of two bytes for each request
}

func findNginx() (string, error) {
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("needs nginx, which serves the store: apt-get install nginx")
}

// nginxConf has the defaults of nginx in all that a client notices.
const nginxConf = `daemon off;
master_process off;
pid DIR/pid;
error_log DIR/error.log;
events { worker_connections 4096; }
http {
	log_format dot '.';
	access_log DIR/requests dot;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;
	sendfile on;
	tcp_nopush on;
	autoindex on;
	root ROOT;
	server { listen IP:80; }
	server {
		listen IP:443 ssl http2;
		ssl_certificate DIR/cert.pem;
		ssl_certificate_key DIR/key.pem;
	}
}
`

func startServer(ctx context.Context, dir, root string, far *link.Thread, secure bool) (*server, error) {
	nginx, err := findNginx()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	s := &server{far: far, root: root, url: "http://" + link.FarIP, log: filepath.Join(dir, "requests")}
	cert := filepath.Join(dir, "cert.pem")
	if err := makeCertificate(cert, filepath.Join(dir, "key.pem")); err != nil {
		return nil, err
	}
	if secure {
		s.url, s.ca = "https://"+link.FarIP, cert
	}
	conf := filepath.Join(dir, "nginx.conf")
	text := strings.NewReplacer("DIR", dir, "ROOT", root, "IP", link.FarIP).Replace(nginxConf)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, err
	}
	s.process, err = startFar(ctx, far, dir, link.FarIP+":80", exec.Command(nginx, "-c", conf, "-e", filepath.Join(dir, "error.log")))
	if err != nil {
		return nil, err
	}
	return s, nil
}

// requests is how many were answered so far.
func (s *server) requests() int64 {
	fi, err := os.Stat(s.log)
	if err != nil {
		return 0
	}
	return fi.Size() / int64(len(".\n"))
}

// zeros is a file that is long enough for any download. It takes no room.
const zeros = "zeros"

func (s *server) makeZeros() error {
	name := filepath.Join(s.root, zeros)
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		return err
	}
	return os.Truncate(name, 16<<30)
}

// get has curl download n bytes in one request: what the link takes for them at
// the least.
func (s *server) get(ctx context.Context, n int64) (time.Duration, error) {
	return s.curl(ctx, "-r", fmt.Sprintf("0-%d", max(n, 1)-1), "-o", os.DevNull, s.url+"/"+zeros)
}

// download has curl download a file of the server's.
func (s *server) download(ctx context.Context, name, to string) error {
	_, err := s.curl(ctx, "-o", to, s.url+"/"+name)
	return err
}

func (s *server) curl(ctx context.Context, args ...string) (time.Duration, error) {
	args = append([]string{"-sSf"}, args...)
	if s.ca != "" {
		args = append(args, "--cacert", s.ca)
	}
	began := time.Now()
	err := runQuietly(ctx, time.Minute, "curl", args...)
	return time.Since(began), err
}

// makeCertificate makes a certificate for the server, signed by itself.
func makeCertificate(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.ParseIP(link.FarIP)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	err = os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644)
	if err != nil {
		return err
	}
	return os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600)
}
