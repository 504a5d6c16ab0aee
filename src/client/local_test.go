package client

import (
	"log/slog"
	"net/url"
	"testing"

	"github.com/aysfs/aysfs/src/config"
)

// TestLocalFor: what a store gives to those with a login only is not put where
// everybody on the machine can read it.
func TestLocalFor(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	local := openLocal(&config.Client{
		Main:  config.Main{Memory: 64 << 20},
		Local: []config.Local{{Port: 1}, {Port: 2, Passwd: config.NewSecret("secret")}},
	}, log)
	t.Cleanup(func() {
		for _, l := range local {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	for _, test := range []struct {
		url, login string
		want       []string
	}{
		{"https://h", "", []string{"local 1", "local 2"}},
		{"https://h", "me", []string{"local 2"}},
		{"file:///srv/store", "", nil},
	} {
		u, err := url.Parse(test.url)
		if err != nil {
			t.Fatal(err)
		}
		caches, groups := localFor(config.Store{Name: "s", URL: u, Login: test.login}, local, log)
		if len(caches) != len(test.want) || len(groups) != len(test.want) {
			t.Errorf("%s, login %q: %d caches in %d groups, want %q", test.url, test.login, len(caches), len(groups), test.want)
			continue
		}
		for i, name := range test.want {
			if caches[i].Name() != name || groups[i].Sources[0].Name() != name || groups[i].Fill == nil {
				t.Errorf("%s, login %q: %s, want %s", test.url, test.login, caches[i].Name(), name)
			}
		}
	}
}
