package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/object"
)

// signFlags are the flags that say what signs a head.
type signFlags struct {
	files  []string // of private keys
	with   string   // a command that signs
	public string   // the key that it signs with
}

func (s *signFlags) add(fs *flag.FlagSet) {
	fs.Func("key", "`file` with the private key that signs the head; twice, for two signatures, while keys are changed", func(file string) error {
		s.files = append(s.files, file)
		return nil
	})
	fs.StringVar(&s.with, "sign-with", "", "`command` that signs the head: gets what is to be signed, prints the signature in base64, as \"ays sign\" does")
	fs.StringVar(&s.public, "public", "", "public `key`, or a file with it, of the key that -sign-with signs with")
}

// open returns all signers, and the public keys that belong to them.
func (s *signFlags) open(ctx context.Context) (signers []note.Signer, keys object.Keys, err error) {
	for _, file := range s.files {
		signer, key, err := readSigner(file)
		if err != nil {
			return nil, nil, err
		}
		signers, keys = append(signers, signer), append(keys, key)
	}
	if (s.with == "") != (s.public == "") {
		return nil, nil, errors.New("-sign-with and -public go together")
	}
	if s.with != "" {
		key, err := readKey(s.public)
		if err != nil {
			return nil, nil, err
		}
		signers, keys = append(signers, &commandSigner{ctx, s.with, key.Verifier}), append(keys, key)
	}
	return signers, keys, nil
}

// signTime is how long a command may take to sign, in case it waits for
// somebody to touch a token.
const signTime = 2 * time.Minute

// maxSignature is more than a signature in base64 takes, in bytes.
const maxSignature = 4 << 10

// commandSigner has the signing done by a command, so that the key need not be
// on this machine.
type commandSigner struct {
	ctx     context.Context // of the whole program: Sign is given none
	command string
	key     note.Verifier
}

func (s *commandSigner) Name() string    { return s.key.Name() }
func (s *commandSigner) KeyHash() uint32 { return s.key.KeyHash() }

func (s *commandSigner) Sign(msg []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.ctx, signTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", s.command)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(msg), os.Stderr
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("have %q sign: %w", s.command, err)
	}
	sig, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(out[:min(len(out), maxSignature)])))
	if err != nil {
		return nil, fmt.Errorf("%q printed no signature in base64: %w", s.command, err)
	}
	if !s.key.Verify(msg, sig) {
		return nil, fmt.Errorf("what %q printed is no signature by %s: is -public the key that it signs with?", s.command, s.key.Name())
	}
	return sig, nil
}

// signHead is the other end of -sign-with. It signs heads and nothing else.
func signHead(_ context.Context, c *call, args []string) int {
	fs := c.flags()
	file := fs.String("key", "", "`file` with the private key")
	if _, code, ok := c.parse(fs, args); !ok {
		return code
	}
	if *file == "" {
		return c.fail(errors.New("-key is needed"))
	}
	signer, _, err := readSigner(*file)
	if err != nil {
		return c.fail(err)
	}
	text, err := io.ReadAll(io.LimitReader(os.Stdin, object.MaxHead+1))
	if err != nil {
		return c.fail(fmt.Errorf("read what is to be signed: %w", err))
	}
	h, err := object.OpenHead(text, nil)
	if err != nil || h.Text() != string(text) {
		return c.fail(errors.Join(errors.New("what is to be signed is not the text of a head: only such are signed"), err))
	}
	sig, err := signer.Sign(text)
	if err != nil {
		return c.fail(err)
	}
	fmt.Fprintln(c.stdout, base64.StdEncoding.EncodeToString(sig))
	return exitOK
}

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

// keysFlag adds a flag for public keys, which may be there more than once.
func keysFlag(fs *flag.FlagSet, name, usage string) *object.Keys {
	keys := &object.Keys{}
	fs.Func(name, usage, func(text string) error {
		k, err := readKey(text)
		*keys = append(*keys, k)
		return err
	})
	return keys
}

// readKey takes a public key itself, or the name of a file with one.
func readKey(key string) (object.Key, error) {
	k, err := object.ParseKey(key)
	if err == nil {
		return k, nil
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
