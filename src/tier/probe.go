package tier

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Probe is how one source answered when it was asked for a blob for the sake of
// asking.
type Probe struct {
	Tier  string        `json:"tier"`
	Has   bool          `json:"has"` // it gave the blob, and the digest is right
	Took  time.Duration `json:"took"`
	Error string        `json:"error,omitempty"` // why it could not say, or what was wrong; empty where it has no such blob

	// What last failed there, whatever was asked for.
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
}

// Probe asks all sources for a blob, side by side, and returns their answers in the
// order of the chain. It fills nothing, purges nothing, counts nothing, and has the
// caches before the last source say only what they have themselves. It holds the
// blob once for each source, beside the budget.
func (c *Chain) Probe(ctx context.Context, ref Ref) []Probe {
	ref = bounded(ref)
	var sources []*Meter
	var refs []Ref
	for i, g := range c.groups {
		r := ref
		r.Here = i < len(c.groups)-1
		for _, m := range g.members {
			sources, refs = append(sources, m.Meter), append(refs, r)
		}
	}
	probes := make([]Probe, len(sources))
	var wg sync.WaitGroup
	for i, s := range sources {
		wg.Go(func() { probes[i] = c.probe(ctx, s, refs[i]) })
	}
	wg.Wait()
	return probes
}

func (c *Chain) probe(ctx context.Context, m *Meter, ref Ref) Probe {
	p := Probe{Tier: m.Name()}
	if f := m.last.Load(); f != nil {
		p.LastError, p.LastErrorAt = f.err.Error(), f.at
	}
	began := time.Now()
	stored, err := m.Source.Get(ctx, ref)
	p.Took = time.Since(began)
	if err == nil {
		if _, wrong := c.codec.Unpack(ref.Digest, stored, ref.Max()); wrong != nil {
			err = Corrupt(m.Name(), ref, wrong)
		}
	}
	switch {
	case err == nil:
		p.Has = true
	case !errors.Is(err, ErrAbsent):
		p.Error = err.Error()
	}
	return p
}
