package keeper

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// Link is a worker's end to its keeper.
type Link struct {
	socket int
	in     *receiver

	released chan struct{}
}

// Inherited is the link that a worker was started with, as descriptor fd.
func Inherited(fd int) (*Link, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_SEQPACKET {
		return nil, errors.New("only a keeper starts a worker: run it with the word supervise")
	}
	unix.CloseOnExec(fd)
	return &Link{socket: fd, in: newReceiver(fd), released: make(chan struct{}, 1)}, nil
}

// Take tells the keeper that this worker could serve, waits for its turn, and
// returns the mounts that are alive, which are the caller's.
func (l *Link) Take() (News, []Mount, error) {
	var mounts []Mount
	err := send(l.socket, message{Op: opStandby})
	for err == nil {
		var m message
		var fds []int
		if m, fds, err = l.in.next(); err != nil {
			break
		}
		switch m.Op {
		case opMount:
			mounts = append(mounts, Mount{m.Path, fds[0], fds[1], m.State})
		case opGo:
			var news News
			if m.News != nil {
				news = *m.News
			}
			go l.listen()
			return news, mounts, nil
		case opRelease:
			err = io.EOF
		default:
			closeAll(fds)
		}
	}
	for _, m := range mounts {
		m.Close()
	}
	return News{}, nil, fmt.Errorf("wait for what the keeper has: %w", err)
}

// Released has a value whenever this worker is to let go. That the keeper is
// gone says nothing: the kernel's signal tells that.
func (l *Link) Released() <-chan struct{} { return l.released }

func (l *Link) listen() {
	for {
		m, fds, err := l.in.next()
		if err != nil {
			return
		}
		closeAll(fds)
		switch m.Op {
		case opRelease:
			select {
			case l.released <- struct{}{}:
			default: // it knows
			}
		case opPing:
			if send(l.socket, message{Op: opAlive}) != nil {
				return
			}
		}
	}
}

// Serving tells that the mounts that were taken are served.
func (l *Link) Serving() error { return send(l.socket, message{Op: opServing}) }

// Busy tells why this worker does not let go.
func (l *Link) Busy(why string) error { return send(l.socket, message{Op: opBusy, Text: why}) }

// Keep gives the keeper a mount, whose descriptors it gets copies of.
func (l *Link) Keep(path string, dev, table int, state []byte) error {
	return send(l.socket, message{Op: opKeep, Path: path, State: state}, dev, table)
}

// Change replaces what is kept of what a mount shows.
func (l *Link) Change(path string, state []byte) error {
	return send(l.socket, message{Op: opState, Path: path, State: state})
}

// Drop has the keeper let go of a mount.
func (l *Link) Drop(path string) error { return send(l.socket, message{Op: opDrop, Path: path}) }
