package fs

import (
	"testing"
	"testing/synctest"
	"time"
)

// What is coming takes no more memory the longer there is always something.
func TestComingIsBounded(t *testing.T) {
	c := coming{device: 1}
	for range 3 {
		c.add(request{op: -1})
	}
	for i := range 100_000 {
		if !c.add(request{op: i}) {
			t.Fatalf("read %d is not taken", i)
		}
		if r := c.take(); i >= 3 && r.op != i-3 {
			t.Fatalf("read %v after %d", r.op, i-4)
		}
	}
	if n := cap(c.queue); n > 8*maxComing {
		t.Errorf("%d reads are coming in a queue for %d", len(c.queue)-c.first, n)
	}
}

// A read that is coming is looked at now and then, however many requests there are,
// and not all the time.
func TestComingIsLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := coming{device: 1}
		c.add(request{})
		looks := 0
		for start := time.Now(); ; time.Sleep(10 * time.Microsecond) { // a request each
			if c.due() {
				if looks++; c.late() {
					if took := time.Since(start); took > lateAfter+dueAfter {
						t.Errorf("it is late after %v", took)
					}
					break
				}
			}
		}
		if most := int(lateAfter/dueAfter) + 1; looks < most/2 || looks > most {
			t.Errorf("looked at %d times", looks)
		}
	})
}
