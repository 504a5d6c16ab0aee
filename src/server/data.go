package server

import (
	"context"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// Data is where a cache keeps what it has, as package cachedb does. What is not there
// is tier.ErrAbsent. It may be used by many goroutines at once.
//
// Blobs may be put there by others as well: nothing that comes from it is trusted
// before it was checked. Heads and listings are put there for others, and never
// read.
type Data interface {
	Blob(ctx context.Context, domain string, d digest.Digest) (tier.Blob, error)
	HasBlob(ctx context.Context, domain string, d digest.Digest) (bool, error)
	// PutBlob keeps a blob, unless there is one of that digest.
	PutBlob(ctx context.Context, domain string, d digest.Digest, stored []byte) error
	DeleteBlob(ctx context.Context, domain string, d digest.Digest) error
	Domains(ctx context.Context) ([]string, error)

	// Origin is what was put of where a blob is from.
	Origin(ctx context.Context, domain string, d digest.Digest) ([]byte, error)
	PutOrigin(ctx context.Context, domain string, d digest.Digest, from []byte) error
	DeleteOrigin(ctx context.Context, domain string, d digest.Digest) error
	// Origins calls each for the blobs that have one, until it returns an error.
	Origins(ctx context.Context, domain string, each func(digest.Digest) error) error

	PutHead(ctx context.Context, tree object.TreeName, note []byte) error
	PutListing(ctx context.Context, tree object.TreeName, dir string, listing []byte) error
	DropTree(ctx context.Context, tree object.TreeName) error

	// A value is on disk when PutValue returns. Keys have 1 to 1,024 bytes.
	Value(ctx context.Context, table, key string) ([]byte, error)
	Values(ctx context.Context, table string) (map[string][]byte, error)
	PutValue(ctx context.Context, table, key string, value []byte) error
	DeleteValue(ctx context.Context, table, key string) error
}

// Disk is what a database on this machine says and does besides.
type Disk interface {
	Usage() []Usage
	// Expire gives up blobs that were last fetched before a time, and returns
	// how many bytes it freed.
	Expire(ctx context.Context, domain string, before time.Time) (int64, error)
}

// Usage is what a domain takes.
type Usage struct {
	Domain string
	Blobs  int64
	Bytes  int64 // on disk
}

// Tables of our own. What is in them is no secret: credentials are sealed.
const (
	storesTable  = "stores"  // name -> savedStore
	clientsTable = "clients" // client id -> Client
	mountsTable  = "mounts"  // client id, NUL, mount name -> Mount
	headsTable   = "heads"   // id of a store, blank, directory of a tree -> head

	profilesTable = "profiles"      // as headsTable -> profile
	profileTimes  = "profile_times" // as headsTable -> when it was last asked for or put and, after a blank, the time of the store's that is in it, in Unix seconds
)
