// Package redistest starts private redis servers for tests: the real
// redis-server on a free port of 127.0.0.1, to be killed, restarted and frozen.
package redistest
