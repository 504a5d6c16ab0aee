package control

import (
	"os"

	"golang.org/x/sys/unix"
)

// Descriptors tells how many descriptors this process has open, and may have; 0 for
// what can't be told.
func Descriptors() (open, most int64) {
	if dir, err := os.Open("/proc/self/fd"); err == nil {
		names, err := dir.Readdirnames(-1)
		dir.Close()
		if err == nil {
			open = int64(len(names)) - 1 // that of the directory itself
		}
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
		most = int64(min(limit.Cur, 1<<62))
	}
	return open, most
}
