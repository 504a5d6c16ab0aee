// Package foreground is what the programs of daemons begin with: the command line
// and the config, the log on stderr, and the signals that end and reload them.
package foreground
