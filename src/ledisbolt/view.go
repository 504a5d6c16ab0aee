package ledisbolt

import (
	"errors"
	"fmt"

	"github.com/ledisdb/ledisdb/ledis"
)

// View is the value of one blob. Data is not to be changed, nor looked at after
// Release: it may lie in the file's map. Release it soon: until then the space
// of what is deleted in its segment can't be used again.
type View struct {
	Data []byte
	snap *snapshot
}

// Release gives the bytes back. It may be called more than once.
func (v *View) Release() {
	v.Data = nil
	if v.snap != nil {
		v.snap.release()
		v.snap = nil
	}
}

// Blob returns a field of the hash files:<domain>, as HGET would, but without a
// copy where the file's pages are in memory. ok is false if it isn't there. It
// counts as fetched.
func (s *Store) Blob(domain, field string) (v View, ok bool, err error) {
	if !isDomain(domain) || field == "" {
		return View{}, false, fmt.Errorf("blob %q of domain %q: not a name that is kept", field, domain)
	}
	key := append(blobPrefix(domain), field...)
	value, f, err := s.look(key, true)
	if err != nil || f == nil {
		return View{Data: value}, value != nil, err
	}
	if f.large && resident(f.snap.h.addr+uintptr(f.off), f.size) {
		if value, err := f.mapped(); err == nil {
			return View{Data: value, snap: f.snap}, true, nil
		}
		// Reading it the other way will tell what is wrong.
	}
	defer f.release()
	value, err = f.copy()
	return View{Data: value}, value != nil, err
}

// mapped returns a large value as it lies in the file's map, checked.
func (f *found) mapped() (value []byte, err error) {
	_, field, _ := splitBlob(f.key)
	err = guard(func() error {
		b := f.snap.kv.Bucket(field)
		if b == nil {
			return errors.New("moved")
		}
		if value = b.Get(valueKey); int64(len(value)) != f.size {
			return fmt.Errorf("%w: value of %d bytes, want %d", ErrDamaged, len(value), f.size)
		}
		return f.check(value)
	})
	return value, err
}

// Has tells whether a domain has a field. That does not count as fetched.
func (s *Store) Has(domain, field string) (bool, error) {
	if !isDomain(domain) || field == "" || len(field) > ledis.MaxHashFieldSize {
		return false, nil
	}
	value, f, err := s.look(append(blobPrefix(domain), field...), false)
	if f != nil {
		f.release()
	}
	return value != nil || f != nil, err
}
