package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// readSigner reads the private key that "ays keygen" wrote.
func readSigner(file string) (note.Signer, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	s, err := note.NewSigner(strings.TrimSpace(string(raw)))
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w; \"ays keygen\" makes one", file, err)
	}
	return s, nil
}

// readVerifier takes a public key itself, or the name of a file with one.
func readVerifier(key string) (note.Verifier, error) {
	v, err := note.NewVerifier(key)
	if err == nil {
		return v, nil
	}
	raw, fileErr := os.ReadFile(key)
	if errors.Is(fileErr, os.ErrNotExist) {
		return nil, fmt.Errorf("key %q is neither a public key (%w) nor a file", key, err)
	}
	if fileErr != nil {
		return nil, fmt.Errorf("read public key: %w", fileErr)
	}
	v, err = note.NewVerifier(strings.TrimSpace(string(raw)))
	if err != nil {
		return nil, fmt.Errorf("public key in %s: %w", key, err)
	}
	return v, nil
}
