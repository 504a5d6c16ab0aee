// Package tier is the contract of everything that can answer for a blob, and
// the behaviours that are laid around it: metering, retry, verification, single
// flight, and the chain that asks one tier after the other and fills the disk
// cache behind the answer.
//
// A byte's way into a mount:
//
//	Chain.Get -> disk cache
//	          -> single flight -> for each tier in order:
//	                 meter -> retry -> source (stored form)
//	                 verify, unpack  -> disk cache, behind the answer
//
// What nobody waits for yet comes by Bring, in order and by priority (bring.go), as
// much at once as the way carries (window.go) and never before what somebody waits for;
// what is only wanted some time leaves the way free for the most part (pace.go). Where
// the store is all there is to ask, it is verified and unpacked by who reads the answer
// off the connection, and has no goroutine of its own (asked.go).
//
// A server that passes blobs on sees them arrive, before they are verified: see
// Chain.Follow and Arrival.
package tier
