package faults

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var content = func() []byte {
	b := make([]byte, 10_000)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}()

func origin(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func serve(t *testing.T, cfg Config) *Server {
	t.Helper()
	cfg.Target = origin(t)
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// outcome is what a client makes of an answer: that it is right, or what it is.
func outcome(client *http.Client, url string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	resp, err := client.Do(req)
	if err == nil {
		defer resp.Body.Close()
		var body []byte
		body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		switch {
		case err != nil:
		case resp.StatusCode != http.StatusOK:
			return fmt.Sprint(resp.StatusCode)
		case !bytes.Equal(body, content):
			return "other bytes"
		default:
			return "right"
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "hangs"
	}
	return "fails"
}

func TestKinds(t *testing.T) {
	wants := map[Kind]string{"": "right", Stall: "hangs right", Drip: "hangs right", LowSpeed: "hangs right", Loris: "hangs", Hints: "hangs fails",
		Late: "right", Silent: "hangs", Cut: "fails right", Reset: "fails right", Close: "right", Flip: "other bytes",
		Header: "hangs fails right other bytes", Huge: "fails other bytes", Short: "other bytes fails right", Long: "hangs", Other: "right other bytes",
		Noise: "other bytes", Twice: "right", Chunks: "fails", Endless: "other bytes", Bomb: "other bytes", Encoding: "other bytes",
		Page: "other bytes", Redirect: "fails"}
	var all sync.WaitGroup
	for _, kind := range append([]Kind{""}, Answers...) {
		all.Go(func() {
			t.Run(string(kind), func(t *testing.T) {
				s := serve(t, Config{Seed: 5})
				if kind != "" {
					s.Set(1, kind)
				}
				client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
				want, ok := wants[kind]
				if !ok {
					want = string(kind) // a status
				}
				if got := outcome(client, "http://"+s.Addr()+"/x"); !strings.Contains(want, got) {
					t.Errorf("%s, want %s", got, want)
				}
				if n := s.Counts()[kind]; kind != "" && n != 1 && kind != Redirect {
					t.Errorf("%d were counted", n)
				}
				s.Set(0)
				client.CloseIdleConnections()
				if got := outcome(client, "http://"+s.Addr()+"/x"); got != "right" {
					t.Errorf("afterwards: %s", got)
				}
			})
		})
	}
	all.Wait()
}

func TestShare(t *testing.T) {
	s := serve(t, Config{Seed: 7})
	s.Set(0.3, Status404, Status503)
	client := &http.Client{Transport: &http.Transport{}}
	got := map[string]int{}
	for range 200 {
		got[outcome(client, "http://"+s.Addr())]++
	}
	if got["404"] < 10 || got["503"] < 10 || got["right"] < 100 || s.Requests() != 200 {
		t.Errorf("%v of %d", got, s.Requests())
	}
}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(crand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestHandshakes(t *testing.T) {
	good := certificate(t)
	leaf, err := x509.ParseCertificate(good.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	s := serve(t, Config{TLS: &tls.Config{Certificates: []tls.Certificate{good}}, Bad: certificate(t)})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	for kind, want := range map[Kind]string{"": "right", BadCertificate: "fails", HandshakeStalls: "hangs", NoTLS: "fails"} {
		s.Set(0)
		if kind != "" {
			s.Set(1, kind)
		}
		if got := outcome(client, "https://"+s.Addr()); got != want {
			t.Errorf("%s: %s, want %s", kind, got, want)
		}
	}
}

func TestRelay(t *testing.T) {
	r, err := NewRelay(origin(t), 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	for kind, want := range map[Kind]string{"": "right", Stall: "hangs", Drip: "hangs", Cut: "fails", Reset: "fails", Flip: "other bytes fails hangs 400", Late: "right"} {
		r.Set(0)
		if kind != "" {
			r.Set(1, kind)
		}
		if got := outcome(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, "http://"+r.Addr()); !strings.Contains(want, got) {
			t.Errorf("%s: %s, want %s", kind, got, want)
		}
	}
}

func TestResolver(t *testing.T) {
	r, err := NewResolver("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", r.conn.LocalAddr().String())
	}}
	for mode, want := range map[int]string{Resolves: "[127.0.0.1]", SaysNothing: "i/o timeout", NoSuchName: "no such host", ServerFails: "server misbehaving"} {
		r.Set(mode)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		addrs, err := resolver.LookupHost(ctx, "store.example.")
		cancel()
		if got := fmt.Sprint(addrs, err); !strings.Contains(got, want) {
			t.Errorf("mode %d: %s, want %s", mode, got, want)
		}
	}
}
