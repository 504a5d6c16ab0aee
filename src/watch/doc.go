// Package watch tells when files have changed, however that was done: written in
// place, renamed over by an editor, swapped by a symlink somewhere in their path.
//
// The kernel tells of changes in the directories that the path leads through
// (inotify(7)). A look every other second finds what it does not tell of: changes
// on another machine, or in a directory higher up. A burst of changes is told of
// once, when it is over, and a file that somebody still writes to is waited for,
// so that a half-written one is rarely seen.
package watch
