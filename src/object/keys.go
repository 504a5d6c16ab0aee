package object

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Key is a publisher's public key.
type Key struct {
	note.Verifier
	// Until is the last serial that the key may sign, 0 for no end: a key that
	// was lost signs nothing new.
	Until int64
}

// Keys are public keys, any of which may have signed a head. None at all means
// that signatures are not looked at.
type Keys []Key

// ParseKey reads a public key as note.NewVerifier does, with or without the last
// serial it is good for: "name+hash+key" or "name+hash+key until 17".
func ParseKey(s string) (Key, error) {
	text, until, limited := strings.Cut(strings.TrimSpace(s), " ")
	v, err := note.NewVerifier(text)
	if err != nil {
		return Key{}, err
	}
	k := Key{Verifier: v}
	if !limited {
		return k, nil
	}
	word, number, _ := strings.Cut(strings.TrimSpace(until), " ")
	k.Until, err = strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if word != "until" || err != nil || k.Until < 1 {
		return Key{}, fmt.Errorf("%q follows the key: want \"until SERIAL\", the last serial that the key is good for", strings.TrimSpace(until))
	}
	return k, nil
}

// ParseKeys reads some public keys.
func ParseKeys(texts []string) (Keys, error) {
	var keys Keys
	for _, t := range texts {
		k, err := ParseKey(t)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// String names the keys in messages.
func (ks Keys) String() string {
	names := make([]string, len(ks))
	for i, k := range ks {
		names[i] = k.Name()
	}
	return strings.Join(names, ", ")
}

// open reads a head that one of the keys has signed.
func (ks Keys) open(raw []byte) (*Head, error) {
	var errs []error
	for _, k := range ks {
		// One at a time: two may have the same name and hash, and differ in how
		// long they are good for.
		n, err := note.Open(raw, note.VerifierList(k.Verifier))
		if err != nil {
			errs = append(errs, err) // which of "not a note", "no signature" and "a wrong one" it is
			continue
		}
		h, err := parseHeadText(n.Text)
		if err != nil {
			return nil, err
		}
		if k.Until == 0 || h.Serial <= k.Until {
			return h, nil
		}
		errs = append(errs, fmt.Errorf("serial %d is signed by %s, which is good until %d", h.Serial, k.Name(), k.Until))
	}
	return nil, fmt.Errorf("%w (%v): %w", ErrUnsigned, ks, errors.Join(errs...))
}
