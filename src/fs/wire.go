package fs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"sync"

	"github.com/jacobsa/fuse"
	"golang.org/x/sys/unix"
)

// From include/uapi/linux/fuse.h.
const (
	inHeaderSize  = 40
	outHeaderSize = 16
	initSize      = 16 // of fuse_init_in, as it was up to protocol 7.35
	opInit        = 26
	protocolMajor = 7
	protocolMinor = 40
	notifyResend  = 7
)

// errNoResend says that the kernel (before 6.9) can't be asked for what a process
// that died had read and not answered.
var errNoResend = errors.New("this kernel, older than 6.9, does not repeat requests")

// wire is the connection to the kernel: the descriptor that the library reads and
// answers on, and another one of the same, for what the library can't do.
type wire struct {
	ready chan struct{} // closed when requests may be read

	mu       sync.Mutex
	dev      int // 0: there is none
	served   int // closed by the library, after close; 0: there is none
	released bool
}

func newWire() wire { return wire{ready: make(chan struct{})} }

// mountConfig is how the library serves f.
func (f *FS) mountConfig() *fuse.MountConfig {
	cfg := &fuse.MountConfig{
		DisableWritebackCaching: true,
		EnableSymlinkCaching:    true,
		EnableNoOpenSupport:     true,
		EnableNoOpendirSupport:  true,
		EnableAsyncReads:        true, // not EnableAsyncDIO: nothing could interrupt a direct read then
		EnableParallelDirOps:    true,
		EnableReaddirplus:       true,
		EnableAutoReaddirplus:   true,
		// The library sizes every request's buffer by MaxWrite.
		MaxWrite: 4096, MaxPages: 256,
		ErrorLogger: log.New(debugWriter{f.log}, "", 0),
	}
	if f.debug != nil {
		// That the kernel keeps what is written until the close is what makes it tell
		// of closes: debug_write.go.
		cfg.DisableWritebackCaching, cfg.MaxWrite = false, debugWrite
	}
	return cfg
}

// debugWriter passes what the library says on: every error that a request was
// answered with, which is said elsewhere where it matters.
type debugWriter struct{ log *slog.Logger }

func (w debugWriter) Write(b []byte) (int, error) {
	w.log.Debug(string(bytes.TrimSpace(b)), "op", "fuse")
	return len(b), nil
}

// connect has the library serve f on dev, a connection on which the kernel has yet
// to say INIT. dev is closed on errors, too.
func (w *wire) connect(dev int, f *FS) error {
	own, err := duplicate(dev)
	if err != nil {
		unix.Close(dev)
		return err
	}
	if err := w.mountOn(dev, f); err != nil {
		unix.Close(own)
		return err
	}
	w.mu.Lock()
	w.dev, w.served = own, dev
	w.mu.Unlock()
	close(w.ready)
	return nil
}

// reconnect has the library serve f on dev, a connection that another process
// has served. The kernel says INIT only once, so the library gets a made-up one
// through a pair of sockets, whose place dev takes. What that process had read
// and not answered the kernel says again. Nothing is read before w.ready is
// closed. dev is w's then.
func (w *wire) reconnect(dev int, f *FS) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a pair of sockets: %w", err)
	}
	defer unix.Close(pair[1])
	if _, err := unix.Write(pair[1], madeUpInit()); err != nil {
		unix.Close(pair[0])
		return fmt.Errorf("begin with a made-up request: %w", err)
	}
	if err := w.mountOn(pair[0], f); err != nil {
		return err
	}
	w.mu.Lock()
	w.served = pair[0]
	w.mu.Unlock()
	if err := unix.Dup3(dev, pair[0], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("put the connection where the library reads: %w", err)
	}
	if err := resend(dev); err != nil {
		return err
	}
	w.mu.Lock()
	w.dev = dev
	w.mu.Unlock()
	return nil
}

// mountOn has the library take fd, which it closes, for a connection.
func (w *wire) mountOn(fd int, f *FS) error {
	_, err := fuse.Mount(fmt.Sprintf("/dev/fd/%d", fd), fuse.NewServerWithNotifier(f.notifier, f), f.mountConfig())
	return err
}

func madeUpInit() []byte {
	b := make([]byte, inHeaderSize+initSize)
	e := binary.NativeEndian
	e.PutUint32(b[0:], uint32(len(b)))
	e.PutUint32(b[4:], opInit)
	e.PutUint64(b[8:], 2) // its number
	e.PutUint32(b[inHeaderSize:], protocolMajor)
	e.PutUint32(b[inHeaderSize+4:], protocolMinor)
	return b
}

// resend has the kernel say again what was read from the connection and not
// answered.
func resend(dev int) error {
	var b [outHeaderSize]byte
	binary.NativeEndian.PutUint32(b[0:], outHeaderSize)
	binary.NativeEndian.PutUint32(b[4:], notifyResend)
	switch _, err := unix.Write(dev, b[:]); {
	case errors.Is(err, unix.EINVAL):
		return errNoResend
	case err != nil:
		return fmt.Errorf("have the kernel repeat what is open: %w", err)
	}
	return nil
}

// ended tells whether the kernel has done with a connection.
func ended(dev int) bool {
	p := []unix.PollFd{{Fd: int32(dev), Events: unix.POLLIN}}
	_, err := unix.Poll(p, 0)
	return err == nil && p[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0
}

// cut takes the connection from the library: nothing that it answers from now on
// reaches the kernel, nor does it get another request.
func (w *wire) cut() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.released = true
	if w.served == 0 {
		return nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a pair of sockets: %w", err)
	}
	unix.Close(pair[1])
	defer unix.Close(pair[0])
	return unix.Dup3(pair[0], w.served, unix.O_CLOEXEC)
}

// close follows the last answer. It is true if the connection was cut.
func (w *wire) close() (released bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dev != 0 {
		unix.Close(w.dev)
	}
	w.dev, w.served = 0, 0
	return w.released
}

// over tells whether the kernel has done with the connection.
func (w *wire) over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dev == 0 || ended(w.dev)
}

func (w *wire) cutOff() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.released
}

func duplicate(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3) }
