package server

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

const (
	login  = "custx"
	secret = "s3cr3t-of-custx"
)

// secretText is what only a private store has in the tests below.
var secretText = []byte("the private store's own text\n")

// privateCache is a cache that knows a private store, has fetched all of it for a
// client that showed its credentials, and knows a public store besides.
func privateCache(t *testing.T) (c *testCache, private, public *testStore, token string) {
	t.Helper()
	private, public = emptyStore(t), newStore(t)
	private.publish("customer|secrets(1)", "hidden", map[string][]byte{"secret": secretText, "dir/common": wordy})
	private.publish("customer|shared(1)", "", map[string][]byte{"own": secretText, "dir/common": wordy})
	private.lock(login, secret)
	c = newCache(t)
	c.tell(public, "public")
	token = c.post("/ays/stor/private", map[string]any{"url": private.URL, "login": login, "passwd": secret})["token"].(string)
	c.post("/ays/mount/client2/secrets", map[string]any{"ays.id": "customer|secrets(1)", "stor.name": "private"})
	c.post("/ays/mount/client2/shared", map[string]any{"ays.id": "customer|shared(1)", "stor.name": "private"})
	for _, path := range []string{
		"/md/client2/secrets/dir", "/md/client2/shared/dir", "/md/client2/secrets?subtree=1",
		"/hidden/" + digest.Of(secretText).String(), "/default/" + digest.Of(secretText).String(), "/hidden/" + digest.Of(wordy).String(),
	} {
		if r := c.get(path, tokenHeader, token); r.status != 200 {
			t.Fatalf("with the token: %s: %d %s", path, r.status, r.body)
		}
	}
	return c, private, public, token
}

// asUnknown checks that an answer is what there is for what nobody has.
func asUnknown(t *testing.T, what string, got, unknown reply) {
	t.Helper()
	for _, r := range []*reply{&got, &unknown} {
		r.header.Del("Date")
	}
	if got.status != unknown.status || !bytes.Equal(got.body, unknown.body) || fmt.Sprint(got.header) != fmt.Sprint(unknown.header) {
		t.Errorf("%s: %d %v %q, for what is unknown %d %v %q", what, got.status, got.header, got.body, unknown.status, unknown.header, unknown.body)
	}
	if got.status != 404 && got.status != 202 {
		t.Errorf("%s: %d", what, got.status)
	}
}

func TestPrivateByMount(t *testing.T) {
	t.Parallel()
	c, _, _, _ := privateCache(t)
	// Another client's mount of it does not help either.
	c.post("/ays/mount/thief/secrets", map[string]any{"ays.id": "customer|secrets(1)", "stor.name": "private"})
	c.post("/ays/mount/thief/unknown", map[string]any{"ays.id": "customer|secrets(1)", "stor.name": "none"})
	for fetch := range 4 {
		for _, path := range []string{"/md/client2/secrets/", "/md/client2/secrets/dir", "/md/thief/secrets/", "/md/client2/shared/dir"} {
			query := fmt.Sprintf("?fetch=%d", fetch)
			asUnknown(t, path+query, c.get(path+query), c.get("/md/thief/unknown/"+query))
			asUnknown(t, path+query+" as JSON", c.get(path+query+"&subtree=1", "Accept", asJSON), c.get("/md/nobody/none/"+query))
		}
	}
	for _, path := range []string{"/md/customer%7Csecrets(1)/any/head", "/md/customer|shared(1)/any/head"} {
		asUnknown(t, path, c.get(path), c.get("/md/customer|none(1)/any/head"))
	}
	if r := c.get("/md/trees"); bytes.Contains(r.body, []byte("customer")) || !bytes.Contains(r.body, []byte(testID)) {
		t.Errorf("trees: %s", r.body)
	}
}

func TestPrivateByDigest(t *testing.T) {
	t.Parallel()
	c, _, _, _ := privateCache(t)
	none := digest.Of([]byte("none"))
	for fetch := range 4 {
		asUnknown(t, "by digest", c.blob("hidden", digest.Of(secretText), fetch), c.blob("hidden", none, fetch))
		tag := `"` + digest.Of(secretText).String() + `"`
		asUnknown(t, "If-None-Match", c.blob("hidden", digest.Of(secretText), fetch, "If-None-Match", tag), c.blob("hidden", none, fetch))
		asUnknown(t, "Range", c.blob("hidden", digest.Of(secretText), fetch, "Range", "bytes=0-1"), c.blob("hidden", none, fetch))
		path := fmt.Sprintf("/hidden/%v?fetch=%d&stor=private", digest.Of(secretText), fetch)
		asUnknown(t, "naming the store", c.get(path), c.blob("hidden", none, fetch))
		asUnknown(t, "HEAD", c.do("HEAD", path, nil), c.do("HEAD", fmt.Sprintf("/hidden/%v?fetch=%d", none, fetch), nil))
	}
}

func TestPrivateByBatch(t *testing.T) {
	t.Parallel()
	c, _, _, token := privateCache(t)
	ask := wants(digest.Of(secretText), digest.Of(wordy))
	for fetch, status := range []object.FrameStatus{object.FrameAbsent, object.FrameAbsent, object.FrameStarted, object.FrameAbsent} {
		for _, domain := range []string{"hidden", "default"} {
			r := c.do("POST", fmt.Sprintf("/%s?fetch=%d", domain, fetch), bytes.NewReader(ask))
			for _, f := range readFrames(t, r.body) {
				// The public store has this one, in its domain.
				if domain == "default" && f.Digest == digest.Of(wordy) {
					continue
				}
				if f.Status != status || len(f.Stored) != 0 {
					t.Errorf("%s, fetch=%d: %v with %d bytes", domain, fetch, f.Status, len(f.Stored))
				}
			}
		}
	}
	if list := readFrames(t, c.do("POST", "/hidden?fetch=0", bytes.NewReader(ask), tokenHeader, token).body); len(list) != 2 || list[0].Status != object.FrameBlob {
		t.Error("with the token it doesn't come")
	}
}

func TestPrivateByDomainGuess(t *testing.T) {
	t.Parallel()
	c, _, public, _ := privateCache(t)
	// Whatever the domain, it is only there where a store has it.
	for _, domain := range []string{"hidden", "default", "other"} {
		asUnknown(t, domain, c.blob(domain, digest.Of(secretText), 1), c.blob(domain, digest.Of([]byte("none")), 1))
	}
	if n := public.asked("/hidden/" + digest.Of(secretText).String()); n == 0 {
		t.Error("the public store was not asked, as it is for what is unknown")
	}
}

// Nothing can be learned from how long it takes: what is of a private store costs the
// same reads of the data and the same requests to stores as what nobody has.
func TestPrivateTakesTheSameWay(t *testing.T) {
	t.Parallel()
	c, private, public, _ := privateCache(t)
	c.post("/ays/mount/thief/secrets", map[string]any{"ays.id": "customer|secrets(1)", "stor.name": "private"})
	c.post("/ays/mount/thief/unknown", map[string]any{"ays.id": "customer|secrets(1)", "stor.name": "none"})
	eventually(t, "nothing goes on", func() bool { return c.server.under.Load() == 0 })
	type cost struct {
		gets            string
		private, public int
	}
	now := func() cost {
		c.data.mu.Lock()
		defer c.data.mu.Unlock()
		return cost{fmt.Sprint(c.data.gets), private.asked(""), public.asked("")}
	}
	// costOf is what a request costs, and how long it takes at best.
	costOf := func(ask func() reply) (cost, time.Duration) {
		c.data.mu.Lock()
		clear(c.data.gets)
		c.data.mu.Unlock()
		before := now()
		began := time.Now()
		ask()
		took := time.Since(began)
		eventually(t, "nothing is fetched any more", func() bool {
			c.server.behind.mu.Lock()
			defer c.server.behind.mu.Unlock()
			return len(c.server.behind.under) == 0
		})
		after := now()
		return cost{after.gets, after.private - before.private, after.public - before.public}, took
	}
	unknown := func(i int) digest.Digest { return digest.Of(fmt.Append(nil, "unknown ", i)) }
	made := 0
	for name, ask := range map[string]func(private bool) reply{
		"by digest": func(private bool) reply {
			d := digest.Of(secretText)
			if made++; !private {
				d = unknown(made)
			}
			return c.blob("hidden", d, 0)
		},
		"by digest, fetched": func(private bool) reply {
			d := digest.Of(secretText)
			if made++; !private {
				d = unknown(made)
			}
			return c.blob("hidden", d, 1)
		},
		"in a shared domain": func(private bool) reply {
			d := digest.Of(secretText)
			if made++; !private {
				d = unknown(made)
			}
			return c.blob("default", d, 3, "Range", "bytes=0-9")
		},
		"batch": func(private bool) reply {
			d := digest.Of(secretText)
			if made++; !private {
				d = unknown(made)
			}
			return c.do("POST", "/hidden?fetch=1", bytes.NewReader(wants(d)))
		},
		"head of a tree": func(private bool) reply {
			if private {
				return c.get("/md/customer%7Csecrets(1)/any/head")
			}
			return c.get("/md/customer%7Cunknowns(1)/any/head")
		},
		"profile": func(private bool) reply {
			if private {
				return c.get("/ays/profile/thief/secrets")
			}
			return c.get("/ays/profile/thief/unknown")
		},
		"listing": func(private bool) reply {
			if private {
				return c.get("/md/thief/secrets/dir")
			}
			return c.get("/md/thief/unknown/dir")
		},
	} {
		best := map[bool]time.Duration{}
		for range 20 {
			theirs, a := costOf(func() reply { return ask(true) })
			none, b := costOf(func() reply { return ask(false) })
			if name == "head of a tree" {
				theirs.public, none.public = 0, 0 // for each name by itself it is asked anew after a while
			}
			if theirs != none {
				t.Errorf("%s: a private one costs %+v, an unknown one %+v", name, theirs, none)
				break
			}
			for kind, took := range map[bool]time.Duration{true: a, false: b} {
				if best[kind] == 0 || took < best[kind] {
					best[kind] = took
				}
			}
		}
		t.Logf("%s: %v, what is unknown %v", name, best[true], best[false])
	}
	if private.asked("none") != 0 {
		t.Error("the private store is asked")
	}
}

// A blob in a domain that both stores have comes once the public store has it.
func TestPrivateInSharedDomain(t *testing.T) {
	t.Parallel()
	c, _, public, token := privateCache(t)
	d := digest.Of(secretText)
	for fetch := range 4 {
		asUnknown(t, "before", c.blob("default", d, fetch), c.blob("default", digest.Of([]byte("none")), fetch))
	}
	public.put("default", secretText)
	if r := c.blob("default", d, 0); r.status != 404 {
		t.Errorf("the public store has it now, but was not asked: %d", r.status)
	}
	if r := c.blob("default", d, 1); r.status != 200 || !bytes.Equal(r.body, secretText) || !strings.HasPrefix(r.header.Get("Cache-Control"), "public") {
		t.Errorf("the public store has it now: %d %v", r.status, r.header)
	}
	if r := c.blob("default", d, 0); r.status != 200 {
		t.Errorf("and it is kept as its: %d", r.status)
	}
	// And what was had from the public store is not taken from the private one's users.
	if r := c.blob("default", digest.Of(random), 1, tokenHeader, token); r.status != 200 {
		t.Error(r.status)
	}
	if r := c.blob("hidden", d, 0, tokenHeader, token); r.status != 200 || !strings.HasPrefix(r.header.Get("Cache-Control"), "private") {
		t.Errorf("with the token: %d %v", r.status, r.header)
	}
}

// A store that becomes private takes with it what others see of the data, also what
// was put there before the cache started.
func TestClosedWithItsStore(t *testing.T) {
	t.Parallel()
	st := newStore(t)
	c := newCache(t)
	c.tell(st, "stor")
	for _, path := range []string{"/md/client1/mongodb/lib", "/default/" + digest.Of(small).String()} {
		if r := c.get(path); r.status != 200 {
			t.Fatalf("%s: %d", path, r.status)
		}
	}
	tree := "md:" + testID + "/any"
	eventually(t, "others see the tree", func() bool { return len(c.data.fields(tree)) > 1 })
	restart := func() {
		c.stop()
		c.start()
	}
	restart()
	if c.server.Closed("default") || c.server.Closed("other") {
		t.Error("closed, but all of it is public")
	}
	st.lock(login, secret)
	c.post("/ays/stor/stor", map[string]any{"url": st.URL, "login": login, "passwd": secret})
	for range 2 {
		if !c.server.Closed("default") || c.server.Closed("other") {
			t.Error("the private store's domain, and it alone, is to be closed")
		}
		if left := c.data.fields(tree); len(left) > 0 {
			t.Errorf("of its tree others see %q", left)
		}
		restart()
	}
}

// A tree of one's own that names a private tree's listing by its digest does not
// show it.
func TestPrivateListingByItsDigest(t *testing.T) {
	t.Parallel()
	c, private, _, token := privateCache(t)
	head, err := object.OpenHead(readFile(t, private.dir+"/md/customer|secrets(1)/any/head"), nil)
	must(t, err)
	thief := emptyStore(t)
	thief.publish("thief|tree(1)", "hidden", map[string][]byte{"x": nil})
	path := thief.dir + "/md/thief|tree(1)/any/head"
	own, err := object.OpenHead(readFile(t, path), nil)
	must(t, err)
	own.Serial++
	own.Root, own.RootSize, own.Index, own.IndexSize, own.Catalog, own.Catalogs, own.MaxSize = head.Root, head.RootSize, head.Index, head.IndexSize, head.Catalog, head.Catalogs, head.MaxSize
	note, err := own.Sign(nil)
	must(t, err)
	must(t, writeFile(path, note))
	c.post("/ays/stor/thief", map[string]any{"url": thief.URL})
	c.post("/ays/mount/thief/tree", map[string]any{"ays.id": "thief|tree(1)", "stor.name": "thief"})
	for fetch := range 4 {
		if r := c.get(fmt.Sprintf("/md/thief/tree/?fetch=%d", fetch)); r.status == 200 || len(r.body) != 0 {
			t.Errorf("fetch=%d: %d %q", fetch, r.status, r.body)
		}
	}
	// Not with the rights to both either: the thief's store doesn't have it.
	if r := c.get("/md/thief/tree/?fetch=1", tokenHeader, token); r.status == 200 {
		t.Error("one store's tree is shown from another's blobs")
	}
}

// Nothing of a private store but its name is told to who may not read it, and its
// credentials to nobody.
func TestPrivateIsNotTold(t *testing.T) {
	t.Parallel()
	c, private, _, token := privateCache(t)
	private.setFault(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true })
	c.blob("hidden", digest.Of(random), 1, tokenHeader, token) // which fails, and is an event
	private.setFault(nil)
	basic := base64.StdEncoding.EncodeToString([]byte(login + ":" + secret))
	told := func(what, text string, hidden ...string) {
		t.Helper()
		for _, h := range hidden {
			if strings.Contains(text, h) {
				t.Errorf("%s tells %q", what, h)
			}
		}
	}
	credentials := []string{secret, basic, token, login}
	own := []string{"customer", "hidden", digest.Of(random).String(), digest.Of(secretText).String(), strings.TrimPrefix(private.URL, "http://")}
	for _, path := range []string{"/", "/metrics", "/healthz"} {
		text := string(c.get(path).body)
		told(path, text, credentials...)
		told(path, text, own...)
		told(path+" with the token", string(c.get(path, tokenHeader, token).body), credentials...)
	}
	if page := string(c.get("/", tokenHeader, token).body); !strings.Contains(page, "customer") || !strings.Contains(page, digest.Of(random).String()) {
		t.Error("the page doesn't tell who may read it")
	}
	for _, r := range []reply{c.try("/ays/stor/private", map[string]any{"url": private.URL}), c.try("/ays/stor/private", map[string]any{"url": private.URL, "login": login, "passwd": "wrong"})} {
		told("a reply", string(r.body)+fmt.Sprint(r.header), credentials...)
	}
	told("the log", c.log.String(), credentials...)
	c.data.mu.Lock()
	defer c.data.mu.Unlock()
	for hash, fields := range c.data.hash {
		for name, v := range fields {
			told("the data in "+hash, name+string(v), secret, basic, token)
			var saved savedStore
			if hash == "ays:stores" && json.Unmarshal(v, &saved) == nil {
				told("what is sealed", string(saved.Sealed), secret, login)
			}
		}
		if strings.HasPrefix(hash, "md:customer") {
			t.Errorf("the data shows a private tree as %s", hash)
		}
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	c, private, _, token := privateCache(t)
	path := "/hidden/" + digest.Of(secretText).String()
	for _, k := range []struct {
		header []string
		status int
	}{
		{[]string{tokenHeader, token}, 200},
		{[]string{"Basic", login + ":" + secret}, 200},
		{[]string{"Basic", login + ":wrong"}, 404},
		{[]string{"Basic", "other:" + secret}, 404},
		{[]string{tokenHeader, "wrong"}, 401},
		{[]string{tokenHeader, token + ", wrong"}, 401},
		{[]string{tokenHeader, strings.Repeat("x,", 100)}, 401},
	} {
		if r := c.get(path, k.header...); r.status != k.status {
			t.Errorf("%v: %d, want %d", k.header, r.status, k.status)
		}
		// Whether there is something makes no difference for who may not read it.
		if k.status != 200 {
			if r := c.get("/hidden/"+digest.Of([]byte("none")).String(), k.header...); r.status != k.status {
				t.Errorf("what is unknown, with %v: %d, want %d", k.header, r.status, k.status)
			}
		}
	}
	if again := c.post("/ays/stor/private", map[string]any{"url": private.URL, "login": login, "secret": secret}); again["token"] != token {
		t.Error("another token for the same credentials")
	}
	for _, wrong := range []map[string]any{
		{"url": private.URL, "login": login, "passwd": "wrong"},
		{"url": private.URL, "login": "other", "passwd": secret},
	} {
		if r := c.try("/ays/stor/private", wrong); r.status != 403 {
			t.Errorf("wrong credentials: %d %s", r.status, r.body)
		}
	}
	// The store takes them back: so does the cache, once it has looked.
	private.lock(login, "new")
	st := c.server.stores.now.Load().byName["private"]
	st.grants[0].checked.Store(time.Now().Add(-2 * checkEvery).Unix())
	c.get(path, tokenHeader, token)
	eventually(t, "the token is worth nothing any more", func() bool { return c.get(path, tokenHeader, token).status == 401 })
	if r := c.try("/ays/stor/private", map[string]any{"url": private.URL, "login": login, "passwd": secret}); r.status != 403 {
		t.Errorf("the old credentials: %d", r.status)
	}
	now := c.post("/ays/stor/private", map[string]any{"url": private.URL, "login": login, "passwd": "new"})["token"].(string)
	if now == token || c.get(path, tokenHeader, now).status != 200 {
		t.Error("the new credentials don't do")
	}
	if r := c.blob("hidden", digest.Of(wordy), 3, tokenHeader, now); r.status != 200 {
		t.Errorf("the store is not asked with them: %d", r.status)
	}
}

func TestTokenAfterRestart(t *testing.T) {
	t.Parallel()
	private := emptyStore(t)
	d := private.put("hidden", secretText)
	private.lock(login, secret)
	cfg, data := defaults(t), newMemory()
	c := startCache(t, cfg, data)
	token := c.post("/ays/stor/private", map[string]any{"url": private.URL, "login": login, "passwd": secret})["token"].(string)
	c.blob("hidden", d, 1, tokenHeader, token)
	c.stop()
	private.Close()
	c = startCache(t, cfg, data)
	if r := c.blob("hidden", d, 1, tokenHeader, token); r.status != 200 {
		t.Errorf("with the token: %d", r.status)
	}
	if r := c.blob("hidden", d, 1); r.status != 404 {
		t.Errorf("without: %d", r.status)
	}
	c.stop()
	// Without its key the cache knows the store as private, and nothing else.
	cfg.Main.Data = t.TempDir()
	c = startCache(t, cfg, data)
	if r := c.blob("hidden", d, 1, tokenHeader, token); r.status != 401 {
		t.Errorf("with a token of before: %d", r.status)
	}
	if r := c.blob("hidden", d, 1); r.status != 404 {
		t.Errorf("without: %d", r.status)
	}
}

// Nobody makes a store private, or public, that isn't.
func TestWhoSaysThatAStoreIsPrivate(t *testing.T) {
	t.Parallel()
	t.Run("wrong credentials for a public one", func(t *testing.T) {
		st, c := newStore(t), newCache(t)
		c.tell(st, "stor")
		if r := c.post("/ays/stor/stor", map[string]any{"url": st.URL, "login": "a", "passwd": "b"}); r["private"] != false || r["token"] != nil {
			t.Errorf("got %v", r)
		}
		if r := c.blob("default", digest.Of(small), 1); r.status != 200 {
			t.Errorf("its blobs: %d", r.status)
		}
	})
	t.Run("none for a private one", func(t *testing.T) {
		c, private, _, _ := privateCache(t)
		if r := c.post("/ays/stor/private", map[string]any{"url": private.URL}); r["private"] != true || r["token"] != nil {
			t.Errorf("got %v", r)
		}
		if r := c.blob("hidden", digest.Of(secretText), 1); r.status != 404 {
			t.Errorf("its blobs: %d", r.status)
		}
	})
	t.Run("told without first", func(t *testing.T) {
		st, c := newStore(t), newCache(t)
		st.lock(login, secret)
		c.tell(st, "stor")
		if r := c.blob("default", digest.Of(small), 1); r.status != 502 {
			t.Errorf("before: %d", r.status)
		}
		token := c.post("/ays/stor/stor", map[string]any{"url": st.URL, "login": login, "passwd": secret})["token"].(string)
		if r := c.blob("default", digest.Of(small), 1, tokenHeader, token); r.status != 200 {
			t.Errorf("with the token: %d", r.status)
		}
		if r := c.blob("default", digest.Of(small), 1); r.status != 404 {
			t.Errorf("without: %d", r.status)
		}
	})
	t.Run("a store that takes anything", func(t *testing.T) {
		st, c := newStore(t), newCache(t)
		token := c.post("/ays/stor/stor", map[string]any{"url": st.URL, "login": login, "passwd": secret})["token"].(string)
		if r := c.try("/ays/stor/stor", map[string]any{"url": st.URL, "login": "guess", "passwd": "guess"}); r.status != 403 {
			t.Errorf("other credentials: %d", r.status)
		}
		if r := c.blob("default", digest.Of(small), 1); r.status != 404 {
			t.Errorf("without a token: %d", r.status)
		}
		if r := c.blob("default", digest.Of(small), 1, tokenHeader, token); r.status != 200 {
			t.Errorf("with it: %d", r.status)
		}
	})
	t.Run("a store that is down", func(t *testing.T) {
		st, c := newStore(t), newCache(t)
		st.Close()
		if r := c.try("/ays/stor/stor", map[string]any{"url": st.URL, "login": login, "passwd": secret}); r.status != 503 {
			t.Errorf("%d %s", r.status, r.body)
		}
	})
	t.Run("the config", func(t *testing.T) {
		st := newStore(t)
		st.lock(login, secret)
		c := newCache(t, func(cfg *config.Server) {
			cfg.Stores = []config.Store{{Name: "stor", URL: parseURL(t, st.URL), Login: login, Secret: config.NewSecret(secret)}}
		})
		c.mount("client1", "mongodb", "stor")
		if r := c.blob("default", digest.Of(small), 1); r.status != 404 {
			t.Errorf("without: %d", r.status)
		}
		if r := c.blob("default", digest.Of(small), 1, "Basic", login+":"+secret); r.status != 200 {
			t.Errorf("with basic auth: %d", r.status)
		}
		token := c.post("/ays/stor/stor", map[string]any{"url": st.URL, "login": login, "passwd": secret})["token"].(string)
		if r := c.get("/md/client1/mongodb/", tokenHeader, token); r.status != 200 {
			t.Errorf("with a token: %d", r.status)
		}
	})
}

// What somebody else put into the data is not given out before it was checked,
// nor to anybody but for a store that has it.
func TestForeignData(t *testing.T) {
	t.Parallel()
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor")
	d, ctx := digest.Of(random), t.Context()
	must(t, c.data.PutBlob(ctx, "default", d, random))
	if r := c.blob("default", d, 0); r.status != 404 {
		t.Errorf("nobody said that a store has it: %d", r.status)
	}
	if r := c.blob("default", d, 1); r.status != 200 {
		t.Fatal(r.status)
	}
	for _, poison := range [][]byte{[]byte("poison"), {}, wordy, random[1:]} {
		must(t, c.data.put("files:default", d.String(), poison))
		if r := c.blob("default", d, 0); r.status != 404 {
			t.Errorf("poison of %d bytes: %d", len(poison), r.status)
		}
		if r := c.blob("default", d, 1); r.status != 200 || !bytes.Equal(r.body, random) {
			t.Errorf("after it: %d", r.status)
		}
	}
}

func TestGate(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("hashed"), bcrypt.MinCost)
	must(t, err)
	st := newStore(t)
	c := newCache(t, func(cfg *config.Server) {
		cfg.HTTP.Users = []config.User{{Login: "plain", Passwd: config.NewSecret("word")}, {Login: "bcrypt", Passwd: config.NewSecret(string(hash))}}
	})
	for _, path := range []string{"/", "/metrics", "/default/" + digest.Of(small).String(), "/md/a/b/c", "/md/trees"} {
		for basic, ok := range map[string]bool{
			"": false, "plain:word": true, "plain:wrong": false, "plain:": false, "bcrypt:hashed": true, "bcrypt:" + string(hash): false,
			"bcrypt:wrong": false, "nobody:hashed": false, "nobody:word": false, ":": false,
		} {
			for range 2 { // the second time it is known
				var header []string
				if basic != "" {
					header = []string{"Basic", basic}
				}
				if r := c.get(path, header...); (r.status != 401) != ok {
					t.Errorf("%s as %q: %d", path, basic, r.status)
				}
			}
		}
	}
	if r := c.get("/healthz"); r.status != 200 {
		t.Errorf("healthz: %d", r.status)
	}
	if r := c.try("/ays/stor/stor", map[string]any{"url": st.URL}); r.status != 401 {
		t.Errorf("POST without a login: %d", r.status)
	}
	c.post("/ays/stor/stor", map[string]any{"url": st.URL}, "Basic", "plain:word")
	if r := c.blob("default", digest.Of(small), 1, "Basic", "plain:word"); r.status != 200 {
		t.Errorf("a blob: %d", r.status)
	}
}

func TestVault(t *testing.T) {
	dir := t.TempDir()
	v, err := openVault(dir)
	must(t, err)
	again, err := openVault(dir)
	must(t, err)
	sealed := v.seal([]byte("text"), "this")
	if plain, err := again.open(sealed, "this"); err != nil || string(plain) != "text" {
		t.Errorf("%q, %v", plain, err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := v.open(bad, "this"); err == nil {
			t.Fatalf("byte %d changed", i)
		}
	}
	if _, err := v.open(sealed, "that"); err == nil {
		t.Error("opened for something else")
	}
	if v.sum("a", "bc") == v.sum("ab", "c") || v.sum("a") != again.sum("a") {
		t.Error("sums")
	}
	other, err := openVault(t.TempDir())
	must(t, err)
	if _, err := other.open(sealed, "this"); err == nil || other.sum("a") == v.sum("a") {
		t.Error("another vault has the same key")
	}
}

// What others may have put there is no key.
func TestVaultOfOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	for name, spoil := range map[string]func(dir string) error{
		"a directory for all":      func(dir string) error { return os.Chmod(dir, 0o777) },
		"a sticky one":             func(dir string) error { return os.Chmod(dir, 0o777|os.ModeSticky) },
		"a directory of another's": func(dir string) error { return os.Chown(dir, 65534, 65534) },
		"a key that others read":   func(dir string) error { return os.Chmod(dir+"/key", 0o604) },
		"a key of another's":       func(dir string) error { return os.Chown(dir+"/key", 65534, 65534) },
		"a link to one of another's": func(dir string) error {
			planted := t.TempDir() + "/key"
			return errors.Join(os.Rename(dir+"/key", planted), os.Chown(planted, 65534, 65534), os.Symlink(planted, dir+"/key"))
		},
	} {
		dir := t.TempDir()
		if _, err := openVault(dir); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(dir + "/key"); err != nil || st.Mode() != 0o600 {
			t.Errorf("the key has mode %v, %v", st.Mode(), err)
		}
		must(t, spoil(dir))
		if _, err := openVault(dir); err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "chmod") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A store that was private stays so when it is forgotten and told of anew.
func TestPrivateStaysPrivate(t *testing.T) {
	t.Parallel()
	c, private, _, _ := privateCache(t)
	path := "/hidden/" + digest.Of(secretText).String()
	st := c.server.stores.now.Load().byName["private"]
	c.server.stores.remove(st)
	st.close()
	must(t, c.data.DeleteValue(t.Context(), storesTable, "private"))
	for range 2 {
		if r := c.post("/ays/stor/private", map[string]any{"url": private.URL}); r["private"] != true {
			t.Errorf("told of anew: %v", r)
		}
		if r := c.get(path); r.status != 404 {
			t.Errorf("its blobs: %d", r.status)
		}
		c.stop()
		c = startCache(t, c.cfg, c.data)
	}
	// Unless it lets everybody in.
	private.lock("", "")
	if r := c.post("/ays/stor/private", map[string]any{"url": private.URL}); r["private"] != false {
		t.Errorf("it is open now: %v", r)
	}
	if r := c.get(path); r.status != 200 {
		t.Errorf("its blobs: %d", r.status)
	}
}

// A public store whose operator locks it takes what others see of it along.
func TestPublicBecomesPrivate(t *testing.T) {
	t.Parallel()
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor")
	c.get("/md/client1/mongodb/")
	eventually(t, "the tree is in the data", func() bool { return len(c.data.fields("md:"+testID+"/any")) == 2 })
	st.lock(login, secret)
	c.post("/ays/stor/stor", map[string]any{"url": st.URL, "login": login, "passwd": secret})
	if f := c.data.fields("md:" + testID + "/any"); len(f) != 0 {
		t.Errorf("in the data: %q", f)
	}
	if r := c.get("/md/client1/mongodb/"); r.status != 404 {
		t.Errorf("a listing: %d", r.status)
	}
}

// Trees that can't be hidden at once are hidden as soon as that can be done.
func TestHidingGoesOn(t *testing.T) {
	t.Parallel()
	for name, between := range map[string]func(c *testCache){
		"in the same cache": func(*testCache) {}, "after a restart": func(c *testCache) { c.stop(); c.start() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, c := newStore(t), newCache(t)
			c.tell(st, "stor")
			c.get("/md/client1/mongodb/")
			eventually(t, "the tree is in the data", func() bool { return len(c.data.fields("md:"+testID+"/any")) == 2 })
			st.lock(login, secret)
			c.data.onTrees(func(op string) error { return errors.New("no " + op + " today") })
			if r := c.try("/ays/stor/stor", map[string]any{"url": st.URL, "login": login, "passwd": secret}); r.status == 200 {
				t.Errorf("while nothing can be dropped: %d %s", r.status, r.body)
			}
			c.data.onTrees(nil)
			between(c)
			c.post("/ays/stor/stor", map[string]any{"url": st.URL, "login": login, "passwd": secret})
			if f := c.data.fields("md:" + testID + "/any"); len(f) != 0 {
				t.Errorf("in the data: %q", f)
			}
		})
	}
}

// What is being put where others see it while its store becomes private doesn't stay there.
func TestHiddenWhileItIsPut(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"head", "listing"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			st, c := newStore(t), newCache(t)
			c.tell(st, "stor")
			reached, goOn, put := make(chan bool), make(chan bool), make(chan bool)
			var once sync.Once
			c.data.onTrees(func(op string) error {
				if op == what {
					once.Do(func() {
						close(reached)
						<-goOn
						close(put)
					})
				}
				return nil
			})
			c.get("/md/client1/mongodb/")
			<-reached
			st.lock(login, secret)
			told := make(chan reply)
			go func() {
				told <- c.try("/ays/stor/stor", map[string]any{"url": st.URL, "login": login, "passwd": secret})
			}()
			var r reply
			select {
			case r = <-told:
				close(goOn)
			case <-time.After(time.Second):
				close(goOn)
				r = <-told
			}
			if r.status != 200 {
				t.Errorf("%d %s", r.status, r.body)
			}
			<-put
			c.stop() // which ends what is under way
			if f := c.data.fields("md:" + testID + "/any"); len(f) != 0 {
				t.Errorf("in the data: %q", f)
			}
		})
	}
}
