package tiertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/tier"
)

// Step is how one call goes. The zero value is a call that goes well.
type Step struct {
	Delay  time.Duration       // first wait that long
	Hold   <-chan struct{}     // and until this is closed, if it is not nil
	Err    error               // then fail
	Change func([]byte) []byte // or answer with this done to a copy of the blob

	hang bool
}

// Hang is a call that ends only with its ctx.
var Hang = Step{hang: true}

// Fail is a call that fails with err.
func Fail(err error) Step { return Step{Err: err} }

// Flip is a call whose answer has one bit changed.
var Flip = Step{Change: func(b []byte) []byte { b[len(b)/2] ^= 1; return b }}

// Cut is a call whose answer lacks its second half.
var Cut = Step{Change: func(b []byte) []byte { return b[:len(b)/2] }}

// Faulty is a source that answers as another does, but for the calls that it is
// told to have go wrong.
type Faulty struct {
	tier.Source

	mu        sync.Mutex
	next      []Step
	always    Step
	calls     int
	under     int
	most      int
	cancelled int
}

// NewFaulty returns a source that goes well until it is told otherwise.
func NewFaulty(src tier.Source) *Faulty { return &Faulty{Source: src} }

// Next tells how the next calls go, one after the other.
func (f *Faulty) Next(steps ...Step) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = append(f.next, steps...)
}

// Always tells how calls go that Next says nothing of.
func (f *Faulty) Always(s Step) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.always = s
}

// Get goes as it was told.
func (f *Faulty) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	step := f.enter()
	defer f.leave(ctx)
	if step.Delay > 0 {
		t := time.NewTimer(step.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil, f.left(ctx, ref)
		}
	}
	if step.hang {
		<-ctx.Done()
		return nil, f.left(ctx, ref)
	}
	if step.Hold != nil {
		select {
		case <-step.Hold:
		case <-ctx.Done():
			return nil, f.left(ctx, ref)
		}
	}
	if step.Err != nil {
		return nil, fmt.Errorf("%s: get %v: %w", f.Name(), ref, step.Err)
	}
	b, err := f.Source.Get(ctx, ref)
	if err == nil && step.Change != nil {
		b = step.Change(slices.Clone(b))
	}
	return b, err
}

func (f *Faulty) left(ctx context.Context, ref tier.Ref) error {
	return fmt.Errorf("%s: get %v: %w", f.Name(), ref, tier.Unavailable(context.Cause(ctx)))
}

func (f *Faulty) enter() Step {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	f.under++
	f.most = max(f.most, f.under)
	if len(f.next) == 0 {
		return f.always
	}
	s := f.next[0]
	f.next = f.next[1:]
	return s
}

func (f *Faulty) leave(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.under--
	if ctx.Err() != nil {
		f.cancelled++
	}
}

// Calls is how often Get was called.
func (f *Faulty) Calls() int { return f.read(&f.calls) }

// Under is how many calls are under way.
func (f *Faulty) Under() int { return f.read(&f.under) }

// Most is how many calls were under way at once.
func (f *Faulty) Most() int { return f.read(&f.most) }

// Cancelled is how many calls ended with their ctx done.
func (f *Faulty) Cancelled() int { return f.read(&f.cancelled) }

func (f *Faulty) read(n *int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *n
}
