package faults

import (
	"math/rand/v2"
	"sync"
)

// chance draws what happens, and counts what did.
type chance struct {
	mu     sync.Mutex
	rand   *rand.Rand   // GUARDED_BY(mu)
	share  float64      // GUARDED_BY(mu)
	kinds  []Kind       // GUARDED_BY(mu)
	counts map[Kind]int // GUARDED_BY(mu)
}

func newChance(seed uint64) *chance {
	return &chance{rand: rand.New(rand.NewPCG(seed, 1)), counts: make(map[Kind]int)}
}

// Set has a share of what comes, from 0 to 1, go wrong from now on, each time in
// one of the ways. What stalls already goes on doing so.
func (c *chance) Set(share float64, kinds ...Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.share, c.kinds = share, kinds
}

// Counts is what has gone wrong so far, by its kind.
func (c *chance) Counts() map[Kind]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := make(map[Kind]int, len(c.counts))
	for k, n := range c.counts {
		counts[k] = n
	}
	return counts
}

// draw says what happens now, one of those that can, and what else is random in
// that. The empty kind is that all is well.
func (c *chance) draw(can func(Kind) bool) (Kind, *rand.Rand) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := rand.New(rand.NewPCG(c.rand.Uint64(), 2))
	if c.share == 0 || c.rand.Float64() >= c.share {
		return "", r
	}
	var kinds []Kind
	for _, k := range c.kinds {
		if can(k) {
			kinds = append(kinds, k)
		}
	}
	if len(kinds) == 0 {
		return "", r
	}
	kind := kinds[c.rand.IntN(len(kinds))]
	c.counts[kind]++
	return kind, r
}
