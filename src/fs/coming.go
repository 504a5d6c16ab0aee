package fs

import (
	"os"
	"reflect"
	"syscall"
	"time"
	"unsafe"

	"github.com/jacobsa/fuse"
	"golang.org/x/sys/unix"
)

// coming are the small reads that the disk has begun, in that order. The reader
// answers them itself when the kernel has no other request for it: it costs less
// than a thread that waits for each, and the disk works on all of them meanwhile.
// While the disk is slow it takes none, so that what is in memory need not wait for
// the disk: then they are lent goroutines as other requests are.
type coming struct {
	device int32 // 0: unknown
	queue  []request
	first  int       // the oldest in queue
	rest   time.Time // none until then
}

const (
	maxComing = 64
	// slowDisk is when a read that was begun counts as slow, and diskRest how long
	// none is then waited for.
	slowDisk = 5 * time.Millisecond
	diskRest = time.Second
)

// newComing takes nothing where the library keeps its device in another way than is
// known here.
func newComing(conn *fuse.Connection) coming {
	dev := reflect.ValueOf(conn).Elem().FieldByName("dev")
	if !dev.IsValid() || dev.Type() != reflect.TypeFor[*os.File]() || dev.IsNil() {
		return coming{}
	}
	return coming{device: int32((*os.File)(dev.UnsafePointer()).Fd())}
}

// add takes a read, unless it is better left to somebody else.
func (c *coming) add(r request) bool {
	if c.device == 0 || len(c.queue)-c.first >= maxComing || !c.rest.IsZero() && time.Now().Before(c.rest) {
		return false
	}
	c.queue = append(c.queue, r)
	return true
}

// next tells whether it is time for the oldest: there is one, and the kernel has no
// request now.
func (c *coming) next() bool {
	if c.first == len(c.queue) {
		return false
	}
	device := unix.PollFd{Fd: c.device, Events: unix.POLLIN}
	var atOnce [2]int64 // a timespec
	n, _, _ := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&device)), 1, uintptr(unsafe.Pointer(&atOnce)), 0, 0, 0)
	return n != 1
}

func (c *coming) take() request {
	r := c.queue[c.first]
	c.queue[c.first] = request{}
	if c.first++; c.first == len(c.queue) {
		c.first, c.queue = 0, c.queue[:0]
	}
	return r
}

// took notes how long a read was waited for.
func (c *coming) took(d time.Duration) {
	if d > slowDisk {
		c.rest = time.Now().Add(diskRest)
	}
}
