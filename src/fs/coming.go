package fs

import (
	"os"
	"reflect"
	"runtime"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"github.com/jacobsa/fuse"
	"golang.org/x/sys/unix"
)

// coming are the small reads that the disk has begun, in that order. The reader
// answers them itself, between other requests: a thread that waits for each costs
// more than the read, and the disk works on all of them meanwhile. It never waits for the
// disk: a read that is late gets a goroutine as others do, and for a while so do all.
type coming struct {
	device int32 // 0: unknown
	queue  []begun
	first  int       // the oldest in queue
	looked time.Time // when the oldest was last found not to have come
	rest   time.Time // none until then
	// briefly: reading from the device does not wait for a request.
	briefly bool
	exact   int // the thread whose waits end in time
	// soon: the last read came within soonAfter.
	soon bool
}

// several tells whether looking again and again leaves a processor to others.
var several = runtime.NumCPU() > 1

// begun is a read, and when it was.
type begun struct {
	request
	at time.Time
}

const (
	maxComing = 64
	// lookOut is how long the reader waits for a request before it looks whether a
	// read has come.
	lookOut = 20 * time.Microsecond
	// soonAfter is how long it does not even wait, but looks again and again, where reads
	// come that soon: for a processor to fall asleep and wake takes as long.
	soonAfter = 100 * time.Microsecond
	// dueAfter is how long a read that may have come stands back behind requests.
	dueAfter = 200 * time.Microsecond
	// lateAfter is when it does not wait any more, and lateRest how long it takes none
	// then.
	lateAfter = 5 * time.Millisecond
	lateRest  = time.Second
)

// newComing takes nothing where the library keeps its device in another way than is
// known here.
func newComing(conn *fuse.Connection) coming {
	dev := reflect.ValueOf(conn).Elem().FieldByName("dev")
	if !dev.IsValid() || dev.Type() != reflect.TypeFor[*os.File]() || dev.IsNil() {
		return coming{}
	}
	c := coming{device: int32((*os.File)(dev.UnsafePointer()).Fd())}
	c.wait(true) // whoever served before may have died in the middle
	return c
}

// wait says whether reading from the device is to wait for a request. It must not
// while a read is coming: what requested tells of may be an interrupt, which the
// library keeps to itself, or be taken back, and there may be no other request until
// this read is answered.
func (c *coming) wait(wait bool) {
	if err := unix.SetNonblock(int(c.device), !wait); err == nil {
		c.briefly = !wait
	}
}

// add takes a read, unless it is better left to somebody else.
func (c *coming) add(r request) bool {
	if c.device == 0 || len(c.queue)-c.first >= maxComing {
		return false
	}
	now := time.Now()
	if now.Before(c.rest) {
		return false
	}
	if c.first >= maxComing { // it may never be empty
		c.queue = slices.Delete(c.queue, 0, c.first)
		c.first = 0
	}
	c.queue = append(c.queue, begun{r, now})
	return true
}

func (c *coming) some() bool { return c.first < len(c.queue) }

// requested tells whether the kernel has a request, or has one before so long.
func (c *coming) requested(wait time.Duration) bool {
	if wait > 0 {
		c.beExact()
	}
	device := unix.PollFd{Fd: c.device, Events: unix.POLLIN}
	timeout := unix.NsecToTimespec(int64(wait))
	n, _, _ := syscall.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&device)), 1, uintptr(unsafe.Pointer(&timeout)), 0, 0, 0)
	return n == 1
}

// slack is how late a wait may end, in nanoseconds. The kernel's default is 50 us, which
// is longer than most reads from a disk of today take.
const slack = 1000

// beExact has the thread's waits end in time.
func (c *coming) beExact() {
	if id := unix.Gettid(); id != c.exact {
		c.exact = id
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, slack, 0, 0, 0)
	}
}

// lookOut waits for a request until it is time to look whether the oldest read has come.
func (c *coming) lookOut() {
	if c.soon && time.Since(c.queue[c.first].at) < soonAfter {
		return
	}
	c.requested(lookOut)
}

// oldest is the read that was begun first. There must be one.
func (c *coming) oldest() *request { return &c.queue[c.first].request }

// due tells whether it is time to look at the oldest though there are requests: these may
// have no end.
func (c *coming) due() bool {
	now := time.Now()
	return now.Sub(c.queue[c.first].at) >= dueAfter && now.Sub(c.looked) >= dueAfter
}

// late tells whether the oldest, which has not come, has been coming for too long.
func (c *coming) late() bool {
	now := time.Now()
	if now.Sub(c.queue[c.first].at) < lateAfter {
		c.looked = now
		return false
	}
	c.rest = now.Add(lateRest)
	return true
}

// take takes the oldest out.
func (c *coming) take() request {
	r := c.queue[c.first].request
	c.soon = several && time.Since(c.queue[c.first].at) < soonAfter
	c.queue[c.first] = begun{}
	if c.first++; c.first == len(c.queue) {
		c.first, c.queue = 0, c.queue[:0]
	}
	return r
}
