// Package e2e holds the end-to-end tests: they run the built programs as their
// users do, with real mounts, over a real network, and compare what they see
// with the file system that the tree was published from.
//
// What they have in common is told once: trees to publish in tree_test.go, stores
// and keys in webstore_test.go, machines with aysfs in client_test.go, with ays_cache
// in gridcache_test.go, what both are in daemon_test.go, processes in main_test.go,
// and the rest in harness_test.go.
//
// Its demo is a program for people: it shows the whole way with the machine's
// own Go toolchain.
package e2e
