package client

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/config"
)

// What a cache is told has credentials in it, which go nowhere else.
func TestCacheThatRedirects(t *testing.T) {
	var got atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got.Add(1) }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		cache := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/ays/client/") {
				return
			}
			http.Redirect(w, r, other.URL+r.URL.Path, status)
		}))
		defer cache.Close()
		at, err := url.Parse(cache.URL)
		if err != nil {
			t.Fatal(err)
		}
		cfg := &config.Client{Stores: []config.Store{{Name: "s", URL: at, Login: "me", Secret: config.NewSecret("hush-hush")}}}
		cfg.Main.ID = "c"
		err = newGridCache(config.Grid{URL: at}, 10*time.Second).announce(t.Context(), cfg, "v1")
		if err == nil || !strings.Contains(err.Error(), "redirects to "+other.URL) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%d: %v", status, err)
		}
	}
	if n := got.Load(); n > 0 {
		t.Errorf("another server got %d requests", n)
	}
}
