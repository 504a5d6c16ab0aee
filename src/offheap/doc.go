// Package offheap makes tables of plain values outside Go's heap. The collector
// does not run for what they take, nor count it towards its limit: they may grow
// with what a machine has cached, which memory in the config does not bound.
package offheap
