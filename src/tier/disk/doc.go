// Package disk is the client's own cache: plain blobs in bbolt files on the
// local disk, served out of the files' maps without a copy.
//
// A cache is one directory:
//
//	VERSION          the format; other versions are thrown away
//	lock             held by the process that has the cache open
//	seg-00000001.bolt, ...
//	heads.db         heads and a few small values, synced when written
//	profile-*        what programs need of a tree, see package profile
//	clean            index and file stamps, there only while nobody has it open
//
// A segment is a bolt file with a bucket for each dedupe domain, in it a bucket
// for each digest, whose sequence is the blob's size, and in that the value
// under the key "d". One writer adds to one active segment in batches; a full
// one is sealed and never changed again, and what must make room is unlinked
// whole. Nothing is ever deleted or overwritten within a segment, so the pages
// that hold a value stay where they are while the file is open. That is what
// lets a reader keep a slice of the map without a transaction: it holds the
// segment's handle alone, and no commit waits for it.
//
// Segments are not synced as they are written. After an unclean shutdown every
// blob is therefore checked against its digest before it is first served.
//
// A Seed is the same, baked into a machine's image and never written to, with
// seed.json in the place of all the other files. See seed.go.
//
// No read fails because of the cache: what it cannot answer is tier.ErrAbsent.
//
// Locks. Cache.segMu, index.mu, Cache.pendMu, Cache.openMu, Cache.dirtyMu and
// Cache.troubleMu are leaves: nothing is locked and no file is touched under
// them. segment.mu is held while that one segment is opened, and leaves may be
// taken under it.
package disk
