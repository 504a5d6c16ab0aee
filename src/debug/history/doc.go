// Package history tells people who changed what when on running machines, and
// shows it as unified diffs against what was there before.
package history
