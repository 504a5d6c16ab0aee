package tier

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// RetryPolicy says how often a source is asked again.
type RetryPolicy struct {
	// Tries is how often one Get asks at most; 0 means until its ctx is done.
	Tries int
	// PerTry bounds one try; 0 leaves that to the source and ctx.
	PerTry time.Duration
	// First and Longest are the pauses between tries, which double and are
	// varied by half; 0 means 100 ms and 5 s. A pause that the source asks for
	// is kept to, up to Longest.
	First, Longest time.Duration
	// Patience is how long a source may be down before a Get asks it once
	// only, so that reads fail quickly where there is no network. It ends with
	// the first success; 0 means 30 s.
	Patience time.Duration
}

// corruptTries is how often a source is asked for a blob that comes corrupt. A
// byte lost on the way comes right the second time; a bad file never does.
const corruptTries = 2

// BusyError is a source's wish to be left alone for a while. It goes along with
// ErrUnavailable.
type BusyError struct {
	After time.Duration
	Err   error
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%v (asks to come back in %v)", e.Err, e.After)
}
func (e *BusyError) Unwrap() error { return e.Err }

// Retry asks src again while it is unavailable. Absence, denial and refusal
// are answers: they aren't asked for twice.
func Retry(src Source, policy RetryPolicy) *Retrier {
	if policy.First <= 0 {
		policy.First = 100 * time.Millisecond
	}
	if policy.Longest <= 0 {
		policy.Longest = 5 * time.Second
	}
	if policy.Patience <= 0 {
		policy.Patience = 30 * time.Second
	}
	return &Retrier{Source: src, policy: policy}
}

// Retrier is what Retry returns.
type Retrier struct {
	Source
	policy RetryPolicy
	// downSince is the time in Unix nanoseconds of the first failure since the
	// source last answered; 0 while it answers.
	downSince atomic.Int64
}

func (r *Retrier) Get(ctx context.Context, ref Ref) ([]byte, error) {
	var pauses *backoff.ExponentialBackOff // made when first needed: most calls don't
	corrupt := 0
	for try := 1; ; try++ {
		b, err := r.once(ctx, ref)
		if err == nil {
			return b, nil
		}
		if errors.Is(err, ErrCorrupt) {
			corrupt++
		}
		if !r.again(ctx, err, try, corrupt) {
			return nil, tried(err, try)
		}
		if pauses == nil {
			pauses = &backoff.ExponentialBackOff{InitialInterval: r.policy.First, MaxInterval: r.policy.Longest,
				Multiplier: 2, RandomizationFactor: 0.5}
		}
		pause := pauses.NextBackOff()
		if busy, ok := errors.AsType[*BusyError](err); ok {
			pause = max(pause, min(busy.After, r.policy.Longest))
		}
		if !sleep(ctx, pause) {
			return nil, tried(err, try)
		}
	}
}

// Asking is ask, of the same source, with what comes by it taken note of. Nothing is asked
// for again that way.
func (r *Retrier) Asking(ask AskFunc) AskFunc {
	return func(ref Ref, answered func(stored []byte, ok bool)) Asked {
		return ask(ref, func(stored []byte, ok bool) {
			if ok {
				r.downSince.Store(0)
			}
			answered(stored, ok)
		})
	}
}

// once makes one try, and keeps the time since when the source is down.
func (r *Retrier) once(ctx context.Context, ref Ref) ([]byte, error) {
	tctx := ctx
	if r.policy.PerTry > 0 {
		var cancel context.CancelFunc
		tctx, cancel = context.WithTimeout(ctx, r.policy.PerTry)
		defer cancel()
	}
	b, err := r.Source.Get(tctx, ref)
	switch {
	case err == nil, errors.Is(err, ErrAbsent), errors.Is(err, ErrDenied), errors.Is(err, ErrCorrupt), errors.Is(err, ErrRefused):
		r.downSince.Store(0) // it was reached
	case errors.Is(ctx.Err(), context.Canceled):
		// The caller left: that says nothing about the source.
	default:
		r.downSince.CompareAndSwap(0, time.Now().UnixNano())
		err = Unavailable(err)
	}
	return b, err
}

// again tells whether another try makes sense after try tries.
func (r *Retrier) again(ctx context.Context, err error, try, corrupt int) bool {
	switch {
	case ctx.Err() != nil, r.policy.Tries > 0 && try >= r.policy.Tries:
		return false
	case errors.Is(err, ErrCorrupt):
		return corrupt < corruptTries
	case errors.Is(err, ErrAbsent), errors.Is(err, ErrDenied), errors.Is(err, ErrRefused):
		return false
	}
	since := r.downSince.Load()
	return since == 0 || time.Since(time.Unix(0, since)) < r.policy.Patience
}

// sleep waits for d. It doesn't begin to where ctx would be done by then: the
// caller had better be told now.
func sleep(ctx context.Context, d time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func tried(err error, n int) error {
	if n == 1 {
		return err
	}
	return fmt.Errorf("tried %d times: %w", n, err)
}
