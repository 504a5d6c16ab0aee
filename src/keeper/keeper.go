package keeper

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Keeper holds the mounts.
type Keeper struct {
	mu   sync.Mutex
	held map[string]Mount // by path
}

// New returns a keeper that holds nothing.
func New() *Keeper { return &Keeper{held: make(map[string]Mount)} }

// Paths tells which mounts are held.
func (k *Keeper) Paths() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Keys(k.held))
}

// Abandon lets go of all mounts. Where no worker has them either the kernel ends
// them: who waits for an answer gets an error, and so does everybody after that.
func (k *Keeper) Abandon() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for path, m := range k.held {
		m.Close()
		delete(k.held, path)
	}
}

// Line is the keeper's end to one worker.
type Line struct {
	k      *Keeper
	socket int
	said   chan Word
}

// Word is what a worker says of itself.
type Word struct {
	Standby bool   // it waits for its turn
	Serving bool   // it serves what it was given
	Busy    string // why it can't let go
	Alive   bool   // the answer to a ping
}

// NewLine makes a line, and the file of its other end, for the worker to inherit.
// The caller closes that once the worker has been started.
func (k *Keeper) NewLine() (*Line, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a line to a worker: %w", err)
	}
	l := &Line{k, pair[0], make(chan Word, 16)}
	go l.listen()
	return l, os.NewFile(uintptr(pair[1]), "line"), nil
}

// Said has what the worker says, and is closed when it has ended and all that it
// ever said has been dealt with.
func (l *Line) Said() <-chan Word { return l.said }

func (l *Line) listen() {
	defer close(l.said)
	defer unix.Close(l.socket)
	r := newReceiver(l.socket)
	for {
		m, fds, err := r.next()
		if err != nil {
			return
		}
		switch m.Op {
		case opStandby:
			l.said <- Word{Standby: true}
		case opServing:
			l.said <- Word{Serving: true}
		case opAlive:
			l.said <- Word{Alive: true}
		case opBusy:
			l.said <- Word{Busy: m.Text}
		default:
			l.k.take(m, fds)
		}
	}
}

// take does what a message about a mount says.
func (k *Keeper) take(m message, fds []int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	was, ok := k.held[m.Path]
	switch m.Op {
	case opKeep:
		if ok {
			was.Close()
		}
		k.held[m.Path] = Mount{m.Path, fds[0], fds[1], m.State}
	case opState:
		if ok {
			was.State = m.State
			k.held[m.Path] = was
		}
	case opDrop:
		if ok {
			was.Close()
			delete(k.held, m.Path)
		}
	default:
		closeAll(fds)
	}
}

// Hand gives the worker all mounts: it is its turn. It does not wait for it.
func (l *Line) Hand(news News) {
	l.k.mu.Lock()
	var all []message
	var fds [][]int
	for _, m := range l.k.held {
		dev, err := dup(m.Dev)
		if err != nil {
			continue // the worker makes that one afresh
		}
		table, err := dup(m.Table)
		if err != nil {
			unix.Close(dev)
			continue
		}
		all = append(all, message{Op: opMount, Path: m.Path, State: m.State})
		fds = append(fds, []int{dev, table})
	}
	l.k.mu.Unlock()
	go func() {
		for i, m := range all {
			send(l.socket, m, fds[i]...) // one that fails has ended
			closeAll(fds[i])
		}
		send(l.socket, message{Op: opGo, News: &news})
	}()
}

func dup(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3) }

// Release asks the worker to let go of everything and to end.
func (l *Line) Release() error { return send(l.socket, message{Op: opRelease}) }

// Ping asks the worker for a sign of life.
func (l *Line) Ping() error { return send(l.socket, message{Op: opPing}) }
