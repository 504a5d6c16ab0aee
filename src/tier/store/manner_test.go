package store

import (
	"bufio"
	"context"
	"net"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/tier"
)

// A server is slow if it takes long to answer, not if its answers stand behind others on
// the way.
func TestFullWayIsNoSlowServer(t *testing.T) {
	const trip = 10 * time.Millisecond
	p := &pipeline{trip: trip}
	p.thought(trip, true)
	if p.manner != deep {
		t.Fatalf("a quick server is asked in manner %d", p.manner)
	}
	for range 100 {
		p.thought(5*trip, true)
	}
	if p.manner != deep {
		t.Errorf("behind others on the way: manner %d", p.manner)
	}
	for range 100 {
		p.thought(5*trip, false)
	}
	if p.manner != shallow {
		t.Errorf("with nothing before it: manner %d", p.manner)
	}
}

// A gap between two answers says that a server is slow, unless other connections fill the
// way meanwhile.
func TestGapsOnFullWay(t *testing.T) {
	for _, full := range []bool{true, false} {
		p := &pipeline{manner: deep, most: usualMost, ctx: t.Context(), limits: limitsFor(time.Minute)}
		here, there := net.Pipe()
		c := &pipe{p: p, conn: here, wake: make(chan struct{}, 1)}
		ref := tier.Ref{Limit: lightly}
		for range gapSamples + 1 {
			c.asks = append(c.asks, &ask{p: p, ref: ref, background: true, answered: func([]byte, bool) {}})
		}
		go func() {
			for range gapSamples + 1 {
				time.Sleep(2 * longGap)
				if full {
					p.came.Add(1 << 30)
				}
				if _, err := there.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")); err != nil {
					return
				}
			}
		}()
		br := bufio.NewReader(c)
		for range gapSamples + 1 {
			if err := c.answer(br); err != nil {
				t.Fatal(err)
			}
		}
		if want := map[bool]manner{true: deep, false: shallow}[full]; p.manner != want {
			t.Errorf("a full way %v: manner %d, want %d", full, p.manner, want)
		}
		here.Close()
		there.Close()
	}
}

// Of what is on its way only what is on other connections counts.
func TestBusyBeside(t *testing.T) {
	p := &pipeline{}
	one, other := &pipe{p: p, load: 10 * lightly}, &pipe{p: p, load: lightly}
	p.pipes = []*pipe{one, other}
	if p.busyBeside(one) || !p.busyBeside(other) {
		t.Errorf("%v beside much, %v beside little", p.busyBeside(other), p.busyBeside(one))
	}
}

// Of quick servers there is a connection more than what nobody waits for is on, and who
// comes to wait while it is being made waits for it, but not for long.
func TestConnectionsAreKeptFree(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := &pipeline{manner: deep, trip: time.Second, making: time.Second, most: usualMost, ctx: ctx, dial: func(ctx context.Context) (net.Conn, time.Duration, error) {
		<-ctx.Done()
		return nil, 0, ctx.Err()
	}}
	defer p.tasks.Wait()
	defer cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	conn, other := net.Pipe()
	defer conn.Close()
	defer other.Close()
	c := &pipe{p: p, conn: conn, wake: make(chan struct{}, 1)}
	p.pipes = []*pipe{c}
	ref := tier.Ref{Limit: 16 * lightly}
	if p.choose(p.newAsk(ref, true)) != c || p.dialing != 1 {
		t.Fatalf("%d requests on their way, %d connections being made", len(c.asks), p.dialing)
	}
	if waits := p.newAsk(ref, false); p.choose(waits) != nil || len(p.queue) != 1 {
		t.Fatalf("%d requests wait", len(p.queue))
	}
	if p.take(c, 1); len(c.asks) != 1 {
		t.Error("it was put behind what nobody waits for, though a connection is being made")
	}
	p.dialed = time.Now().Add(-3 * p.making)
	if p.take(c, 1); len(c.asks) != 2 {
		t.Error("it waits for a connection that takes too long to be made")
	}
}

// A server that answers now and then in a way that this doesn't take is asked in the
// ordinary way for a while, and for longer each time only where that goes on.
func TestPipelineStandsBackForLonger(t *testing.T) {
	p := &pipeline{}
	off := func() time.Duration { return time.Until(p.off).Round(time.Second) }
	for _, want := range []time.Duration{firstOff, 2 * firstOff, 4 * firstOff} {
		p.off = time.Time{}
		for range 5 { // as those that were under way answer
			p.standBack()
		}
		if off() != want {
			t.Errorf("for %v, want %v", off(), want)
		}
		for range calmAfter - 1 {
			p.answeredWell()
		}
	}
	for range 20 {
		p.off = time.Time{}
		p.standBack()
	}
	if off() != lastOff {
		t.Errorf("for %v at last", off())
	}
	for range calmAfter {
		p.answeredWell()
	}
	p.off = time.Time{}
	if p.standBack(); off() != firstOff {
		t.Errorf("for %v after many good answers", off())
	}
}
