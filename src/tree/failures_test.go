package tree

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/tier"
)

// counted is a source of blobs that counts what it is asked, and may refuse.
type counted struct {
	Blobs
	refuses bool
	asked   int
}

func (c *counted) Copy(ctx context.Context, ref tier.Ref) ([]byte, error) {
	if c.asked++; c.refuses {
		return nil, tier.ErrDenied
	}
	return c.Blobs.Copy(ctx, ref)
}

// Who looks up names in a loop does not storm a store that refuses.
func TestFailuresAreRemembered(t *testing.T) {
	b, head := published(t, 3, 3)
	src := &counted{Blobs: b, refuses: true}
	tr := New(head, src, NewCache(1<<20))
	for range 1000 {
		if _, err := tr.Listing(t.Context(), "", head.Root); !errors.Is(err, tier.ErrDenied) {
			t.Fatal(err)
		}
	}
	if src.asked > 20 { // one each half second
		t.Errorf("asked %d times", src.asked)
	}
	// A caller who leaves says nothing of it.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	other := New(head, src, NewCache(1<<20))
	if _, err := other.Listing(ctx, "", head.Root); err == nil {
		t.Fatal("no error")
	}
	src.refuses = false
	if _, err := other.Listing(t.Context(), "", head.Root); err != nil {
		t.Errorf("remembered of a caller who left: %v", err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := tr.Listing(t.Context(), "", head.Root); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatalf("still remembered: %v", err)
		}
	}
}
