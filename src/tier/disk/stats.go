package disk

import "sync/atomic"

// Stats is a snapshot of what a cache has and did. Sizes are in bytes, counts
// are since Open.
type Stats struct {
	Blobs           int64 // on disk
	Bytes           int64 // of all blobs in the segments, plain
	Disk            int64 // files of every kind, and those unlinked that are still read from
	MaxDisk         int64 // the most that Disk may be
	Segments        int64
	Pending         int64 // bytes that are not on disk yet
	Hits            int64
	Misses          int64
	Puts            int64 // blobs written, those kept by an eviction not counted
	Dropped         int64 // blobs not written for want of room or time
	Survived        int64 // blobs kept by an eviction
	EvictedSegments int64
	EvictedBytes    int64  // on disk
	Verified        int64  // blobs whose digest was checked before they were first served
	Corrupt         int64  // blobs that failed it
	Condemned       int64  // segments given up as damaged
	Bypassed        string // why nothing is kept now; empty where all is well
}

type counters struct {
	hits, misses, puts, dropped, survived atomic.Int64
	evicted, evictedBytes                 atomic.Int64
	verified, corrupt, condemned          atomic.Int64
}

// Stats returns what the cache has and did up to now.
func (c *Cache) Stats() Stats {
	s := Stats{
		Blobs: c.index.len(), MaxDisk: c.bounds.Load().MaxSize,
		Hits: c.count.hits.Load(), Misses: c.count.misses.Load(),
		Puts: c.count.puts.Load(), Dropped: c.count.dropped.Load(), Survived: c.count.survived.Load(),
		EvictedSegments: c.count.evicted.Load(), EvictedBytes: c.count.evictedBytes.Load(),
		Verified: c.count.verified.Load(), Corrupt: c.count.corrupt.Load(), Condemned: c.count.condemned.Load(),
	}
	for _, g := range c.segments() {
		s.Segments++
		s.Bytes += g.bytes.Load()
		s.Disk += g.size.Load()
	}
	c.openMu.Lock()
	s.Disk += c.lingering
	c.openMu.Unlock()
	s.Disk += c.heads.size() + c.profiles.size()
	c.pendMu.RLock()
	s.Pending = c.queued
	c.pendMu.RUnlock()
	c.troubleMu.Lock()
	if c.trouble.why != nil {
		s.Bypassed = c.trouble.why.Error()
	}
	c.troubleMu.Unlock()
	return s
}
