package daemon

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/ledisbolt"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
)

func TestMain(m *testing.M) {
	ledisbolt.Register() // before tests run beside each other
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const testID = "jumpscale|mongodb(10.1.888)"

// store serves a published tree.
func store(t testing.TB, files map[string]string) *httptest.Server {
	t.Helper()
	dir, root := t.TempDir(), t.TempDir()
	for name, text := range files {
		must(t, os.MkdirAll(filepath.Dir(root+"/"+name), 0o755))
		must(t, os.WriteFile(root+"/"+name, []byte(text), 0o644))
	}
	_, err := publish.Run(t.Context(), publish.Options{Store: dir, Tree: object.TreeName{ID: testID}, Root: root})
	must(t, err)
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(srv.Close)
	return srv
}

// running is a daemon with its config in a file.
type running struct {
	*Daemon
	t      testing.TB
	file   string
	url    string
	log    *bytes.Buffer
	reload chan os.Signal
	stop   func()
}

func configText(t testing.TB, more string) string {
	dir, err := os.MkdirTemp("", "c") // short: there is a socket in it
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return fmt.Sprintf("[main]\ndata = %q\ncontrol = %q\nlog_level = \"debug\"\n[[ledis]]\nport = 0\n[http]\nlisten = \"127.0.0.1:0\"\n%s\n", dir+"/data", dir+"/s", more)
}

// run starts a daemon; it stops with the test.
func run(t testing.TB, text string) *running {
	t.Helper()
	r := &running{t: t, file: filepath.Join(t.TempDir(), "c.toml"), log: new(bytes.Buffer), reload: make(chan os.Signal)}
	must(t, os.WriteFile(r.file, []byte(text), 0o644))
	cfg, err := config.LoadServer(r.file)
	must(t, err)
	var mu sync.Mutex
	log := slog.New(slog.NewTextHandler(locked{&mu, r.log}, nil))
	r.Daemon, err = Start(t.Context(), Options{Config: cfg, File: r.file, Version: "test", Log: log, Level: new(slog.LevelVar)})
	must(t, err)
	r.url = "http://" + r.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, r.reload) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		r.Stop()
	})
	t.Cleanup(r.stop)
	return r
}

type locked struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// rewrite changes the config and has it read.
func (r *running) rewrite(text string) {
	r.t.Helper()
	must(r.t, os.WriteFile(r.file, []byte(text), 0o644))
	r.reload <- os.Interrupt
	r.reload <- os.Interrupt // taken once the one before is done
}

func get(t testing.TB, client *http.Client, url string) (int, []byte) {
	t.Helper()
	resp, err := client.Get(url)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, b
}

// Example of the whole flow with nothing but curl.
func TestByCurlAlone(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatal(err)
	}
	st := store(t, map[string]string{"bin/mongod": "#!/bin/sh\necho mongod\n", "README": "read me\n"})
	r := run(t, configText(t, ""))
	script := `
set -eu
# who we are, which store we know, and what we mount from it
curl -sSf $CACHE/ays/client/web-17 -d platform=ubuntu64 -d version=1.0
curl -sSf $CACHE/ays/stor/jumpscale -d url=$STORE -d expiration=48
curl -sSf $CACHE/ays/mount/web-17/mongodb --data-urlencode 'ays.id=jumpscale|mongodb(10.1.888)' -d stor.name=jumpscale

# what is in a directory, and which dedupe domain its files are in
curl -sSf -H 'Accept: application/json' -D headers "$CACHE/md/web-17/mongodb/bin" > listing
domain=$(tr -d '\r' < headers | sed -n 's/^Aysfs-Domain: //p')
digest=$(sed -n 's/.*"name":"mongod".*"digest":"\([0-9a-f]*\)".*/\1/p' listing)

# a file, and whether it is what the listing says
curl -sSf -o mongod "$CACHE/$domain/$digest"
echo "$digest  mongod" | sha256sum -c
sh mongod

# once more, from the cache alone
curl -sSf "$CACHE/$domain/$digest?fetch=0" | cmp - mongod
# and both files in one request
printf '%s\n' $digest | curl -sSf --data-binary @- "$CACHE/$domain" | tail -c +38 | cmp - mongod
echo all is well
`
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "CACHE="+r.url, "STORE="+st.URL)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "mongod: OK\nmongod\nall is well\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

// What is kept is there after a restart, with the store gone.
func TestRestart(t *testing.T) {
	content := strings.Repeat("content ", 1000)
	st := store(t, map[string]string{"dir/file": content})
	text := configText(t, fmt.Sprintf("[[ays.stor]]\nname = \"stor\"\nurl = %q", st.URL))
	r := run(t, text)
	client := &http.Client{}
	resp, err := client.Post(r.url+"/ays/mount/c/m", "application/json", strings.NewReader(`{"ays.id":"`+testID+`","stor.name":"stor"}`))
	must(t, err)
	resp.Body.Close()
	blob := "/default/" + digest.Of([]byte(content)).String()
	for _, path := range []string{"/md/c/m/dir", blob} {
		if status, _ := get(t, client, r.url+path); status != 200 {
			t.Errorf("%s: %d", path, status)
		}
	}
	r.stop()
	st.Close()
	r = run(t, text)
	for _, path := range []string{"/md/c/m/dir", blob} {
		if status, _ := get(t, client, r.url+path); status != 200 {
			t.Errorf("%s after a restart: %d\n%s", path, status, r.log)
		}
	}
	if _, b := get(t, client, r.url+blob+"?fetch=0"); string(b) != content {
		t.Errorf("%d bytes", len(b))
	}
}

// A reload under load drops no connection, and fails no request.
func TestReloadUnderLoad(t *testing.T) {
	st := store(t, map[string]string{"f": "content"})
	blob := "/default/" + digest.Of([]byte("content")).String()
	text := configText(t, fmt.Sprintf("[[http.user]]\nlogin = \"a\"\npasswd = \"1\"\n[[ays.stor]]\nname = \"stor\"\nurl = %q", st.URL))
	r := run(t, text)
	var conns, requests atomic.Int64
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conns.Add(1)
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		},
	}
	defer transport.CloseIdleConnections()
	end := make(chan struct{})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			transport := transport.Clone()
			transport.MaxConnsPerHost = 1
			defer transport.CloseIdleConnections()
			for {
				select {
				case <-end:
					return
				default:
				}
				req, _ := http.NewRequest("GET", r.url+blob, nil)
				req.SetBasicAuth("a", "1")
				resp, err := transport.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
					t.Errorf("%d, %v", resp.StatusCode, err)
				}
				resp.Body.Close()
				requests.Add(1)
			}
		})
	}
	for i := range 10 {
		r.rewrite(strings.Replace(text, "[[http.user]]", fmt.Sprintf("[[http.user]]\nlogin = \"b%d\"\npasswd = \"2\"\n[[http.user]]", i), 1))
		time.Sleep(10 * time.Millisecond)
	}
	r.rewrite("nonsense")
	close(end)
	all.Wait()
	if conns.Load() != 8 || requests.Load() < 50 {
		t.Errorf("%d connections for %d requests of 8 clients", conns.Load(), requests.Load())
	}
	for basic, want := range map[string]int{"b9:2": 200, "b8:2": 401, "a:1": 200} {
		req, _ := http.NewRequest("GET", r.url+blob, nil)
		login, passwd, _ := strings.Cut(basic, ":")
		req.SetBasicAuth(login, passwd)
		resp, err := transport.RoundTrip(req)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d", basic, resp.StatusCode)
		}
	}
}

// certificate writes a self-signed one with a serial number.
func certificate(t testing.TB, dir string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	must(t, err)
	der, err := x509.CreateCertificate(crand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, &x509.Certificate{SerialNumber: big.NewInt(serial)}, &key.PublicKey, key)
	must(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(dir+"/cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(dir+"/key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	certificate(t, dir, 1)
	text := configText(t, fmt.Sprintf("tls_cert = %q\ntls_key = %q", dir+"/cert.pem", dir+"/key.pem"))
	r := run(t, text)
	old := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	defer old.CloseIdleConnections()
	ask := func(tr *http.Transport) (serial int64, proto int) {
		t.Helper()
		resp, err := (&http.Client{Transport: tr}).Get("https://" + r.Addr().String() + "/healthz")
		must(t, err)
		resp.Body.Close()
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64(), resp.ProtoMajor
	}
	if serial, proto := ask(old); serial != 1 || proto != 2 {
		t.Errorf("certificate %d, HTTP/%d", serial, proto)
	}
	certificate(t, dir, 2)
	r.rewrite(text)
	anew := old.Clone()
	defer anew.CloseIdleConnections()
	if serial, _ := ask(anew); serial != 2 {
		t.Errorf("certificate %d after the reload", serial)
	}
	if serial, _ := ask(old); serial != 1 {
		t.Errorf("the old connection has certificate %d: it was dropped", serial)
	}
	must(t, os.WriteFile(dir+"/cert.pem", []byte("nonsense"), 0o600))
	r.rewrite(text)
	third := old.Clone()
	defer third.CloseIdleConnections()
	if serial, _ := ask(third); serial != 2 {
		t.Errorf("certificate %d after one that can't be used", serial)
	}
}

func TestHTTP2InClear(t *testing.T) {
	r := run(t, configText(t, ""))
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get(r.url + "/healthz")
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.ProtoMajor != 2 {
		t.Errorf("%d, HTTP/%d", resp.StatusCode, resp.ProtoMajor)
	}
}

// Who is slow, or sends too much, is cut off; others are served meanwhile.
func TestLimits(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	st := store(t, map[string]string{"big": big})
	r := run(t, configText(t, fmt.Sprintf("header_timeout = \"1s\"\nstall_timeout = \"1s\"\nidle_timeout = \"1s\"\nmax_connections = 20\nmax_header = \"8KiB\"\nmax_body = \"16KiB\"\n[[ays.stor]]\nname = \"stor\"\nurl = %q", st.URL)))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", r.Addr().String())
		must(t, err)
		must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		t.Cleanup(func() { c.Close() })
		return c
	}
	cut := func(what string, c net.Conn) {
		t.Helper()
		began := time.Now()
		b, err := io.ReadAll(c)
		if took := time.Since(began); took > 6*time.Second || err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: after %v %v: %.100q", what, took, err, b)
		}
	}
	var all sync.WaitGroup
	all.Go(func() { cut("no request", dial()) })
	all.Go(func() {
		c := dial()
		_, _ = c.Write([]byte("GET /healthz HTTP/1.1\r\nHost: x\r\n"))
		go func() { // slowloris
			for range 50 {
				if _, err := c.Write([]byte("X-A: b\r\n")); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}()
		cut("a slow header", c)
	})
	all.Go(func() {
		c := dial()
		_, _ = c.Write([]byte("POST /ays/client/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx"))
		cut("a slow body", c)
	})
	all.Go(func() {
		c := dial()
		_ = c.(*net.TCPConn).SetReadBuffer(4096)
		_, _ = c.Write([]byte("GET /default/" + digest.Of([]byte(big)).String() + " HTTP/1.1\r\nHost: x\r\nAccept-Encoding: identity\r\n\r\n"))
		for range 8 { // more than fits into what lies between
			_, _ = c.Write([]byte("GET /default/" + digest.Of([]byte(big)).String() + " HTTP/1.1\r\nHost: x\r\nAccept-Encoding: identity\r\n\r\n"))
		}
		time.Sleep(4 * time.Second) // reads nothing
		n, _ := io.Copy(io.Discard, c)
		if n >= 9<<20 {
			t.Errorf("who read nothing for 4 s got all %d bytes", n)
		}
	})
	for range 5 {
		if status, _ := get(t, client, r.url+"/healthz"); status != 200 {
			t.Errorf("meanwhile: %d", status)
		}
		time.Sleep(100 * time.Millisecond)
	}
	all.Wait()

	req, _ := http.NewRequest("GET", r.url+"/healthz", nil)
	req.Header.Set("X-Long", strings.Repeat("x", 64<<10))
	if resp, err := client.Do(req); err == nil {
		if resp.Body.Close(); resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("a huge header: %d", resp.StatusCode)
		}
	}
	resp, err := client.Post(r.url+"/default", "text/plain", io.LimitReader(zeros{}, 1<<30))
	if err == nil {
		if resp.Body.Close(); resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("a huge body: %d", resp.StatusCode)
		}
	}
	for range 20 {
		_, _ = dial().Write([]byte("GET /"))
	}
	time.Sleep(100 * time.Millisecond)
	began := time.Now()
	if resp, err := client.Get(r.url + "/healthz"); err == nil {
		resp.Body.Close()
		t.Error("one connection more than allowed was served")
	} else if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("it was told after %v", took)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// The machine's root sees all on the control socket.
// respClient speaks RESP with a daemon.
type respClient struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

// dialRESP connects to the port of a daemon's ledis.
func dialRESP(t testing.TB, port string) *respClient {
	t.Helper()
	c, err := net.Dial("tcp", "127.0.0.1:"+port)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(time.Minute)))
	return &respClient{t, c, bufio.NewReader(c)}
}

// do sends a command and returns the reply as it came.
func (c *respClient) do(args ...string) string {
	c.t.Helper()
	text := fmt.Sprintf("*%d\r\n", len(args))
	for _, a := range args {
		text += fmt.Sprintf("$%d\r\n%s\r\n", len(a), a)
	}
	_, err := io.WriteString(c, text)
	must(c.t, err)
	return c.reply()
}

func (c *respClient) reply() string {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	must(c.t, err)
	n, _ := strconv.Atoi(strings.TrimSpace(line[1:]))
	switch {
	case line[0] == '$' && n >= 0:
		b := make([]byte, n+2)
		_, err := io.ReadFull(c.r, b)
		must(c.t, err)
		return string(b[:n])
	case line[0] == '*':
		var all []string
		for range n {
			all = append(all, c.reply())
		}
		return strings.Join(all, " ")
	}
	return strings.TrimSpace(line)
}

// freePort is a port that nobody has, for a config that has to name one: not one
// of those that the kernel gives to who names none.
func freePort(t testing.TB) string {
	t.Helper()
	for range 1000 {
		port := strconv.Itoa(10_000 + rand.N(20_000))
		if ln, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			must(t, ln.Close())
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// What is from a private store is not to be had over RESP, unless that wants a
// password; and a wrong blob can't be put there.
func TestRightsOverRESP(t *testing.T) {
	const text, secretText = "everybody's\n", "the customer's own\n"
	public, private := t.TempDir(), t.TempDir()
	put := func(dir, domain, text string) (hash string) {
		hash = digest.Of([]byte(text)).String()
		must(t, os.MkdirAll(filepath.Join(dir, domain), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, domain, hash), []byte(text), 0o644))
		return hash
	}
	hash, secret := put(public, "open", text), put(private, "customer", secretText)
	put(private, "shared", secretText)
	put(public, "shared", text)
	openStore := httptest.NewServer(http.FileServer(http.Dir(public)))
	defer openStore.Close()
	lockedStore := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l, p, _ := r.BasicAuth(); l != "custx" || p != "s3cr3t" {
			http.Error(w, "login, please", http.StatusUnauthorized)
			return
		}
		http.FileServer(http.Dir(private)).ServeHTTP(w, r)
	}))
	defer lockedStore.Close()
	port := freePort(t)
	config := configText(t, fmt.Sprintf("[[ays.stor]]\nname = \"open\"\nurl = %q\n[[ays.stor]]\nname = \"locked\"\nurl = %q\nlogin = \"custx\"\nsecret = \"s3cr3t\"\n", openStore.URL, lockedStore.URL))
	withPort := func(more string) string {
		return strings.Replace(config, "[[ledis]]\nport = 0\n", "[[ledis]]\nport = "+port+"\n"+more, 1)
	}
	r := run(t, withPort(""))
	for _, path := range []string{"/open/" + hash, "/customer/" + secret, "/shared/" + secret, "/shared/" + hash} {
		req, err := http.NewRequest(http.MethodGet, r.url+path, nil)
		must(t, err)
		req.SetBasicAuth("custx", "s3cr3t")
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Fatalf("%s: %d", path, resp.StatusCode)
		}
	}
	hidden := func(c *respClient) {
		t.Helper()
		if got := c.do("HGET", "files:open", hash); got != text {
			t.Errorf("what everybody may read: %q", got)
		}
		for _, domain := range []string{"customer", "shared"} {
			for _, cmd := range []string{"HGET %s " + secret, "HKEYS %s", "HGETALL %s", "XHSCAN %s 0", "HVALS %s", "HLEN %s", "EXISTS %s", "HEXISTS %s " + secret} {
				got := c.do(strings.Fields(fmt.Sprintf(cmd, "files:"+domain))...)
				want := c.do(strings.Fields(fmt.Sprintf(cmd, "files:none"))...)
				if got != want || strings.Contains(got, secretText) {
					t.Errorf(cmd+": %q, of what isn't there %q", domain, got, want)
				}
			}
			if got := c.do("HSET", "files:"+domain, secret, secretText); !strings.HasPrefix(got, "-NOPERM") {
				t.Errorf("put into %s: %q", domain, got)
			}
		}
		if got := c.do("XSCAN", "HASH", "", "COUNT", "100"); strings.Contains(got, "customer") || strings.Contains(got, "shared") || !strings.Contains(got, "files:open") {
			t.Errorf("XSCAN: %q", got)
		}
		for _, key := range []string{"ays:stores", "ays:from:customer", "ays:private", "ays:holdings"} {
			if got := c.do("HGETALL", key); !strings.HasPrefix(got, "-NOPERM") {
				t.Errorf("%s: %q", key, got)
			}
		}
	}
	c := dialRESP(t, port)
	hidden(c)
	more := "put over RESP\n"
	own := digest.Of([]byte(more)).String()
	for _, wrong := range [][]string{
		{"HSET", "files:open", hash, "poison"}, {"HMSET", "files:open", hash, "poison"}, {"HSET", "files:open", own, more, hash, "poison"},
		{"HSET", "files:open", "no digest", "poison"}, {"HSET", "files:No domain", own, more}, {"HSET", "files:open", strings.ToUpper(own), more},
	} {
		if got := c.do(wrong...); !strings.HasPrefix(got, "-ERR") {
			t.Errorf("%q: %q", wrong, got)
		}
	}
	if got := c.do("HGET", "files:open", own); got != "$-1" {
		t.Errorf("put along with a wrong one: %q", got)
	}
	if got := c.do("HSET", "files:open", own, more); got != ":1" {
		t.Errorf("a right one: %q", got)
	}
	if status, b := get(t, http.DefaultClient, r.url+"/open/"+hash); status != 200 || string(b) != text {
		t.Errorf("over HTTP: %d %q", status, b)
	}
	// It is remembered.
	r.stop()
	r = run(t, withPort(""))
	hidden(dialRESP(t, port))
	r.stop()
	// With a password it is there, for who knows that.
	run(t, withPort("passwd = \"known to few\"\n"))
	c = dialRESP(t, port)
	if got := c.do("HGET", "files:customer", secret); !strings.HasPrefix(got, "-NOAUTH") {
		t.Errorf("without the password: %q", got)
	}
	if got := c.do("AUTH", "known to few"); got != "+OK" {
		t.Fatal(got)
	}
	if got := c.do("HGET", "files:customer", secret); got != secretText {
		t.Errorf("with the password: %q", got)
	}
	if got := c.do("HSET", "files:customer", secret, "poison"); !strings.HasPrefix(got, "-ERR") {
		t.Errorf("a wrong blob with the password: %q", got)
	}
	if got := c.do("HGETALL", "ays:stores"); !strings.HasPrefix(got, "-NOPERM") {
		t.Errorf("the cache's own: %q", got)
	}
}

func TestControl(t *testing.T) {
	r := run(t, configText(t, ""))
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", r.cfg.Main.Control)
	}}
	defer tr.CloseIdleConnections()
	if status, b := get(t, &http.Client{Transport: tr}, "http://x/metrics"); status != 200 || !bytes.Contains(b, []byte("ays_cache_info")) {
		t.Errorf("%d %s", status, b)
	}
	if st, err := os.Stat(r.cfg.Main.Control); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
}

func TestDescribe(t *testing.T) {
	cfg, err := config.ParseServer("x", []byte("[[ays.stor]]\nname='s'\nurl='https://example.org/f'\nlogin='me'\nsecret='hush'\n[[http.user]]\nlogin='u'\npasswd='hush'"))
	must(t, err)
	var b strings.Builder
	Describe(&b, cfg)
	if s := b.String(); strings.Contains(s, "hush") || !strings.Contains(s, "s: https://example.org/f, private") || !strings.Contains(s, ":8080, for 1 users") || !strings.Contains(s, "/var/lib/ays_cache, up to 102400 MiB") {
		t.Error(s)
	}
}

// BenchmarkBlob is a cached blob over HTTP/1.1 on a real socket.
func BenchmarkBlob(b *testing.B) {
	for _, size := range []int{256, 4 << 10, 256 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			plain := make([]byte, size)
			crand.Read(plain)
			st := store(b, map[string]string{"f": string(plain)})
			r := run(b, strings.Replace(configText(b, fmt.Sprintf("[[ays.stor]]\nname = \"stor\"\nurl = %q", st.URL)), "debug", "info", 1))
			sum := sha256.Sum256(plain)
			path := "/default/" + hex.EncodeToString(sum[:])
			get(b, &http.Client{}, r.url+path)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				c, err := net.Dial("tcp", r.Addr().String())
				if err != nil {
					b.Error(err)
					return
				}
				defer c.Close()
				request := []byte("GET " + path + " HTTP/1.1\r\nHost: x\r\nAccept-Encoding: zstd\r\n\r\n")
				buf := make([]byte, 64<<10)
				for pb.Next() {
					if _, err := c.Write(request); err != nil {
						b.Error(err)
						return
					}
					for want := -1; want != 0; { // header, then size bytes
						n, err := c.Read(buf)
						if err != nil {
							b.Error(err)
							return
						}
						if want < 0 {
							i := bytes.Index(buf[:n], []byte("\r\n\r\n"))
							if i < 0 {
								b.Error("a header in pieces")
								return
							}
							n, want = n-i-4, size
						}
						want -= n
					}
				}
			})
		})
	}
}

// With a redis in place of the embedded ledis all is the same.
func TestRemoteRedis(t *testing.T) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := ln.Addr().String()
	ln.Close()
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command(path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir(), "--requirepass", "hush")
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 500 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	st := store(t, map[string]string{"f": "content"})
	text := strings.Replace(configText(t, fmt.Sprintf("[[ays.stor]]\nname = \"stor\"\nurl = %q", st.URL)), "port = 0", fmt.Sprintf("addr = [%q]\npasswd = \"hush\"", addr), 1)
	blob := "/default/" + digest.Of([]byte("content")).String()
	r := run(t, text)
	client := &http.Client{}
	resp, err := client.Post(r.url+"/ays/mount/c/m", "application/json", strings.NewReader(`{"ays.id":"`+testID+`","stor.name":"stor"}`))
	must(t, err)
	resp.Body.Close()
	for _, p := range []string{"/md/c/m/", blob, blob + "?fetch=0"} {
		if status, _ := get(t, client, r.url+p); status != 200 {
			t.Errorf("%s: %d", p, status)
		}
	}
	r.stop()
	st.Close()
	r = run(t, text)
	for _, p := range []string{"/md/c/m/", blob} {
		if status, _ := get(t, client, r.url+p); status != 200 {
			t.Errorf("%s after a restart: %d", p, status)
		}
	}
	// Without its data the cache says so, and goes on once it is back.
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	began := time.Now()
	if status, _ := get(t, client, r.url+blob); status != 502 && status != 504 {
		t.Errorf("without the data, and the store: %d", status)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if status, _ := get(t, client, r.url+"/healthz"); status != 200 {
		t.Errorf("healthz: %d", status)
	}
}

// A config that changes is taken without a signal; one that can't be used is told
// on the page and in the metrics until it is mended.
func TestConfigIsWatched(t *testing.T) {
	text := configText(t, "max_body = \"1MiB\"")
	r := run(t, text)
	client := &http.Client{}
	defer client.CloseIdleConnections()
	tells := func(page, metric string) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			_, html := get(t, client, r.url+"/")
			_, metrics := get(t, client, r.url+"/metrics")
			if strings.Contains(string(html), "be used, and changes nothing") == (page != "") && strings.Contains(string(metrics), metric+"\n") {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the page and the metrics do not tell %q, %s:\n%s\n%s", page, metric, html, metrics)
			}
		}
	}
	tells("", "ays_cache_config_ok 1")
	must(t, os.WriteFile(r.file+".new", []byte(text+"colour = 1\n"), 0o644))
	must(t, os.Rename(r.file+".new", r.file))
	tells("can't be used", "ays_cache_config_ok 0")
	must(t, os.WriteFile(r.file, []byte(text+"\n[[http.user]]\nlogin = \"a\"\npasswd = \"1\"\n"), 0o644))
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if status, _ := get(t, client, r.url+"/metrics"); status == http.StatusUnauthorized {
			break
		} else if time.Now().After(end) {
			t.Fatal("the new user is not asked for")
		}
	}
	must(t, os.WriteFile(r.file, []byte(text), 0o644))
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if status, _ := get(t, client, r.url+"/metrics"); status == http.StatusOK {
			break
		} else if time.Now().After(end) {
			t.Fatal("the user is still asked for")
		}
	}
	tells("", "ays_cache_config_ok 1")
}
