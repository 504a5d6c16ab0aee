// Package debug is what is changed on running machines, as a redis keeps it for
// all of them and for those at home. The layout is a contract: a script with any
// redis client may read and write it, too. For the mount named M:
//
//	debug:paths:M  hash  path -> "md5,size" or "md5,size,mode"; ",0": removed
//	debug:files:M  hash  md5 -> bytes
//	debug:log:M    list  of JSON [epoch,"path","md5","who"], oldest first
//
// A path is relative to the mount's root, has no "." or ".." in it, and is the
// file's name byte by byte. The mode is st_mode in octal: 100755, 40755 for a
// directory, whose content is empty, 120777 for a symlink, whose content is its
// target. Without one it is as in the tree, or 100644 where the tree has no such
// file. An md5 is lower-case hex.
//
// In the log, the epoch is in whole seconds, a removal has an empty md5, and who
// is the id of the client that wrote, which others than us may leave out. JSON
// has no bytes: those of a path that are not UTF-8 are written \udc80 to \udcff,
// half a surrogate pair with the byte in its low half. Python's
// os.fsencode(json.loads(e)[1]) makes the file's name of it.
//
// All that one Store.Record changes is changed by one transaction. Contents stay
// when nothing refers to them any more: the log does, and tells by them what was
// changed. They go when the mount's state is cleared, and only then.
//
// What redis has acknowledged is as safe as redis was told to make it: with
// "appendonly yes" it outlives a kill, with "appendfsync always" a power cut.
package debug
