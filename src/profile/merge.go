package profile

import "time"

// Weights. A run counts for a quarter of all that came before it, so that what each
// run needs comes near 255, and what no run needs any more has left after
// five runs if one needed it, and after eleven if all did.
const (
	oneRun      = 64 // what a run adds
	leastWeight = 16 // what is below is left out
)

func faded(w uint8) int { return int(w) * 3 / 4 }

// alike is how many times as many needs a profile may have as a run that says what
// is not needed any more: one that did next to nothing doesn't.
const alike = 8

// Merge returns what is known after a run: old, which may be nil, and what the
// run needed, whose own weights are of no matter. What at least half as many runs
// need as what most need comes first, then the rest; in both what the run
// needed, in its order, comes before what older ones did, in theirs.
func Merge(old, run *Profile) *Profile {
	if old == nil {
		old = &Profile{}
	}
	m := &Profile{Time: run.Time, Runs: min(old.Runs+1, maxRuns)}
	if old.Time.After(run.Time) {
		m.Time = old.Time
	}
	before := make(map[key]uint8, len(old.Needs))
	for i := range old.Needs {
		before[keyOf(&old.Needs[i])] = old.Needs[i].Weight
	}
	fades := len(run.Needs)*alike >= len(old.Needs)
	all := make([]Need, 0, max(len(old.Needs), len(run.Needs)))
	most := 0
	for _, n := range run.Needs {
		w := min(faded(before[keyOf(&n)])+oneRun, 255)
		if !fades {
			w = max(w, int(before[keyOf(&n)]))
		}
		n.Weight = uint8(w)
		delete(before, keyOf(&n))
		most = max(most, w)
		all = append(all, n)
	}
	for _, n := range old.Needs {
		if _, left := before[keyOf(&n)]; !left {
			continue
		}
		if fades {
			n.Weight = uint8(faded(n.Weight))
		}
		if n.Weight < leastWeight {
			continue
		}
		most = max(most, int(n.Weight))
		all = append(all, n)
	}
	m.Needs = oftenFirst(all, most)
	return m
}

// Join returns what is known after a run that counts as one with the last that was
// merged into p: it adds to that what it alone needed. Where there is no such thing
// that is p itself.
func Join(p, run *Profile) *Profile {
	mine := make(map[key]struct{}, len(run.Needs))
	for i := range run.Needs {
		mine[keyOf(&run.Needs[i])] = struct{}{}
	}
	all := make([]Need, 0, len(p.Needs)+len(run.Needs))
	most := 0
	news := false
	for _, n := range p.Needs {
		if _, ok := mine[keyOf(&n)]; ok {
			delete(mine, keyOf(&n))
			news = news || n.Weight < oneRun
			n.Weight = max(n.Weight, oneRun)
		}
		most = max(most, int(n.Weight))
		all = append(all, n)
	}
	if !news && (len(mine) == 0 || len(p.Needs) >= MaxNeeds) {
		return p
	}
	for _, n := range run.Needs {
		if _, ok := mine[keyOf(&n)]; ok {
			n.Weight = oneRun
			all = append(all, n)
		}
	}
	return &Profile{Time: p.Time, Runs: p.Runs, Needs: oftenFirst(all, max(most, oneRun))}
}

// oftenFirst returns needs, as many as a profile may have: those first that weigh at
// least half of the most.
func oftenFirst(all []Need, most int) []Need {
	often := func(n *Need) bool { return 2*int(n.Weight) >= most }
	needs := make([]Need, 0, min(len(all), MaxNeeds))
	for _, first := range []bool{true, false} {
		for i := range all {
			if often(&all[i]) == first && len(needs) < MaxNeeds {
				needs = append(needs, all[i])
			}
		}
	}
	return needs
}

// NotAfter returns the profile as of now at the latest: one that a wrong clock gave a
// time yet to come would keep newer ones out until then.
func (p *Profile) NotAfter(now time.Time) *Profile {
	if p == nil || !p.Time.After(now) {
		return p
	}
	of := *p
	of.Time = now.UTC().Truncate(time.Second)
	return &of
}

// Newer tells whether there are runs in a profile that were after those in old,
// which may be nil. What is of a time yet to come is newer than nothing only.
func (p *Profile) Newer(old *Profile, now time.Time) bool {
	return old == nil || p.Time.After(old.Time) && !p.Time.After(now)
}
