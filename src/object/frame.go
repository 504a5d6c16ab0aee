package object

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/aysfs/aysfs/src/digest"
)

// Many blobs are asked for at once with a text of their digests in hex, one a
// line. The answer is frames in any order, one for each digest asked for:
//
//	digest  32 bytes
//	status   1 byte
//	length   4 bytes, big-endian
//	stored   so many bytes: the blob in stored form; none unless status is FrameBlob
//
// There is no end mark: who has counted fewer frames than digests has been cut off.

// FrameStatus says what came of one digest.
type FrameStatus uint8

// What can come of a digest.
const (
	FrameBlob        FrameStatus = iota // here it is
	FrameAbsent                         // there is no such blob, or none for whoever asks
	FrameUnavailable                    // whether there is could not be found out
	FrameStarted                        // it is being fetched: come back for it
)

func (s FrameStatus) String() string {
	names := [...]string{"blob", "absent", "unavailable", "started"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("status(%d)", uint8(s))
}

// FrameHeader is the length of a frame without its blob, in bytes.
const FrameHeader = digest.Size + 1 + 4

// FrameType is the content type of frames.
const FrameType = "application/vnd.aysfs.frames"

// Frame is the answer for one digest.
type Frame struct {
	Digest digest.Digest
	Status FrameStatus
	Stored []byte // not verified
}

// AppendFrameHeader appends all of a frame but its blob, which has length bytes.
func AppendFrameHeader(b []byte, d digest.Digest, s FrameStatus, length int) []byte {
	b = append(b, d[:]...)
	b = append(b, byte(s))
	return binary.BigEndian.AppendUint32(b, uint32(length))
}

// ReadFrame reads the next frame, whose blob may have limit bytes. It is io.EOF
// where there is none, and io.ErrUnexpectedEOF where there is half a one.
// Whatever the length says, no more than MaxBlob is allocated before it comes.
func ReadFrame(r io.Reader, limit int64) (Frame, error) {
	var f Frame
	var h [FrameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return f, err
	}
	copy(f.Digest[:], h[:])
	f.Status = FrameStatus(h[digest.Size])
	n := int64(binary.BigEndian.Uint32(h[digest.Size+1:]))
	switch {
	case f.Status > FrameStarted:
		return f, malformed("frame of %s: %v", f.Digest.Short(), f.Status)
	case f.Status != FrameBlob && n != 0:
		return f, malformed("frame of %s: %v with %d bytes", f.Digest.Short(), f.Status, n)
	case n > limit:
		return f, fmt.Errorf("%w: %w", malformed("frame of %s: %d bytes, at most %d", f.Digest.Short(), n, limit), ErrTooLarge)
	case f.Status != FrameBlob:
		return f, nil
	}
	stored := bytes.NewBuffer(make([]byte, 0, min(n, MaxBlob)+bytes.MinRead)) // grows no further than what comes
	got, err := io.CopyN(stored, r, n)
	if errors.Is(err, io.EOF) && got < n {
		err = io.ErrUnexpectedEOF
	}
	f.Stored = stored.Bytes()
	return f, err
}

// AppendWant appends a digest to a text that asks for many.
func AppendWant(b []byte, d digest.Digest) []byte { return append(append(b, d.String()...), '\n') }

// ParseWants reads a text that asks for up to most digests. Lines may end in
// CRLF, and the last one without; each digest counts once, however often it is
// there.
func ParseWants(text []byte, most int) ([]digest.Digest, error) {
	var wants []digest.Digest
	seen := make(map[digest.Digest]bool)
	for line := range bytes.Lines(text) {
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(line) == 0 {
			continue
		}
		d, err := digest.Parse(string(line))
		if err != nil {
			return nil, malformed("digest %d: %v", len(wants)+1, err)
		}
		if seen[d] {
			continue
		}
		if len(wants) == most {
			return nil, fmt.Errorf("%w: %w", malformed("more than %d digests", most), ErrTooLarge)
		}
		seen[d] = true
		wants = append(wants, d)
	}
	return wants, nil
}
