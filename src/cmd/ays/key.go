package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/object"
)

// readSigner reads the private key that "ays keygen" wrote.
func readSigner(file string) (note.Signer, object.Key, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, object.Key{}, fmt.Errorf("read signing key: %w", err)
	}
	text := strings.TrimSpace(string(raw))
	s, err := note.NewSigner(text)
	if err != nil {
		return nil, object.Key{}, fmt.Errorf("signing key %s: %w; \"ays keygen\" makes one", file, err)
	}
	v, err := publicOf(s.Name(), text)
	if err != nil {
		return nil, object.Key{}, fmt.Errorf("signing key %s: %w", file, err)
	}
	return s, object.Key{Verifier: v}, nil
}

// publicOf finds the public key that belongs to a private one:
// PRIVATE+KEY+name+hash+base64 of the algorithm's number, 1, and the seed.
func publicOf(name, private string) (note.Verifier, error) {
	parts := strings.SplitN(private, "+", 5)
	seed, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return nil, errors.New("it is not an Ed25519 key")
	}
	public := ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey)
	text, err := note.NewEd25519VerifierKey(name, public)
	if err != nil {
		return nil, err
	}
	return note.NewVerifier(text)
}

// keysFlag adds -key, a public key that must have signed what is named. It may be there
// more than once.
func keysFlag(fs *flag.FlagSet, what string) *object.Keys {
	keys := &object.Keys{}
	usage := "public `key`, or a file with it, that " + what + " must be signed by; any of them, if there are more"
	fs.Func("key", usage, func(text string) error {
		k, err := readKey(text)
		*keys = append(*keys, k)
		return err
	})
	return keys
}

// readKey takes a public key itself, or the name of a file with one.
func readKey(key string) (object.Key, error) {
	k, err := object.ParseKey(key)
	if err == nil || errors.Is(err, object.ErrPrivateKey) {
		return k, err
	}
	raw, fileErr := os.ReadFile(key)
	if errors.Is(fileErr, os.ErrNotExist) {
		return object.Key{}, fmt.Errorf("key %q is neither a public key (%w) nor a file", key, err)
	}
	if fileErr != nil {
		return object.Key{}, fmt.Errorf("read public key: %w", fileErr)
	}
	k, err = object.ParseKey(string(raw))
	if err != nil {
		return object.Key{}, fmt.Errorf("public key in %s: %w", key, err)
	}
	return k, nil
}
