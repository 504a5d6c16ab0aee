package tier

import (
	"context"
	"errors"
	"fmt"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// Ref names one blob, with what the object that names it says of its size.
type Ref struct {
	Domain string // never empty
	Digest digest.Digest
	Limit  int64 // most bytes it may have when plain; 0 means object.MaxBlob
	// Via is empty but in a cache server, which tells a store that is a cache,
	// too, which caches the request came through.
	Via string
	// Here asks a cache for what it has only: it is not to fetch it.
	Here bool
}

// Max is Limit, or what stands for it.
func (r Ref) Max() int64 {
	if r.Limit == 0 {
		return object.MaxBlob
	}
	return r.Limit
}

func (r Ref) String() string { return r.Domain + "/" + r.Digest.String() }

// Errors that every source uses; others wrap them. A source that was reached
// and has no such blob says ErrAbsent; a network error is never that.
var (
	ErrAbsent      = errors.New("no such object")
	ErrCorrupt     = errors.New("corrupt object")
	ErrDenied      = errors.New("access denied")
	ErrUnavailable = errors.New("unavailable")
)

// ErrRefused goes along with ErrUnavailable where asking the same again is of
// no use: the source was reached and won't have the request.
var ErrRefused = errors.New("request refused")

// ErrBehind goes along with ErrUnavailable where a cache answers that what it asks
// itself doesn't: it may well have other objects.
var ErrBehind = errors.New("the cache could not get it")

// Unavailable is err as one of the errors above: those that are none of them,
// such as a deadline that passed, become ErrUnavailable.
func Unavailable(err error) error {
	for _, known := range []error{ErrAbsent, ErrCorrupt, ErrDenied, ErrUnavailable, context.Canceled} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// Source answers with blobs in stored form.
type Source interface {
	// Name tells tiers apart in logs, metrics and messages.
	Name() string
	// Get returns a blob as the tier has it: not verified, and no larger than
	// its limit. It returns when ctx is done, at the latest. The bytes belong to
	// the caller, who doesn't change them.
	Get(ctx context.Context, ref Ref) ([]byte, error)
	// Purge is told that what Get gave has another digest. A tier that is ours
	// drops it, so that it isn't given again; one that isn't does nothing.
	// Having nothing to drop is no error.
	Purge(ctx context.Context, ref Ref) error
}

// HeadSource answers with heads.
type HeadSource interface {
	// Head returns the note of the tree's newest head, or ErrAbsent. since,
	// if not nil, is the note that the caller has: the same slice comes back
	// where it is still the newest.
	Head(ctx context.Context, tree object.TreeName, since []byte) ([]byte, error)
}

// Blob is the plain, verified content of a blob. Release must be called once
// the bytes are no longer looked at: they may lie in a cache's mapped file, and
// are for handing to the kernel: should that file be cut short, a program that
// looks at them itself gets a fault.
type Blob struct {
	Data   []byte
	lender Lender
	loan   uint64
}

// Lender has lent bytes.
type Lender interface {
	// Return is told that the bytes of a loan are no longer looked at. Once is
	// enough; a loan that was returned already is ignored.
	Return(loan uint64)
}

// Lent returns a blob whose Release returns the loan.
func Lent(data []byte, by Lender, loan uint64) Blob { return Blob{data, by, loan} }

// NewBlob returns a blob whose release is called by Release; it may be nil.
func NewBlob(data []byte, release func()) Blob {
	if release == nil {
		return Blob{Data: data}
	}
	return Blob{Data: data, lender: releaseFunc(release)}
}

type releaseFunc func()

func (f releaseFunc) Return(uint64) { f() }

// Release gives the bytes back.
func (b Blob) Release() {
	if b.lender != nil {
		b.lender.Return(b.loan)
	}
}

// Nearness tells how soon something can be had.
type Nearness int

const (
	// Unknown may be anywhere: who wants it has to wait to find out.
	Unknown Nearness = iota
	// Coming is what the disk of this machine has begun to read.
	Coming
	// InMemory is there.
	InMemory
)

// Cache keeps plain, verified blobs near.
type Cache interface {
	// Get answers from the cache alone: ErrAbsent if it has no such blob.
	Get(ref Ref) (Blob, error)
	// Range is Get for n bytes at off, fewer where the blob ends before, and
	// reads no more than it must.
	Range(ref Ref, off, n int64) (Blob, error)
	// Ready is Range for what is in memory: it waits for no disk. What is on disk
	// the disk begins to read.
	Ready(ref Ref, off, n int64) (Blob, Nearness)
	// WillNeed has the disk begin to read a blob that is here, and what lies
	// behind it, so that Ready soon answers. It is false where there is nothing to
	// read: the blob is in memory, or not here.
	WillNeed(ref Ref) bool
	// Copy is Get for a caller that looks at the bytes itself, and doesn't change
	// them: they lie in memory that stays.
	Copy(ref Ref) ([]byte, error)
	// Has tells whether Get would answer, without a look at the bytes.
	Has(ref Ref) bool
	// Put takes a blob, which must not be changed any more, to keep it. It
	// returns before the blob is on disk, and may drop it where there is no
	// room: what is kept is for the cache to say, never an error of a read.
	Put(ctx context.Context, ref Ref, plain []byte)
	// Offer is Put that waits for nothing: it is false, and nothing has been done, where
	// Put might have to. Else the cache releases the blob when it doesn't need it any more.
	Offer(ref Ref, plain Blob) bool
}

// Corrupt wraps what was wrong with a blob that a source gave.
func Corrupt(source string, ref Ref, err error) error {
	return fmt.Errorf("%s gave %v: %w: %w", source, ref, ErrCorrupt, err)
}
