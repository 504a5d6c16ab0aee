// Package ledisbolt puts bbolt under ledis: a Store keeps the keys that ledis
// writes in a set of bolt files, and is a ledis store driver.
//
// # Files
//
//	main.bolt                       every key but those below
//	main.clean                      there only while nobody has the store open
//	files-<domain>/seg-0000001.bolt the blobs of one dedupe domain: the hash
//	                                files:<domain> of database 0, field by field
//	files-<domain>/index            which segment has which field, and when it was last fetched
//
// A bolt file never shrinks, so a domain is a set of segments. New blobs go to
// the newest; a full one is sealed, and what must make room is unlinked whole,
// after what is still wanted has been copied forward (Evict). Dropping a domain
// unlinks all of it (DropDomain). Either way the disk is free again at once,
// but for what a View that has not been released still holds, which counts as taken
// until then.
//
// In each file is one bolt bucket. A value under 4 KiB lies in it plainly,
// followed by a checksum; a larger one has a nested bucket of its own, whose
// sequence is size and checksum: bolt rewrites a leaf page with all its values
// whenever one of them changes. The checksum, CRC-32C, covers key and value. A
// value that fails it is never given out.
//
// # Writing
//
// A write is acknowledged once it is in memory, where every reader sees it at
// once. Behind it, one goroutine writes what has gathered to the files, each in
// one synced bolt transaction: when the buffer is half full, SyncEvery after
// the first write, or when Sync asks. So a thousand commits share a sync, and
// bolt's files are whole at any instant: a crash or a power cut costs what was
// written since the last Sync and no more. bolt's own NoSync would not do: it
// reuses pages that the last synced state still needs.
//
// What can't be written, as on a full disk, is dropped: readers see what was
// there before, and Sync says so.
//
// Writes that go to one file in one batch are seen on disk together or not at
// all. A batch that touches several may be cut between them, blobs first.
//
// # The size of a hash
//
// ledis keeps the number of a hash's fields under a key of its own. For
// files:<domain> that key is not stored: reading it counts the domain's index,
// and writing it does nothing. HLEN therefore is the number of HKEYS whatever
// is evicted, dropped as damaged, or cut short by a crash.
//
// # Reading
//
// A Get holds nothing over a wait. An iterator holds no transaction: it reads
// page by page, each from the newest state, so ledis may write while it has one
// open. What a page of it shows was there when the page was read. Large values
// are read with pread, or looked at in the map if they are in memory, never
// faulted in through it.
//
// # Locks
//
// In this order: Store.writing, held by whatever changes files; then
// boltFile.mu; then filePool.mu. Store.mu is a leaf, never held over I/O.
package ledisbolt
