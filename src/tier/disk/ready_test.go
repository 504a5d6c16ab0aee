package disk

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/tier"
)

// cold makes a cache of n blobs of one size none of whose pages is in memory, with
// its segments closed.
func cold(t *testing.T, n, size int) (*Cache, []tier.Ref) {
	t.Helper()
	c := open(t, Options{Path: t.TempDir()})
	var refs []tier.Ref
	for i := range n {
		refs = append(refs, put(c, uint64(i), size))
	}
	flush(t, c)
	c.call(func() { c.seal(true) })
	evictPages(t, c)
	h := opened(t, c, refs[0])
	defer c.unref(h)
	if p := place0(t, c, h, refs[n-1]); p.off != 0 && h.resident(p.off, p.size) {
		t.Skip("this file system keeps what it has in memory")
	}
	c.detach(h.seg)
	return c, refs
}

func opened(t *testing.T, c *Cache, ref tier.Ref) *handle {
	t.Helper()
	e, _, ok := c.index.peek(fingerprint(&ref))
	if !ok {
		t.Fatal("a blob is not in the index")
	}
	h, err := c.acquire(c.segmentAt(e.slot()))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func place0(t *testing.T, c *Cache, h *handle, ref tier.Ref) place {
	t.Helper()
	p, err := c.locate(h, ref.Domain, &ref.Digest, true)
	if err != nil {
		t.Fatal(err)
	}
	if p.off == 0 {
		p.inline.Release()
	}
	return p
}

// becomesReady waits for a blob to be in memory, and looks at it.
func becomesReady(t *testing.T, c *Cache, n uint64, size int) {
	t.Helper()
	ref, want := blob(n, size)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		b, near := c.Ready(ref, 1, whole)
		if near == tier.InMemory {
			if !bytes.Equal(b.Data, want[1:]) {
				t.Errorf("blob %d has other bytes", n)
			}
			b.Release()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("blob %d does not come to memory: %v", n, near)
		}
	}
}

func TestReadyBeginsToRead(t *testing.T) {
	for _, size := range []int{500, 4000, maxBegun} {
		for _, waits := range []bool{false, true} { // as on a file system that can't but wait
			t.Run(fmt.Sprintf("%d/waits=%v", size, waits), func(t *testing.T) {
				c, refs := cold(t, 40, size)
				c.waits.Store(waits)
				if _, near := c.Ready(refs[0], 0, whole); near != tier.Unknown {
					t.Fatalf("a blob in a closed segment is %v", near)
				}
				h := opened(t, c, refs[0])
				defer c.unref(h)
				becomesReady(t, c, 7, size)
				if n := c.buffers.held.Load(); n != 0 {
					t.Errorf("%d bytes are in buffers of nobody", n)
				}
			})
		}
	}
}

func TestReadyLeavesToOthers(t *testing.T) {
	c, refs := cold(t, 10, maxBegun+1)
	h := opened(t, c, refs[0])
	defer c.unref(h)
	for end := time.Now().Add(20 * time.Second); !h.warmed.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the tree is not read")
		}
	}
	if _, near := c.Ready(refs[3], 0, whole); near != tier.Unknown {
		t.Errorf("a large blob is %v", near)
	}
	has(t, c, 4, maxBegun+1)
	c.index.distrust(h.seg.slot)
	if _, near := c.Ready(refs[4], 0, 10); near != tier.Unknown {
		t.Errorf("a blob that is yet to be verified is %v", near)
	}
	absent, _ := blob(1000, 5)
	if _, near := c.Ready(absent, 0, 1); near != tier.Unknown {
		t.Errorf("an absent blob is %v", near)
	}
}

// TestWillNeed asks for one blob, and finds those that lie behind it.
func TestWillNeed(t *testing.T) {
	const size = 5000
	c, refs := cold(t, 200, size)
	if !c.WillNeed(refs[5]) {
		t.Fatal("the disk has nothing to read")
	}
	h := opened(t, c, refs[5])
	defer c.unref(h)
	asked, behind := place0(t, c, h, refs[5]), 0
	for _, ref := range refs {
		p := place0(t, c, h, ref)
		if p.off < asked.off || p.off+p.size > asked.off+readAhead {
			continue
		}
		behind++
		for end := time.Now().Add(20 * time.Second); !h.resident(p.off, p.size); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("a neighbour is not read")
			}
		}
	}
	if behind < 2 {
		t.Errorf("%d blobs lie behind", behind)
	}
	absent, _ := blob(1000, 5)
	if c.WillNeed(absent) {
		t.Error("the disk reads a blob that is not there")
	}
}

// TestFind looks for all blobs, and for others, in trees of several levels.
func TestFind(t *testing.T) {
	const n = 6000
	c := open(t, Options{Path: t.TempDir()})
	var refs []tier.Ref
	for i := range n {
		refs = append(refs, put(c, uint64(i), 20+i%7))
		if i%1000 == 999 {
			flush(t, c)
		}
	}
	for i := range refs {
		if !has(t, c, uint64(i), 20+i%7) {
			t.Fatalf("blob %d is not found", i)
		}
	}
	h := opened(t, c, refs[0])
	defer c.unref(h)
	for i := range uint64(1000) {
		ref, _ := blob(n+i, 20)
		if _, err := c.locate(h, ref.Domain, &ref.Digest, true); err != errNotFound {
			t.Fatalf("an absent blob: %v", err)
		}
	}
}

func TestWarmReadsDoNotAllocate(t *testing.T) {
	c := open(t, Options{Path: t.TempDir()})
	for i, size := range []int{500, 4000, 200_000} {
		ref := put(c, uint64(i), size)
		flush(t, c)
		for name, read := range map[string]func() tier.Blob{
			"Range": func() tier.Blob { b, _ := c.Range(ref, 0, 1<<20); return b },
			"Ready": func() tier.Blob { b, _ := c.Ready(ref, 0, 1<<20); return b },
		} {
			becomesReady(t, c, uint64(i), size)
			if n := testing.AllocsPerRun(1000, func() {
				b := read()
				if len(b.Data) != size {
					t.Error("not read")
				}
				b.Release()
			}); n > 0 {
				t.Errorf("%s of %d bytes: %v allocations", name, size, n)
			}
		}
	}
}

// TestLoansAreApart gives a blob back again and again while its buffer is lent to
// somebody else.
func TestLoansAreApart(t *testing.T) {
	c := open(t, Options{Path: t.TempDir()})
	var refs []tier.Ref
	for i := range 2 {
		refs = append(refs, put(c, uint64(i), 4000))
	}
	flush(t, c)
	_, want := blob(1, 4000)
	for range 1000 {
		first, err := c.Range(refs[0], 0, whole)
		if err != nil {
			t.Fatal(err)
		}
		first.Release()
		second, err := c.Range(refs[1], 0, whole)
		if err != nil {
			t.Fatal(err)
		}
		first.Release()
		third, err := c.Range(refs[0], 0, whole)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(second.Data, want) {
			t.Fatal("a buffer is lent twice")
		}
		second.Release()
		third.Release()
	}
	if n := c.buffers.held.Load(); n != 0 {
		t.Errorf("%d bytes are in buffers of nobody", n)
	}
}
