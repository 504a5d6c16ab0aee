// Package fs serves views of trees through FUSE.
//
// A request comes in at serve.go, which answers at once what memory can answer
// and lends a goroutine to the rest; ops.go says what each request means,
// read.go where a file's bytes come from, readahead.go what is fetched before
// it is asked for, and errno.go what the kernel is told of an error. inode.go
// is the table of what the kernel holds.
//
// # Replacing the process
//
// Nothing that the kernel may ask for lies in this process alone: an inode's id
// follows from its parent's id, its name and its content; the table that
// resolves ids lies in a memory file that another process can map; there are no
// file or directory handles.
package fs
