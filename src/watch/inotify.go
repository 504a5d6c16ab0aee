package watch

import (
	"bytes"
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// event is what the kernel tells of one name in a watched directory.
type event struct {
	mask uint32
	name string
}

// read sends what f tells until it is closed, and then closes events.
func read(f *os.File, events chan<- []event) {
	defer close(events)
	buf := make([]byte, 64<<10)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		if batch := parse(buf[:n]); len(batch) > 0 {
			events <- batch
		}
	}
}

// parse reads inotify_event structs: wd, mask, cookie and the length of the name,
// which follows with zeros behind it.
func parse(b []byte) (batch []event) {
	for len(b) >= unix.SizeofInotifyEvent {
		size := binary.NativeEndian.Uint32(b[12:])
		mask := binary.NativeEndian.Uint32(b[4:])
		b = b[unix.SizeofInotifyEvent:]
		n := min(int(size), len(b))
		name, _, _ := bytes.Cut(b[:n], []byte{0})
		batch = append(batch, event{mask, string(name)})
		b = b[n:]
	}
	return batch
}
