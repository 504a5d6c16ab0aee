// Package doctor checks a machine that is to run a client: its kernel, limits, disk
// and clock, and everything that its config names. It asks as the client would, but
// needs none that runs, and changes nothing.
package doctor
