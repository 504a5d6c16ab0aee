package main

import (
	"net/netip"
	"runtime"
)

// thread runs functions on one thread of its own: a network namespace is a
// thread's, and what is opened or started there belongs to it.
type thread struct{ calls chan func() }

func newThread() *thread {
	t := &thread{make(chan func())}
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		for f := range t.calls {
			f()
		}
	}()
	return t
}

func (t *thread) do(f func() error) error {
	result := make(chan error)
	t.calls <- func() { result <- f() }
	return <-result
}

func (t *thread) end() { close(t.calls) }

func ip4(s string) []byte { return netip.MustParseAddr(s).AsSlice() }
