package server

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
)

// answer is how a store answered, in the words of logs and metrics.
type answer int

const (
	answerHit answer = iota
	answerAbsent
	answerDenied
	answerStalled
	answerTruncated
	answerRedirect
	answerPage
	answerCorrupt
	answerLoop
	answerRefused
	answerUnavailable
	answerCancelled
	answers // how many there are
)

func (a answer) String() string {
	return [...]string{"hit", "absent", "denied", "stalled", "truncated", "redirect", "page", "corrupt", "loop", "refused", "unavailable", "cancelled"}[a]
}

// bad tells whether there is something wrong with a store that answers so.
func (a answer) bad() bool { return a != answerHit && a != answerAbsent && a != answerCancelled }

func classify(ctx context.Context, err error) answer {
	switch {
	case err == nil:
		return answerHit
	case errors.Is(ctx.Err(), context.Canceled):
		return answerCancelled
	case errors.Is(err, tier.ErrAbsent):
		return answerAbsent
	case errors.Is(err, tier.ErrDenied):
		return answerDenied
	case errors.Is(err, store.ErrPage):
		return answerPage
	case errors.Is(err, tier.ErrCorrupt):
		return answerCorrupt
	case errors.Is(err, store.ErrLoop):
		return answerLoop
	case errors.Is(err, store.ErrRedirect):
		return answerRedirect
	case errors.Is(err, store.ErrStalled), errors.Is(err, context.DeadlineExceeded):
		return answerStalled
	case errors.Is(err, store.ErrBrokenOff):
		return answerTruncated
	case errors.Is(err, tier.ErrRefused):
		return answerRefused
	}
	return answerUnavailable
}

// trouble tells apart what may be wrong with a store, counts it, and says so
// when it changes.
type trouble struct {
	tier.Source
	stor   *stor
	events *events
	log    *slog.Logger

	counts [answers]atomic.Int64
	bytes  atomic.Int64
	nanos  atomic.Int64
	last   atomic.Int64 // the answer before

	mu   sync.Mutex
	said bool      // GUARDED_BY(mu); the log says that there is trouble
	at   time.Time // GUARDED_BY(mu); when it last said so
}

// sayEvery keeps a store that answers now well and now badly from filling the log.
const sayEvery = 10 * time.Second

// slowAfter is when an answer of a store is worth a mention.
const slowAfter = 2 * time.Second

// Get asks the store for a blob.
func (t *trouble) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	began := time.Now()
	b, err := t.Source.Get(ctx, ref)
	t.bytes.Add(int64(len(b)))
	t.note(classify(ctx, err), "blob "+ref.String(), time.Since(began), err)
	return b, err
}

// Purge is told that a blob had another digest.
func (t *trouble) Purge(_ context.Context, ref tier.Ref) error {
	t.note(answerCorrupt, "blob "+ref.String(), 0, errWrongDigest)
	return nil
}

var errWrongDigest = errors.New("it has another digest")

// say logs that there is trouble, or that it is over.
func (t *trouble) say(a answer, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case a.bad() && time.Since(t.at) < sayEvery:
		t.log.Debug("more trouble with a store", "op", "fetch", "answer", a.String(), "err", err)
	case a.bad():
		t.said, t.at = true, time.Now()
		t.log.Warn("trouble with a store", "op", "fetch", "answer", a.String(), "err", err)
	case t.said:
		t.said = false
		t.log.Info("a store answers again", "op", "fetch", "answer", a.String())
	}
}

func (t *trouble) note(a answer, what string, took time.Duration, err error) {
	t.counts[a].Add(1)
	t.nanos.Add(int64(took))
	if a == answerCancelled {
		return
	}
	switch a {
	case answerStalled, answerTruncated, answerUnavailable:
		t.stor.down.Store(true)
	default:
		t.stor.down.Store(false)
	}
	switch was := answer(t.last.Swap(int64(a))); {
	case a.bad() && was != a:
		t.say(a, err)
	case !a.bad() && was.bad():
		t.say(a, nil)
	}
	if a.bad() || took > slowAfter {
		t.events.add(event{store: t.stor, what: what, answer: a, took: took, err: err})
	}
}
