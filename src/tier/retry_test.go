package tier_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// one returns a source with one blob, and a hand on how calls go.
func one() (tier.Ref, []byte, *tiertest.Faulty) {
	plain := tiertest.Random(1, 1000)
	m := tiertest.NewMemory("origin")
	m.Put(tiertest.RefOf(plain), plain)
	return tiertest.RefOf(plain), plain, tiertest.NewFaulty(m)
}

var down = tiertest.Fail(tier.ErrUnavailable)

func TestRetryAsksAgain(t *testing.T) {
	tests := []struct {
		name  string
		steps []tiertest.Step
		calls int
		want  error
	}{
		{"well at once", nil, 1, nil},
		{"down three times", []tiertest.Step{down, down, down}, 4, nil},
		{"absent", []tiertest.Step{tiertest.Fail(tier.ErrAbsent)}, 1, tier.ErrAbsent},
		{"denied", []tiertest.Step{tiertest.Fail(tier.ErrDenied)}, 1, tier.ErrDenied},
		{"refused", []tiertest.Step{tiertest.Fail(fmt.Errorf("%w: %w", tier.ErrUnavailable, tier.ErrRefused))}, 1, tier.ErrUnavailable},
		{"corrupt once", []tiertest.Step{tiertest.Fail(tier.ErrCorrupt)}, 2, nil},
		{"corrupt for good", []tiertest.Step{tiertest.Fail(tier.ErrCorrupt), tiertest.Fail(tier.ErrCorrupt), tiertest.Fail(tier.ErrCorrupt)}, 2, tier.ErrCorrupt},
		{"down, then absent", []tiertest.Step{down, tiertest.Fail(tier.ErrAbsent)}, 2, tier.ErrAbsent},
		{"an error of no class", []tiertest.Step{tiertest.Fail(errors.New("what"))}, 2, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ref, _, src := one()
				src.Next(tt.steps...)
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				_, err := tier.Retry(src, tier.RetryPolicy{}).Get(ctx, ref)
				if !errors.Is(err, tt.want) {
					t.Errorf("error %v, want %v", err, tt.want)
				}
				if src.Calls() != tt.calls {
					t.Errorf("%d calls, want %d", src.Calls(), tt.calls)
				}
			})
		})
	}
}

func TestRetryPausesGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, _, src := one()
		src.Always(down)
		r := tier.Retry(src, tier.RetryPolicy{First: 100 * time.Millisecond, Longest: 2 * time.Second, Patience: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		_, err := r.Get(ctx, ref)
		if !errors.Is(err, tier.ErrUnavailable) {
			t.Error(err)
		}
		if took := time.Since(start); took < 55*time.Second || took > time.Minute {
			t.Errorf("tried for %v, want nearly to the deadline in a minute", took)
		}
		// With pauses of 1 to 3 s, but for the first few.
		if n := src.Calls(); n < 20 || n > 65 {
			t.Errorf("%d tries in a minute", n)
		}
	})
}

func TestRetryBoundsTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, _, src := one()
		src.Always(down)
		if _, err := tier.Retry(src, tier.RetryPolicy{Tries: 3}).Get(t.Context(), ref); err == nil || src.Calls() != 3 {
			t.Errorf("%d tries, %v", src.Calls(), err)
		}
	})
}

func TestRetryBoundsOneTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, _, src := one()
		src.Next(tiertest.Hang)
		start := time.Now()
		_, err := tier.Retry(src, tier.RetryPolicy{PerTry: 3 * time.Second}).Get(t.Context(), ref)
		if err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < 3*time.Second || took > 4*time.Second {
			t.Errorf("took %v, want a try of 3 s and a pause", took)
		}
	})
}

func TestRetryEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, _, src := one()
		src.Always(down)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(1234*time.Millisecond, cancel)
		start := time.Now()
		if _, err := tier.Retry(src, tier.RetryPolicy{}).Get(ctx, ref); err == nil {
			t.Error("no error")
		}
		if took := time.Since(start); took != 1234*time.Millisecond {
			t.Errorf("returned after %v, its caller left after 1.234 s", took)
		}
	})
}

// Where a source has been down for long, a Get must not wait for it.
func TestRetryFailsFastWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, _, src := one()
		src.Always(down)
		r := tier.Retry(src, tier.RetryPolicy{Patience: 30 * time.Second})
		get := func() (time.Duration, int, error) {
			before := src.Calls()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			start := time.Now()
			_, err := r.Get(ctx, ref)
			return time.Since(start), src.Calls() - before, err
		}
		if took, _, err := get(); err == nil || took < 20*time.Second {
			t.Errorf("the first Get gave up after %v (%v)", took, err)
		}
		time.Sleep(15 * time.Second)
		for range 3 {
			if took, calls, err := get(); err == nil || calls != 1 || took != 0 {
				t.Errorf("when it is known to be down: %d tries, %v, %v", calls, took, err)
			}
		}
		src.Always(tiertest.Step{})
		if _, _, err := get(); err != nil {
			t.Error(err)
		}
		src.Next(down, down)
		if _, calls, err := get(); err != nil || calls != 3 {
			t.Errorf("after a success: %d tries, %v; want it to be patient again", calls, err)
		}
	})
}

// A caller who leaves says nothing about the source.
func TestRetryCancelledIsNotDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, _, src := one()
		r := tier.Retry(src, tier.RetryPolicy{Patience: time.Second})
		src.Next(tiertest.Hang)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		if _, err := r.Get(ctx, ref); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		src.Next(down)
		if _, err := r.Get(t.Context(), ref); err != nil {
			t.Errorf("tried once only: %v", err)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	busy := func(after time.Duration) tiertest.Step {
		return tiertest.Fail(&tier.BusyError{After: after, Err: tier.ErrUnavailable})
	}
	tests := []struct {
		name        string
		asked       time.Duration
		least, most time.Duration
	}{
		{"kept to", 3 * time.Second, 3 * time.Second, 3 * time.Second},
		{"within bounds", time.Hour, 5 * time.Second, 5 * time.Second},
		{"not hurried", 0, 50 * time.Millisecond, 151 * time.Millisecond},
		{"nonsense", -time.Hour, 50 * time.Millisecond, 151 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ref, _, src := one()
				src.Next(busy(tt.asked))
				start := time.Now()
				if _, err := tier.Retry(src, tier.RetryPolicy{}).Get(t.Context(), ref); err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took < tt.least || took > tt.most {
					t.Errorf("asked again after %v", took)
				}
			})
		})
	}
}

// A pause that would outlast the caller is not begun: better to be told now.
func TestRetryDoesNotSleepToTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, _, src := one()
		src.Always(tiertest.Fail(&tier.BusyError{After: 4 * time.Second, Err: tier.ErrUnavailable}))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := tier.Retry(src, tier.RetryPolicy{}).Get(ctx, ref); !errors.Is(err, tier.ErrUnavailable) || time.Since(start) != 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestMeter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, plain, src := one()
		m := tier.NewMeter(src)
		slow := tiertest.Step{Delay: time.Second}
		src.Next(slow, slow, slow, tiertest.Fail(tier.ErrAbsent), tiertest.Fail(tier.ErrDenied), down,
			tiertest.Fail(tier.ErrCorrupt), tiertest.Hang)
		for range 7 {
			_, _ = m.Get(t.Context(), ref)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _ = m.Get(ctx, ref)
		if err := m.Purge(t.Context(), ref); err != nil { // one of the three was corrupt
			t.Error(err)
		}
		got := m.Stats()
		want := tier.Stats{Tier: "origin", Requests: 8, Hits: 2, Absent: 1, Errors: 2, Corrupt: 2, Cancelled: 1,
			Bytes: 3 * int64(len(plain)), Latency: 3 * time.Second, LastError: got.LastError, LastErrorAt: time.Now()}
		if got != want {
			t.Errorf("stats are\n%+v, want\n%+v", got, want)
		}
		if sum := got.Hits + got.Absent + got.Errors + got.Corrupt + got.Cancelled; sum != got.Requests {
			t.Errorf("outcomes add up to %d of %d", sum, got.Requests)
		}
		src.Source.(*tiertest.Memory).Put(ref, plain)
		if n := testing.AllocsPerRun(100, func() { _, _ = m.Get(context.Background(), ref) }); n > 0 {
			t.Errorf("%v allocations for a hit", n)
		}
	})
}
