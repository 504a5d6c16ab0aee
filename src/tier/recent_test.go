package tier

import (
	"testing"

	"github.com/aysfs/aysfs/src/digest"
)

func TestRecent(t *testing.T) {
	const size, room = 1000, 5
	r := newRecent(room * (size + keptOverhead))
	ref := func(i int) Ref { return Ref{Domain: "default", Digest: digest.Digest{byte(i), byte(i >> 8)}} }
	for i := range 500 {
		r.add(ref(i), NewBlob(make([]byte, size), nil))
		r.add(ref(i), NewBlob(make([]byte, size), nil)) // again changes nothing
		if _, ok := r.get(ref(0)); !ok {
			t.Fatalf("what is used all the time was dropped at %d", i)
		}
		if n, bytes := r.usage(); bytes > r.limit || n != min(i+1, room) {
			t.Fatalf("%d blobs, %d bytes of %d after %d", n, bytes, r.limit, i+1)
		}
	}
	for i := 1; i <= 500-room; i++ {
		if _, ok := r.get(ref(i)); ok {
			t.Errorf("blob %d is still there", i)
		}
	}
	if r.order.Len() != len(r.byRef) {
		t.Errorf("%d in the list, %d in the map", r.order.Len(), len(r.byRef))
	}
}

// What is about to be read stays, though it was got long ago.
func TestRecentKeepsWhatIsLookedFor(t *testing.T) {
	const size, room = 1000, 3
	r := newRecent(room * (size + keptOverhead))
	ref := func(i int) Ref { return Ref{Domain: "default", Digest: digest.Digest{byte(i)}} }
	for i := range 10 {
		r.add(ref(i), NewBlob(make([]byte, size), nil))
		if !r.has(ref(0)) {
			t.Fatalf("dropped after %d others", i)
		}
	}
	if r.has(ref(1)) {
		t.Error("what nobody looked for is still there")
	}
}

// What a short slice holds on to counts, not its length.
func TestRecentCountsCapacity(t *testing.T) {
	r := newRecent(10_000)
	r.add(Ref{Domain: "a"}, NewBlob(make([]byte, 10, 20_000), nil))
	if n, bytes := r.usage(); n != 0 || bytes != 0 {
		t.Errorf("%d blobs, %d bytes", n, bytes)
	}
}

func TestRecentOfNothing(t *testing.T) {
	r := newRecent(0)
	r.add(Ref{}, NewBlob(nil, nil))
	if _, ok := r.get(Ref{}); ok {
		t.Error("it kept something")
	}
}
