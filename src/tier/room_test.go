package tier

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// sized is a source that says how large its blobs are before it has them in memory, and
// counts how many have begun, and how many it has in memory.
type sized struct {
	blobs        map[digest.Digest][]byte
	begun, inUse atomic.Int64
	most         atomic.Int64 // of inUse
	hold         func()       // while one is in memory
}

func (s *sized) Name() string { return "sized" }

func (s *sized) Purge(context.Context, Ref) error { return nil }

func (s *sized) Get(ctx context.Context, ref Ref) ([]byte, error) {
	b := s.blobs[ref.Digest]
	s.begun.Add(1)
	if err := ArrivalOf(ctx).Room(ctx, int64(len(b))); err != nil {
		return nil, err
	}
	n := s.inUse.Add(1)
	defer s.inUse.Add(-1)
	for m := s.most.Load(); n > m && !s.most.CompareAndSwap(m, n); m = s.most.Load() {
	}
	s.hold()
	return b, nil
}

// sizedChain is a chain whose memory is enough for two large blobs at a time.
func sizedChain(t *testing.T, src *sized, n, size int) (c *Chain, refs []Ref, free func() bool) {
	t.Helper()
	codec, err := object.NewCodec(2)
	if err != nil {
		t.Fatal(err)
	}
	src.blobs = make(map[digest.Digest][]byte)
	for i := range n {
		b := make([]byte, size)
		copy(b, fmt.Sprint("blob ", i))
		src.blobs[digest.Of(b)] = b
		refs = append(refs, Ref{Domain: "d", Digest: digest.Of(b)})
	}
	const budget, asking = 2*2*object.MaxBlob + 1<<20, 100 * (2*small + flightOverhead)
	memory, first := semaphore.NewWeighted(budget), semaphore.NewWeighted(asking)
	c = NewChain(ChainConfig{
		Groups: []Group{{Sources: []Source{src}}}, Codec: codec, Stored: true, Timeout: time.Minute,
		Budget: budget, Memory: memory, Asking: first,
	})
	t.Cleanup(c.Close)
	return c, refs, func() bool {
		return c.Status().InFlight == 0 && memory.TryAcquire(budget) && first.TryAcquire(asking)
	}
}

// Of small blobs many are fetched at a time, though each might be large.
func TestManySmallAtATime(t *testing.T) {
	const n = 90
	all := make(chan struct{})
	src := &sized{}
	src.hold = func() {
		if src.inUse.Load() == n {
			close(all)
		}
		select {
		case <-all:
		case <-time.After(10 * time.Second):
		}
	}
	c, refs, free := sizedChain(t, src, n, 1000)
	getAll(t, c, refs)
	if src.most.Load() != n {
		t.Errorf("%d at a time of %d", src.most.Load(), n)
	}
	if !free() {
		t.Error("not all memory was given back")
	}
}

// Of large ones as many as there is memory for, whatever has been asked for.
func TestFewLargeAtATime(t *testing.T) {
	src := &sized{hold: func() { time.Sleep(time.Millisecond) }}
	c, refs, free := sizedChain(t, src, 90, object.MaxBlob)
	getAll(t, c, refs)
	if most := src.most.Load(); most > 2 {
		t.Errorf("%d at a time", most)
	}
	if !free() {
		t.Error("not all memory was given back")
	}
}

// What nobody waits for any more gives back what it has, and waits for no more.
func TestLeftWithoutRoom(t *testing.T) {
	release := make(chan struct{})
	src := &sized{hold: func() { <-release }}
	c, refs, free := sizedChain(t, src, 10, object.MaxBlob)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for _, ref := range refs {
		all.Go(func() {
			if _, err := c.Get(ctx, ref); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
		})
	}
	for src.begun.Load() < 10 || src.inUse.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	all.Wait()
	close(release)
	c.running.Wait()
	if !free() {
		t.Error("not all memory was given back")
	}
}

func getAll(t *testing.T, c *Chain, refs []Ref) {
	t.Helper()
	var all sync.WaitGroup
	for _, ref := range refs {
		all.Go(func() {
			b, err := c.Get(t.Context(), ref)
			if err != nil {
				t.Error(err)
				return
			}
			b.Release()
		})
	}
	all.Wait()
	c.running.Wait()
}
