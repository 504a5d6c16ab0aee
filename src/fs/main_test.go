package fs

import (
	"os"
	"runtime"
	"testing"
)

// TestMain runs the tests on more processors than there may be. Go asks of each file
// that it opens whether it can be polled, under a lock that its scheduler takes, too;
// in a process that serves the file itself, one on a processor that nobody waits with
// must be left to answer.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(max(runtime.NumCPU(), 16))
	os.Exit(m.Run())
}
