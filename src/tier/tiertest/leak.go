package tiertest

import (
	"runtime"
	"testing"
	"time"
)

// NoLeaks fails the test if there are more goroutines at its end, a moment
// after everything that it cleaned up, than there are now. Call it first, and
// not in parallel tests.
func NoLeaks(t testing.TB) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		var now int
		for range 1000 {
			if now = runtime.NumGoroutine(); now <= before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d when the test began:\n%s", now, before, buf[:runtime.Stack(buf, true)])
	})
}
