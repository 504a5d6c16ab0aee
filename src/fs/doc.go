// Package fs serves views of trees through FUSE.
//
// A request comes in at serve.go, which answers at once what memory can answer
// and lends a goroutine to the rest; ops.go says what each request means,
// read.go where a file's bytes come from, stream.go and walk.go what is fetched ahead of
// who reads in order, crowd.go, herd.go and program.go what is by guess, as far as
// guess.go lets it, needs.go what is asked for first, and errno.go what the
// kernel is told of an error. inode.go is the table of what the kernel holds.
//
// # What is answered where
//
// One goroutine at a time reads requests, and answers out of memory: lookups and
// listings from decoded metadata, reads from what the kernel has of the disk cache's
// files. None of that takes memory from the heap, a lock that is held over more than
// memory, or another thread. Small reads that the disk must do first are begun there and
// answered by the same goroutine when they have come, which it looks for between
// requests and never waits for (coming.go); larger ones, and what takes the network,
// get a goroutine each. Who reads files in the order of the listings has them read
// ahead: from the network, or, if they are here, from the disk in stretches of half a
// MiB (walk.go).
//
// Waking a thread is most of what a request costs: on a virtual machine with 2 CPUs
// some 15 us of processor each time, where an answer takes 0.1 us (a read) to 22 us (a
// listing of 185 names), and the disk 12 us. Hence the one goroutine. More Ps for Go than
// there are CPUs make random reads a third quicker and find a third slower, and are not
// used.
//
// What the kernel is asked for, and why: no opens and no opendirs (a file that is read
// from the kernel's pages costs no request at all: 111,000 instead of 10,000 a second);
// readdirplus, where the kernel thinks it useful; asynchronous reads (without, a link of
// 2 ms gives an eighth); requests of up to 1 MiB; 4 MiB of read-ahead (3.4 GB/s, with
// 128 KiB 1.5); 128 requests in the background, where the library has 12; attributes
// and names without end, as notices tell of changes. What still takes a request
// page-warm is an ioctl: Python asks every file that it opens whether it is a terminal.
//
// # Moving to another tree
//
// Show (show.go) moves a mount. difference.go compares the two views before
// anything changes, in directories that the kernel holds; then the records of the
// directories that stay turn to their new listings, all at once; then the kernel is
// told, by name, what to look up anew, from a goroutine that holds no lock. An
// answer that the kernel remembers is made and given under mover.turn, so what was
// answered from the old tree has reached the kernel before the notices do, which
// wait in the kernel for lookups under way.
//
// A directory that stays keeps its inode. A file with other content, mode or time is
// another inode, and the old one keeps answering whoever has it open. A directory
// that left keeps its record and its listing; one of its name that comes back later
// is another inode. A directory that stays gets no notice of its own name: the kernel
// would take away what is mounted below it.
//
// Past trees are kept for a while (past.go) for three who need them: inodes that
// left; who was in the middle of a directory, and reads on in the listing in which the
// reading began, as its offsets say; and a thread that reads one directory after the
// other, which finds names that it may have been told of, for walkGrace after they
// left, while everybody else finds them gone. Where the kernel answers out of its own
// pages such a thread isn't seen reading: then it counts that its process has a
// directory of the mount open (holds.go). Being told of every opening would show
// all, but more than doubles what a warm find takes. What is missed is a
// program that closes a directory before it comes to the directories in it, as ls -R
// does: one of those may have left meanwhile.
//
// # Debug mounts
//
// A debug mount has a layer over its tree (package overlay). debug.go asks it
// first, for requests that it may have to do with, and leaves the rest to the tree,
// as on any mount; debug_change.go has what changes something. Inodes of the layer
// are Node values, their ids beyond those of the tree's; which directory of the
// tree is where, which the layer must know, is remembered while the kernel holds it.
// What may change in redis the kernel believes for half a second only, and is told
// of at once besides. What a layer knows lies in this process alone: a debug mount
// does not outlive it.
//
// Such a mount is asked about neither opens nor closes either, so that it costs no
// more to read than any other. How writers are refused, and what they wrote is sent
// when they close it, is at the top of debug_write.go.
//
// # Replacing the process
//
// Nothing that the kernel may ask for lies in this process alone: an inode's id
// follows from its parent's id, its name and its content; the table that
// resolves ids lies in a memory file that another process can map; there are no
// file handles, and those of directories say nothing.
//
// So a Keeper can hold the mount while no process serves it (kept.go), and the
// next one resumes: it takes the table as the last one left it (adopt.go), has the
// library begin on a connection that has long begun, and the kernel repeat what was
// read and not answered (wire.go). The order of what is written makes that safe at
// any moment: a record's id comes last and goes first; a move is noted before it
// changes anything, and as done when the kernel knows of it, and a successor makes it
// again from the start. What a process had counted, and not said, is counted
// twice: at most the answers under way then, whose inodes stay until the mount ends.
// That somebody is in the middle of a directory from before a move is forgotten.
package fs
