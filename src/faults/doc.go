// Package faults is the machinery of tests in which networks and machines go
// wrong at random: servers that stall, cut, flip and lie, at whatever byte.
//
// A Server stands in front of a web server, a store or a cache, and has a share of
// the answers go wrong; a Relay does so with the bytes of any connection; a
// Resolver answers for names, or doesn't. What they choose comes from a seed. Which
// request it happens to is up to those who ask.
package faults
