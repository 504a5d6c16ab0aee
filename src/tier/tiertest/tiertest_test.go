package tiertest_test

import (
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// inMemory is the harness of a source in memory, with around laid about it.
func inMemory(around func(tier.Source) tier.Source) func(*testing.T) tiertest.Harness {
	return func(*testing.T) tiertest.Harness {
		memory := tiertest.NewMemory("memory")
		faulty := tiertest.NewFaulty(memory)
		steps := map[tiertest.Fault]tiertest.Step{
			tiertest.None:        {},
			tiertest.Flipped:     tiertest.Flip,
			tiertest.Truncated:   tiertest.Cut,
			tiertest.Stalled:     tiertest.Hang,
			tiertest.Silent:      tiertest.Hang,
			tiertest.Unreachable: tiertest.Fail(tier.ErrUnavailable),
		}
		return tiertest.Harness{
			Source: around(faulty),
			Put:    memory.Put,
			Fault: func(f tiertest.Fault) bool {
				step, ok := steps[f]
				faulty.Always(step)
				return ok
			},
		}
	}
}

func TestMemory(t *testing.T) {
	tiertest.Run(t, inMemory(func(s tier.Source) tier.Source { return s }))
}

func TestDecorators(t *testing.T) {
	tiertest.Run(t, inMemory(func(s tier.Source) tier.Source {
		return tier.NewMeter(tier.Retry(s, tier.RetryPolicy{First: time.Millisecond, Patience: time.Second}))
	}))
}
