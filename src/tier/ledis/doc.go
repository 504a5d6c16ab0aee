// Package ledis is the tier of a ledis, or a redis, on this host. It answers with
// blobs from files:<domain>, and is filled with what farther tiers answer, in
// the background: what waits to be written is bounded, and dropped beyond that.
//
// # Heads
//
// Heads are kept for stores that sign them, in md:<tree>, each store's in a field
// of its own: "store:" and the SHA-256 of the store's URL. They are for a client
// that reaches nobody else.
//
// # When it fails
//
// A call takes no longer than Timeout. Then the database is left alone, with
// growing pauses, and one call at a time finds out whether it is back. What goes
// wrong is logged when that begins, and again when it is over.
//
// # Expiration
//
// Neither ledis nor redis lets a single field expire, and to write down when each
// blob was fetched would cost more than the blobs. So a domain goes as a whole,
// once nobody on this host has fetched anything of it for so long. An ays_cache
// knows when each blob was fetched and goes by its own expiration: it has no
// HEXPIRE. To bound how much there is, is for the database: max_size in an
// ays_cache, maxmemory in a redis.
package ledis
