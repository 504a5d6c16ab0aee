package ledisconn

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mediocregopher/radix/v4"
	"github.com/mediocregopher/radix/v4/resp/resp3"

	"github.com/aysfs/aysfs/src/tier"
)

// Options says where a database is.
type Options struct {
	Addrs   []string // host:port; the first that can be reached is used, or tells of the others of a cluster
	Cluster bool     // they are nodes of a redis cluster
	Passwd  string

	Timeout time.Duration // of one call, and of each wait for the network; 0 means 5 s
	Conns   int           // to each node; 0 means 8
}

// Conn is a pool of connections to one database. Commands of many goroutines go
// over the same connections, one behind the other without waiting for the
// answers of those before.
type Conn struct {
	client interface {
		Do(context.Context, radix.Action) error
		Close() error
	}
	opened  *opened
	scan    func(radix.ScannerConfig) radix.Scanner
	ledis   bool
	timeout time.Duration
}

// Dial connects to a database, and finds out which dialect it speaks. Errors,
// here and below, are tier.ErrDenied, tier.ErrUnavailable, or those of a ctx that
// is done.
func Dial(ctx context.Context, opt Options) (*Conn, error) {
	if opt.Timeout <= 0 {
		opt.Timeout = 5 * time.Second
	}
	if opt.Conns <= 0 {
		opt.Conns = 8
	}
	r := &Conn{timeout: opt.Timeout, opened: newOpened(radix.Dialer{
		// No Protocol and no AuthUser: ledis knows neither.
		AuthPass: opt.Passwd, NetDialer: Dialer{Timeout: opt.Timeout, Most: maxArray},
	})}
	pool := radix.PoolConfig{Size: opt.Conns, Dialer: radix.Dialer{CustomConn: r.opened.dial}}
	limited, cancel := context.WithTimeout(ctx, opt.Timeout)
	defer cancel()
	if opt.Cluster {
		c, err := radix.ClusterConfig{PoolConfig: pool}.New(limited, opt.Addrs)
		if err != nil {
			return nil, failed(ctx, "connect to the cluster at "+strings.Join(opt.Addrs, ", "), err)
		}
		r.client = c
		r.scan = func(cfg radix.ScannerConfig) radix.Scanner { return cfg.NewMulti(c) }
		return r, nil // ledis has none
	}
	err := errors.New("no address")
	for _, addr := range opt.Addrs {
		var c radix.Client
		if c, err = pool.New(limited, "tcp", addr); err == nil {
			r.client = c
			r.scan = func(cfg radix.ScannerConfig) radix.Scanner { return cfg.New(c) }
			break
		}
	}
	if err != nil {
		return nil, failed(ctx, "connect to "+strings.Join(opt.Addrs, ", "), err)
	}
	// Nothing has that key. redis has no HCLEAR, which it says to anyone, so it
	// takes another command to see whether we may use it.
	if err = r.client.Do(limited, radix.Cmd(nil, "HLEN", TreePrefix)); err == nil {
		err = r.client.Do(limited, radix.Cmd(nil, "HCLEAR", TreePrefix))
		r.ledis = err == nil
	}
	if err != nil && !strings.Contains(reply(err), "unknown command") {
		return nil, errors.Join(failed(ctx, "ask "+strings.Join(opt.Addrs, ", "), err), r.Close())
	}
	return r, nil
}

// Ledis tells whether it is ledis' dialect that is spoken: it has no empty
// fields, HCLEAR deletes a hash where redis has DEL, HEXPIRE is redis' EXPIRE,
// and XSCAN and XHSCAN stand for SCAN and HSCAN.
func (r *Conn) Ledis() bool { return r.ledis }

// Close closes the connections.
func (r *Conn) Close() error { return errors.Join(r.client.Close(), r.opened.close()) }

// Do runs one command, with a time limit of its own. doing is for the error.
func (r *Conn) Do(ctx context.Context, doing string, rcv any, cmd string, args ...string) error {
	return r.Run(ctx, doing, radix.Cmd(rcv, cmd, args...))
}

// Run is Do for any action, such as a pipeline.
func (r *Conn) Run(ctx context.Context, doing string, a radix.Action) error {
	limited, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return failed(ctx, doing, r.client.Do(limited, a))
}

// Get returns the value of a hash's field, or tier.ErrAbsent. A value of more
// than limit bytes is not read, and is ErrTooLarge.
func (r *Conn) Get(ctx context.Context, doing, key, field string, limit int64) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	// After an error v must not be looked at: an answer that comes late is still
	// read into it.
	v := value{limit: limit}
	err := r.client.Do(limited, radix.Cmd(&v, "HGET", key, field))
	switch {
	case errors.Is(err, ErrTooLarge) && ctx.Err() == nil:
		return nil, fmt.Errorf("%s: %w", doing, err)
	case err != nil:
		return nil, failed(ctx, doing, err)
	case v.null:
		return nil, fmt.Errorf("%s: %w", doing, tier.ErrAbsent)
	}
	return v.data, nil
}

// Set sets a field of a hash.
func (r *Conn) Set(ctx context.Context, doing, key, field string, value []byte) error {
	return r.Run(ctx, doing, radix.FlatCmd(nil, "HSET", key, field, value))
}

// Delete deletes a field of a hash. That there is none is no error.
func (r *Conn) Delete(ctx context.Context, doing, key, field string) error {
	var n int
	return r.Do(ctx, doing, &n, "HDEL", key, field)
}

// Drop deletes a hash.
func (r *Conn) Drop(ctx context.Context, doing, key string) error {
	cmd := "DEL"
	if r.ledis {
		cmd = "HCLEAR" // its DEL says that it did, and deletes nothing
	}
	var n int
	return r.Do(ctx, doing, &n, cmd, key)
}

// Hashes returns the names of the hashes that begin with prefix, which has no
// characters that mean something in a pattern. One may be there twice.
func (r *Conn) Hashes(ctx context.Context, doing, prefix string) ([]string, error) {
	var names []string
	if r.ledis {
		cursor := ""
		for {
			var keys []string
			if err := r.Do(ctx, doing, radix.Tuple{&cursor, &keys}, "XSCAN", "HASH", cursor, "MATCH", "^"+prefix, "COUNT", "100"); err != nil {
				return nil, err
			}
			names = append(names, keys...)
			if cursor == "" {
				return names, nil
			}
		}
	}
	limited, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	sc := r.scan(radix.ScannerConfig{Pattern: prefix + "*", Type: "hash", Count: 1000})
	var key string
	for sc.Next(limited, &key) {
		names = append(names, key)
	}
	if err := sc.Close(); err != nil {
		return nil, failed(ctx, doing, err)
	}
	return names, nil
}

// Refused tells whether err is an answer: the database was reached, and would
// not do what it was asked for.
func Refused(err error) bool { return reply(err) != "" }

// failed says what was to be done. That radix gave up in time is not that the
// caller did.
func failed(ctx context.Context, doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", doing, ctx.Err())
	case strings.HasPrefix(reply(err), "NOAUTH"), strings.HasPrefix(reply(err), "WRONGPASS"), strings.HasPrefix(reply(err), "NOPERM"):
		return fmt.Errorf("%s: %w: %w", doing, tier.ErrDenied, err)
	case Refused(err):
		return fmt.Errorf("%s: %w: %w", doing, tier.ErrUnavailable, err)
	}
	// Its own deadline is not one of the caller.
	return fmt.Errorf("%s: %w: %v", doing, tier.ErrUnavailable, err)
}

func reply(err error) string {
	var e resp3.SimpleError
	if errors.As(err, &e) {
		return e.Error()
	}
	return ""
}
