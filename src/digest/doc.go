// Package digest names content by its SHA-256, as 64 lower-case hex digits
// wherever people or other programs see it.
package digest
