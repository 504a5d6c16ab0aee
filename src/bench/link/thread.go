package link

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Thread runs functions on one thread of its own: a network namespace is a
// thread's, and what is opened or started there belongs to it.
type Thread struct{ calls chan func() }

// NewThread returns a thread in the namespaces of this process.
func NewThread() *Thread {
	t := &Thread{make(chan func())}
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		for f := range t.calls {
			f()
		}
	}()
	return t
}

// NewNamespace returns a thread in a network namespace of its own, which has
// nothing in it.
func NewNamespace() (*Thread, error) {
	t := NewThread()
	err := t.Do(func() error { return unix.Unshare(unix.CLONE_NEWNET) })
	if err != nil {
		t.End()
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	return t, nil
}

// Do runs f there and waits for it.
func (t *Thread) Do(f func() error) error {
	result := make(chan error)
	t.calls <- func() { result <- f() }
	return <-result
}

// End ends the thread, and with it what was started there to die with its
// parent. Do must not be called any more.
func (t *Thread) End() { close(t.calls) }
