package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/digest"
)

func TestAnnouncements(t *testing.T) {
	t.Parallel()
	st, c := newStore(t), newCache(t, func(cfg *config.Server) {
		cfg.Stor.Allow = []config.Pattern{"http://127.0.0.1:*", "https://files.example.org/*"}
	})
	const form = "application/x-www-form-urlencoded"
	deep := strings.Repeat(`{"a":`, 20) + "1" + strings.Repeat("}", 20)
	for _, k := range []struct {
		path, kind, body string
		status           int
	}{
		{"/ays/client/web-17", asJSON, `{"platform":"ubuntu64","version":"1.2"}`, 200},
		{"/ays/client/web-17", form, "platform=ubuntu64&version=1.2", 200},
		{"/ays/client/web-17", "", "", 200},
		{"/ays/client/web-17", form, `{"platform":"ubuntu64"}`, 200}, // as curl -d says
		{"/ays/client/%7Bx%20y%7D", "", "", 200},
		{"/ays/client/web-17", asJSON, `{"platform":"../x"}`, 400},
		{"/ays/client/web-17", asJSON, `[1]`, 400},
		{"/ays/client/web-17", asJSON, `{"a":`, 400},
		{"/ays/client/web-17", asJSON, `{} {}`, 400},
		{"/ays/client/web-17", asJSON, deep, 400},
		{"/ays/client/web-17", form, "a=1&a=2", 400},
		{"/ays/client/web-17", form, "%zz", 400},
		{"/ays/client/web-17", "text/plain", "hello", 400},
		{"/ays/client/web-17", ";;", "{}", 400},
		{"/ays/client/web-17", form, manyKeys(300), 400},
		{"/ays/client/web-17", asJSON, strings.Repeat(" ", 2<<20), 413},
		{"/ays/client/jumpscale%7Cmongodb(1)", "", "", 400},
		{"/ays/client/a%2Fb", "", "", 400},
		{"/ays/client/..", "", "", 400},
		{"/ays/client/" + strings.Repeat("x", 200), "", "", 400},

		{"/ays/stor/s", asJSON, `{"url":"` + st.URL + `","expiration":48}`, 200},
		{"/ays/stor/s", form, "url=" + st.URL + "/", 200}, // the same one
		{"/ays/stor/s", form, "url=" + st.URL + "/elsewhere", 409},
		{"/ays/stor/s", form, "url=http://127.0.0.1:1", 409},
		{"/ays/stor/t", form, "", 400},
		{"/ays/stor/t", form, "url=file:///etc", 400},
		{"/ays/stor/t", form, "url=ftp://files.example.org/", 400},
		{"/ays/stor/t", form, "url=https://user:pw@files.example.org/x", 400},
		{"/ays/stor/t", form, "url=https://files.example.org/?x", 400},
		{"/ays/stor/t", form, "url=nonsense", 400},
		{"/ays/stor/t", form, "url=https://other.example.org/x", 403},
		{"/ays/stor/t", form, "url=https://files.example.org.evil.org/x", 403},
		{"/ays/stor/t", form, "url=https://files.example.org/x&expiration=-1", 400},
		{"/ays/stor/t", form, "url=https://files.example.org/x&expiration=soon", 400},
		{"/ays/stor/t", form, "url=https://files.example.org/x&passwd=p", 400},
		{"/ays/stor/t", form, "url=https://files.example.org/x", 200},

		{"/ays/mount/web-17/m", asJSON, `{"ays.id":"` + testID + `","stor.name":"s","debug_filter":[".*"],"x":null,"prefetch":2}`, 200},
		{"/ays/mount/web-17/m", asJSON, `{"ays":{"id":"` + testID + `","repoid":"1SdY294"},"stor":{"name":"s"},"remote":"lib"}`, 200},
		{"/ays/mount/web-17/m", form, "ays.id=x&stor.name=s", 400},
		{"/ays/mount/web-17/m", form, "ays.id=" + testID, 400},
		{"/ays/mount/web-17/m", form, "ays.id=" + testID + "&stor.name=s&remote=../x", 400},
		{"/ays/mount/web-17/m", form, "ays.id=" + testID + "&stor.name=s&remote=/x", 400},
		{"/ays/mount/web-17/m", form, "ays.id=" + testID + "&stor.name=s&platform=any", 400},
		{"/ays/mount/web-17/jumpscale%7Cm!main", form, "ays.id=" + testID + "&stor.name=s", 400},
	} {
		r := c.do("POST", k.path, strings.NewReader(k.body), "Content-Type", k.kind)
		if r.status != k.status {
			t.Errorf("POST %s %.80s: %d %s, want %d", k.path, k.body, r.status, r.body, k.status)
		}
		if lines := strings.Count(string(r.body), "\n"); lines != 1 || len(r.body) > 500 {
			t.Errorf("POST %s %.80s: %d lines: %s", k.path, k.body, lines, r.body)
		}
	}
	if strings.Contains(c.log.String(), "user:pw") {
		t.Error("the log has a password")
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "k%d=1&", i)
	}
	return strings.TrimSuffix(b.String(), "&")
}

func TestExpiration(t *testing.T) {
	t.Parallel()
	st, c := newStore(t), newCache(t)
	for _, k := range []struct{ told, want int }{{48, 48}, {24, 48}, {72, 72}, {0, 0}, {1000, 0}} {
		c.post("/ays/stor/stor", map[string]any{"url": st.URL, "expiration": k.told})
		if got := c.server.stores.now.Load().byName["stor"].expiration; got != time.Duration(k.want)*time.Hour {
			t.Errorf("told %d: %v, want %d h", k.told, got, k.want)
		}
	}
}

// What expires is as the store wants that wants it longest.
func TestExpire(t *testing.T) {
	t.Parallel()
	a, b, c := newStore(t), newStore(t), newCache(t)
	c.post("/ays/stor/a", map[string]any{"url": a.URL, "expiration": 10})
	c.post("/ays/stor/b", map[string]any{"url": b.URL, "expiration": 20})
	b.put("other", small)
	c.blob("other", digest.Of(small), 1)
	c.get("/default/" + digest.Of(random).String() + "?stor=a")
	hours := func(domain string) float64 {
		c.server.expire(t.Context())
		c.data.mu.Lock()
		defer c.data.mu.Unlock()
		return time.Since(c.data.limit[domain]).Hours()
	}
	if h := hours("default"); h < 9.9 || h > 10.1 {
		t.Errorf("default: %.1f h", h)
	}
	if h := hours("other"); h < 19.9 || h > 20.1 {
		t.Errorf("other: %.1f h", h)
	}
	c.get("/default/" + digest.Of(small).String() + "?stor=b")
	if h := hours("default"); h < 19.9 || h > 20.1 {
		t.Errorf("default, which b has too: %.1f h", h)
	}
	c.post("/ays/stor/b", map[string]any{"url": b.URL, "expiration": 0})
	if e := c.server.expiration("default"); e != 0 {
		t.Errorf("never is not the longest: %v", e)
	}
}

func TestAnnouncementsAreBounded(t *testing.T) {
	c := newCache(t)
	for i := range maxMountsPerClient + 1 {
		r := c.try(fmt.Sprintf("/ays/mount/client1/m%d", i), map[string]any{"ays.id": testID, "stor.name": "s"})
		if want := map[bool]int{true: 200, false: 507}[i < maxMountsPerClient]; r.status != want {
			t.Fatalf("mount %d: %d", i, r.status)
		}
	}
	a := &c.server.announced
	for i := range maxClients {
		must(t, a.putClient(t.Context(), fmt.Sprint("c", i), Client{Told: time.Now()}))
	}
	clients, mounts := a.counts()
	if clients != maxClients || mounts != 0 {
		t.Errorf("%d clients, %d mounts: who was not heard of for the longest should be gone", clients, mounts)
	}
	if n := len(c.data.fields("ays:clients")); n != maxClients {
		t.Errorf("%d clients in the data", n)
	}
	if n := len(c.data.fields("ays:mounts")); n != 0 {
		t.Errorf("%d mounts in the data", n)
	}
	for i := range maxTold {
		u := parseURL(t, fmt.Sprintf("http://127.0.0.1:1/%d", i))
		st, err := c.server.newStor(fmt.Sprint("s", i), u, "", nil, false)
		must(t, err)
		must(t, c.server.addStor(st))
	}
	if r := c.try("/ays/stor/more", map[string]any{"url": "http://127.0.0.1:1/more"}); r.status != http.StatusInsufficientStorage {
		t.Errorf("one store more: %d", r.status)
	}
	c.server.stores.now.Load().byName["s7"].used.Store(1)
	if r := c.try("/ays/stor/more", map[string]any{"url": "http://127.0.0.1:1/more"}); r.status != 200 {
		t.Errorf("in place of one that is idle: %d", r.status)
	}
	if c.server.stores.now.Load().byName["s7"] != nil {
		t.Error("the idle one is still there")
	}
}

func TestRemembered(t *testing.T) {
	t.Parallel()
	st := newStore(t)
	cfg, data := defaults(t), newMemory()
	c := startCache(t, cfg, data)
	c.post("/ays/client/client1", map[string]any{"platform": "ubuntu64", "version": "1.2"})
	c.tell(st, "stor")
	c.stop()
	c = startCache(t, cfg, data)
	if r := c.get("/md/client1/mongodb/"); r.status != 200 {
		t.Errorf("the mount: %d", r.status)
	}
	if r := c.try("/ays/stor/stor", map[string]any{"url": st.URL + "/other"}); r.status != 409 || !strings.Contains(string(r.body), "another name") {
		t.Errorf("the store: %d", r.status)
	}
	if page := string(c.get("/").body); !strings.Contains(page, "ubuntu64") || !strings.Contains(page, "1.2") {
		t.Error("the client is not on the page")
	}
}

func TestManyTellAtOnce(t *testing.T) {
	t.Parallel()
	st, c := newStore(t), newCache(t)
	st.lock(login, secret)
	tokens := make(chan any, 32)
	for range cap(tokens) {
		go func() {
			r := c.try("/ays/stor/stor", map[string]any{"url": st.URL, "login": login, "passwd": secret})
			if r.status != 200 {
				tokens <- fmt.Sprint(r.status)
				return
			}
			tokens <- r.header.Get(tokenHeader)
		}()
	}
	first := <-tokens
	for range cap(tokens) - 1 {
		if got := <-tokens; got != first || len(fmt.Sprint(got)) < 40 {
			t.Errorf("got %v and %v", first, got)
		}
	}
}

// What clients tell is on the page as text.
func TestPageEscapes(t *testing.T) {
	t.Parallel()
	c := newCache(t)
	const evil = `<script>alert("x")</script>`
	c.post("/ays/client/%3Cscript%3E", map[string]any{"version": evil})
	c.post("/ays/stor/%3Cscript%3E", map[string]any{"url": "http://127.0.0.1:1/<script>"})
	page := string(c.get("/").body)
	if strings.Contains(page, "<script") || !strings.Contains(page, "&lt;script&gt;") {
		t.Error("not escaped")
	}
	if strings.Contains(page, "src=") || strings.Contains(page, "href=") {
		t.Error("the page needs something from elsewhere")
	}
}
