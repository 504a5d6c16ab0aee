// Package proctest is for tests that build the programs and run them: a directory
// of their own, where nothing may be left mounted, and processes that end with
// theirs.
package proctest
