package fs

import (
	"os"
	"reflect"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"github.com/jacobsa/fuse"
	"golang.org/x/sys/unix"
)

// To be woken for a request costs more than to answer it, above all in a virtual
// machine whose other CPU has gone to sleep. So the reader looks for the next one for a
// moment while they keep coming.
const (
	// spinFor is how long it looks.
	spinFor = 60 * time.Microsecond
	// spinTries is how often it does so in vain before requests count as rare.
	spinTries = 8
	// spinGap between two looks means that another thread had the CPU, which is then
	// left to others for spinRest.
	spinGap  = 50 * time.Microsecond
	spinRest = 2 * time.Millisecond
)

// spinner is the reader's. Nil never looks.
type spinner struct {
	fd      int32
	tries   int       // that are left
	restful time.Time // not before then
}

// newSpinner returns nil where there is no CPU to spare, or where the library keeps
// its device in another way than is known here.
func newSpinner(conn *fuse.Connection) *spinner {
	dev := reflect.ValueOf(conn).Elem().FieldByName("dev")
	if runtime.NumCPU() == 1 || !dev.IsValid() || dev.Type() != reflect.TypeFor[*os.File]() || dev.IsNil() {
		return nil
	}
	return &spinner{fd: int32((*os.File)(dev.UnsafePointer()).Fd())}
}

// wait looks for a request, right behind an answer. Where it does not look it returns
// when that was, for came.
func (s *spinner) wait() (answered time.Time) {
	if s == nil {
		return
	}
	answered = time.Now()
	if s.tries == 0 || answered.Before(s.restful) {
		return
	}
	device := unix.PollFd{Fd: s.fd, Events: unix.POLLIN}
	var atOnce [2]int64 // a timespec
	for last := answered; ; {
		n, _, _ := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&device)), 1, uintptr(unsafe.Pointer(&atOnce)), 0, 0, 0)
		now := time.Now()
		switch {
		case n == 1:
			s.tries = spinTries
			return time.Time{}
		case now.Sub(last) > spinGap:
			s.restful = now.Add(spinRest)
			return time.Time{}
		case now.Sub(answered) > spinFor:
			s.tries--
			return time.Time{}
		}
		last = now
	}
}

// came notes that a request has come, that was not looked for since answered, if
// that is a time.
func (s *spinner) came(answered time.Time) {
	if s != nil && !answered.IsZero() && time.Since(answered) < spinFor*2 {
		s.tries = spinTries
	}
}
