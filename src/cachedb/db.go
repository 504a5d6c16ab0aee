package cachedb

import (
	"bytes"
	"context"
	"errors"
	"strings"

	"github.com/ledisdb/ledisdb/ledis"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/ledisbolt"
	"github.com/aysfs/aysfs/src/ledisconn"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// DB keeps what a cache server caches and knows. It may be used by many
// goroutines at once.
//
// What isn't there is tier.ErrAbsent. A database that can't be reached, or has
// no room, is tier.ErrUnavailable; every call returns when ctx is done, or its
// own time is up. A domain is never the empty name.
//
// What is put may be lost by a crash shortly after, but for the values of
// tables: those are on disk when PutValue returns.
type DB interface {
	// Blob returns a blob in stored form, to be released.
	Blob(ctx context.Context, domain string, d digest.Digest) (tier.Blob, error)
	HasBlob(ctx context.Context, domain string, d digest.Digest) (bool, error)
	// PutBlob keeps a blob, unless there is one of that digest.
	PutBlob(ctx context.Context, domain string, d digest.Digest, stored []byte) error
	// DeleteBlob is for one that turned out to be corrupt.
	DeleteBlob(ctx context.Context, domain string, d digest.Digest) error
	Domains(ctx context.Context) ([]string, error)
	DropDomain(ctx context.Context, domain string) error

	Head(ctx context.Context, tree object.TreeName) ([]byte, error)
	PutHead(ctx context.Context, tree object.TreeName, note []byte) error
	// Listing returns the listing of a directory, by its path from the tree's
	// root; the root's is empty.
	Listing(ctx context.Context, tree object.TreeName, dir string) ([]byte, error)
	PutListing(ctx context.Context, tree object.TreeName, dir string, listing []byte) error
	DropTree(ctx context.Context, tree object.TreeName) error

	// Value returns one value of a table; tables are small.
	Value(ctx context.Context, table, key string) ([]byte, error)
	Values(ctx context.Context, table string) (map[string][]byte, error)
	PutValue(ctx context.Context, table, key string, value []byte) error
	DeleteValue(ctx context.Context, table, key string) error

	Close() error
}

const (
	tablePrefix = "ays:"

	// HeadField is the field of a tree's head in redis; LedisHeadField the one in
	// ledis, which has no empty fields.
	HeadField      = ""
	LedisHeadField = "\x00"
)

// FilesKey is the hash of a domain's blobs.
func FilesKey(domain string) string { return ledisconn.FilesKey(domain) }

// DomainOf is the domain whose blobs are in a hash; ok is false if it is another
// kind of hash.
func DomainOf(key []byte) (domain string, ok bool) {
	return strings.CutPrefix(string(key), ledisbolt.HashPrefix)
}

// TreeKey is the hash of a tree's head and listings.
func TreeKey(tree object.TreeName) string { return ledisconn.TreeKey(tree) }

// DirField is the field of a directory's listing.
func DirField(dir string) string {
	field := "/" + dir
	if len(field) <= ledis.MaxHashFieldSize {
		return field
	}
	return "sha256:" + digest.Of([]byte(field)).String()
}

// Private tells whether a key is one that the cache keeps for itself: there are
// credentials in it, so nobody may read it from outside.
func Private(key []byte) bool { return bytes.HasPrefix(key, []byte(tablePrefix)) }

func tableKey(table string) string { return tablePrefix + table }

var errNoField = errors.New("a table's keys are 1 to 1,024 bytes")

// checkTableKey refuses what ledis would refuse, everywhere alike.
func checkTableKey(key string) error {
	if key == "" || len(key) > ledis.MaxHashFieldSize {
		return errNoField
	}
	return nil
}
