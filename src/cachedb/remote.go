package cachedb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/mediocregopher/radix/v4"
	"github.com/mediocregopher/radix/v4/resp/resp3"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/ledisbolt"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// RemoteOptions says where a remote database is.
type RemoteOptions struct {
	Addrs   []string // host:port; the first that can be reached is used, or tells of the others of a cluster
	Cluster bool     // they are nodes of a redis cluster
	Passwd  string

	Timeout time.Duration // of one call, and of each wait for the network; 0 means 5 s
	Conns   int           // to each node; 0 means 8
}

// Remote is a DB over the Redis protocol. A blob's domain is one hash, so in a
// cluster it is on one node.
type Remote struct {
	client interface {
		Do(context.Context, radix.Action) error
		Close() error
	}
	scan    func(radix.ScannerConfig) radix.Scanner
	dialect dialect
	timeout time.Duration
}

var _ DB = (*Remote)(nil)

// dialect is what differs between ledis and redis.
type dialect struct {
	ledis bool
}

func (d dialect) headField() string {
	if d.ledis {
		return LedisHeadField
	}
	return HeadField
}

// clear is the command that deletes a hash. ledis' DEL says that it did, and
// deletes nothing.
func (d dialect) clear() string {
	if d.ledis {
		return "HCLEAR"
	}
	return "DEL"
}

// Dial connects to a remote database, and finds out which dialect it speaks.
func Dial(ctx context.Context, opt RemoteOptions) (*Remote, error) {
	if opt.Timeout <= 0 {
		opt.Timeout = 5 * time.Second
	}
	if opt.Conns <= 0 {
		opt.Conns = 8
	}
	r := &Remote{timeout: opt.Timeout}
	pool := radix.PoolConfig{Size: opt.Conns, Dialer: radix.Dialer{
		// No Protocol and no AuthUser: ledis knows neither.
		AuthPass: opt.Passwd, NetDialer: dialer{opt.Timeout},
	}}
	limited, cancel := context.WithTimeout(ctx, opt.Timeout)
	defer cancel()
	if opt.Cluster {
		c, err := radix.ClusterConfig{PoolConfig: pool}.New(limited, opt.Addrs)
		if err != nil {
			return nil, r.failed(ctx, "connect to the cluster at "+strings.Join(opt.Addrs, ", "), err)
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
		return nil, r.failed(ctx, "connect to "+strings.Join(opt.Addrs, ", "), err)
	}
	// Nothing has that key. redis has no HCLEAR, which it says to anyone, so it
	// takes another command to see whether we may use it.
	if err = r.client.Do(limited, radix.Cmd(nil, "HLEN", treePrefix)); err == nil {
		err = r.client.Do(limited, radix.Cmd(nil, "HCLEAR", treePrefix))
		r.dialect.ledis = err == nil
	}
	if err != nil && !strings.Contains(reply(err), "unknown command") {
		return nil, errors.Join(r.failed(ctx, "ask "+strings.Join(opt.Addrs, ", "), err), r.client.Close())
	}
	return r, nil
}

// Close closes the connections.
func (r *Remote) Close() error { return r.client.Close() }

// do runs one command, with a time limit of its own.
func (r *Remote) do(ctx context.Context, doing string, rcv any, cmd string, args ...string) error {
	limited, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return r.failed(ctx, doing, r.client.Do(limited, radix.Cmd(rcv, cmd, args...)))
}

// failed says what was to be done. That radix gave up in time is not that the
// caller did.
func (r *Remote) failed(ctx context.Context, doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", doing, ctx.Err())
	case strings.HasPrefix(reply(err), "NOAUTH"), strings.HasPrefix(reply(err), "WRONGPASS"), strings.HasPrefix(reply(err), "NOPERM"):
		return fmt.Errorf("%s: %w: %w", doing, tier.ErrDenied, err)
	}
	return fmt.Errorf("%s: %w: %v", doing, tier.ErrUnavailable, err)
}

func reply(err error) string {
	var e resp3.SimpleError
	if errors.As(err, &e) {
		return e.Error()
	}
	return ""
}

func (r *Remote) get(ctx context.Context, doing, key, field string) ([]byte, error) {
	var v []byte
	rcv := radix.Maybe{Rcv: &v}
	if err := r.do(ctx, doing, &rcv, "HGET", key, field); err != nil {
		return nil, err
	}
	if rcv.Null {
		return nil, fmt.Errorf("%s: %w", doing, tier.ErrAbsent)
	}
	return v, nil
}

func (r *Remote) set(ctx context.Context, doing, key, field string, value []byte) error {
	var n int
	return r.do(ctx, doing, &n, "HSET", key, field, string(value))
}

func (r *Remote) del(ctx context.Context, doing, key, field string) error {
	var n int
	return r.do(ctx, doing, &n, "HDEL", key, field)
}

func (r *Remote) drop(ctx context.Context, doing, key string) error {
	var n int
	return r.do(ctx, doing, &n, r.dialect.clear(), key)
}

func (r *Remote) Blob(ctx context.Context, domain string, d digest.Digest) (tier.Blob, error) {
	v, err := r.get(ctx, "get blob "+d.Short()+" of "+domain, FilesKey(domain), d.String())
	if err != nil {
		return tier.Blob{}, err
	}
	return tier.NewBlob(v, nil), nil
}

func (r *Remote) HasBlob(ctx context.Context, domain string, d digest.Digest) (bool, error) {
	var n int
	err := r.do(ctx, "look for blob "+d.Short()+" of "+domain, &n, "HEXISTS", FilesKey(domain), d.String())
	return n > 0, err
}

func (r *Remote) PutBlob(ctx context.Context, domain string, d digest.Digest, stored []byte) error {
	if ok, err := r.HasBlob(ctx, domain, d); ok || err != nil {
		return err
	}
	return r.set(ctx, "put blob "+d.Short()+" of "+domain, FilesKey(domain), d.String(), stored)
}

func (r *Remote) DeleteBlob(ctx context.Context, domain string, d digest.Digest) error {
	return r.del(ctx, "delete blob "+d.Short()+" of "+domain, FilesKey(domain), d.String())
}

func (r *Remote) Domains(ctx context.Context) ([]string, error) {
	const doing = "list domains"
	var names []string
	add := func(key string) {
		if name, ok := strings.CutPrefix(key, ledisbolt.HashPrefix); ok && name != "" && object.ValidateDomain(name) == nil {
			names = append(names, name)
		}
	}
	if r.dialect.ledis {
		cursor := ""
		for {
			var keys []string
			if err := r.do(ctx, doing, radix.Tuple{&cursor, &keys}, "XSCAN", "HASH", cursor, "MATCH", "^"+ledisbolt.HashPrefix, "COUNT", "100"); err != nil {
				return nil, err
			}
			for _, k := range keys {
				add(k)
			}
			if cursor == "" {
				return sorted(names), nil
			}
		}
	}
	limited, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	sc := r.scan(radix.ScannerConfig{Pattern: ledisbolt.HashPrefix + "*", Type: "hash", Count: 1000})
	var key string
	for sc.Next(limited, &key) {
		add(key)
	}
	if err := sc.Close(); err != nil {
		return nil, r.failed(ctx, doing, err)
	}
	return sorted(names), nil
}

func (r *Remote) DropDomain(ctx context.Context, domain string) error {
	return r.drop(ctx, "drop domain "+domain, FilesKey(domain))
}

func (r *Remote) Head(ctx context.Context, tree object.TreeName) ([]byte, error) {
	return r.get(ctx, "get the head of "+tree.String(), TreeKey(tree), r.dialect.headField())
}

func (r *Remote) PutHead(ctx context.Context, tree object.TreeName, note []byte) error {
	return r.set(ctx, "put the head of "+tree.String(), TreeKey(tree), r.dialect.headField(), note)
}

func (r *Remote) Listing(ctx context.Context, tree object.TreeName, dir string) ([]byte, error) {
	return r.get(ctx, "get a listing of "+tree.String(), TreeKey(tree), DirField(dir))
}

func (r *Remote) PutListing(ctx context.Context, tree object.TreeName, dir string, listing []byte) error {
	return r.set(ctx, "put a listing of "+tree.String(), TreeKey(tree), DirField(dir), listing)
}

func (r *Remote) DropTree(ctx context.Context, tree object.TreeName) error {
	return r.drop(ctx, "drop "+tree.String(), TreeKey(tree))
}

func (r *Remote) Value(ctx context.Context, table, key string) ([]byte, error) {
	return r.get(ctx, "get a value of "+table, tableKey(table), key)
}

func (r *Remote) Values(ctx context.Context, table string) (map[string][]byte, error) {
	all := make(map[string][]byte)
	err := r.do(ctx, "get the values of "+table, &all, "HGETALL", tableKey(table))
	return all, err
}

func (r *Remote) PutValue(ctx context.Context, table, key string, value []byte) error {
	if err := checkTableKey(key); err != nil {
		return wrap("put a value of "+table, err)
	}
	return r.set(ctx, "put a value of "+table, tableKey(table), key, value)
}

func (r *Remote) DeleteValue(ctx context.Context, table, key string) error {
	if err := checkTableKey(key); err != nil {
		return wrap("delete a value of "+table, err)
	}
	return r.del(ctx, "delete a value of "+table, tableKey(table), key)
}

// dialer makes connections on which no wait is for ever. radix gives up a call
// when its context is done, but then waits for the connection.
type dialer struct{ timeout time.Duration }

func (d dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &timedConn{Conn: c, timeout: d.timeout}, nil
}

// timedConn gives every Read and Write a deadline, or leaves the one that was
// set if that is earlier.
type timedConn struct {
	net.Conn
	timeout time.Duration

	mu   sync.Mutex
	read time.Time // GUARDED_BY(mu); deadline that was set, or zero
}

func (c *timedConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = t
	return c.Conn.SetReadDeadline(t)
}

func (c *timedConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	end := time.Now().Add(c.timeout)
	if !c.read.IsZero() && c.read.Before(end) {
		end = c.read
	}
	err := c.Conn.SetReadDeadline(end)
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c *timedConn) Write(b []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
