// Package overlay is what can be written of a debug mount: a layer over a tree,
// path by path. There is no FUSE in it.
//
// What stands at a path is, in this order, what was made on this machine only
// (scratch), what redis has for a path that the filter matches (shared), and what
// the tree has. Redis is not asked for each look: the layer follows its log, so
// that a look costs no round trip and what another machine did shows within the
// time between two polls.
//
// A shared file that is written gets a copy of its own in the spool directory;
// Commit sends the whole of it to redis, in one transaction. Until then nobody
// else sees any of it, and when the sending fails, and its writer was told, the
// file is what it was before. Scratch files live in the spool directory and go
// with it.
//
// A directory that redis says nothing of, but has a file in, is there all the
// same: it is implied.
//
// Lock order: the change lock (Layer.change), Node.io, Layer.mu. The change lock
// is held over exchanges with redis, so looks and reads never take it.
package overlay
