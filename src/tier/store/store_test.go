package store_test

import (
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// What the servers of these tests, and the transport, say of the faults goes to
// the standard logger.
func TestMain(m *testing.M) {
	log.SetOutput(io.Discard)
	os.Exit(m.Run())
}

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// open makes a store that is closed with the test.
func open(t *testing.T, cfg store.Config) store.Store {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "test"
	}
	s, err := store.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// caFile writes the certificate of a test server to a file.
func caFile(t *testing.T, o interface{ Certificate() *x509.Certificate }) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.Certificate().Raw})
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func overHTTP(h2, pipeline bool) func(*testing.T) tiertest.Harness {
	return func(t *testing.T) tiertest.Harness {
		o := tiertest.NewOrigin(t, h2)
		cfg := store.Config{URL: mustURL(t, o.URL+"/files"), Version: "test", Pipeline: pipeline}
		if h2 {
			cfg.CA = caFile(t, o)
		}
		return tiertest.Harness{
			Source: open(t, cfg),
			Put: func(ref tier.Ref, stored []byte) {
				o.Put(tiertest.Path("/files", ref.Domain, ref.Digest.String()), stored)
			},
			Fault: func(f tiertest.Fault) bool { o.Fault(f); return true },
		}
	}
}

func TestConformsHTTP1(t *testing.T)       { tiertest.Run(t, overHTTP(false, false)) }
func TestConformsHTTP2(t *testing.T)       { tiertest.Run(t, overHTTP(true, false)) }
func TestConformsPipeline(t *testing.T)    { tiertest.Run(t, overHTTP(false, true)) }
func TestConformsPipelineTLS(t *testing.T) { tiertest.Run(t, overHTTP(true, true)) }

func TestConformsDir(t *testing.T) {
	tiertest.Run(t, func(t *testing.T) tiertest.Harness {
		root := filepath.Join(t.TempDir(), "a store | with (odd) name%20")
		u := url.URL{Scheme: "file", Path: root}
		path := func(ref tier.Ref) string { return filepath.Join(root, ref.Domain, ref.Digest.String()) }
		var put []string
		return tiertest.Harness{
			Source: open(t, store.Config{URL: mustURL(t, u.String())}),
			Put: func(ref tier.Ref, stored []byte) {
				if err := os.MkdirAll(filepath.Dir(path(ref)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path(ref), stored, 0o644); err != nil {
					t.Fatal(err)
				}
				put = append(put, path(ref))
			},
			Fault: func(f tiertest.Fault) bool {
				switch f {
				case tiertest.None:
				case tiertest.Flipped, tiertest.Truncated:
					for _, file := range put {
						b, err := os.ReadFile(file)
						if err != nil {
							t.Fatal(err)
						}
						b[len(b)/2] ^= 1
						if f == tiertest.Truncated {
							b = b[:len(b)/2]
						}
						if err := os.WriteFile(file, b, 0o644); err != nil {
							t.Fatal(err)
						}
					}
				case tiertest.Unreachable: // the disk is not mounted
					if err := os.RemoveAll(root); err != nil {
						t.Fatal(err)
					}
				default:
					return false
				}
				return true
			},
		}
	})
}
