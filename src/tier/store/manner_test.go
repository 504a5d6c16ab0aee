package store

import (
	"testing"
	"time"
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

// Of what is on its way only what is on other connections counts.
func TestBusyBeside(t *testing.T) {
	p := &pipeline{}
	one, other := &pipe{p: p, load: 10 * lightly}, &pipe{p: p, load: lightly}
	p.pipes = []*pipe{one, other}
	if p.busyBeside(one) || !p.busyBeside(other) {
		t.Errorf("%v beside much, %v beside little", p.busyBeside(other), p.busyBeside(one))
	}
}
