package tier

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestWindowFollowsTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(8 * time.Second)
		// A way that carries ten fetches a second, however many there are.
		load := func(rounds int) {
			for range rounds {
				n := w.now()
				began := time.Now()
				for range n {
					time.Sleep(100 * time.Millisecond)
					w.took(began, true)
				}
			}
		}
		load(50)
		if n := w.now(); n < leastPrefetch || n > 32 {
			t.Errorf("%d at once on a way where a second of waiting is ten", n)
		}
		for range 100 { // and one that is quick
			began := time.Now()
			time.Sleep(10 * time.Millisecond)
			w.took(began, true)
		}
		if n := w.now(); n != maxPrefetch {
			t.Errorf("%d at once on a quick way", n)
		}
		began := time.Now()
		time.Sleep(time.Second)
		for range 64 { // one outage, seen by all of them
			w.took(began, false)
		}
		if n := w.now(); n != maxPrefetch/2 {
			t.Errorf("%d at once after one outage, want half of %d", n, maxPrefetch)
		}
	})
}
