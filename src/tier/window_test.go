package tier

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestWindowFollowsTheWay has blobs of 8 KiB go over ways of some rates and delays,
// as many at once as the window lets.
func TestWindowFollowsTheWay(t *testing.T) {
	const blob = 8 << 10
	for name, way := range map[string]struct {
		rate        float64 // bytes a second
		delay       time.Duration
		least, most int64 // where the window should end, in bytes
	}{
		"1 Gbit/s, 10 ms":  {125e6, 10 * time.Millisecond, 1 << 20, 5 << 20},
		"10 Mbit/s, 50 ms": {1.25e6, 50 * time.Millisecond, leastWindow, firstWindow},
		"1 Gbit/s, 80 ms":  {125e6, 80 * time.Millisecond, 10 << 20, mostWindow},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWindow()
				begin := time.Now()
				var free time.Time // when the way has carried all that was sent
				type fetch struct{ began, ends time.Time }
				var flying []fetch
				for time.Since(begin) < 5*time.Second {
					for w.fits(int64(len(flying))*(blob+perFetch), blob+perFetch) {
						now := time.Now()
						if free.Before(now) {
							free = now
						}
						free = free.Add(time.Duration((blob + perFetch) / way.rate * 1e9))
						flying = append(flying, fetch{now, free.Add(way.delay)})
					}
					f := flying[0]
					flying = flying[1:]
					time.Sleep(time.Until(f.ends))
					w.took(f.began, blob, blob, false, false)
				}
				if n := w.now(); n < way.least || n > way.most {
					t.Errorf("a window of %d bytes, want %d to %d", n, way.least, way.most)
				}
			})
		})
	}
}

func TestWindowShrinksWhereNothingComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWindow()
		w.size = 4 << 20
		for range 20 {
			began := time.Now()
			time.Sleep(time.Second)
			w.took(began, 0, 0, false, false)
		}
		if n := w.now(); n != leastWindow {
			t.Errorf("%d bytes", n)
		}
	})
}
