package tier

import "time"

// pace is how quickly blobs come that are only wanted some time (Whole), so that
// who begins to read meanwhile hardly notices. They come in bursts, between which the
// way to the sources is free: a burst takes it for about a quarter of what the shortest
// fetch takes, and all of them for a tenth of the time.
type pace struct {
	size  int64     // bytes of a burst; a larger blob comes alone
	taken int64     // bytes begun in the present one
	count int       // and blobs
	began time.Time // when that was
	next  time.Time // when the next one may begin
}

const (
	firstBurst = 8 << 10
	mostBurst  = 1 << 20
	// restTimes is how much longer than a burst takes the way it is left free, and
	// mostRest how long at the most.
	restTimes = 9
	mostRest  = 10 * time.Second
)

// fits tells whether more bytes may be begun beside those that are on their way.
func (p *pace) fits(flying, more int64) bool {
	return flying == 0 || p.taken+more <= p.size
}

// begin takes note that n bytes are begun beside those that are on their way.
func (p *pace) begin(flying, n int64) {
	if flying == 0 {
		p.taken, p.count, p.began = 0, 0, time.Now()
	}
	p.taken += n
	p.count++
}

// ended takes note that a burst has come; latency is what the shortest fetch takes.
func (p *pace) ended(latency time.Duration) {
	now := time.Now()
	whole := now.Sub(p.began)
	busy := max(whole-latency, 0)
	switch {
	case busy > latency/2 && p.count > 1:
		p.size = int64(float64(p.taken) * float64(latency) / float64(4*busy))
	case busy < latency/4:
		p.size = min(p.size+max(p.taken/4, 512), mostBurst)
	}
	if p.count == 1 { // all may be like it: then how much of it is the way's latency?
		busy = whole
	}
	// The way is free while the request goes, too.
	p.next = now.Add(min(max(restTimes*busy-latency, 0), mostRest))
}
