package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// goal is a promise about speed or size, and what was measured of it.
type goal struct {
	what     string
	promise  string
	measured string
	met      bool
}

// residentGoal is how much may be resident, in KiB.
const residentGoal = 96 << 10

// goals has a row for each of them, and a note of those that nothing was measured
// of.
func (r *results) goals() (rows [][]string, note string) {
	rows = [][]string{{"", "goal", "measured", ""}}
	var goals []goal
	for _, work := range []string{"tar", "find", "grep", "build", "rand1", "rand8"} {
		goals = append(goals, r.nextToNative(work, page, 1.05))
	}
	for _, work := range []string{"tar", "find", "python"} {
		goals = append(goals, r.nextToNative(work, disk, 1.5))
	}
	goals = append(goals, r.rateOfNative("rand1", 0.5), r.rateOfNative("rand8", 0.5), r.profileKnown(),
		r.besidePeers("that fetches what is read", func(k kind) bool { return k.peer && !k.whole }),
		r.besidePeers("that fetches all first", func(k kind) bool { return k.whole }),
		r.besideCurl("tar", "≤ 1.30× curl of as many bytes in one file", 1.3),
		r.besideCurl("big", "≥ 0.90× the rate of curl", 1/0.9))
	goals = append(goals, r.demandGoals()...)
	goals = append(goals, r.resident()...)
	goals = append(goals, r.publishGoals()...)
	var not []string
	for _, g := range goals {
		verdict := "missed"
		switch {
		case g.measured == "":
			not = append(not, g.what)
			continue
		case g.met:
			verdict = "met"
		}
		rows = append(rows, []string{g.what, g.promise, g.measured, verdict})
	}
	if len(not) > 0 {
		note = "Not measured: " + strings.Join(slices.Compact(not), "; ") + "."
	}
	return rows, note
}

// beside fills in how long the subject took, next to a time that others took.
// Where there is either no time, why says so.
func (g goal) beside(took float64, why string, other float64, times float64) goal {
	switch {
	case why != "":
		g.measured = why
	case took > 0 && other > 0:
		g.measured = fmt.Sprintf("%s, %s, of %s", ratio(took, other), seconds(took), seconds(other))
		g.met = took <= times*other
	}
	return g
}

func (r *results) nextToNative(work, when string, times float64) goal {
	g := goal{what: work + ", " + when, promise: fmt.Sprintf("≤ %.2f× native", times)}
	took, why := r.took(work, when, subject)
	pairs := r.pairs(work, when, subject)
	if n := len(pairs); n > 0 && why == "" {
		g.measured = fmt.Sprintf("%.2f×, %s, of %s; half of %d pairs %.2f to %.2f×",
			median(pairs), seconds(took), seconds(r.native(work, when, subject)), n, pairs[n/4], pairs[n-1-n/4])
		g.met = median(pairs) <= times
		return g
	}
	return g.beside(took, why, r.native(work, when, subject), times)
}

// rateOfNative is about reads a second, disk-warm.
func (r *results) rateOfNative(work string, times float64) goal {
	g := goal{what: work + ", " + disk, promise: fmt.Sprintf("≥ %.2f× the rate of native", times)}
	took, why := r.took(work, disk, subject)
	native, _ := r.took(work, disk, reference)
	if why != "" || took == 0 || native == 0 {
		g.measured = why
		return g
	}
	g.measured = fmt.Sprintf("%s, %.0f reads/s, of %.0f", ratio(native, took), randomCount/took, randomCount/native)
	g.met = native/took >= times
	return g
}

// profileKnown is about what a start takes at the least: to bring its bytes over
// the link, to ask for them, and to do what it does anyway.
func (r *results) profileKnown() goal {
	g := goal{what: "python, cold, profile known", promise: "≤ 1.50× (its bytes over the link + 4 round trips + native, disk)"}
	took, why := r.took("python", cold, profiled)
	native, _ := r.took("python", disk, reference)
	samples := slices.DeleteFunc(r.of("python", cold, profiled), func(s sample) bool { return s.Net == nil })
	if why != "" || took == 0 || native == 0 || len(samples) == 0 {
		g.measured = why
		return g
	}
	bytes := medianOf(samples, func(s sample) float64 { return float64(s.Net.Down) })
	line := bytes * 8 / (r.Link.Mbits * 1e6)
	trips := 4 * r.Link.RoundTripMS / 1e3
	g = g.beside(took, "", line+trips+native, 1.5)
	g.measured += fmt.Sprintf(" = %s for %.1f MB + %s + %s", seconds(line), bytes/1e6, seconds(trips), seconds(native))
	return g
}

// besidePeers is about a start that nobody has done before.
func (r *results) besidePeers(that string, is func(kind) bool) goal {
	g := goal{what: "python, cold, no profile", promise: "≤ 0.50× the best peer " + that}
	best, name := 0.0, ""
	for _, k := range drivers {
		if !is(k) {
			continue
		}
		if took, _ := r.took("python", cold, k.name); took > 0 && (best == 0 || took < best) {
			best, name = took, k.name
		}
	}
	took, why := r.took("python", cold, subject)
	if g = g.beside(took, why, best, 0.5); name != "" && g.measured != "" {
		g.measured += " (" + name + ")"
	}
	return g
}

func (r *results) besideCurl(work, promise string, times float64) goal {
	g := goal{what: work + ", cold", promise: promise}
	took, why := r.took(work, cold, subject)
	samples := slices.DeleteFunc(r.of(work, cold, subject), func(s sample) bool { return s.Net == nil || s.Net.OneGet == 0 })
	return g.beside(took, why, medianOf(samples, func(s sample) float64 { return s.Net.OneGet }), times)
}

// resident looks for the work after which most is resident, and at the walk of
// very many files, of which the kernel remembers what the client has to.
func (r *results) resident() []goal {
	most := goal{what: "resident memory after any work", promise: fmt.Sprintf("≤ %d MiB", residentGoal>>10)}
	peak := goal{what: "resident memory at its peak", promise: most.promise}
	worst := func(g *goal, get func(*usage) int64) {
		max, where := int64(0), ""
		for _, s := range r.Samples {
			if (s.Driver == subject || s.Driver == profiled) && s.Client != nil && get(s.Client) > max {
				max, where = get(s.Client), s.Work+", "+s.When
			}
		}
		if max > 0 {
			g.measured, g.met = fmt.Sprintf("%s (%s)", mib(max<<10), where), max <= residentGoal
		}
	}
	worst(&most, func(u *usage) int64 { return u.rss() })
	worst(&peak, func(u *usage) int64 { return u.VmHWM })
	walk := goal{what: "the same, of a walk of very many files", promise: "≤ 76 MiB + 100 bytes for each inode held"}
	for _, w := range r.Many {
		walk.promise = fmt.Sprintf("≤ 76 MiB + 100 bytes for each of %d inodes held", w.Inodes)
		walk.measured = mib(w.After.rss() << 10)
		walk.met = w.After.rss()<<10 <= 76<<20+100*int64(w.Inodes)
	}
	return []goal{most, peak, walk}
}

// publishGoals are about each step of publishing, next to those peers that do the
// same.
func (r *results) publishGoals() (goals []goal) {
	files := 0
	for _, p := range r.Publish {
		files = cmp.Or(p.Files, files)
	}
	for _, step := range []struct {
		what string
		took func(published) float64
	}{
		{"publish the Go tree", func(p published) float64 { return p.First }},
		{"again, unchanged", func(p published) float64 { return p.Unchanged }},
		{fmt.Sprintf("again, %d files changed", files), func(p published) float64 { return p.Changed }},
	} {
		g := goal{what: step.what, promise: "faster than restic and desync"}
		took := r.published(subject, step.took)
		best, others := 0.0, []string{}
		for _, peer := range []string{"restic", "desync"} {
			if other := r.published(peer, step.took); other > 0 {
				others = append(others, seconds(other)+" ("+peer+")")
				if best == 0 || other < best {
					best = other
				}
			}
		}
		if took > 0 && best > 0 {
			g.measured, g.met = seconds(took)+", of "+strings.Join(others, " and "), took < best
		}
		goals = append(goals, g)
	}
	return goals
}
