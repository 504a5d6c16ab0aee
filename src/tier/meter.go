package tier

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Stats counts what a tier was asked and how it answered, since it was made.
// Requests is the sum of Hits, Absent, Errors, Corrupt, Cancelled and those
// under way.
type Stats struct {
	Tier      string        `json:"tier"`
	Requests  int64         `json:"requests"`
	Hits      int64         `json:"hits"`
	Absent    int64         `json:"absent"`
	Errors    int64         `json:"errors"`
	Corrupt   int64         `json:"corrupt"`
	Cancelled int64         `json:"cancelled"` // the caller left first
	Bytes     int64         `json:"bytes"`     // in stored form, corrupt ones included
	Latency   time.Duration `json:"latency"`   // sum over all answered requests, in nanoseconds

	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
}

// Meter counts what goes on with a source.
type Meter struct {
	Source

	requests, given, absent, errors, corrupt, wrong, cancelled atomic.Int64

	bytes, nanos atomic.Int64
	last         atomic.Pointer[failure]
}

type failure struct {
	err error
	at  time.Time
}

// NewMeter returns a source that answers as src does and counts.
func NewMeter(src Source) *Meter { return &Meter{Source: src} }

// Get asks the source and counts how it answers.
func (m *Meter) Get(ctx context.Context, ref Ref) ([]byte, error) {
	m.requests.Add(1)
	start := time.Now()
	b, err := m.Source.Get(ctx, ref)
	m.nanos.Add(int64(time.Since(start)))
	switch {
	case err == nil:
		m.given.Add(1)
		m.bytes.Add(int64(len(b)))
	case errors.Is(err, ErrAbsent):
		m.absent.Add(1)
	case errors.Is(ctx.Err(), context.Canceled):
		m.cancelled.Add(1)
	case errors.Is(err, ErrCorrupt):
		m.corrupt.Add(1)
		m.last.Store(&failure{err, time.Now()})
	default:
		m.errors.Add(1)
		m.last.Store(&failure{err, time.Now()})
	}
	return b, err
}

// asked counts a request whose answer is to come: gave, left or unasked.
func (m *Meter) asked() { m.requests.Add(1) }

// gave counts the blob that was the answer.
func (m *Meter) gave(stored int64, took time.Duration) {
	m.nanos.Add(int64(took))
	m.given.Add(1)
	m.bytes.Add(stored)
}

// left counts a caller who left before the answer.
func (m *Meter) left(took time.Duration) {
	m.nanos.Add(int64(took))
	m.cancelled.Add(1)
}

// unasked takes a request back, which will be made in another way.
func (m *Meter) unasked() { m.requests.Add(-1) }

// Purge counts what Get gave as corrupt.
func (m *Meter) Purge(ctx context.Context, ref Ref) error {
	m.wrong.Add(1)
	m.last.Store(&failure{Corrupt(m.Name(), ref, errWrongDigest), time.Now()})
	return m.Source.Purge(ctx, ref)
}

var errWrongDigest = errors.New("it has another digest")

// Stats returns the counts so far.
func (m *Meter) Stats() Stats {
	wrong := m.wrong.Load() // before given: a blob is given first
	s := Stats{
		Tier: m.Name(), Requests: m.requests.Load(), Hits: m.given.Load() - wrong, Absent: m.absent.Load(),
		Errors: m.errors.Load(), Corrupt: m.corrupt.Load() + wrong, Cancelled: m.cancelled.Load(),
		Bytes: m.bytes.Load(), Latency: time.Duration(m.nanos.Load()),
	}
	if f := m.last.Load(); f != nil {
		s.LastError, s.LastErrorAt = f.err.Error(), f.at
	}
	return s
}
