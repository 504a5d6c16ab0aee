package store

import "errors"

// What was wrong with an answer, beside the tiers' errors, for logs and metrics
// to tell apart.
var (
	ErrStalled   = errors.New("too little arrives")         // the body came to a halt, or to a drip
	ErrBrokenOff = errors.New("the answer broke off")       // the body ended before its end
	ErrRedirect  = errors.New("redirect not followed")      // in a circle, too far, or to where we don't go
	ErrPage      = errors.New("a page, not an object")      // of a proxy or a login form, with status 200
	ErrLoop      = errors.New("the request came in a loop") // the store is a cache that asks us
)
