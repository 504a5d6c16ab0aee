// Package foreground is what the programs of daemons have in common: the command
// line, the log on stderr, and the signals that end and reload them.
package foreground
