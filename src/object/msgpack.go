package object

import (
	"encoding/binary"

	"github.com/tinylib/msgp/msgp"
)

// The heads of a MessagePack string and of bytes with a length of 32 bits.
const (
	str32 = 0xdb
	bin32 = 0xc6
)

// ReadBytes is msgp.ReadBytesZC for bytes that may come from anyone: where an int
// has 32 bits, that takes a length above 2 GiB for a negative one, and panics.
func ReadBytes(b []byte) (v, rest []byte, err error) {
	if overlong(b, bin32) {
		return nil, b, msgp.ErrShortBytes
	}
	return msgp.ReadBytesZC(b)
}

// readString is msgp.ReadStringZC in the same way.
func readString(b []byte) (v, rest []byte, err error) {
	if overlong(b, str32) {
		return nil, b, msgp.ErrShortBytes
	}
	return msgp.ReadStringZC(b)
}

// overlong tells whether b starts with a head of that kind whose length is more
// than what follows.
func overlong(b []byte, head byte) bool {
	return len(b) >= 5 && b[0] == head && uint64(binary.BigEndian.Uint32(b[1:])) > uint64(len(b)-5)
}
