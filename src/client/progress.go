package client

import (
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/tier"
)

// stage is one part of what is brought near for a mount.
type stage int

const (
	stageMetadata stage = iota
	stageProfile
	stageTree
	stages
)

// priorities are in which order stages go on where more than one does.
var priorities = [stages]tier.Priority{stageMetadata: tier.ReadAhead, stageProfile: tier.Profile, stageTree: tier.Whole}

// progress is how far what is brought near for a mount has come.
type progress struct {
	mu     sync.Mutex
	stages [stages]stageProgress
}

type stageProgress struct {
	begun, running bool
	ended          time.Time
	err            error

	objects, bytes, failed int64
	missed                 error // why the last of those failed that may come later
	ofObjects, ofBytes     int64 // 0: not known
}

func (p *progress) change(s stage, do func(*stageProgress)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do(&p.stages[s])
}

// full tells whether the whole tree did not come because the cache was full.
func (p *progress) full() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Is(p.stages[stageTree].err, tier.ErrNoRoom)
}

// bring brings blobs near, until all have come, the mount moves to another tree, or
// goes. What is known of how many there are is told; 0 where it isn't. It fails, too,
// where some could not be had that may come later.
func (m *mount) bring(s stage, refs iter.Seq[tier.Ref], ofObjects, ofBytes int64) error {
	p := &m.progress
	all := func(yield func(tier.Ref) bool) {
		// It may be gone through anew, after a reload.
		p.change(s, func(v *stageProgress) {
			*v = stageProgress{begun: true, running: true, ofObjects: ofObjects, ofBytes: ofBytes}
		})
		for ref := range refs {
			if len(m.moved) > 0 || !yield(ref) { // the next tree comes first
				return
			}
		}
	}
	err := m.origin.Bring(m.life, priorities[s], all, func(ref tier.Ref, err error) {
		p.change(s, func(v *stageProgress) {
			if err != nil {
				v.failed++
				if !errors.Is(err, tier.ErrUnasked) {
					v.missed = err
				}
				return
			}
			v.objects++
			v.bytes += ref.Max()
		})
	})
	p.change(s, func(v *stageProgress) {
		if err == nil && v.missed != nil && len(m.moved) == 0 {
			if err = fmt.Errorf("%d objects could not be had, the last of them: %w", v.failed, v.missed); v.failed == 1 {
				err = fmt.Errorf("1 object could not be had: %w", v.missed)
			}
		}
		v.running, v.ended, v.err = false, time.Now(), err
	})
	return err
}

// status is what is told of a stage; nil if there was none.
func (p *progress) status(s stage, blobs *origin) *control.Bringing {
	p.mu.Lock()
	v := p.stages[s]
	p.mu.Unlock()
	if !v.begun {
		return nil
	}
	b := &control.Bringing{Running: v.running, Ended: v.ended, Objects: v.objects, OfObjects: v.ofObjects, Failed: v.failed}
	if s == stageTree { // of others it is only known how large they may be
		b.Bytes, b.OfBytes = v.bytes, v.ofBytes
	}
	if v.err != nil {
		b.Error = v.err.Error()
	}
	if v.running {
		b.Waiting = blobs.waits(priorities[s])
	}
	return b
}

// waits tells what blobs of a priority wait for; empty if they don't.
func (o *origin) waits(p tier.Priority) string {
	ch := o.use()
	defer ch.users.Done()
	return ch.blobs.Waits(p)
}
