// Bench measures what published trees cost whoever uses them, next to the native
// file system and to other ways of getting a tree onto a machine. What counts is
// the ratio to those in the same run: seconds are a matter of the machine.
//
//	go run ./src/bench [-quick] [-runs N] [-works LIST] [-drivers LIST] [-when LIST] ...
//	go run ./src/bench -from FILE.json
//
// A work is what people do with a tree: find, tar, start python. A driver makes a
// tree appear in a directory: native is a plain one, aysfs the subject, others
// are peers, left out with a word where they are not installed. Every work is
// done
//
//	cold  on a machine that has never seen the tree, over a link with 10 ms
//	      round trip and 1 Gbit/s,
//	disk  freshly mounted, what the client keeps on disk still there, all of
//	      the kernel's caches dropped,
//	page  again, with all that the kernel keeps.
//
// Page-warm it is about hundredths: there the subject takes turns with the native file
// system, nine times or more in a run, as soon as its client rests, and what counts is the
// median of how they compare in each turn.
//
// The peers:
//
//	squashfs      an image that is fetched whole by curl, and mounted by the kernel
//	squashfuse    the same, mounted by FUSE
//	rclone-image  the image stays on the server; rclone shows it as a file and
//	              streams it
//	desync        the image in chunks on the server, of which it fetches what is
//	              read (mount-index); mounted by the kernel
//	rclone        the tree as it is, from the same nginx
//	sshfs         the tree as it is, from an sshd of our own
//
// The first three fetch everything when they mount, so that their mount is counted
// with what is done cold. All others' is told beside it.
//
// The work build compiles Go's library. Unless it is asked for, the native file
// system and the subject alone do it, page-warm, and once. Peers do but a few of
// the works, unless works are asked for.
//
// The works that begin with serve are those of a server: requests for hot blobs of
// one size from ays_cache, and from an nginx that has the same store on disk.
//
// The work demand reads small files that are not here, one after the other, with pauses,
// while the same client fetches ahead for another mount: a profile of 500 MB, a whole
// tree, or by guess what a program may need that begins there. The five take turns.
//
// The work site reads every file from cold on machines of one site: from the store itself,
// through an ays_cache at their end of the link that has nothing yet, and through one that has
// it.
//
// The work many is a walk of two million files, which have names and sizes but
// share their contents: it is about the client's memory, and no other program is asked
// to do it.
//
// Everything is done once. What there is time for is repeated, up to -runs times,
// the peers' last. What takes longer than the limit, fails or hangs is named, and
// the rest goes on.
//
// It runs in namespaces of its own (mounts, processes, network), which end with
// it, however it ends: nothing stays mounted, nothing stays running. It needs
// root, /dev/net/tun, nginx and curl. The kernel's caches are those of the whole
// machine: what else runs there becomes slow, and disturbs.
//
// What comes out, in the output directory: bench-TIME.json with every single
// measurement, table.md with the tables and chart.svg with a chart of them. The
// first table says what each work is to cost and whether it does; but nothing
// fails because of it.
package main
