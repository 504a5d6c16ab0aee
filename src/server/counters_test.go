package server

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/tier"
)

func TestCounter(t *testing.T) {
	var c counter
	now := time.Now().Unix() / 60
	c.minute = now - 200 // nothing for hours
	c.minutes[3] = 99
	c.add(5)
	c.add(0)
	if p := c.past(); p[hour-1]+p[hour-2] != 5 || sum(p) != 5 || c.total.Load() != 5 {
		t.Errorf("got %v, %d", p, c.total.Load())
	}
	for m := range int64(3 * hour) { // a count a minute
		c.mu.Lock()
		c.turn(now + 10 + m)
		c.minutes[(now+10+m)%hour]++
		c.mu.Unlock()
	}
	if n := sum(c.minutes); n != hour {
		t.Errorf("%d in the last hour, want %d", n, hour)
	}
}

func sum(p [hour]int64) (n int64) {
	for _, v := range p {
		n += v
	}
	return n
}

func TestCharts(t *testing.T) {
	var part, rest [hour]int64
	part[59], rest[59], rest[0] = 3, 1, 4
	c := rateChart("Hit rate", part, rest)
	if c.Now != "37.5 % of 8 blobs in the last hour" || !strings.HasSuffix(c.Points, "59,5.0") || !strings.HasPrefix(c.Points, "0,20.0 ") || strings.Count(c.Points, ",") != hour {
		t.Errorf("got %+v", c)
	}
	if c := sumChart("Sent", part, humanSize); c.Now != "3 B in the last hour" || !strings.HasSuffix(c.Points, "59,0.0") {
		t.Errorf("got %+v", c)
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 5 << 40: "5 TiB"} {
		if got := humanSize(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestEvents(t *testing.T) {
	e, mine, other := &events{}, &stor{name: "mine"}, &stor{name: "other"}
	for i := range 100 {
		e.add(event{store: []*stor{mine, other, nil}[i%3], what: fmt.Sprint(i)})
	}
	list := e.recent(func(st *stor) bool { return st == mine })
	if len(list) < 40 || list[0].what != "99" || list[1].what != "98" && list[1].what != "97" {
		t.Errorf("%d events, first %q, %q", len(list), list[0].what, list[1].what)
	}
	for _, v := range list {
		if v.store == other {
			t.Fatal("an event of a store that may not be read")
		}
	}
}

// What the data let go is forgotten.
func TestSweep(t *testing.T) {
	t.Parallel()
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor")
	for _, plain := range [][]byte{small, wordy, random} {
		c.blob("default", digest.Of(plain), 1)
	}
	must(t, c.data.DeleteBlob(t.Context(), "default", digest.Of(small)))
	if r := c.blob("default", digest.Of(small), 0); r.status != 404 {
		t.Errorf("a blob that went: %d", r.status)
	}
	must(t, c.data.DeleteBlob(t.Context(), "default", digest.Of(wordy)))
	must(t, c.server.kept.sweep(t.Context()))
	for plain, want := range map[string]error{string(small): tier.ErrAbsent, string(wordy): tier.ErrAbsent, string(random): nil} {
		if _, err := c.data.Origin(t.Context(), "default", digest.Of([]byte(plain))); !errors.Is(err, want) {
			t.Errorf("%.10q: %v", plain, err)
		}
	}
	if r := c.blob("default", digest.Of(wordy), 1); r.status != 200 {
		t.Errorf("it comes again: %d", r.status)
	}
}

// Who may not be remembered among the stores of a blob any more is the one that
// gave it the longest ago.
func TestOriginsAreBounded(t *testing.T) {
	t.Parallel()
	c := newCache(t)
	d := digest.Of(small)
	for i := range maxFrom + 3 {
		must(t, c.server.kept.put(t.Context(), "default", d, small, storeID{byte(i)}))
	}
	row, err := c.data.Origin(t.Context(), "default", d)
	must(t, err)
	ids := parseFrom(row)
	if len(ids) != maxFrom || ids[0] != (storeID{3}) || ids[maxFrom-1] != (storeID{maxFrom + 2}) {
		t.Errorf("got %v", ids)
	}
}

func TestFetchBehindIsBounded(t *testing.T) {
	t.Parallel()
	c := newCache(t)
	s := c.server
	s.behind.mu.Lock()
	for i := range maxBehind {
		s.behind.under[behindKey{name: fmt.Sprint(i)}] = true
	}
	s.behind.mu.Unlock()
	d := digest.Of(small)
	if r := c.blob("default", d, 2); r.status != 503 || r.header.Get("Retry-After") == "" || len(r.body) != 0 {
		t.Errorf("%d %v", r.status, r.header)
	}
	if r := c.get("/md/a/b/?fetch=2"); r.status != 404 {
		t.Errorf("a mount that isn't known: %d", r.status)
	}
}
