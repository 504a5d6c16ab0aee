// Package object holds the formats of everything that is published: listings,
// chunk lists, catalogs, indexes and heads, their names, and the stored form
// of a blob. It encodes, decodes and checks; it does no I/O.
//
// Metadata is MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md)
// in one canonical spelling, so that equal content has equal digests. What is
// decoded may come from anyone: every length, count and order is checked
// before it is trusted, and decoded values point into the bytes they were
// decoded from rather than copy them.
package object
