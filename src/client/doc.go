// Package client assembles a running client from its config: the disk cache,
// a chain of tiers for each store, the trees, the mounts and the control socket.
// It alone knows them all.
package client
