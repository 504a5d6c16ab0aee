package main

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"
)

// hanging is a series on a mount whose client sleeps.
func hanging(t *testing.T) *series {
	t.Helper()
	p, err := startProcess(t.TempDir(), exec.Command("sleep", "60"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	return &series{bencher: &bencher{o: &options{limit: 50 * time.Millisecond}}, ctx: t.Context(), c: &contender{},
		m: &mounted{client: p}, grace: 50 * time.Millisecond}
}

// What waits for a client that hangs goes on when that is taken away.
func TestHangingClient(t *testing.T) {
	s := hanging(t)
	s.grace = 20 * time.Second
	began := time.Now()
	go func() {
		// Meanwhile nothing ends it.
		time.Sleep(200 * time.Millisecond)
		select {
		case <-s.m.client.ended:
			t.Error("the client was ended before the grace was over")
		default:
		}
		s.m.abort()
	}()
	took, err := s.within(func(context.Context) (time.Duration, error) {
		<-s.m.client.ended
		return time.Since(began), errors.New("not connected")
	})
	if !errors.Is(err, errTooLong) || took != s.o.limit || s.c.hangs {
		t.Errorf("got %v, %v, hangs %v", took, err, s.c.hangs)
	}

	alone := hanging(t)
	_, err = alone.within(func(context.Context) (time.Duration, error) {
		<-alone.m.client.ended
		return 0, errors.New("not connected")
	})
	select {
	case <-alone.m.client.ended:
	case <-time.After(10 * time.Second):
		t.Error("the client was left alone")
	}
	if !errors.Is(err, errTooLong) {
		t.Errorf("got %v", err)
	}
}

// What can't be ended at all does not keep the others from being measured.
func TestHangingForGood(t *testing.T) {
	s := hanging(t)
	end := make(chan struct{})
	defer close(end)
	_, err := s.within(func(context.Context) (time.Duration, error) {
		<-end
		return 0, nil
	})
	if !errors.Is(err, errTooLong) || !s.c.hangs {
		t.Errorf("got %v, hangs %v", err, s.c.hangs)
	}
	if s.does(s.c, work{name: "tar", tree: "go"}) {
		t.Error("it is to go on")
	}
}

// A work that ends by itself is left alone.
func TestWithin(t *testing.T) {
	s := hanging(t)
	s.o.limit = time.Minute
	took, err := s.within(func(context.Context) (time.Duration, error) { return time.Second, nil })
	if took != time.Second || err != nil {
		t.Errorf("got %v, %v", took, err)
	}
	select {
	case <-s.m.client.ended:
		t.Error("the client was ended")
	default:
	}
}

// Nothing is repeated that would not end in time, and everything is done once.
func TestRepeat(t *testing.T) {
	b := &bencher{o: &options{}, res: &results{}, took: make(map[string]time.Duration), end: time.Now().Add(-time.Second)}
	n := 0
	for run := range 3 {
		b.repeat("a", run, func() { n++ })
	}
	if n != 1 || !b.cut {
		t.Errorf("done %d times, cut %v", n, b.cut)
	}
	b.end = time.Now().Add(time.Hour)
	b.repeat("a", 1, func() { n++ })
	if n != 2 {
		t.Error("not repeated in time")
	}
}

// Who does what, where not everything is asked for.
func TestDoes(t *testing.T) {
	own, peer := &contender{kind: kind{name: subject}}, &contender{kind: kind{name: "sshfs", peer: true}}
	only := &contender{kind: kind{name: profiled, tree: "python"}}
	tar, grep, build := work{name: "tar", tree: "go", peers: true}, work{name: "grep", tree: "go"}, work{name: "build", tree: "go", long: true}
	for _, c := range []struct {
		o    options
		c    *contender
		w    work
		want bool
	}{
		{options{}, own, grep, true},
		{options{}, own, build, true},
		{options{}, peer, tar, true},
		{options{}, peer, grep, false},
		{options{}, peer, build, false},
		{options{}, only, tar, false},
		{options{works: []string{"grep"}}, peer, grep, true},
		{options{works: []string{"build"}}, peer, build, false},
		{options{works: []string{"build"}, drivers: []string{"sshfs"}}, peer, build, true},
	} {
		c.o.when = conditions
		b := &bencher{o: &c.o}
		if got := b.does(c.c, c.w); got != c.want {
			t.Errorf("%s does %s with %q of %q: got %v", c.c.name, c.w.name, c.o.works, c.o.drivers, got)
		}
	}
	if b := (&bencher{o: &options{when: []string{cold}}}); b.does(own, build) {
		t.Error("a build is done when only cold works are asked for")
	}
}
