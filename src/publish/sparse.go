package publish

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// sparseReader reads a file from its start without asking the system for the
// zeros of its holes.
type sparseReader struct {
	fd        int
	at        int64
	data, end int64 // what is known: a hole from at to data, then data up to end
}

func (r *sparseReader) Read(b []byte) (int, error) {
	if r.at >= r.end {
		if err := r.find(); err != nil {
			return 0, err
		}
	}
	if hole := r.data - r.at; hole > 0 {
		n := int(min(int64(len(b)), hole))
		clear(b[:n])
		r.at += int64(n)
		return n, nil
	}
	n, err := bareFile(r.fd).readAt(b[:min(int64(len(b)), r.end-r.at)], r.at)
	r.at += int64(n)
	return n, err
}

// find looks for the next data at or behind at.
func (r *sparseReader) find() error {
	data, seekErr := unix.Seek(r.fd, r.at, unix.SEEK_DATA)
	if seekErr != nil {
		st, err := fstatFD(r.fd)
		if err != nil {
			return err
		}
		if r.at >= st.Size {
			return io.EOF
		}
		r.data, r.end = r.at, st.Size // no such call on this file system: all is data
		if errors.Is(seekErr, unix.ENXIO) {
			r.data = st.Size // a hole up to the end
		}
		return nil
	}
	end, err := unix.Seek(r.fd, data, unix.SEEK_HOLE)
	if err != nil {
		return wrapErrno("seek", err)
	}
	r.data, r.end = data, end
	return nil
}

var zeros [object.MaxChunk]byte

// zeroChunk is the largest chunk there is, all zeros, which a sparse file has
// many of: once stored, its digest is known.
type zeroChunk struct {
	once   sync.Once
	digest digest.Digest
	err    error
}

// put stores the chunk if it is such a one.
func (z *zeroChunk) put(s target, chunk []byte) (digest.Digest, bool, error) {
	if len(chunk) != len(zeros) || !bytes.Equal(chunk, zeros[:]) {
		return digest.Digest{}, false, nil
	}
	z.once.Do(func() { z.digest, z.err = s.put(chunk) })
	return z.digest, true, z.err
}
