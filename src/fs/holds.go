package fs

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxHeld bounds how many descriptors of a process are looked at.
const maxHeld = 4096

// holdsDirectory tells whether the process of a thread has a directory at or below
// path open, by proc(5), as find and ls have while they list. It asks the file
// system nothing. One that can't be looked at, as it is in another pid namespace,
// has none.
func holdsDirectory(pid uint32, path string) bool {
	if pid == 0 {
		return false
	}
	fds, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return false
	}
	defer fds.Close()
	names, _ := fds.Readdirnames(maxHeld) // what was read before an error counts
	for _, fd := range names {
		at, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd))
		if err != nil || at != path && !strings.HasPrefix(at, path+"/") {
			continue
		}
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
		if err != nil {
			continue
		}
		for line := range bytes.Lines(info) {
			if octal, ok := bytes.CutPrefix(line, []byte("flags:")); ok {
				flags, _ := strconv.ParseUint(string(bytes.TrimSpace(octal)), 8, 64)
				if flags&unix.O_DIRECTORY != 0 {
					return true
				}
			}
		}
	}
	return false
}
