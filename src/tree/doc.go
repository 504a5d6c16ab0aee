// Package tree reads published trees: it finds the head that a name stands
// for, and hands out the listings and chunk lists below it, decoded and kept in
// bounded memory. It knows paths and digests, but nothing of inodes or of the
// kernel.
//
// A listing is asked for by its directory's path and by the digest that its
// parent names. The path says which catalog to fetch, by way of the index; the
// digest says whether what came is right.
package tree
