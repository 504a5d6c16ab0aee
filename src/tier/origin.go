package tier

import "sync"

// origins remembers which tier gave the blobs that were fetched last.
type origins struct {
	mu    sync.Mutex
	slots [512]origin
}

type origin struct {
	ref  Ref
	tier string
}

// slot spreads by digest, whose bytes are as good as random.
func (o *origins) slot(ref Ref) *origin {
	return &o.slots[(int(ref.Digest[0])|int(ref.Digest[1])<<8)%len(o.slots)]
}

func (o *origins) add(ref Ref, tier string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	*o.slot(ref) = origin{ref, tier}
}

func (o *origins) get(ref Ref) (string, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.slot(ref)
	return s.tier, s.ref == ref
}
