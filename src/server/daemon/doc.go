// Package daemon assembles a running ays_cache from its config: the data on bolt
// or in a remote ledis, the cache's server over it, the listeners for HTTP and
// RESP, and the control socket. It alone knows them all.
package daemon
