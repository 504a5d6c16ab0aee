// Package bake writes into the root of a machine's image what its first boot needs:
// the config, the heads of its trees, their metadata, and as much of their content
// as is asked for, as a seed (package disk). Such a machine starts, lists and reads
// with no network, and takes newer heads when there is one.
//
// All paths of the config are those of the machine; they are looked up in the image.
// Everything is fetched from the stores themselves, and checked as a client checks
// it. A bake that fails, or is cut off, leaves the seed as it was; what it had
// fetched is found by the next.
package bake
