package object

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/aysfs/aysfs/src/digest"
)

// MaxMetadata is the most that any catalog or index may claim as its plain
// size in bytes, whatever a head says.
const MaxMetadata = 256 << 20

// ErrTooLarge goes along with what is wrong with an object that has more bytes
// than it was asked for with: asked for with a higher limit it may be right.
var ErrTooLarge = errors.New("larger than its limit")

var errNoRoom = errors.New("there is no room for it")

var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd} // RFC 8878, 3.1.1

// Codec turns blobs into their stored form and back. It may be used by many
// goroutines at once; of large blobs it unpacks one after the other.
type Codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
	// large is held while something large is unpacked: whoever has many such things
	// asked for at once would take the memory for all of them.
	large sync.Mutex
}

// sizeLarge is beyond all but the catalogs of directories with very many names, in
// plain bytes.
const sizeLarge = 4 * MaxBlob

// decodeSpare is how much longer than what comes out a buffer must be for the decoder
// to copy sixteen bytes at a time, and not to look at each copy's end.
const decodeSpare = 16

// NewCodec returns a codec that works on up to threads blobs at a time; more
// callers wait.
func NewCodec(threads int) (*Codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(threads), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(MaxBlob), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("make a zstd encoder: %w", err)
	}
	dec, err := newDecoder(threads)
	if err != nil {
		return nil, err
	}
	return &Codec{enc: enc, dec: dec}, nil
}

func newDecoder(threads int) (*zstd.Decoder, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(threads), zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(MaxMetadata), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		return nil, fmt.Errorf("make a zstd decoder: %w", err)
	}
	return dec, nil
}

// Pack returns the stored form of a blob: compressed when that saves at least
// a sixteenth, else plain itself. buf, if large enough, holds the result.
func (c *Codec) Pack(plain, buf []byte) []byte {
	if len(plain) < 64 {
		return plain
	}
	packed := c.enc.EncodeAll(plain, buf[:0])
	if len(packed) <= len(plain)-len(plain)/16 {
		return packed
	}
	return plain
}

// Compressed tells whether stored may be zstd. Plain content may look the same:
// only the digest decides.
func Compressed(stored []byte) bool { return bytes.HasPrefix(stored, zstdMagic) }

// Unpack returns the plain bytes of a stored blob, checked against its digest.
// What would be larger than limit bytes is refused before it is unpacked. A
// digest that doesn't fit is digest.ErrMismatch. The result may be stored itself.
func (c *Codec) Unpack(d digest.Digest, stored []byte, limit int64) ([]byte, error) {
	return c.UnpackTo(d, stored, limit, func(n int) []byte { return make([]byte, 0, n) })
}

// UnpackTo is Unpack to what room returns for a number of bytes, which is a little more
// than there will be, and is called once at most; where that is nil, there is no result. Where it
// is not known how many there will be, the result lies elsewhere.
func (c *Codec) UnpackTo(d digest.Digest, stored []byte, limit int64, room func(n int) []byte) ([]byte, error) {
	if !Compressed(stored) {
		if int64(len(stored)) <= limit && d.Check(stored) == nil {
			return stored, nil
		}
		return nil, fmt.Errorf("%d bytes: %w", len(stored), digest.ErrMismatch)
	}
	// It nearly always is, and then what is stored need not be hashed.
	plain, err := c.unpack(d, stored, limit, room)
	if err != nil && int64(len(stored)) <= limit && d.Check(stored) == nil {
		return stored, nil
	}
	return plain, err
}

// unpack is Unpack for what has been compressed.
func (c *Codec) unpack(d digest.Digest, stored []byte, limit int64, room func(n int) []byte) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(stored); err != nil {
		return nil, fmt.Errorf("zstd header: %w (%w)", digest.ErrMismatch, err)
	}
	var plain []byte
	var err error
	if h.HasFCS {
		if h.FrameContentSize > uint64(limit) {
			return nil, fmt.Errorf("unpacks to %d bytes, limit is %d: %w: %w", h.FrameContentSize, limit, digest.ErrMismatch, ErrTooLarge)
		}
		plain, err = c.decode(stored, int64(h.FrameContentSize), room)
	} else {
		plain, err = c.decodeUnsized(stored, limit, room)
	}
	if err != nil {
		return nil, fmt.Errorf("zstd: %w (%w)", digest.ErrMismatch, err)
	}
	if err := d.Check(plain); err != nil {
		return nil, fmt.Errorf("%d bytes, unpacked from %d: %w", len(plain), len(stored), err)
	}
	return plain, nil
}

// unsized is how many bytes are tried with first where it is not known how many there
// will be.
const unsized = 32 << 10

// decodeUnsized decodes a frame that does not say its size, as none of less than 256
// bytes does. Most are that small, so there is not room for limit bytes at once.
func (c *Codec) decodeUnsized(stored []byte, limit int64, room func(n int) []byte) ([]byte, error) {
	size := min(16*int64(len(stored)), unsized, limit)
	plain, err := c.decode(stored, size, func(n int) []byte { return make([]byte, 0, n) })
	if err != nil && size < limit { // the decoder has several errors for too little room
		plain, err = c.decode(stored, limit, room)
	}
	return bytes.Clone(plain), err // rather than hold on to what there was room for
}

// decode decodes up to size bytes.
func (c *Codec) decode(stored []byte, size int64, room func(n int) []byte) ([]byte, error) {
	dec := c.dec
	if size > sizeLarge {
		c.large.Lock()
		defer c.large.Unlock()
		// A decoder holds on to the last bytes that it made: these are to go.
		var err error
		if dec, err = newDecoder(1); err != nil {
			return nil, err
		}
		defer dec.Close()
	}
	want := int(size) + decodeSpare
	into := room(want)
	if into == nil {
		return nil, errNoRoom
	}
	plain, err := dec.DecodeAll(stored, into[:0:want])
	if err == nil && int64(len(plain)) > size {
		err = ErrTooLarge
	}
	return plain, err
}
