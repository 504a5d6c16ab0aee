package ledisbolt

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resident tells whether size bytes at addr, in a file's map, are in memory, so
// that looking at them waits for no disk.
func resident(addr uintptr, size int64) bool {
	const most = 512 // pages asked for in one call
	var vec [most]byte
	system := uintptr(os.Getpagesize())
	first := addr &^ (system - 1)
	left := (addr + uintptr(size) - first + system - 1) / system
	for left > 0 {
		n := min(left, most)
		_, _, errno := unix.Syscall(unix.SYS_MINCORE, first, n*system, uintptr(unsafe.Pointer(&vec[0])))
		if errno != 0 {
			return false
		}
		for _, in := range vec[:n] {
			if in&1 == 0 {
				return false
			}
		}
		first += n * system
		left -= n
	}
	return true
}
