// Package server is ays_cache: the routes over HTTP, who may read what by them,
// and the fetching of what the cache doesn't have from the stores.
//
// # Routes
//
//	POST /ays/client/<client>           a client tells of itself
//	POST /ays/stor/<name>               of a store that it knows; a token comes back for a private one
//	POST /ays/mount/<client>/<mount>    and of a mount
//	GET  /md/<client>/<mount>/<path>    the listing of a directory; &subtree=1 for those below it, too
//	GET  /<domain>/<digest>             a blob
//	POST /<domain>                      many blobs: see object.Frame
//	GET  /md/<tree>/head, /md/trees     as a store has them, so that a cache can be used as one
//	GET  /  /healthz  /metrics          a page for people, liveness, Prometheus text
//
// fetch=N says what to do about what is not here: 0 nothing, 1 fetch it, wait
// and keep it, 2 begin to fetch it and answer at once with 202, 3 fetch it, wait
// and don't keep it. What is here is answered at once by all four. Where there
// is nothing to give the body is empty: 404 says that there is no such thing, 502
// and 504 that stores could not be asked.
//
// The header Aysfs-Stor, or stor=, says which store a request is about, by its URL
// or by the name that it has here. Heads come from that one alone: who wants a
// tree of one store must not get what another has under the same name. For blobs
// it is the first to be asked.
//
// A path below /md names a tree's head if it ends in /head and its first two or
// three segments are a tree's: one of them is an ays.id then, with its | and its
// ( or !. Names of clients and mounts that look like one are refused, so there is
// no path that could be both.
//
// # Who may read what
//
// A store with credentials is private. Who shows working ones by POST /ays/stor
// gets a token, to be sent back in the header Aysfs-Token; the credentials
// themselves do as well, as basic auth. For everybody else nothing that only
// private stores have is there: not by mount, not by digest, not by a domain
// that public stores use, too. Each blob is kept with the stores that it was had
// from, and given to those who may read one of these. Others wait until a store
// that they may read has it, as they would if it were not here at all. A store
// that was private once stays so until nobody has credentials for it any more and
// it answers without. Over RESP nobody can show anything for a store: a domain
// that a private store's blobs were put into isn't there, unless RESP wants a
// password. Trees of private stores are not put where RESP has them. A ledis on
// another machine has rights of its own: whoever reads there reads all blobs.
//
// # Where blobs go out as they came in
//
// Blobs are kept, and sent to who accepts zstd, in stored form. A blob in the data
// is verified by its digest when it is first sent, and by length and CRC-32C from
// then on.
//
// A blob of 64 KiB or more that is fetched goes out to those who wait for it while
// it arrives, if the store says how long it is and they accept its form. Its end
// is held back until the whole is verified, and kept where it is to be. If that
// fails the connection is cut (HTTP/2: the stream is reset), so that nobody can
// take it for a whole answer. Whoever reads slowly, or leaves, is in nobody's way.
// Smaller ones, parts and answers to HEAD are sent when the blob is verified.
//
// Which form it has is told by its beginning. Content that is itself of zstd can
// be mistaken there; that shows in the end, the answer is cut, and the next one,
// out of the data, is right.
package server
