package tier

import "time"

// Waits tells what blobs that are brought near with a priority wait for at the
// moment; empty if they don't.
func (c *Chain) Waits(p Priority) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case p == ReadAhead:
		return ""
	case c.demands > 0:
		return "a program waits for a blob"
	case p == Whole && c.flying[ReadAhead]+c.flying[Profile] > 0:
		return "what is more urgent"
	case p == Whole && (c.reads() != c.seen || time.Since(c.quiet) < calm):
		return "files are being read"
	case time.Since(c.demanded) < c.window.rest():
		return "a program waited for a blob just now"
	}
	return ""
}
