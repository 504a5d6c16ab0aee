package offheap

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Make returns n zero values, of a type without pointers. They stay until Free.
func Make[T any](n int) ([]T, error) {
	var zero T
	mem, err := unix.Mmap(-1, 0, n*int(unsafe.Sizeof(zero)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map a table: %w", err)
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&mem[0])), n), nil
}

// Free gives back what Make returned. Nobody may look at it any more.
func Free[T any](s []T) {
	// It fails only for what Make did not return.
	_ = unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0]))))
}
