package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil
}

// statusLine is a line on a terminal that is written over and over.
type statusLine struct{ w io.Writer }

// set shows text, cut to a line of an ordinary terminal.
func (s statusLine) set(text string) { fmt.Fprintf(s.w, "\r%.79s\x1b[K", text) }

// clear removes the line.
func (s statusLine) clear() { fmt.Fprint(s.w, "\r\x1b[K") }

// byteSize is a size for people.
func byteSize(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if f /= 1 << 10; f < 1000 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

// timeLeft guesses from what was done in elapsed how long the rest takes.
func timeLeft(done, total int64, elapsed time.Duration) string {
	if done <= 0 || total < done {
		return ""
	}
	left := time.Duration(float64(elapsed) * float64(total-done) / float64(done))
	return left.Round(time.Second).String() + " left"
}
