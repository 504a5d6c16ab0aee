package object

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
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

// ErrPrivateKey says that a private key stands where a public one should.
var ErrPrivateKey = errors.New("this is the private key, which belongs to the publisher alone")

// ParseKey reads a public key as note.NewVerifier does, with or without the last
// serial it is good for: "name+hash+key" or "name+hash+key until 17".
func ParseKey(s string) (Key, error) {
	if strings.HasPrefix(strings.TrimSpace(s), "PRIVATE+KEY+") {
		return Key{}, ErrPrivateKey
	}
	words := strings.Fields(s)
	if len(words) == 0 {
		return Key{}, errors.New("it is empty")
	}
	v, err := note.NewVerifier(words[0])
	if err != nil {
		return Key{}, err
	}
	k := Key{Verifier: v}
	if len(words) == 1 {
		return k, nil
	}
	if len(words) == 3 && words[1] == "until" {
		k.Until, err = strconv.ParseInt(words[2], 10, 64)
	}
	if err != nil || k.Until < 1 {
		return Key{}, fmt.Errorf("%.40q follows the key: want \"until SERIAL\", the last serial that the key is good for, 1 or more", strings.Join(words[1:], " "))
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

// ID tells the key apart from others of its name.
func (k Key) ID() string { return keyID(k.Name(), k.KeyHash()) }

func keyID(name string, hash uint32) string { return fmt.Sprintf("%s+%08x", name, hash) }

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
	var why []string
	for _, k := range ks {
		// One at a time: a wrong signature by one of them takes nothing from a
		// good one by another.
		n, err := note.Open(raw, note.VerifierList(k.Verifier))
		if _, wrong := errors.AsType[*note.InvalidSignatureError](err); wrong {
			why = append(why, "the signature by "+k.ID()+" is wrong")
		}
		if err != nil {
			continue
		}
		h, err := parseHeadText(n.Text)
		if err != nil {
			return nil, err
		}
		if k.Until == 0 || h.Serial <= k.Until {
			return h, nil
		}
		why = append(why, fmt.Sprintf("serial %d is signed by %s, which is good until serial %d", h.Serial, k.ID(), k.Until))
	}
	if why == nil {
		why = []string{signedBy(raw)}
	}
	return nil, fmt.Errorf("%w (%v): %s", ErrUnsigned, ks, strings.Join(why, "; "))
}

// mostNamed is how many signatures of a head a message names.
const mostNamed = 4

// signedBy says who signed what none of the keys has signed.
func signedBy(raw []byte) string {
	if !bytes.Contains(raw, []byte("\n\n")) {
		return "it has no signature"
	}
	_, err := note.Open(raw, nil)
	by, ok := errors.AsType[*note.UnverifiedNoteError](err)
	if !ok {
		return "its signatures can't be read"
	}
	var ids []string
	for _, s := range by.Note.UnverifiedSigs[:min(len(by.Note.UnverifiedSigs), mostNamed)] {
		// Anybody may have written this name.
		ids = append(ids, strconv.QuoteToGraphic(keyID(s.Name[:min(len(s.Name), 80)], s.Hash)))
	}
	return "it is signed by " + strings.Join(slices.Compact(ids), ", ")
}
