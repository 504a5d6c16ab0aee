// Package pull brings what was changed on running machines into a directory at
// home, a git work tree, say.
//
// It is a merge of three: what a path was when it was last pulled, what it is
// there, and what it is here. What was changed there alone is taken, what was
// changed here alone stays, and where both were changed theirs is set beside
// ours as NAME.aysfs-MD5, and told. A file that was never pulled counts as
// changed here, unless git has it as it is, so that nothing is ever lost.
//
// What was pulled is remembered in DIR/.aysfs, which hides itself from git, and
// is where files are written before they get their names. Nothing outside DIR is
// written, nor in .git or .aysfs, nor through a symlink, whatever the paths are.
package pull
