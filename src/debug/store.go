package debug

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"time"

	"github.com/mediocregopher/radix/v4"

	"github.com/aysfs/aysfs/src/tier"
)

const (
	defaultTimeout = 5 * time.Second
	scanCount      = "1000"
	// maxPaths is how many paths of one mount may be changed: more is a mount
	// that should be published, or somebody else's hash.
	maxPaths = 1 << 20
)

// Options say whose changes, and where they are.
type Options struct {
	Addr    string        // host:port of redis
	Passwd  string        // empty: redis asks for none
	Mount   string        // name of the mount
	Client  string        // id of the client, for the log
	Timeout time.Duration // of each wait for redis, not of a whole transfer; 0: 5 s
	Log     *slog.Logger  // told of what is not as the layout wants it; nil: nobody is
}

// Store is the changes of one mount. Its methods may be called side by side.
// Their errors are one of tier's, ErrFormat, or the context's.
type Store struct {
	mount, client       string
	paths, files, lines string // keys
	conns               *conns
	log                 *slog.Logger
	most                int // paths; maxPaths but in tests
}

// New returns the changes of a mount. It does not connect yet: redis may come
// and go.
func New(o Options) *Store {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Store{
		mount: o.Mount, client: o.Client,
		paths: "debug:paths:" + o.Mount, files: "debug:files:" + o.Mount, lines: "debug:log:" + o.Mount,
		conns: newConns(o.Addr, o.Passwd, o.Timeout), log: o.Log.With("op", "debug", "mount", o.Mount),
		most: maxPaths,
	}
}

// Close closes the connections.
func (s *Store) Close() error {
	s.conns.close()
	return nil
}

// Scan calls each for every path that was ever changed, in no order, with
// ErrFormat where what redis has of it is not right. A path that is changed
// while Scan is under way may come twice. An error of each ends it.
func (s *Store) Scan(ctx context.Context, each func(Change, error) error) error {
	var told error
	// A cursor means nothing to a redis that was restarted, so all of it is one
	// call on one connection.
	err := s.conns.use(ctx, "list the changes of "+s.mount, func(c *call) error {
		for seen, cursor := 0, "0"; ; {
			var page []string
			if err := c.do(radix.Tuple{&cursor, &page}, "HSCAN", s.paths, cursor, "COUNT", scanCount); err != nil {
				return err
			}
			c.spent = true
			if seen += len(page) / 2; seen > s.most {
				return fmt.Errorf("%w: more than %d paths", ErrFormat, s.most)
			}
			for i := 0; i+1 < len(page); i += 2 {
				if told = each(parseChange(page[i], page[i+1])); told != nil {
					return nil
				}
			}
			if cursor == "0" {
				return nil
			}
		}
	})
	if told != nil {
		return told
	}
	return err
}

// All returns the changes by path. What is not right is left out, and told to
// the log.
func (s *Store) All(ctx context.Context) (map[string]Change, error) {
	all := make(map[string]Change)
	err := s.Scan(ctx, func(c Change, err error) error {
		if err != nil {
			s.log.Warn("ignoring a change", "err", err)
		} else {
			all[c.Path] = c
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Lookup returns what became of path; ok tells whether it was ever changed.
func (s *Store) Lookup(ctx context.Context, path string) (ch Change, ok bool, err error) {
	var value beginning
	rcv := radix.Maybe{Rcv: &value}
	err = s.conns.use(ctx, fmt.Sprintf("look up %q of %s", path, s.mount), func(c *call) error {
		return c.do(&rcv, "HGET", s.paths, path)
	})
	if err != nil || rcv.Null {
		return Change{}, false, err
	}
	ch, err = parseChange(path, string(value))
	return ch, err == nil, err
}

// LookupAll returns what became of paths, by path, of those that were ever changed, in
// one round trip. What is not right is left out, and told to the log.
func (s *Store) LookupAll(ctx context.Context, paths []string) (map[string]Change, error) {
	values := make([]beginning, len(paths))
	rcvs := make([]radix.Maybe, len(paths))
	err := s.conns.use(ctx, fmt.Sprintf("look up %d paths of %s", len(paths), s.mount), func(c *call) error {
		p := radix.NewPipeline()
		for i, path := range paths {
			values[i] = nil
			rcvs[i] = radix.Maybe{Rcv: &values[i]}
			p.Append(radix.Cmd(&rcvs[i], "HGET", s.paths, path))
		}
		return c.conn.Do(c.ctx, p)
	})
	if err != nil {
		return nil, err
	}
	all := make(map[string]Change)
	for i, path := range paths {
		if rcvs[i].Null {
			continue
		}
		if c, err := parseChange(path, string(values[i])); err != nil {
			s.log.Warn("ignoring a change", "err", err)
		} else {
			all[path] = c
		}
	}
	return all, nil
}

// beginning keeps what is more than enough of a change's value, however long that is.
type beginning []byte

func (v *beginning) Write(b []byte) (int, error) {
	*v = append(*v, b[:min(len(b), 1<<10-len(*v))]...)
	return len(b), nil
}

// Size returns the length in bytes of the content that has an MD5, or
// tier.ErrAbsent.
func (s *Store) Size(ctx context.Context, md5 string) (int64, error) {
	if md5 == EmptyMD5 {
		return 0, nil
	}
	var n int64
	err := s.conns.use(ctx, "look for "+md5+" of "+s.mount, func(c *call) error {
		err := c.do(&n, "HSTRLEN", s.files, md5)
		if err == nil && n == 0 {
			return tier.ErrAbsent
		}
		return err
	})
	return n, err
}

// Copy writes the content that has an MD5 and a size to w. The bytes that were
// written are good only if it returns nil: tier.ErrAbsent where there are none,
// tier.ErrCorrupt where they are not what was asked for.
func (s *Store) Copy(ctx context.Context, w io.Writer, md5sum string, size int64) error {
	if md5sum == EmptyMD5 && size == 0 {
		return nil
	}
	doing := "get " + md5sum + " of " + s.mount
	n, err := s.Size(ctx, md5sum) // else any amount would come
	switch {
	case err != nil:
		return err
	case n != size:
		return fmt.Errorf("%s: %w: it has %d bytes, not %d", doing, tier.ErrCorrupt, n, size)
	}
	return s.conns.use(ctx, doing, func(c *call) error {
		sum := sink{w: w, sum: md5.New(), c: c}
		if err := c.do(&sum, "HGET", s.files, md5sum); err != nil {
			return err
		}
		if got := hex.EncodeToString(sum.sum.Sum(nil)); sum.n != size || got != md5sum {
			return fmt.Errorf("%w: it has %d bytes with the MD5 %s", tier.ErrCorrupt, sum.n, got)
		}
		return nil
	})
}

// sink counts and sums what goes to w. What was written can't be taken back, so
// the call is not repeated then.
type sink struct {
	w   io.Writer
	sum hash.Hash
	n   int64
	c   *call
}

func (s *sink) Write(b []byte) (int, error) {
	s.c.spent = true
	n, err := s.w.Write(b)
	s.n += int64(n)
	s.sum.Write(b[:n])
	return n, err
}

// Content is Copy into memory.
func (s *Store) Content(ctx context.Context, md5 string, size int64) ([]byte, error) {
	var b bytes.Buffer
	if err := s.Copy(ctx, &b, md5, size); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Counts is how much redis keeps of one mount.
type Counts struct {
	Paths, Contents, Entries int64
}

// Count counts what redis keeps.
func (s *Store) Count(ctx context.Context) (Counts, error) {
	var n Counts
	err := s.conns.use(ctx, "count the changes of "+s.mount, func(c *call) error {
		p := radix.NewPipeline()
		p.Append(radix.Cmd(&n.Paths, "HLEN", s.paths))
		p.Append(radix.Cmd(&n.Contents, "HLEN", s.files))
		p.Append(radix.Cmd(&n.Entries, "LLEN", s.lines))
		return c.conn.Do(c.ctx, p)
	})
	return n, err
}

// Clear drops all of the mount's state, the contents and the log included.
func (s *Store) Clear(ctx context.Context) error {
	return s.conns.use(ctx, "clear the changes of "+s.mount, func(c *call) error {
		return c.do(nil, "DEL", s.paths, s.lines, s.files)
	})
}
