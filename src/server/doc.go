// Package server is ays_cache: the routes over HTTP, who may read what by them,
// and the fetching of what the cache doesn't have from the stores.
//
// # Routes
//
//	POST /ays/client/<client>           a client tells of itself
//	POST /ays/stor/<name>               of a store that it knows; a token comes back for a private one
//	POST /ays/mount/<client>/<mount>    and of a mount
//	GET  /ays/profile/<client>/<mount>  what programs need of a mount's tree first: see package profile
//	POST /ays/profile/<client>/<mount>  what they needed in one run, to be merged with that
//	GET  /md/<client>/<mount>/<path>    the listing of a directory; &subtree=1 for those below it, too
//	GET  /<domain>/<digest>             a blob
//	PUT  /<domain>/<digest>             publishes a blob to the cache itself
//	POST /<domain>                      many blobs: see object.Frame
//	GET  /md/<tree>/head, /md/trees     as a store has them, so that a cache can be used as one
//	GET  /md/<tree>/profile             likewise
//	PUT  /md/<tree>/head                publishes a tree to the cache itself
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
// # What is published to the cache
//
// A [[http.user]] with write = true may PUT; others get 403. A PUT says how long its
// body is (411). A blob is taken in stored form, up to max_object (413), if it is
// what its digest says (422); the answer is 201, or 204 where it was there. A head is
// taken if it is that of the tree in the path and signed by a [publish] key, where
// there is one (422), has a higher serial than any the tree had here, and if all that
// it reaches was published here (409 for either; the same head again is 204). The
// answer comes when all of this is on the disk. 507 is for what would pass max_size,
// counted apart from what is cached, or min_free.
//
// It is a store of the cache's own, called published and asked before others: a
// directory store below [main] data, with older heads as head.<serial>, which ays'
// commands for directory stores can be used on. It is not evicted, and stays when
// nobody may write any more. Everybody may read it who may read from the cache.
// HEAD /<domain>/<digest>?fetch=0&stor=published tells who may write whether a blob
// is in it.
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
// # Profiles
//
// There is one for each tree of a store, for who may read that store. It is what
// clients posted, a run at a time, in the order that profile.Merge gives it; what the
// store has beside the tree's head counts as a run, once each time that its publisher
// made it anew. Runs of one tree that come within a second of each other count as one,
// which needed what any of them did. A thousand profiles are kept, each for 30 days
// from when it was last asked for.
//
// Anybody who may read a tree may post, under any client's name: a profile decides
// only what clients fetch ahead of need, out of that tree and within bounds.
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
// Which form it has is told by its beginning. Content that is itself of zstd has a
// checksum nearly always, as stored forms have none, and is sent when it is
// verified. Other such content is mistaken; that shows in the end, the answer is
// cut, and the next one, of what is then known, is right.
package server
