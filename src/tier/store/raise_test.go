package store

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aysfs/aysfs/src/tier"
)

// TestBatchRaised: what somebody comes to wait for leaves those that nobody waits for, at
// once where it has not been asked for yet.
func TestBatchRaised(t *testing.T) {
	for name, test := range map[string]struct {
		sent bool
		trip time.Duration
		most time.Duration
	}{
		"not asked for": {false, 0, 0},
		"asked for":     {true, 10 * time.Millisecond, halt},
		"far away":      {true, 200 * time.Millisecond, haltTrips * 200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &batches{h: &HTTP{pipeline: &pipeline{trip: test.trip}}, domains: map[string]*gathering{"d": {running: batchesAtOnce}}}
				wanted := make(chan struct{})
				go func() {
					time.Sleep(time.Minute)
					if test.sent {
						b.mu.Lock()
						b.domains["d"].next = nil
						b.mu.Unlock()
					}
					close(wanted)
				}()
				began := time.Now()
				_, err := b.get(tier.InBackgroundUntil(t.Context(), wanted), tier.Ref{Domain: "d"})
				if took := time.Since(began) - time.Minute; !errors.Is(err, errOrdinary) || took != test.most {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
}
