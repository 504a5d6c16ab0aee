// Package store answers from a store: the place where trees and blobs are
// authoritative. Any static file server, object store or CDN can be one, over
// http or https, and so can a directory, as file:///a/directory.
//
// Below the store's URL are
//
//	<domain>/<digest>                          blobs
//	md/<ays.id>/<platform or any>/head         heads of template trees
//	md/<repoid>/<ays.id>/<platform or any>/head
//	head.<serial> beside each head             the heads before it, those that were kept
//	profile beside each head                   what programs need of the tree first, if that was recorded
//	md/trees                                   the trees there are, one a line, for servers that can't list
//
// Many blobs are asked for over few connections of HTTP/1.1, each request sent
// before the earlier ones are answered (pipeline.go); caches are asked for what nobody
// waits for in batches (batch.go). Both leave what isn't a plain answer to the
// ordinary way (http.go).
//
// How answers are understood:
//
//	200                         the object
//	404, 410                    tier.ErrAbsent
//	401, 403                    tier.ErrDenied
//	408, 425, 429, 5xx          tier.ErrUnavailable, to be asked again; Retry-After is passed on
//	no answer, or half a one    tier.ErrUnavailable, to be asked again
//	more bytes than allowed     tier.ErrCorrupt
//	508                         tier.ErrUnavailable and ErrLoop: the store is a cache that asks us
//	anything else               tier.ErrUnavailable and tier.ErrRefused: asking again won't help
//
// The last line has all other 4xx, redirects that lead nowhere, untrusted
// certificates and content encodings that nobody asked for: a server or a proxy
// is set up in a way that we can't use, which may yet be changed under a
// running client, so none of it is taken for absence.
package store
