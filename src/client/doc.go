// Package client assembles a running client from its config: the disk cache,
// a chain of tiers for each store, the trees, the mounts and the control socket.
// It alone knows them all.
//
// boot.go makes the mounts, whether or not there is a network; refresh.go moves
// them to newer heads; reload.go goes from one config to the next. A mount reads
// from an origin (store.go), which stays while the chain behind it is replaced.
// profile.go finds out what programs need of a mount's tree, prefetch.go brings near
// what they may need, and progress.go tells how far that is.
//
// Locks: mount.turn is held over a move, which may wait for the network,
// mount.mounting over the making of a mount, and Client.merging over the change of a
// profile in the disk cache; Client.mu, mount.mu, needs.mu, progress.mu and origin.mu
// are held for moments only, the first before the others.
package client
