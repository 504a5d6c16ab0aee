package debug

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/mediocregopher/radix/v4"
	"github.com/mediocregopher/radix/v4/resp"
	"github.com/mediocregopher/radix/v4/resp/resp3"
)

// File is a change with its content.
type File struct {
	Change
	// Data is the content: Size bytes from offset 0 on. A symlink's is its
	// target. It is not looked at for what was removed or is empty, and may be
	// read more than once.
	Data io.ReaderAt
}

// errChanged says that a content is not what its MD5 says.
var errChanged = errors.New("its content changed while it was sent")

// Record writes changes, all or none of them: the contents, those that redis
// does not have yet, what becomes of the paths, and a log entry for each. A
// rename is one call with the new path and the removal of the old.
//
// When it returns nil, redis has acknowledged all of it. When it fails it may
// still be that all of it is there, because the acknowledgement was lost: to
// repeat it does no harm, but for entries that are in the log twice.
func (s *Store) Record(ctx context.Context, files []File) error {
	if len(files) == 0 {
		return nil
	}
	for _, f := range files {
		err := CheckPath(f.Path)
		if err == nil {
			err = f.check()
		}
		if err == nil && f.Size > 0 && f.Data == nil {
			err = errors.New("it has no content")
		}
		if err != nil {
			return fmt.Errorf("record %.300q of %s: %w: %w", f.Path, s.mount, ErrFormat, err)
		}
	}
	doing := fmt.Sprintf("record %q of %s", files[0].Path, s.mount)
	if more := len(files) - 1; more > 0 {
		doing = fmt.Sprintf("record %q and %d more of %s", files[0].Path, more, s.mount)
	}
	return s.conns.use(ctx, doing, func(c *call) error {
		had, err := s.watch(c, files)
		if err != nil {
			return err
		}
		c.spent = true // by now it is known that the connection is alive
		raced, err := s.exec(c, files, had)
		if raced {
			_, err = s.exec(c, files, nil)
		}
		return err
	})
}

// watch finds the contents that redis has already, and asks it to refuse the
// transaction should they go before it.
func (s *Store) watch(c *call, files []File) (had map[string]bool, err error) {
	p := radix.NewPipeline()
	p.Append(radix.Cmd(nil, "WATCH", s.files))
	sizes := make([]int64, len(files))
	for i, f := range files {
		p.Append(radix.Cmd(&sizes[i], "HSTRLEN", s.files, f.MD5))
	}
	if err := c.conn.Do(c.ctx, p); err != nil {
		return nil, err
	}
	had = make(map[string]bool)
	for i, f := range files {
		// A content of another length is not it, and is written anew. An empty
		// one has the length of none.
		if f.Size > 0 && f.Size == sizes[i] {
			had[f.MD5] = true
		}
	}
	return had, nil
}

// exec sends one transaction with all but the contents in had. raced tells that
// redis refused it, because these have changed.
func (s *Store) exec(c *call, files []File, had map[string]bool) (raced bool, err error) {
	t := &transaction{}
	if len(had) == 0 {
		t.add("UNWATCH")
	}
	t.add("MULTI")
	for _, f := range files {
		if !f.Removed() && !had[f.MD5] {
			t.cmds = append(t.cmds, command{[]string{"HSET", s.files, f.MD5}, &f})
		}
	}
	now := time.Now()
	for _, f := range files {
		t.add("HSET", s.paths, f.Path, f.value())
		t.add("RPUSH", s.lines, Entry{Time: now, Path: f.Path, MD5: f.MD5, Who: s.client}.encode())
	}
	t.add("EXEC")
	err = c.conn.EncodeDecode(c.ctx, t, t)
	return t.raced, err
}

// transaction is commands from MULTI to EXEC, sent in one go, the contents
// straight from where they are.
type transaction struct {
	cmds  []command
	raced bool // refused for what was watched
}

type command struct {
	args []string
	body *File // its content is the last argument; may be nil
}

func (t *transaction) add(args ...string) { t.cmds = append(t.cmds, command{args: args}) }

var (
	_ resp.Marshaler   = (*transaction)(nil)
	_ resp.Unmarshaler = (*transaction)(nil)
)

// MarshalRESP writes the commands. Where it fails no EXEC is written, and the
// connection is closed, so that redis forgets the rest.
func (t *transaction) MarshalRESP(w io.Writer, o *resp.Opts) error {
	for _, cmd := range t.cmds {
		n := len(cmd.args)
		if cmd.body != nil {
			n++
		}
		if err := (resp3.ArrayHeader{NumElems: n}).MarshalRESP(w, o); err != nil {
			return err
		}
		for _, a := range cmd.args {
			if err := (resp3.BlobString{S: a}).MarshalRESP(w, o); err != nil {
				return err
			}
		}
		if cmd.body != nil {
			if err := cmd.body.send(w); err != nil {
				return err
			}
		}
	}
	return nil
}

// send writes the content as a bulk string, and fails if it is not what the MD5
// says.
func (f *File) send(w io.Writer) error {
	if _, err := io.WriteString(w, "$"+strconv.FormatInt(f.Size, 10)+"\r\n"); err != nil {
		return err
	}
	if f.Size > 0 {
		sum := md5.New()
		_, err := io.CopyN(io.MultiWriter(w, sum), io.NewSectionReader(f.Data, 0, f.Size), f.Size)
		if err != nil && err != io.EOF {
			return err
		}
		if err == io.EOF || hex.EncodeToString(sum.Sum(nil)) != f.MD5 {
			return errChanged
		}
	}
	_, err := io.WriteString(w, "\r\n")
	return err
}

// UnmarshalRESP reads all replies, and returns the first that is an error.
func (t *transaction) UnmarshalRESP(br resp.BufferedReader, o *resp.Opts) error {
	var failed error
	read := func() error {
		err := resp3.Unmarshal(br, nil, o)
		if err != nil && !errors.As(err, new(resp.ErrConnUsable)) {
			return err
		}
		if failed == nil {
			failed = err
		}
		return nil
	}
	for range len(t.cmds) - 1 {
		if err := read(); err != nil {
			return err
		}
	}
	kind, err := br.Peek(3)
	switch {
	case err != nil:
		return err
	case string(kind) == "*-1":
		t.raced = true
		if err := read(); err != nil {
			return err
		}
	case kind[0] != '*':
		if err := read(); err != nil {
			return err
		}
	default:
		var replies resp3.ArrayHeader
		if err := replies.UnmarshalRESP(br, o); err != nil {
			return err
		}
		for range replies.NumElems {
			if err := read(); err != nil {
				return err
			}
		}
	}
	return failed
}
