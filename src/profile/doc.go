// Package profile is what programs need of a tree, in the order in which they
// first need it after a mount: recorded, written down, merged over runs and
// machines, and found again in whatever the tree is by then. It does no I/O of
// its own.
//
// A profile names paths, not digests, so that it outlives the serial that it was
// recorded at. It is a hint and nothing else. Whoever makes one up can have a
// client fetch blobs of the tree, up to MaxFetch bytes, that nobody needs.
//
// # Needs
//
// A need is the listing of a directory, a whole file that is one blob, or a block
// of a file that is cut into chunks. A block is 64 KiB, as much as the smallest
// chunk, and stands for the chunk that its middle lies in (or the file's last byte,
// where the file ends before): so a recording leads to the same chunks in the same
// content, and to about the same in another version of it.
//
// # Format
//
// Eight bytes "aysprof" and the version, 1; then one zstd frame of MessagePack in
// one canonical spelling:
//
//	[time, runs, [[path, first, count, weight]…]]
//
// time is when the last run ended, in seconds since 1970, and runs how many were
// merged. path is from the tree's root, without slashes at its ends. first is -2 for
// a listing, -1 for a whole file, or the first of count blocks that follow each
// other. weight is 1 to 255, see Merge.
package profile
