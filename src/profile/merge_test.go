package profile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// ran is a run that needs those files, in that order.
func ran(paths ...string) *Profile {
	r := NewRecording()
	for _, p := range paths {
		r.File(p, 1)
	}
	return r.Profile()
}

func paths(p *Profile) string {
	var list []string
	for _, n := range p.Needs {
		list = append(list, n.Path)
	}
	return strings.Join(list, " ")
}

func TestMergeOrder(t *testing.T) {
	p := Merge(nil, ran("a", "b", "c"))
	if got := paths(p); got != "a b c" || p.Runs != 1 {
		t.Errorf("first run: %s, %d runs", got, p.Runs)
	}
	p = Merge(p, ran("b", "d", "a"))
	if got := paths(p); got != "b d a c" || p.Runs != 2 {
		t.Errorf("the newest run's order first: %s, %d runs", got, p.Runs)
	}
	for range 10 {
		p = Merge(p, ran("a", "b", "c"))
	}
	if got := paths(p); got != "a b c" {
		t.Errorf("what is not needed any more has left: %s", got)
	}
	// What one of many runs needs comes behind what nearly all need.
	p = Merge(p, ran("x", "a", "y"))
	if got := paths(p); got != "a b c x y" {
		t.Errorf("a rare run's needs come last: %s", got)
	}
	for range 4 {
		p = Merge(p, ran("x", "y"))
	}
	if got := paths(p); !strings.HasPrefix(got, "x y ") {
		t.Errorf("the newest weigh most: %s", got)
	}
}

func TestJoin(t *testing.T) {
	p := Merge(nil, ran("a", "b"))
	if got := Join(p, ran("b")); got != p {
		t.Errorf("nothing is new: %s", paths(got))
	}
	p = Join(p, ran("b", "c"))
	if got := paths(p); got != "a b c" || p.Runs != 1 || p.Needs[2].Weight != oneRun {
		t.Errorf("%s, %d runs, %+v", got, p.Runs, p.Needs)
	}
	// Machines of two kinds that always start at the same time keep what each needs.
	for range 20 {
		p = Join(Merge(p, ran("a")), ran("c"))
	}
	if got := paths(p); got != "a c" {
		t.Errorf("two kinds: %s", got)
	}
	var many []string
	for i := range MaxNeeds - 2 {
		many = append(many, fmt.Sprint(i))
	}
	p = Join(p, ran(many...))
	if got := Join(p, ran("one more")); len(p.Needs) != MaxNeeds || got != p {
		t.Errorf("full: %d, %d needs", len(p.Needs), len(got.Needs))
	}
}

func TestMergeForgets(t *testing.T) {
	p := Merge(nil, ran("once", "a"))
	n := 0
	for ; strings.Contains(paths(p), "once"); n++ {
		p = Merge(p, ran("a"))
	}
	if n != 5 {
		t.Errorf("what one run needed left after %d others", n)
	}
	for range 50 {
		p = Merge(p, ran("always", "a"))
	}
	for n = 0; strings.Contains(paths(p), "always"); n++ {
		p = Merge(p, ran("a"))
	}
	if n < 9 || n > 12 {
		t.Errorf("what all runs needed left after %d others", n)
	}
}

func TestMergeOfNextToNothingForgetsNothing(t *testing.T) {
	var all []string
	for i := range 100 {
		all = append(all, fmt.Sprintf("f%03d", i))
	}
	p := Merge(nil, ran(all...))
	want := slices.Clone(p.Needs)
	for range 100 {
		p = Merge(p, ran("f007"))
	}
	if len(p.Needs) != 100 || p.Needs[0].Path != "f007" {
		t.Fatalf("%d needs, %s first", len(p.Needs), p.Needs[0].Path)
	}
	for _, n := range p.Needs {
		if n.Path != "f007" && n != want[slices.IndexFunc(want, func(w Need) bool { return w.Path == n.Path })] {
			t.Fatalf("%+v", n)
		}
	}
}

func TestMergeIsBounded(t *testing.T) {
	many := func(prefix string) *Profile {
		r := NewRecording()
		for i := range 2 * MaxNeeds {
			r.File(fmt.Sprint(prefix, i), 1)
		}
		if !r.Full() {
			t.Fatal("a recording without end")
		}
		return r.Profile()
	}
	p := Merge(many("a"), many("b"))
	if len(p.Needs) != MaxNeeds || p.Needs[MaxNeeds-1].Path != fmt.Sprint("b", MaxNeeds-1) {
		t.Errorf("%d needs", len(p.Needs))
	}
	r := NewRecording()
	for i := range 1 << 16 {
		r.File(fmt.Sprint(i), 1<<20)
	}
	if r.Bytes() > MaxFetch {
		t.Errorf("%d bytes", r.Bytes())
	}
}

// A profile of a time yet to come keeps no newer one out, and is taken where there is
// none.
func TestWrongClocks(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) *Profile { return &Profile{Time: now.Add(d).UTC().Truncate(time.Second), Runs: 1} }
	before, after, lastHour := at(-2*time.Hour), at(5*365*24*time.Hour), at(-time.Hour)
	for _, c := range []struct {
		p, old *Profile
		want   bool
	}{
		{before, nil, true}, {after, nil, true}, {lastHour, before, true}, {before, lastHour, false}, {after, before, false}, {before, before, false},
	} {
		if c.p.Newer(c.old, now) != c.want {
			t.Errorf("%+v after %+v: %v", c.p, c.old, !c.want)
		}
	}
	if p := after.NotAfter(now); p.Time.After(now) || now.Sub(p.Time) > time.Second || p.Time.Nanosecond() != 0 || p.Runs != 1 {
		t.Errorf("%+v is left of it", p)
	}
	if p := before.NotAfter(now); p != before {
		t.Errorf("%+v is left of %+v", p, before)
	}
	if p := (*Profile)(nil).NotAfter(now); p != nil {
		t.Errorf("%+v out of nothing", p)
	}
}
