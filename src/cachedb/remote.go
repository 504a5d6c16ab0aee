package cachedb

import (
	"context"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/ledisconn"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// RemoteOptions says where a remote database is.
type RemoteOptions = ledisconn.Options

// Remote is a database over the Redis protocol. A blob's domain is one hash, so in a
// cluster it is on one node.
type Remote struct {
	conn *ledisconn.Conn
}

// Dial connects to a remote database.
func Dial(ctx context.Context, opt RemoteOptions) (*Remote, error) {
	c, err := ledisconn.Dial(ctx, opt)
	if err != nil {
		return nil, err
	}
	return &Remote{c}, nil
}

// Close closes the connections.
func (r *Remote) Close() error { return r.conn.Close() }

func (r *Remote) headField() string {
	if r.conn.Ledis() {
		return LedisHeadField
	}
	return headField
}

// maxValue is what ledis allows a value to have, in bytes.
const maxValue = 1 << 30

func (r *Remote) get(ctx context.Context, doing, key, field string) ([]byte, error) {
	return r.conn.Get(ctx, doing, key, field, maxValue)
}

func (r *Remote) Blob(ctx context.Context, domain string, d digest.Digest) (tier.Blob, error) {
	v, err := r.get(ctx, "get blob "+d.Short()+" of "+domain, ledisconn.FilesKey(domain), d.String())
	if err != nil {
		return tier.Blob{}, err
	}
	return tier.NewBlob(v, nil), nil
}

func (r *Remote) HasBlob(ctx context.Context, domain string, d digest.Digest) (bool, error) {
	var n int
	err := r.conn.Do(ctx, "look for blob "+d.Short()+" of "+domain, &n, "HEXISTS", ledisconn.FilesKey(domain), d.String())
	return n > 0, err
}

func (r *Remote) PutBlob(ctx context.Context, domain string, d digest.Digest, stored []byte) error {
	if ok, err := r.HasBlob(ctx, domain, d); ok || err != nil {
		return err
	}
	return r.conn.Set(ctx, "put blob "+d.Short()+" of "+domain, ledisconn.FilesKey(domain), d.String(), stored)
}

func (r *Remote) DeleteBlob(ctx context.Context, domain string, d digest.Digest) error {
	return r.conn.Delete(ctx, "delete blob "+d.Short()+" of "+domain, ledisconn.FilesKey(domain), d.String())
}

func (r *Remote) Domains(ctx context.Context) ([]string, error) {
	keys, err := r.conn.Hashes(ctx, "list domains", ledisconn.FilesPrefix)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, key := range keys {
		if name, ok := DomainOf([]byte(key)); ok && name != "" && object.ValidateDomain(name) == nil {
			names = append(names, name)
		}
	}
	return sorted(names), nil
}

func (r *Remote) PutHead(ctx context.Context, tree object.TreeName, note []byte) error {
	return r.conn.Set(ctx, "put the head of "+tree.String(), ledisconn.TreeKey(tree), r.headField(), note)
}

func (r *Remote) PutListing(ctx context.Context, tree object.TreeName, dir string, listing []byte) error {
	return r.conn.Set(ctx, "put a listing of "+tree.String(), ledisconn.TreeKey(tree), dirField(dir), listing)
}

func (r *Remote) DropTree(ctx context.Context, tree object.TreeName) error {
	return r.conn.Drop(ctx, "drop "+tree.String(), ledisconn.TreeKey(tree))
}

func (r *Remote) Value(ctx context.Context, table, key string) ([]byte, error) {
	return r.get(ctx, "get a value of "+table, tableKey(table), key)
}

func (r *Remote) Values(ctx context.Context, table string) (map[string][]byte, error) {
	all := make(map[string][]byte)
	err := r.conn.Do(ctx, "get the values of "+table, &all, "HGETALL", tableKey(table))
	return all, err
}

func (r *Remote) PutValue(ctx context.Context, table, key string, value []byte) error {
	if err := checkTableKey(key); err != nil {
		return wrap("put a value of "+table, err)
	}
	return r.conn.Set(ctx, "put a value of "+table, tableKey(table), key, value)
}

func (r *Remote) DeleteValue(ctx context.Context, table, key string) error {
	if err := checkTableKey(key); err != nil {
		return wrap("delete a value of "+table, err)
	}
	return r.conn.Delete(ctx, "delete a value of "+table, tableKey(table), key)
}
