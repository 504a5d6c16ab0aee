// Package e2e holds the end-to-end tests: they run the built programs as their
// users do, with real mounts, over a real network, and compare what they see
// with the file system that the tree was published from.
//
// Its demo is a program for people: it shows the whole way with the machine's
// own Go toolchain.
package e2e
