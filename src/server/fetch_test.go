package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// However many ask at once, the store is asked once for each thing.
func TestSingleFlight(t *testing.T) {
	st, c := emptyStore(t), newCache(t)
	files := map[string][]byte{}
	for i := range 5 {
		files[fmt.Sprint("lib/f", i)] = tiertest.Random(uint64(i), 50_000)
	}
	st.publish(testID, "", files)
	c.tell(st, "stor")
	release := make(chan struct{})
	st.setFault(func(http.ResponseWriter, *http.Request) bool {
		<-release
		time.Sleep(50 * time.Millisecond) // who keeps it is there before those who don't are gone
		return false
	})
	time.AfterFunc(100*time.Millisecond, func() { close(release) })
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			paths := []string{"/md/client1/mongodb/lib"}
			for _, content := range files {
				fetch := 1
				if i%8 == 3 {
					fetch = 3 // which shares the request of the others
				}
				paths = append(paths, fmt.Sprintf("/default/%v?fetch=%d", digest.Of(content), fetch))
			}
			for _, p := range paths {
				resp, err := client.Get(c.url + p)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
					t.Errorf("%s: %d, %v", p, resp.StatusCode, err)
				}
				resp.Body.Close()
			}
		})
	}
	all.Wait()
	st.mu.Lock()
	defer st.mu.Unlock()
	for path, n := range st.requests {
		if n != 1 && !strings.HasSuffix(path, "/head") || n > 3 {
			t.Errorf("%s: %d requests", path, n)
		}
	}
	if len(st.requests) != 5+2 { // and the head, and the one catalog
		t.Errorf("%d things were asked for", len(st.requests))
	}
}

// A store that goes wrong is told apart in log, metrics and on the page, and what
// it sends is neither given out nor kept.
func TestBadStores(t *testing.T) {
	t.Parallel()
	// Small enough to be complete before anybody is answered.
	random := tiertest.Random(8, 50<<10)
	d := digest.Of(random)
	abort := func(w http.ResponseWriter) {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	for want, fault := range map[answer]func(w http.ResponseWriter, r *http.Request){
		answerCorrupt: func(w http.ResponseWriter, _ *http.Request) {
			b := bytes.Clone(random)
			b[1000] ^= 1
			_, _ = w.Write(b)
		},
		answerPage: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html>please log in</html>"))
		},
		answerTruncated: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(random)))
			_, _ = w.Write(random[:1000])
			abort(w)
		},
		answerStalled: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(random)))
			_, _ = w.Write(random[:1000])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		answerRedirect:    func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) },
		answerDenied:      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
		answerRefused:     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) },
		answerUnavailable: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
	} {
		t.Run(want.String(), func(t *testing.T) {
			t.Parallel()
			st := newStore(t)
			st.put("default", random)
			c := newCache(t, func(cfg *config.Server) { cfg.Stor.Timeout = time.Second })
			c.tell(st, "stor")
			st.setFault(func(w http.ResponseWriter, r *http.Request) bool { fault(w, r); return true })
			for _, fetch := range []int{1, 3} {
				if r := c.blob("default", d, fetch); r.status != 502 && r.status != 504 || len(r.body) != 0 {
					t.Errorf("fetch=%d: %d, %d bytes", fetch, r.status, len(r.body))
				}
			}
			r := c.do("POST", "/default", bytes.NewReader(wants(d)))
			if list := readFrames(t, r.body); len(list) != 1 || list[0].Status != object.FrameUnavailable {
				t.Errorf("in a batch: %v", list)
			}
			if r := c.blob("default", d, 0); r.status != 404 {
				t.Errorf("it was kept: %d", r.status)
			}
			if line := fmt.Sprintf(`ays_cache_store_answers_total{store="stor",answer=%q} `, want); !strings.Contains(string(c.get("/metrics").body), line) || strings.Contains(string(c.get("/metrics").body), line+"0\n") {
				t.Errorf("the metrics don't count it")
			}
			if !strings.Contains(c.log.String(), "answer="+want.String()) {
				t.Errorf("nothing in the log: %s", c.log)
			}
			if page := string(c.get("/").body); !strings.Contains(page, "<td>"+want.String()+"<td") {
				t.Errorf("not on the page")
			}
			st.setFault(nil)
			if r := c.blob("default", d, 1); r.status != 200 || !bytes.Equal(r.body, random) {
				t.Errorf("afterwards: %d", r.status)
			}
		})
	}
}

// A store that hangs doesn't stand before one that works.
func TestHedge(t *testing.T) {
	slow, good := emptyStore(t), newStore(t)
	c := newCache(t, func(cfg *config.Server) { cfg.Stor.Timeout = 10 * time.Second })
	c.post("/ays/stor/a", map[string]any{"url": slow.URL})
	c.tell(good, "b")
	slow.setFault(func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true })
	began := time.Now()
	if r := c.blob("default", digest.Of(small), 1); r.status != 200 {
		t.Error(r.status)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	began = time.Now()
	if r := c.blob("default", digest.Of(wordy), 1); r.status != 200 {
		t.Error(r.status)
	}
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("the second one took %v: the store that has the domain should be asked first", took)
	}
}

// Metadata may be larger than any blob.
func TestLargeObject(t *testing.T) {
	t.Parallel()
	st := newStore(t)
	c := newCache(t, func(cfg *config.Server) { cfg.HTTP.MaxObject = 4 << 20 })
	c.tell(st, "stor")
	codec, err := object.NewCodec(1)
	must(t, err)
	for name, plain := range map[string][]byte{"random": tiertest.Random(1, 2<<20), "packed": bytes.Repeat(wordy, 30)} {
		d := st.put("default", plain)
		if name == "packed" {
			must(t, writeFile(st.dir+"/default/"+d.String(), codec.Pack(plain, nil)))
		}
		for _, fetch := range []int{3, 1, 0} {
			if r := c.blob("default", d, fetch); r.status != 200 || !bytes.Equal(r.body, plain) {
				t.Errorf("%s, fetch=%d: %d, %d bytes", name, fetch, r.status, len(r.body))
			}
		}
	}
	over := st.put("default", tiertest.Random(2, 5<<20))
	if r := c.blob("default", over, 1); r.status != 502 {
		t.Errorf("over max_object: %d", r.status)
	}
	if strings.Contains(c.log.String(), "corrupt blob") {
		t.Error("it was called corrupt")
	}
}

func TestFirstOf(t *testing.T) {
	list := []*stor{{name: "a"}, {name: "b"}, {name: "c"}}
	absent, down := fmt.Errorf("x: %w", tier.ErrAbsent), fmt.Errorf("x: %w", tier.ErrUnavailable)
	for name, k := range map[string]struct {
		by   map[string]error
		want string
		err  error
	}{
		"first":               {map[string]error{}, "a", nil},
		"second":              {map[string]error{"a": absent}, "b", nil},
		"last, others down":   {map[string]error{"a": down, "b": down}, "c", nil},
		"absent":              {map[string]error{"a": absent, "b": absent, "c": absent}, "", tier.ErrAbsent},
		"absent, one is down": {map[string]error{"a": absent, "b": down, "c": absent}, "", tier.ErrUnavailable},
	} {
		got, err := firstOf(t.Context(), list, time.Hour, func(_ context.Context, st *stor) (string, error) { return st.name, k.by[st.name] }, func(string) {})
		if !errors.Is(err, k.err) || err == nil && got != k.want || k.err == tier.ErrUnavailable && errors.Is(err, tier.ErrAbsent) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	// What comes too late is given to drop.
	dropped := make(chan string, 3)
	got, err := firstOf(t.Context(), list, time.Millisecond, func(_ context.Context, st *stor) (string, error) {
		if st.name != "c" {
			time.Sleep(50 * time.Millisecond)
		}
		return st.name, nil
	}, func(s string) { dropped <- s })
	if err != nil || got != "c" {
		t.Fatal(got, err)
	}
	for range 2 {
		select {
		case <-dropped:
		case <-time.After(2 * time.Second):
			t.Fatal("not dropped")
		}
	}
}
