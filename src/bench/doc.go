// Bench measures what published trees cost whoever uses them, next to the native
// file system and to other ways of getting a tree onto a machine. What counts is
// the ratio to those in the same run: seconds are a matter of the machine.
//
//	go run ./src/bench [-quick] [-runs N] [-works LIST] [-drivers LIST] [-when LIST] ...
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
// The works that begin with serve are those of a server: requests for hot blobs of
// one size from ays_cache, and from an nginx that has the same store on disk.
//
// The work many is a walk of two million files, which have names and sizes but
// share their contents: it is about the client's memory, and no other program is asked
// to do it.
//
// It runs in namespaces of its own (mounts, processes, network), which end with
// it, however it ends: nothing stays mounted, nothing stays running. It needs
// root, /dev/net/tun and nginx. The kernel's caches are those of the whole
// machine: what else runs there becomes slow, and disturbs.
//
// Nothing here passes or fails: the figures are printed, and written as JSON with
// every single measurement.
package main
