package tier

import "time"

// pace is how quickly blobs come so that who reads meanwhile hardly notices. They come
// in bursts, between which the way to the sources is free: a burst takes it for about a
// quarter of what the shortest fetch takes, and all of them for a tenth of the time.
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
	mostRest  = time.Minute
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

// ended takes note that a burst has come, or all of what came at no pace before;
// latency is what the shortest fetch takes.
func (p *pace) ended(latency time.Duration) {
	now := time.Now()
	whole := now.Sub(p.began)
	busy := max(whole-latency, 0)
	unpaced := p.count > 1 && p.taken > p.size
	switch {
	case busy > latency/2 && p.count > 1:
		p.size = min(int64(float64(p.taken)*float64(latency)/float64(4*busy)), mostBurst)
	case busy < latency/4:
		p.size = min(p.size+max(p.taken/4, 512), mostBurst)
	}
	switch {
	case unpaced:
		busy = min(busy, latency/4)
	case p.count == 1: // all may be like it: then how much of it is the way's latency?
		busy = whole
	}
	// The way is free while the request goes, too.
	p.next = now.Add(min(max(restTimes*busy-latency, 0), mostRest))
}

// others are those who wait for blobs that no profile has which is being brought, while
// nobody waits for one that it has. Whoever reads now and then finds on the way, each
// time, what has begun before. Once is no habit: programs that have a profile need
// something else, too, and wait for what it brings right afterwards.
type others struct {
	count int       // of their reads, each closely after the one before
	last  time.Time // when the last of them began, or ended
}

const (
	// manyOthers is how many reads of others have a profile come at a pace, and closely
	// how long after the last of them it does.
	manyOthers = 2
	closely    = 2 * time.Second
)

// read takes note of one.
func (o *others) read() {
	if !o.lately() {
		o.count = 0
	}
	o.count, o.last = o.count+1, time.Now()
}

// ended takes note that one has ended: it may have taken long for what came beside it.
func (o *others) ended() { o.last = time.Now() }

// followed takes note that somebody waits for what a profile brings.
func (o *others) followed() { o.count = 0 }

func (o *others) lately() bool { return time.Since(o.last) < closely }

// many tells whether there are so many that a profile is to come at a pace.
func (o *others) many() bool { return o.count >= manyOthers && o.lately() }
