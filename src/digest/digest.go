package digest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// Size is the length of a digest in bytes; in hex it is twice as long.
const Size = sha256.Size

// Digest is the SHA-256 of some content. The zero value names nothing.
type Digest [Size]byte

// ErrMismatch says that content does not have the digest it was asked for by.
var ErrMismatch = errors.New("content does not match its digest")

// Of returns the digest of b.
func Of(b []byte) Digest { return sha256.Sum256(b) }

// Parse reads the hex form. Upper-case digits are refused, so that a digest
// has one spelling only, in keys, paths and URLs alike.
func Parse(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*Size {
		return d, fmt.Errorf("digest %.80q: want %d hex digits, got %d characters", s, 2*Size, len(s))
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return d, fmt.Errorf("digest %q: character %d is not a lower-case hex digit", s, i+1)
		}
	}
	_, err := hex.Decode(d[:], []byte(s))
	return d, err
}

// FromBytes reads the 32 raw bytes of a digest.
func FromBytes(b []byte) (Digest, error) {
	var d Digest
	if len(b) != Size {
		return d, fmt.Errorf("digest of %d bytes, want %d", len(b), Size)
	}
	copy(d[:], b)
	return d, nil
}

// String is the hex form.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Short is the first twelve hex digits, for logs.
func (d Digest) Short() string { return hex.EncodeToString(d[:6]) }

// IsZero tells whether d names nothing.
func (d Digest) IsZero() bool { return d == Digest{} }

// Check returns ErrMismatch unless b has the digest d.
func (d Digest) Check(b []byte) error {
	if Of(b) != d {
		return ErrMismatch
	}
	return nil
}

// MarshalText lets a digest appear as hex in JSON.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (d *Digest) UnmarshalText(b []byte) error {
	v, err := Parse(string(b))
	if err == nil {
		*d = v
	}
	return err
}
