package fs

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// outSignals are those that people and supervisors end a program with. One of
// them pending ends a wait, whether the program handles it or dies of it.
const outSignals = 1<<(unix.SIGHUP-1) | 1<<(unix.SIGINT-1) | 1<<(unix.SIGQUIT-1) | 1<<(unix.SIGKILL-1) | 1<<(unix.SIGTERM-1)

// wantsOut tells whether a thread has a signal pending that should end its wait,
// by proc(5). A thread that is gone wants out too. One that can't be looked at,
// as it is in another pid namespace, is taken to want out: it was interrupted,
// after all.
func wantsOut(pid uint32) bool {
	if pid == 0 {
		return true
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return true
	}
	var pending uint64
	for line := range bytes.Lines(status) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		switch string(key) {
		case "SigPnd", "ShdPnd":
			n, _ := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
			pending |= n
		}
	}
	return pending&outSignals != 0
}
