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
package cachedb
