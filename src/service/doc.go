// Package service runs a daemon in the background for init scripts. It starts
// it under a supervisor, waits until it is ready, and stops, reloads and looks at
// it, with the exit codes of the LSB
// (https://refspecs.linuxbase.org/LSB_3.1.1/LSB-Core-generic/LSB-Core-generic/iniscrptact.html).
//
// There are two processes then. The supervisor does nothing but start the worker,
// which is the daemon as it runs in the foreground, and start it again when it
// dies: at once, and after growing pauses when it does not live long. It holds a
// lock on its pid file as long as it lives, so that two can never be, and a pid
// file that a power cut left behind misleads nobody.
//
// Where the daemon has a Worker word, the supervisor is a keeper, too (package
// keeper): what workers serve outlives them. Workers that come after one that died
// run the same binary as that, from a descriptor, whatever is on the disk by
// then. Only an upgrade (upgrade.go) turns to what is on the disk, and back again if
// that does not do. Who asks for it does so at the door, a socket beside the pid
// file.
package service
