package ledisconn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/mediocregopher/radix/v4/resp"
	"github.com/mediocregopher/radix/v4/resp/resp3"
)

// ErrTooLarge says that a value has more bytes than it may have.
var ErrTooLarge = errors.New("larger than its limit")

// value receives a string of up to limit bytes, or null, into memory of just its
// size. What is larger is not read: the connection ends with it.
type value struct {
	limit int64

	data []byte
	null bool
	size int64 // as announced
}

func (v *value) UnmarshalRESP(br resp.BufferedReader, o *resp.Opts) error {
	prefix, err := br.Peek(1)
	if err != nil {
		return err
	}
	if resp3.Prefix(prefix[0]) != resp3.BlobStringPrefix {
		if err := resp3.Unmarshal(br, nil, o); err != nil {
			return err
		}
		return resp.ErrConnUsable{Err: fmt.Errorf("the answer begins with %q and is no string", prefix[0])}
	}
	line, err := br.ReadSlice('\n')
	if err != nil {
		return err
	}
	v.size, err = strconv.ParseInt(string(bytes.TrimSuffix(line[1:], []byte("\r\n"))), 10, 64)
	switch {
	case err != nil || v.size < -1:
		return fmt.Errorf("the answer begins with %q, which is no length", line)
	case v.size == -1:
		v.null = true
		return nil
	case v.size > v.limit:
		return fmt.Errorf("%w: %d bytes, limit is %d", ErrTooLarge, v.size, v.limit)
	}
	v.data = make([]byte, v.size)
	if _, err := io.ReadFull(br, v.data); err != nil {
		return err
	}
	_, err = br.Discard(len("\r\n"))
	return err
}
