package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// maxMessage bounds a message, in bytes. It is less than what a socket takes
// by default, so that one never needs a larger buffer.
const maxMessage = 128 << 10

// What messages say.
const (
	opStandby = "standby"
	opServing = "serving"
	opKeep    = "keep"
	opState   = "state"
	opDrop    = "drop"
	opBusy    = "busy"
	opAlive   = "alive"
	opMount   = "mount"
	opGo      = "go"
	opRelease = "release"
	opPing    = "ping"
)

type message struct {
	Op    string          `json:"op"`
	Path  string          `json:"path,omitempty"`
	State json.RawMessage `json:"state,omitempty"`
	Text  string          `json:"text,omitempty"`
	News  *News           `json:"news,omitempty"`
}

// News is what a keeper knows of itself and of the workers so far.
type News struct {
	PID      int       `json:"pid"`
	Version  string    `json:"version"` // of the keeper
	Restarts int       `json:"restarts"`
	Upgrades int       `json:"upgrades"`
	Last     string    `json:"last,omitempty"` // what became of the worker before
	LastAt   time.Time `json:"last_at,omitzero"`
}

// Mount is one that is kept. Its descriptors belong to who has it.
type Mount struct {
	Path  string
	Dev   int // the connection to the kernel
	Table int // the inode table
	State []byte
}

// Close closes the descriptors.
func (m Mount) Close() {
	unix.Close(m.Dev)
	unix.Close(m.Table)
}

// send writes one message. It blocks while the other side is behind.
func send(socket int, m message, fds ...int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("write %s for %s: %w", m.Op, m.Path, err)
	}
	if len(b) > maxMessage {
		return fmt.Errorf("write %s for %s: %d bytes, at most %d", m.Op, m.Path, len(b), maxMessage)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for {
		err := unix.Sendmsg(socket, b, rights, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write %s for %s: %w", m.Op, m.Path, err)
		}
		return nil
	}
}

// receiver reads messages from a socket.
type receiver struct {
	socket int
	buf    []byte
	rights []byte
}

func newReceiver(socket int) *receiver {
	return &receiver{socket, make([]byte, maxMessage), make([]byte, unix.CmsgSpace(2*4))}
}

// next returns the next message, with the descriptors that came with it; io.EOF
// when the other side has ended.
func (r *receiver) next() (message, []int, error) {
	for {
		n, rn, flags, _, err := unix.Recvmsg(r.socket, r.buf, r.rights, unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECONNRESET):
			return message{}, nil, io.EOF
		case err != nil:
			return message{}, nil, fmt.Errorf("read a message: %w", err)
		case n == 0:
			return message{}, nil, io.EOF
		}
		fds, err := descriptors(r.rights[:rn])
		var m message
		switch {
		case err != nil:
		case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
			err = fmt.Errorf("it is longer than %d bytes, or has too many descriptors", maxMessage)
		default:
			err = json.Unmarshal(r.buf[:n], &m)
		}
		if err == nil && (m.Op == opKeep || m.Op == opMount) && len(fds) != 2 {
			err = fmt.Errorf("%s comes with %d descriptors, not 2", m.Op, len(fds))
		}
		if err != nil {
			closeAll(fds)
			return message{}, nil, fmt.Errorf("read a message: %w", err)
		}
		return m, fds, nil
	}
}

func descriptors(rights []byte) ([]int, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	parts, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, p := range parts {
		fds, err := unix.ParseUnixRights(&p)
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, fds...)
	}
	return all, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
