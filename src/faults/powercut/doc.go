// Package powercut is a disk, with a real ext4 on it, that loses what was not
// flushed when its power is cut.
//
// A Disk is a file of a small FUSE file system in this process, a loop device on
// that file, and an ext4 mounted from there. So what programs sync and rename
// is turned into writes and flushes by the kernel's own code, and what is left
// after a cut is what its journal makes of it: nothing here has an opinion of
// its own on what a rename without a sync is worth.
//
// The model of the disk is a write cache without a battery. A write is stable
// once a flush that began after it has ended. Of those that are not, a cut keeps
// all, none, the first ones, or any, whole or in part: sectors of 512 bytes are
// either written or not, each by itself and in any order. Only the first 4 KiB,
// which have ext4's superblock, are written whole: it has a checksum over two
// sectors, and no second chance.
//
// A Moment is what the disk was like at an instant. It is taken while everything
// goes on, and costs next to nothing, so one run of a program gives many cuts,
// and each Moment several outcomes.
//
// The disk is served by this process. What writes to it is better another one: a
// thread that waits for a write to be done by its own process can't be killed.
//
// It takes root, /dev/fuse, loop devices, and mke2fs.
package powercut
