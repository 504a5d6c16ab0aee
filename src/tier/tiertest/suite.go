package tiertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// Fault is a way in which a source's origin goes wrong.
type Fault int

// The ways there are.
const (
	None        Fault = iota
	Flipped           // one bit of a blob is another
	Truncated         // answers end before their end
	Stalled           // answers stop in their middle, and the connection stays
	Silent            // there is no answer at all
	Slow              // answers come in small pieces, but within half a second
	Unreachable       // connections are refused; for good
)

func (f Fault) String() string {
	return [...]string{"none", "flipped", "truncated", "stalled", "silent", "slow", "unreachable"}[f]
}

// Harness is a source with a hand on what it answers with.
type Harness struct {
	Source tier.Source
	// Put has the origin behind the source hold a blob, in stored form.
	Put func(ref tier.Ref, stored []byte)
	// Fault has the origin go wrong from now on, blobs put before included. It
	// is false where that can't happen to such a source.
	Fault func(f Fault) bool
}

// patience is how long a call may take that should return at once: long enough
// for a busy machine, shorter than any limit that a source has of its own.
const patience = 4 * time.Second

// Run checks that a source keeps what tier.Source promises. start is called
// for each case, and must clean up by t.Cleanup.
func Run(t *testing.T, start func(t *testing.T) Harness) {
	codec, err := object.NewCodec(2)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		test func(s suite, t *testing.T)
	}{
		{"present plain", suite.presentPlain},
		{"present zstd", suite.presentZstd},
		{"as large as allowed", suite.asLargeAsAllowed},
		{"no limit stated", suite.noLimit},
		{"empty blob", suite.empty},
		{"absent", suite.absent},
		{"domains are apart", suite.domains},
		{"flipped", suite.flipped},
		{"truncated", suite.truncated},
		{"stalled", suite.stalled},
		{"silent", suite.silent},
		{"slow", suite.slow},
		{"unreachable", suite.unreachable},
		{"recovers", suite.recovers},
		{"larger than the limit", suite.larger},
		{"huge", suite.huge},
		{"cancelled before", suite.cancelledBefore},
		{"cancelled meanwhile", suite.cancelledMeanwhile},
		{"many callers", suite.manyCallers},
		{"purge", suite.purge},
	} {
		t.Run(c.name, func(t *testing.T) {
			NoLeaks(t)
			s := suite{Harness: start(t), codec: codec}
			if s.Source.Name() == "" {
				t.Error("the source has no name")
			}
			c.test(s, t)
		})
	}
}

type suite struct {
	Harness

	codec *object.Codec
}

// get asks for a blob with a deadline, and fails the test if the answer comes
// well after that.
func (s suite) get(t *testing.T, ref tier.Ref, within time.Duration) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	start := time.Now()
	b, err := s.Source.Get(ctx, ref)
	if took := time.Since(start); took > within+patience {
		t.Errorf("Get took %v with %v to its deadline", took, within)
	}
	return b, err
}

// good asks for a blob that must come.
func (s suite) good(t *testing.T, ref tier.Ref, plain []byte) {
	t.Helper()
	stored, err := s.get(t, ref, 10*time.Second)
	if err != nil {
		t.Errorf("Get(%v): %v", ref, err)
		return
	}
	got, err := s.codec.Unpack(ref.Digest, stored, ref.Max())
	if err != nil {
		t.Errorf("Get(%v) gave %d bytes: %v", ref, len(stored), err)
		return
	}
	if !bytes.Equal(got, plain) {
		t.Errorf("Get(%v) gave other bytes than were put", ref)
	}
}

// bad checks an error: it is one of want, and of the tiers' errors none else.
func bad(t *testing.T, err error, want ...error) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one of: %v", want)
		return
	}
	found := false
	for _, known := range []error{tier.ErrAbsent, tier.ErrCorrupt, tier.ErrDenied, tier.ErrUnavailable} {
		wanted := false
		for _, w := range want {
			wanted = wanted || w == known
		}
		if is := errors.Is(err, known); is && !wanted {
			t.Errorf("error is %q, which it should not be: %v", known, err)
		} else if is {
			found = true
		}
	}
	for _, w := range want {
		found = found || errors.Is(err, w)
	}
	if !found {
		t.Errorf("error is none of %v: %v", want, err)
	}
}

func (s suite) fault(t *testing.T, f Fault) {
	t.Helper()
	if !s.Fault(f) {
		t.Skipf("%s can't be %v", s.Source.Name(), f)
	}
}

func (s suite) presentPlain(t *testing.T) {
	plain := Random(1, 100<<10)
	s.Put(RefOf(plain), plain)
	s.good(t, RefOf(plain), plain)
	s.good(t, RefOf(plain), plain)
}

func (s suite) presentZstd(t *testing.T) {
	plain := bytes.Repeat([]byte("all work and no play "), 10<<10)
	packed := s.codec.Pack(plain, nil)
	if len(packed) >= len(plain)/2 {
		t.Fatalf("packed to %d of %d bytes", len(packed), len(plain))
	}
	s.Put(RefOf(plain), packed)
	s.good(t, RefOf(plain), plain)
}

func (s suite) asLargeAsAllowed(t *testing.T) {
	for _, n := range []int{1, 64 << 10, 64<<10 + 1, object.MaxBlob} {
		plain := Random(2, n)
		s.Put(RefOf(plain), plain)
		s.good(t, RefOf(plain), plain)
	}
}

func (s suite) noLimit(t *testing.T) {
	plain := Random(3, 1000)
	ref := RefOf(plain)
	ref.Limit = 0
	s.Put(ref, plain)
	s.good(t, ref, plain)
}

func (s suite) empty(t *testing.T) {
	s.Put(RefOf(nil), nil)
	s.good(t, RefOf(nil), nil)
}

func (s suite) absent(t *testing.T) {
	other := Random(4, 1000)
	s.Put(RefOf(other), other)
	_, err := s.get(t, RefOf([]byte("nobody has this")), 10*time.Second)
	bad(t, err, tier.ErrAbsent)
}

func (s suite) domains(t *testing.T) {
	plain := Random(5, 1000)
	s.Put(RefOf(plain), plain)
	ref := RefOf(plain)
	ref.Domain = "another"
	_, err := s.get(t, ref, 10*time.Second)
	bad(t, err, tier.ErrAbsent)
}

// neverGood asks for a blob that can't come as it should.
func (s suite) neverGood(t *testing.T, ref tier.Ref, within time.Duration, want ...error) {
	t.Helper()
	stored, err := s.get(t, ref, within)
	if err != nil {
		bad(t, err, want...)
		return
	}
	if _, err := s.codec.Unpack(ref.Digest, stored, ref.Max()); err == nil {
		t.Errorf("Get(%v) gave the right bytes: nothing went wrong", ref)
	}
}

func (s suite) flipped(t *testing.T) {
	plain := Random(6, 50<<10)
	s.Put(RefOf(plain), plain)
	s.fault(t, Flipped)
	s.neverGood(t, RefOf(plain), 10*time.Second, tier.ErrCorrupt)
}

func (s suite) truncated(t *testing.T) {
	plain := Random(7, 500<<10)
	s.Put(RefOf(plain), plain)
	s.fault(t, Truncated)
	s.neverGood(t, RefOf(plain), time.Second, tier.ErrCorrupt, tier.ErrUnavailable)
}

func (s suite) stalled(t *testing.T) {
	plain := Random(8, 500<<10)
	s.Put(RefOf(plain), plain)
	s.fault(t, Stalled)
	s.neverGood(t, RefOf(plain), 300*time.Millisecond, tier.ErrUnavailable)
}

func (s suite) silent(t *testing.T) {
	plain := Random(9, 1000)
	s.Put(RefOf(plain), plain)
	s.fault(t, Silent)
	s.neverGood(t, RefOf(plain), 300*time.Millisecond, tier.ErrUnavailable)
}

func (s suite) slow(t *testing.T) {
	plain := Random(10, 200<<10)
	s.Put(RefOf(plain), plain)
	s.fault(t, Slow)
	s.good(t, RefOf(plain), plain)
}

func (s suite) unreachable(t *testing.T) {
	plain := Random(11, 1000)
	s.Put(RefOf(plain), plain)
	s.good(t, RefOf(plain), plain)
	s.fault(t, Unreachable)
	for range 2 { // once on a connection that was open, and once with none
		_, err := s.get(t, RefOf(plain), 500*time.Millisecond)
		bad(t, err, tier.ErrUnavailable)
	}
	_, err := s.get(t, RefOf([]byte("nobody has this")), 500*time.Millisecond)
	bad(t, err, tier.ErrUnavailable) // absent would be a guess
}

func (s suite) recovers(t *testing.T) {
	plain := Random(12, 50<<10)
	for _, f := range []Fault{Flipped, Truncated, Stalled, Silent} {
		s.Put(RefOf(plain), plain)
		if !s.Fault(f) {
			continue
		}
		_, _ = s.get(t, RefOf(plain), 200*time.Millisecond)
		s.Fault(None)
		s.Put(RefOf(plain), plain) // what was corrupt may have been purged
		s.good(t, RefOf(plain), plain)
	}
}

func (s suite) larger(t *testing.T) {
	plain := Random(13, 10<<10)
	ref := RefOf(plain)
	s.Put(ref, plain)
	ref.Limit--
	_, err := s.get(t, ref, 10*time.Second)
	bad(t, err, tier.ErrCorrupt)
}

// huge checks that what is far too large is not read to its end.
func (s suite) huge(t *testing.T) {
	ref := RefOf([]byte("not what is put"))
	s.Put(ref, make([]byte, 64<<20))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := s.get(t, ref, 10*time.Second)
	runtime.ReadMemStats(&after)
	bad(t, err, tier.ErrCorrupt)
	if more := after.TotalAlloc - before.TotalAlloc; more > 16<<20 {
		t.Errorf("%d MiB were allocated for a blob of up to %d bytes", more>>20, ref.Limit)
	}
}

func (s suite) cancelledBefore(t *testing.T) {
	plain := Random(14, 1000)
	s.Put(RefOf(plain), plain)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	start := time.Now()
	_, err := s.Source.Get(ctx, RefOf(plain))
	bad(t, err, context.Canceled)
	if took := time.Since(start); took > patience {
		t.Errorf("it took %v", took)
	}
}

func (s suite) cancelledMeanwhile(t *testing.T) {
	plain := Random(15, 500<<10)
	s.Put(RefOf(plain), plain)
	s.fault(t, Stalled)
	ctx, cancel := context.WithCancel(t.Context())
	defer time.AfterFunc(50*time.Millisecond, cancel).Stop()
	start := time.Now()
	_, err := s.Source.Get(ctx, RefOf(plain))
	bad(t, err, context.Canceled)
	if took := time.Since(start); took > patience {
		t.Errorf("it took %v", took)
	}
}

func (s suite) manyCallers(t *testing.T) {
	blobs := make([][]byte, 20)
	for i := range blobs {
		blobs[i] = Random(uint64(100+i), 1000+i*5000)
		if i%2 == 0 {
			s.Put(RefOf(blobs[i]), blobs[i])
		}
	}
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for i, plain := range blobs {
				if i%2 == 0 {
					s.good(t, RefOf(plain), plain)
					continue
				}
				_, err := s.get(t, RefOf(plain), 10*time.Second)
				bad(t, err, tier.ErrAbsent)
			}
		})
	}
	all.Wait()
}

// purge checks that a source can be told of a corrupt blob, and that another
// one put in its place is given then.
func (s suite) purge(t *testing.T) {
	plain := Random(16, 1000)
	ref := RefOf(plain)
	for _, put := range []bool{false, true} {
		if put {
			s.Put(ref, bytes.Repeat([]byte("x"), 900))
			if _, err := s.get(t, ref, 10*time.Second); err != nil {
				bad(t, err, tier.ErrCorrupt)
			}
		}
		if err := s.Source.Purge(t.Context(), ref); err != nil {
			t.Error(fmt.Errorf("purge (a blob is there: %t): %w", put, err))
		}
	}
	s.Put(ref, plain)
	s.good(t, ref, plain)
}
