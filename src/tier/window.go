package tier

import (
	"sync"
	"time"
)

// window is how many bytes that nobody waits for yet may be on their way at
// once: as many as the way to the source carries while one answer takes, and
// about as many again. It doubles with every round of fetches that come about as
// quickly as one alone does, and shrinks when most of a round come late: then the
// rest only stands in a queue, and what somebody waits for stands behind it.
type window struct {
	patience time.Duration // how much longer than alone a fetch may take, or patient times as long
	patient  float64

	mu    sync.Mutex
	size  int64         // bytes
	alone time.Duration // about what a fetch takes with nothing beside it; 0: not known
	least time.Duration // about the shortest that a fetch took lately; 0: not known
	ratio float64       // of stored to plain bytes, as seen lately
	began bool          // it has shrunk once: from then on it grows slowly

	round  time.Time // when the round began; only what began since belongs to it
	landed int64     // bytes that came in the round
	count  int       // fetches that ended in the round
	late   int       // of these, how many came late or not at all
	wanted bool      // somebody wanted more in the round than the window let
}

// Bounds of a window, in bytes. On a way of 10 ms it is at the height of
// 1 Gbit/s within 80 ms.
const (
	leastWindow = 128 << 10
	firstWindow = 256 << 10
	mostWindow  = 16 << 20
)

const (
	// slack is what a fetch may take longer for reasons of this machine's own.
	slack = 10 * time.Millisecond
	// firstFlight is what TCP sends at first, in bytes, before it is told that some
	// of that came. From then on it doubles.
	firstFlight = 14 << 10
	// roundCount ends a round that brings little.
	roundCount = 512
	// perFetch is what goes over the way besides the blob, about, in bytes.
	perFetch = 512
)

func newWindow() *window {
	return &window{patience: 3 * slack, patient: 2, size: firstWindow, ratio: 0.5}
}

// newNarrowWindow returns one for what may never be needed. It leaves the way, and
// the processors of this machine, before anything has to wait there.
func newNarrowWindow() *window {
	return &window{patience: slack, patient: 1, size: firstWindow, ratio: 0.5}
}

// estimate is how many bytes a blob of that plain size will be on its way.
func (w *window) estimate(plain int64) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return int64(float64(plain)*w.ratio) + perFetch
}

// fits tells whether more bytes may be put on their way beside those that are.
func (w *window) fits(flying, more int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if flying == 0 || flying+more <= w.size {
		return true
	}
	w.wanted = true
	return false
}

// now is the window's size.
func (w *window) now() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.size
}

// latency is about what the shortest fetch takes; 0 if that isn't known.
func (w *window) latency() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.least
}

// unusual is longer than nearly any fetch takes, in a queue or not.
func (w *window) unusual() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(hangs, 4*w.alone)
}

// rest is how long a source has to be left alone by who isn't waited for, so
// that it is clear that somebody who is has nothing more to ask.
func (w *window) rest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return min(max(w.alone, time.Millisecond), 2*slack)
}

// took takes note of a fetch that began then and brought a blob of that many
// bytes, plain and stored, or none; alone tells that hardly any others were on
// their way, and demand that somebody waited for it.
func (w *window) took(began time.Time, plain, stored int64, alone, demand bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	d := now.Sub(began)
	if stored > 0 {
		if w.least == 0 || d < w.least {
			w.least = d
		} else { // the way may have become longer
			w.least += (d - w.least) / 512
		}
		w.ratio += (float64(stored)/float64(max(plain, 1)) - w.ratio) / 32
		switch {
		case w.alone == 0 || d < w.alone:
			w.alone = d
		case alone:
			w.alone += (d - w.alone) / 8
		}
	}
	if demand || began.Before(w.round) {
		return
	}
	w.count++
	if w.landed += stored + perFetch; stored == 0 || d > w.alone+max(time.Duration(w.patient*float64(w.alone)), w.patience)+w.growing(stored) {
		w.late++
	}
	if w.landed < w.size && w.count < roundCount && now.Sub(w.round) < time.Second {
		return
	}
	switch {
	case 2*w.late > w.count:
		w.size, w.began = max(w.size*3/4, leastWindow), true
	case 4*w.late < w.count && w.wanted && w.began:
		w.size = min(w.size*5/4, mostWindow)
	case 4*w.late < w.count && w.wanted:
		w.size = min(w.size*2, mostWindow)
	}
	w.round, w.landed, w.count, w.late, w.wanted = now, 0, 0, 0, false
}

// growing is what TCP takes on a connection that has carried little for a blob of
// that many bytes, besides what the first of them take. w.mu is held.
func (w *window) growing(stored int64) (d time.Duration) {
	for n := int64(firstFlight); n < stored; n = 2*n + firstFlight {
		d += w.alone
	}
	return d
}
