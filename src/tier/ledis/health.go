package ledis

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/tier"
)

// Pauses for a database that fails.
const (
	firstPause = time.Second
	lastPause  = time.Minute
)

// health decides whether the database may be asked.
type health struct {
	tier, what string // for the log
	log        *slog.Logger

	mu      sync.Mutex
	pause   time.Duration // GUARDED_BY(mu); the last one, 0 while all is well
	resume  time.Time     // GUARDED_BY(mu)
	probing bool          // GUARDED_BY(mu); a call is finding out
	last    error         // GUARDED_BY(mu); what is said meanwhile
}

// begin is nil where the database may be asked. well, failed or undecided must
// be called then.
func (h *health) begin() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pause == 0 {
		return nil
	}
	if h.probing || time.Now().Before(h.resume) {
		return h.last
	}
	h.probing = true
	return nil
}

// aside is why the database is left alone at the moment, or nil.
func (h *health) aside() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.probing || time.Now().After(h.resume) {
		return nil
	}
	return h.last
}

func (h *health) well() {
	h.mu.Lock()
	was := h.pause
	h.pause, h.probing, h.last = 0, false, nil
	h.mu.Unlock()
	if was > 0 {
		h.log.Info("a local cache is back", "op", h.what, "tier", h.tier)
	}
}

// failed has the database left alone. What was under way already when that began
// makes it no longer.
func (h *health) failed(err error) {
	h.mu.Lock()
	first := h.pause == 0
	if first || h.probing {
		h.pause = min(max(2*h.pause, firstPause), lastPause)
		h.resume = time.Now().Add(h.pause)
		h.last = fmt.Errorf("%w: left alone for %v: %w", tier.ErrUnavailable, h.pause, err)
		h.probing = false
	}
	h.mu.Unlock()
	if first {
		h.log.Warn("leaving a local cache alone", "op", h.what, "tier", h.tier, "err", err)
	}
}

// undecided ends a call that found nothing out: its caller left.
func (h *health) undecided() {
	h.mu.Lock()
	h.probing = false
	h.mu.Unlock()
}
