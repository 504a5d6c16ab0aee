// Package cachedb is where ays_cache keeps what it caches and knows: in a ledis
// that is part of the process (Open), or in one, or anything else that speaks
// the Redis protocol, over TCP (Dial). Both have the same keys:
//
//	files:<domain>   hash   digest -> blob in stored form
//	md:<tree>        hash   directory -> listing; the empty field -> head
//	ays:<table>      hash   what the cache needs for itself, such as the stores
//
// A tree is written <ays.id>/<platform or any>, or <repoid>/<ays.id>/<platform
// or any>.
//
// A directory's field is its path from the tree's root with a slash before it:
// the root is "/". Where that is longer than the 1,024 bytes that ledis takes it
// is "sha256:" and the digest of it instead. ledis has no empty fields either:
// there the head's is one NUL byte, which no path can have.
//
// Nothing here checks digests: whoever reads does.
//
// Both are what package server wants of its data, and may be used by many goroutines
// at once. What isn't there is tier.ErrAbsent. A database that can't be reached, or has
// no room, is tier.ErrUnavailable; every call returns when ctx is done, or its own time
// is up. A domain is never the empty name. What is put may be lost by a crash shortly
// after, but for the values of tables: those are on disk when PutValue returns.
package cachedb
