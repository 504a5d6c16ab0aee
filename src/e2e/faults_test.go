//go:build faults

package e2e

import (
	"flag"
	"math/rand/v2"
	"testing"
)

var (
	faultsSeed   = flag.Uint64("faults.seed", 0, "what the random choices of TestFaults… come from; 0: one that is made up")
	faultsRounds = flag.Int("faults.rounds", 1, "how many times TestFaults… do what they do over and over")
)

// chances are the random choices of a test: of the seed, which it tells, and of
// its name.
func chances(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *faultsSeed
	for seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-faults.seed=%d", seed)
	return rand.New(rand.NewPCG(seed, nameHash(t.Name())))
}

// nameHash is the same in every run.
func nameHash(name string) (h uint64) {
	for _, c := range []byte(name) {
		h = h*0x100000001b3 ^ uint64(c)
	}
	return h
}
