// Package control is the control socket of a client: HTTP over a unix socket
// that only root may open. It says how the client is doing and where one path
// comes from, as JSON for ays status and ays explain, and as Prometheus text for a
// scraper. It is also how those who ask read it.
//
// What a cache server has in common with that is here, too: Serve opens a socket for
// any daemon, Notify tells a service manager that one is up, and Descriptors counts what
// one has open.
package control
