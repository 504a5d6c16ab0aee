package server

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/profile"
)

const profilePath = "/ays/profile/client1/mongodb"

// runOf is the profile of a run that needed those files.
func runOf(t testing.TB, paths ...string) []byte {
	t.Helper()
	r := profile.NewRecording()
	for _, p := range paths {
		r.File(p, 1)
	}
	b, err := r.Profile().Encode()
	must(t, err)
	return b
}

// needed is the paths of an answer.
func needed(t testing.TB, r reply) string {
	t.Helper()
	if r.status != http.StatusOK {
		t.Fatalf("status %d %s", r.status, r.body)
	}
	p, err := profile.Parse(r.body)
	must(t, err)
	var list []string
	for _, n := range p.Needs {
		list = append(list, n.Path)
	}
	return strings.Join(list, " ")
}

// postRun posts a run until it counts.
func (c *testCache) postRun(run []byte, header ...string) {
	c.t.Helper()
	eventually(c.t, "a run counts", func() bool {
		r := c.do(http.MethodPost, profilePath, bytes.NewReader(run), header...)
		if r.status != http.StatusOK {
			c.t.Fatalf("POST: %d %s", r.status, r.body)
		}
		return bytes.Contains(r.body, []byte(`"counts":true`))
	})
}

func TestProfilesAreMerged(t *testing.T) {
	st, c := newStore(t), newCache(t)
	if r := c.get(profilePath); r.status != http.StatusNotFound {
		t.Errorf("of a mount that nobody told of: %d", r.status)
	}
	c.tell(st, "stor1")
	if r := c.get(profilePath); r.status != http.StatusNotFound || len(r.body) != 0 {
		t.Errorf("before any run: %d %q", r.status, r.body)
	}
	c.postRun(runOf(t, "a", "b", "c"))
	if got := needed(t, c.get(profilePath)); got != "a b c" {
		t.Errorf("after one run: %s", got)
	}
	if r := c.do(http.MethodPost, profilePath, bytes.NewReader(runOf(t, "c", "z"))); !bytes.Contains(r.body, []byte(`"counts":false`)) {
		t.Errorf("another run at once: %d %s", r.status, r.body)
	}
	if got := needed(t, c.get(profilePath)); got != "a b c z" {
		t.Errorf("after that: %s", got)
	}
	c.postRun(runOf(t, "b", "x"))
	if got := needed(t, c.get(profilePath)); got != "b x a c z" {
		t.Errorf("after two: %s", got)
	}
	// Every client that mounts the tree gets it, whatever serial it has.
	c.mount("client2", "other", "stor1")
	st.publish(testID, "", map[string][]byte{"small": []byte("changed")})
	if got := needed(t, c.get("/ays/profile/client2/other")); got != "b x a c z" {
		t.Errorf("another client: %s", got)
	}
	if n := st.asked("/profile"); n != 1 {
		t.Errorf("the store was asked %d times for a profile that it doesn't have", n)
	}
	c.stop()
	c.start()
	if got := needed(t, c.get(profilePath)); got != "b x a c z" {
		t.Errorf("after a restart: %s", got)
	}
}

func TestWrongProfilesAreRefused(t *testing.T) {
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor1")
	c.postRun(runOf(t, "a"))
	good := runOf(t, "b")
	for name, b := range map[string][]byte{
		"empty": {}, "text": []byte("hello"), "cut off": good[:len(good)-2], "long": make([]byte, profile.MaxBytes+1),
	} {
		if r := c.do(http.MethodPost, profilePath, bytes.NewReader(b)); r.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	if r := c.do(http.MethodPost, profilePath, bytes.NewReader(make([]byte, 2<<20))); r.status != http.StatusRequestEntityTooLarge {
		t.Errorf("too long: %d", r.status)
	}
	if r := c.do(http.MethodPut, profilePath, bytes.NewReader(good)); r.status != http.StatusBadRequest {
		t.Errorf("PUT: %d", r.status)
	}
	if got := needed(t, c.get(profilePath)); got != "a" {
		t.Errorf("what is there has changed: %s", got)
	}
	// What lies damaged in the data is as good as nothing.
	key := c.server.stores.now.Load().byName["stor1"].heads.keptKey(object.TreeName{ID: testID})
	must(t, c.data.PutValue(t.Context(), profilesTable, key, []byte("damaged")))
	if r := c.get(profilePath); r.status != http.StatusNotFound {
		t.Errorf("damaged: %d", r.status)
	}
	c.postRun(runOf(t, "b"))
	if got := needed(t, c.get(profilePath)); got != "b" {
		t.Errorf("after that: %s", got)
	}
}

func TestPublishedProfile(t *testing.T) {
	st, c := newStore(t), newCache(t)
	file := filepath.Join(st.dir, object.TreeName{ID: testID}.Dir(), profile.File)
	must(t, os.WriteFile(file, []byte("<html>a login form</html>"), 0o644))
	c.tell(st, "stor1")
	if r := c.get(profilePath); r.status != http.StatusNotFound {
		t.Errorf("what is no profile: %d", r.status)
	}
	c.stop() // it would not ask again soon
	c.start()
	must(t, os.WriteFile(file, runOf(t, "p", "q"), 0o644))
	for range 3 {
		if got := needed(t, c.get(profilePath)); got != "p q" {
			t.Errorf("the publisher's: %s", got)
		}
	}
	if n := st.asked("/profile"); n != 2 {
		t.Errorf("the store was asked %d times", n)
	}
	if got := needed(t, c.get("/"+object.TreeName{ID: testID}.URLPath()+"/profile")); got != "p q" {
		t.Errorf("as of a store: %s", got)
	}
	if r := c.get("/md/" + "no%7Csuch(tree)/any/profile"); r.status != http.StatusNotFound {
		t.Errorf("of a tree that isn't there: %d", r.status)
	}
	// What machines need has a say, too.
	c.postRun(runOf(t, "q", "r"))
	if got := needed(t, c.get(profilePath)); got != "q r p" {
		t.Errorf("with a run: %s", got)
	}
}

// What a publisher says counts, once, however many runs there were since.
func TestPublishedProfileThatIsOlderThanRuns(t *testing.T) {
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor1")
	c.postRun(runOf(t, "run"))
	publish := func(path string, ago time.Duration) {
		t.Helper()
		p, err := profile.Parse(runOf(t, path))
		must(t, err)
		p.Time = p.Time.Add(-ago)
		b, err := p.Encode()
		must(t, err)
		must(t, writeFile(filepath.Join(st.dir, object.TreeName{ID: testID}.Dir(), profile.File), b))
	}
	restart := func() { // it would not ask again soon
		c.stop()
		c.start()
	}
	for i, path := range []string{"first", "second"} {
		publish(path, time.Hour-time.Duration(i)*time.Minute)
		restart()
		eventually(t, "it is merged", func() bool {
			got := needed(t, c.get(profilePath))
			return strings.HasPrefix(got, path+" ") && strings.Contains(got, "run")
		})
		restart()
		before := st.asked("/profile")
		c.get(profilePath)
		eventually(t, "the store is asked again", func() bool { return st.asked("/profile") > before })
		time.Sleep(100 * time.Millisecond)
		p, err := profile.Parse(c.get(profilePath).body)
		must(t, err)
		if p.Runs != 2+i {
			t.Errorf("after the %s: %d runs", path, p.Runs)
		}
	}
}

// A store that does not answer holds up whoever asks for a profile once, and nobody
// who posts one.
func TestProfilesOfADeadStore(t *testing.T) {
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor1")
	c.get("/md/client1/mongodb/")
	dead := make(chan bool)
	st.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/profile") {
			return false
		}
		<-dead
		return true
	})
	defer close(dead)
	var all sync.WaitGroup
	began := time.Now()
	for range 6 { // each would wait for a second
		all.Go(func() {
			if r := c.get(profilePath); r.status != http.StatusBadGateway && r.status != http.StatusGatewayTimeout {
				t.Errorf("while the store does not answer: %d", r.status)
			}
		})
	}
	all.Wait()
	if d := time.Since(began); d > publishedWait {
		t.Errorf("all took %v", d)
	}
	c.stop() // it would not ask again soon
	c.start()
	before := st.asked("/profile")
	all.Go(func() { c.get(profilePath) })
	eventually(t, "the store is asked", func() bool { return st.asked("/profile") > before })
	began = time.Now()
	c.postRun(runOf(t, "a"))
	if d := time.Since(began); d > time.Second/2 {
		t.Errorf("a post took %v", d)
	}
	all.Wait()
}

// A publisher's clock that is years ahead keeps none of its later profiles out.
func TestPublishedProfileOfAWrongClock(t *testing.T) {
	st, c := newStore(t), newCache(t)
	file := filepath.Join(st.dir, object.TreeName{ID: testID}.Dir(), profile.File)
	p, err := profile.Parse(runOf(t, "ahead"))
	must(t, err)
	p.Time = p.Time.AddDate(5, 0, 0)
	b, err := p.Encode()
	must(t, err)
	must(t, os.WriteFile(file, b, 0o644))
	c.tell(st, "stor1")
	if got := needed(t, c.get(profilePath)); got != "ahead" {
		t.Errorf("of the wrong clock: %s", got)
	}
	time.Sleep(1100 * time.Millisecond) // times are in seconds
	must(t, os.WriteFile(file, runOf(t, "right"), 0o644))
	c.stop() // it would not ask again soon
	c.start()
	eventually(t, "the newer one is there", func() bool { return needed(t, c.get(profilePath)) == "right ahead" })
}

func TestProfilesOfPrivateStores(t *testing.T) {
	st, c := newStore(t), newCache(t)
	st.lock("user", "secret")
	token := c.post("/ays/stor/stor1", map[string]any{"url": st.URL, "login": "user", "passwd": "secret"})["token"].(string)
	c.mount("client1", "mongodb", "stor1")
	c.postRun(runOf(t, "a"), tokenHeader, token)
	if got := needed(t, c.get(profilePath, tokenHeader, token)); got != "a" {
		t.Errorf("with a token: %s", got)
	}
	if got := needed(t, c.get(profilePath, "Basic", "user:secret")); got != "a" {
		t.Errorf("with the login: %s", got)
	}
	tree := "/" + object.TreeName{ID: testID}.URLPath() + "/profile"
	if got := needed(t, c.get(tree, tokenHeader, token)); got != "a" {
		t.Errorf("as of a store: %s", got)
	}
	c.mount("client2", "mine", "stor1") // anybody may say so
	for _, path := range []string{profilePath, "/ays/profile/client2/mine", tree} {
		if r := c.get(path); r.status != http.StatusNotFound || len(r.body) > 0 {
			t.Errorf("%s without credentials: %d %q", path, r.status, r.body)
		}
		if r := c.get(path, "Basic", "user:wrong"); r.status != http.StatusNotFound {
			t.Errorf("%s with a wrong login: %d", path, r.status)
		}
	}
	if r := c.do(http.MethodPost, "/ays/profile/client2/mine", bytes.NewReader(runOf(t, "evil"))); r.status != http.StatusNotFound {
		t.Errorf("POST without credentials: %d", r.status)
	}
	if got := needed(t, c.get(profilePath, tokenHeader, token)); got != "a" {
		t.Errorf("afterwards: %s", got)
	}
}

func TestProfilesBehindALogin(t *testing.T) {
	st := newStore(t)
	c := newCache(t, func(cfg *config.Server) {
		cfg.HTTP.Users = []config.User{{Login: "reader", Passwd: config.NewSecret("pw")}}
	})
	c.post("/ays/stor/stor1", map[string]any{"url": st.URL}, "Basic", "reader:pw")
	c.post("/ays/mount/client1/mongodb", map[string]any{"ays.id": testID, "stor.name": "stor1"}, "Basic", "reader:pw")
	c.postRun(runOf(t, "a"), "Basic", "reader:pw")
	if r := c.get(profilePath); r.status != http.StatusUnauthorized {
		t.Errorf("without: %d", r.status)
	}
}

func TestProfilesAreBoundedAndExpire(t *testing.T) {
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor1")
	c.postRun(runOf(t, "a"))
	p := &c.server.profiles
	count := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.known)
	}
	for i := range maxProfiles + 100 {
		key := fmt.Sprint("made up ", i)
		must(t, c.data.PutValue(t.Context(), profileTimes, key, nil))
		p.state(t.Context(), key)
	}
	if n := count(); n != maxProfiles {
		t.Errorf("%d profiles", n)
	}
	rows, err := c.data.Values(t.Context(), profileTimes)
	must(t, err)
	if len(rows) != maxProfiles {
		t.Errorf("%d rows", len(rows))
	}
	if r := c.get(profilePath); r.status != http.StatusNotFound {
		t.Errorf("the oldest: %d", r.status)
	}
	c.server.profiles.expire(t.Context(), time.Now().Add(time.Second))
	rows, err = c.data.Values(t.Context(), profileTimes)
	must(t, err)
	if count() != 0 || len(rows) != 0 {
		t.Errorf("%d profiles, %d rows", count(), len(rows))
	}
	c.postRun(runOf(t, "b"))
	if got := needed(t, c.get(profilePath)); got != "b" {
		t.Errorf("a new one: %s", got)
	}
}

func TestManyPostAtOnce(t *testing.T) {
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor1")
	var all sync.WaitGroup
	for i := range 20 {
		run := runOf(t, "all", fmt.Sprint(i))
		all.Go(func() {
			r := c.do(http.MethodPost, profilePath, bytes.NewReader(run))
			if r.status != http.StatusOK {
				t.Errorf("%d %s", r.status, r.body)
			}
		})
	}
	all.Wait()
	if got := strings.Fields(needed(t, c.get(profilePath))); len(got) != 21 || got[0] != "all" {
		t.Errorf("%s", got)
	}
}

// However many machines start at once, few profiles are in memory.
func TestFewProfilesAreReadAtOnce(t *testing.T) {
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor1")
	c.postRun(runOf(t, "all"))
	if err := c.server.profiles.reading.Acquire(t.Context(), maxReading); err != nil {
		t.Fatal(err)
	}
	run, replies := runOf(t, "one"), make(chan reply, 2)
	go func() { replies <- c.do(http.MethodPost, profilePath, bytes.NewReader(run)) }()
	go func() { replies <- c.get(profilePath) }()
	select {
	case r := <-replies:
		t.Errorf("answered while as many are read as may be: %d %s", r.status, r.body)
		replies <- r
	case <-time.After(50 * time.Millisecond):
	}
	c.server.profiles.reading.Release(maxReading)
	for range 2 {
		if r := <-replies; r.status != http.StatusOK {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
}
