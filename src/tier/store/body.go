package store

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/aysfs/aysfs/src/tier"
)

// watched is a body that must keep coming: whenever less than a quota of bytes
// has arrived in the time for it, its request is cancelled.
type watched struct {
	io.Reader
	every time.Duration
	timer *time.Timer
	quota int64 // bytes that must arrive in every
	have  int64 // of it
}

func watch(body io.Reader, every time.Duration, cancel context.CancelCauseFunc) *watched {
	return &watched{
		Reader: body, every: every, quota: max(1, int64(every.Seconds()*minSpeed)),
		timer: time.AfterFunc(every, func() {
			cancel(fmt.Errorf("%w: less than %d bytes a second for %v", ErrStalled, minSpeed, every))
		}),
	}
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if w.have += int64(n); w.have >= w.quota {
		w.goOn()
	}
	return n, err
}

// goOn has the time begin anew.
func (w *watched) goOn() {
	w.have = 0
	w.timer.Reset(w.every)
}

func (w *watched) stop() { w.timer.Stop() }

// firstBuffer is what is made ready for a body of unknown length, in bytes.
const firstBuffer = 64 << 10

// read appends a body to the data. length is what the server says that it has,
// or -1; the whole may have limit bytes.
func (a *answer) read(body io.Reader, length, limit int64) error {
	if length >= 0 {
		a.grow(int64(len(a.data))+length, limit)
	}
	for {
		room := a.data[len(a.data):cap(a.data)]
		var one [1]byte
		if len(room) == 0 {
			room = one[:] // is this the end? Only if it isn't, more room is needed
		}
		n, err := body.Read(room)
		if n > 0 && len(a.data) == cap(a.data) {
			if int64(len(a.data)) >= limit {
				return tooLarge(int64(len(a.data)+n), limit)
			}
			a.grow(max(2*int64(len(a.data)), firstBuffer), limit)
			a.data = append(a.data, one[0])
		} else {
			a.data = a.data[:len(a.data)+n]
		}
		a.arrival.Add(a.data)
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w after %d bytes: %w", tier.ErrUnavailable, ErrBrokenOff, len(a.data), err)
		}
	}
}

// grow makes room for size bytes in all, or for limit if that is less.
func (a *answer) grow(size, limit int64) {
	size = min(size, limit)
	if size <= int64(cap(a.data)) {
		return
	}
	data := make([]byte, len(a.data), size)
	copy(data, a.data)
	a.data = data
}
