// Package keeper lets a mount outlive the process that serves it.
//
// The keeper is a process that holds, for each mount, the descriptor of its
// connection to the kernel, that of the inode table's memory file, and a few
// bytes that say what the mount shows. It opens nothing on a mount, reads no
// request and waits for nobody. The worker serves. When it dies, the kernel keeps
// what programs ask for, and the next worker gets all that the keeper holds.
//
// Between the two lies a pair of sockets (SOCK_SEQPACKET), one for each worker. A
// message is one JSON object, with the two descriptors beside it (SCM_RIGHTS)
// where a mount changes hands:
//
//	worker to keeper
//	  standby                        its config is good; it waits for its turn
//	  serving                        what it was given is served again
//	  keep    path state  + 2 fds    a new mount
//	  state   path state             it shows another tree
//	  drop    path                   it is no longer
//	  busy    text                   why it can't let go now
//	keeper to worker
//	  mount   path state  + 2 fds    one that is alive
//	  go      news                   that was all: its turn
//	  release                        let go of everything, and end
//
// A keeper stays at the version that it was started with, while workers come and
// go; so these messages only ever get additions, and who does not know one
// passes over it.
package keeper
