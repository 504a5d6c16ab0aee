package server

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

func wants(ds ...digest.Digest) []byte {
	var b []byte
	for _, d := range ds {
		b = object.AppendWant(b, d)
	}
	return b
}

// frames reads an answer to the end, in its order.
func readFrames(t *testing.T, body []byte) (list []object.Frame) {
	t.Helper()
	r := bytes.NewReader(body)
	for {
		f, err := object.ReadFrame(r, object.MaxBlob)
		if err == io.EOF {
			return list
		}
		must(t, err)
		list = append(list, f)
	}
}

func TestBatchByFetch(t *testing.T) {
	t.Parallel()
	codec, err := object.NewCodec(1)
	must(t, err)
	plain := map[digest.Digest][]byte{digest.Of(small): small, digest.Of(wordy): wordy, digest.Of(random): random}
	none := digest.Of([]byte("none"))
	all := wants(digest.Of(random), none, digest.Of(wordy), digest.Of(small), digest.Of(small))
	for fetch, want := range []struct{ others, none object.FrameStatus }{
		{object.FrameAbsent, object.FrameAbsent}, {object.FrameBlob, object.FrameAbsent},
		{object.FrameStarted, object.FrameStarted}, {object.FrameBlob, object.FrameAbsent},
	} {
		t.Run(fmt.Sprint("fetch=", fetch), func(t *testing.T) {
			st, c := newStore(t), newCache(t)
			c.tell(st, "stor")
			c.blob("default", digest.Of(small), 1)
			r := c.do("POST", fmt.Sprintf("/default?fetch=%d", fetch), bytes.NewReader(all))
			list := readFrames(t, r.body)
			if r.status != 200 || len(list) != 4 || r.header.Get("Content-Type") != object.FrameType {
				t.Fatalf("%d, %d frames, %v", r.status, len(list), r.header)
			}
			if list[0].Digest != digest.Of(small) || list[0].Status != object.FrameBlob {
				t.Errorf("what is here is not first: %v", list[0].Status)
			}
			for _, f := range list {
				wanted := want.others
				switch f.Digest {
				case digest.Of(small):
					wanted = object.FrameBlob
				case none:
					wanted = want.none
				}
				if f.Status != wanted {
					t.Errorf("%s: %v, want %v", f.Digest.Short(), f.Status, wanted)
				}
				if f.Status != object.FrameBlob {
					continue
				}
				if got, err := codec.Unpack(f.Digest, f.Stored, object.MaxBlob); err != nil || !bytes.Equal(got, plain[f.Digest]) {
					t.Errorf("%s: %v", f.Digest.Short(), err)
				}
			}
			kept := func() bool { return c.blob("default", digest.Of(random), 0).status == 200 }
			if fetch == 1 || fetch == 2 {
				eventually(t, "kept", kept)
			} else if kept() {
				t.Error("it was kept")
			}
		})
	}
}

// Blobs come in the order in which they arrive, and at once.
func TestBatchOrder(t *testing.T) {
	t.Parallel()
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor")
	slow := digest.Of(random)
	release := make(chan struct{})
	st.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, slow.String()) {
			<-release
		}
		return false
	})
	resp, err := c.client.Post(c.url+"/default", "text/plain", bytes.NewReader(wants(slow, digest.Of(wordy), digest.Of(small))))
	must(t, err)
	defer resp.Body.Close()
	for range 2 {
		f, err := object.ReadFrame(resp.Body, object.MaxBlob)
		must(t, err)
		if f.Digest == slow {
			t.Error("the slow one came first")
		}
	}
	close(release)
	f, err := object.ReadFrame(resp.Body, object.MaxBlob)
	if err != nil || f.Digest != slow || !bytes.Equal(f.Stored, random) {
		t.Errorf("the slow one: %v", err)
	}
	if _, err := object.ReadFrame(resp.Body, 0); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestBatchBounds(t *testing.T) {
	t.Parallel()
	c := newCache(t)
	c.server.current.Load().maxBatch = 3
	a := digest.Of(small)
	for name, k := range map[string]struct {
		body   []byte
		status int
	}{
		"empty":    {nil, 200},
		"twice":    {bytes.Repeat(wants(a), 10), 200},
		"too many": {wants(a, digest.Of(wordy), digest.Of(random), digest.Of(nil)), 400},
		"no hex":   {[]byte("hello"), 400},
		"too long": {bytes.Repeat(wants(a), 1<<15), 413},
	} {
		if r := c.do("POST", "/default?fetch=0", bytes.NewReader(k.body)); r.status != k.status {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	if r := c.do("POST", "/md", nil); r.status != 400 {
		t.Errorf("a domain that can't be: %d", r.status)
	}
}

// A client that leaves ends its fetches.
func TestBatchLeft(t *testing.T) {
	t.Parallel()
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor")
	asked, left := make(chan struct{}, 10), make(chan struct{}, 10)
	st.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/default/") {
			asked <- struct{}{}
			<-r.Context().Done()
			left <- struct{}{}
			return true
		}
		return false
	})
	resp, err := c.client.Post(c.url+"/default", "text/plain", bytes.NewReader(wants(digest.Of(random))))
	must(t, err)
	<-asked
	resp.Body.Close()
	select {
	case <-left:
	case <-time.After(2 * time.Second):
		t.Error("the store is still being asked")
	}
}

// What two batches lack is fetched many at a time, though nobody has said how small it is.
func TestBatchesFetchManyAtATime(t *testing.T) {
	t.Parallel()
	const batches, wanted = 2, 48
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor")
	var texts [batches][]byte
	for i := range 2 * wanted {
		d := st.put("default", fmt.Appendf(nil, "small blob %d", i))
		texts[i%batches] = object.AppendWant(texts[i%batches], d)
	}
	var at atomic.Int64
	all := make(chan struct{})
	reached := sync.OnceFunc(func() { close(all) })
	st.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/default/") {
			return false
		}
		defer at.Add(-1)
		if at.Add(1) == wanted {
			reached()
		}
		select {
		case <-all:
		case <-r.Context().Done():
		}
		return false
	})
	var asked sync.WaitGroup
	for _, text := range texts {
		asked.Go(func() {
			r := c.do("POST", "/default?fetch=1", bytes.NewReader(text))
			for _, f := range readFrames(t, r.body) {
				if f.Status != object.FrameBlob {
					t.Errorf("%s: %v", f.Digest.Short(), f.Status)
				}
			}
		})
	}
	asked.Wait()
	select {
	case <-all:
	default:
		t.Errorf("never %d at a time", wanted)
	}
}

// A plain web server is asked for many blobs over few connections, and not told who asks.
func TestBatchesOverFewConnections(t *testing.T) {
	t.Parallel()
	few := false
	for try := 0; try < 10 && !few; try++ { // one that gets no processor for a while seems slow, and has more
		st, c := newStore(t), newCache(t)
		c.tell(st, "stor")
		first := st.put("default", []byte("the first blob"))
		c.blob("default", first, 1) // by its answer it is known as one
		var text []byte
		for i := range 500 {
			text = object.AppendWant(text, st.put("default", fmt.Appendf(nil, "small blob %d", i)))
		}
		var mu sync.Mutex
		from := make(map[string]bool)
		st.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.URL.Path, "/default/") {
				if via := r.Header.Get("Aysfs-Via"); via != "" {
					t.Errorf("asked by way of %s", via)
				}
				mu.Lock()
				defer mu.Unlock()
				from[r.RemoteAddr] = true
			}
			return false
		})
		list := readFrames(t, c.do("POST", "/default?fetch=1", bytes.NewReader(text)).body)
		for _, f := range list {
			if f.Status != object.FrameBlob {
				t.Errorf("%s: %v", f.Digest.Short(), f.Status)
			}
		}
		if len(list) != 500 {
			t.Errorf("%d of 500 blobs", len(list))
		}
		few = len(from) <= 8
		t.Logf("%d connections", len(from))
	}
	if !few {
		t.Error("never over 8 connections at most")
	}
}
