package disk

import (
	"testing"
	"time"
)

// TestLimitsChangeLive makes a cache smaller and larger while it is used.
func TestLimitsChangeLive(t *testing.T) {
	t.Parallel()
	const blob = 200_000
	c := open(t, Options{Path: t.TempDir(), MaxSize: 64 << 20})
	n := uint64(0)
	fill := func(blobs int) {
		for range blobs {
			put(c, n, blob)
			n++
		}
		flush(t, c)
	}
	fill(150) // 30 MB
	if s := c.Stats(); s.MaxDisk != 64<<20 || s.Disk < 25<<20 {
		t.Fatalf("%d bytes on disk of %d", s.Disk, s.MaxDisk)
	}
	if err := c.SetLimits(Limits{MaxSize: 16 << 20}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); c.Stats().Disk > 16<<20; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d bytes are still on disk", c.Stats().Disk)
		}
	}
	fill(100)
	if s := c.Stats(); s.MaxDisk != 16<<20 || s.Disk > 16<<20 || s.Bypassed != "" {
		t.Errorf("%d bytes on disk of %d, bypassed %q", s.Disk, s.MaxDisk, s.Bypassed)
	}
	if !has(t, c, n-1, blob) {
		t.Error("the last blob was not kept")
	}
	if err := c.SetLimits(Limits{MaxSize: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	before := c.Stats()
	fill(150)
	if s := c.Stats(); s.Disk < before.Disk+20<<20 || s.EvictedBytes != before.EvictedBytes {
		t.Errorf("%d bytes on disk after %d, %d evicted", s.Disk, before.Disk, s.EvictedBytes-before.EvictedBytes)
	}
	if err := c.SetLimits(Limits{MaxSize: 1}); err == nil {
		t.Error("a limit that keeps nothing was taken")
	}
	if got := c.Stats().MaxDisk; got != 64<<20 {
		t.Errorf("limit %d after one that was refused", got)
	}
}
