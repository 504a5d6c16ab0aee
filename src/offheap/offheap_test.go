package offheap

import (
	"bytes"
	"os"
	"strconv"
	"testing"
)

func resident(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(string(bytes.Fields(b)[1]))
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

func TestMakeAndFree(t *testing.T) {
	const n = 32 << 20
	before := resident(t)
	s, err := Make[uint32](n)
	if err != nil {
		t.Fatal(err)
	}
	for i := range s {
		if s[i] != 0 {
			t.Fatalf("%d at %d", s[i], i)
		}
		s[i] = uint32(i)
	}
	if got := resident(t) - before; got < 4*n {
		t.Errorf("%d bytes more are resident, want %d", got, 4*n)
	}
	Free(s)
	if got := resident(t) - before; got > 4*n/2 {
		t.Errorf("%d bytes are still resident", got)
	}
}

func TestTooMuch(t *testing.T) {
	if _, err := Make[uint64](1 << 28 << (^uint(0) >> 63 * 19)); err == nil {
		t.Error("there is memory for anything")
	}
}
