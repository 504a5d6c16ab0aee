package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/object"
)

// signFlags are the flags that say what signs a head.
type signFlags struct {
	files   []string // of private keys
	with    string   // a command that signs
	public  []string // the keys that it signs with
	timeout time.Duration
}

// signTime is how long a command may take to sign, in case it waits for
// somebody to touch a token.
const signTime = 2 * time.Minute

func (s *signFlags) add(fs *flag.FlagSet) {
	fs.Func("key", "`file` with the private key that signs the head; twice, for two signatures, while keys are changed", func(file string) error {
		s.files = append(s.files, file)
		return nil
	})
	fs.StringVar(&s.with, "sign-with", "", "`command` that signs the head, run by sh -c: it gets the text on standard input and prints the signed note, or the lines of it that are the signatures, as \"ays sign\" does")
	fs.Func("public", "public `key`, or a file with it, of the key that -sign-with signs with; more than once if it signs with more", func(key string) error {
		s.public = append(s.public, key)
		return nil
	})
	fs.DurationVar(&s.timeout, "sign-timeout", signTime, "how long -sign-with may take")
}

// open returns all signers, and the public keys that belong to them.
func (s *signFlags) open(ctx context.Context, stderr io.Writer) (signers []note.Signer, keys object.Keys, err error) {
	if signers, keys, err = readSigners(s.files); err != nil {
		return nil, nil, err
	}
	switch {
	case (s.with == "") != (len(s.public) == 0):
		return nil, nil, errors.New("-sign-with and -public go together: what the command prints is held against the public key")
	case s.timeout <= 0:
		return nil, nil, fmt.Errorf("-sign-timeout %v: write more than that, such as %v", s.timeout, signTime)
	}
	cmd := &signCommand{ctx: ctx, command: s.with, timeout: s.timeout, stderr: stderr}
	for _, public := range s.public {
		key, err := readKey(public)
		if err != nil {
			return nil, nil, err
		}
		if key.Until != 0 {
			return nil, nil, fmt.Errorf("-public %s: leave out \"until\", which is for those who check", key.ID())
		}
		cmd.keys = append(cmd.keys, key)
		signers, keys = append(signers, commandSigner{cmd, key}), append(keys, key)
	}
	return signers, keys, oneEach(keys)
}

func readSigners(files []string) (signers []note.Signer, keys object.Keys, err error) {
	for _, file := range files {
		signer, key, err := readSigner(file)
		if err != nil {
			return nil, nil, err
		}
		signers, keys = append(signers, signer), append(keys, key)
	}
	return signers, keys, oneEach(keys)
}

// oneEach is an error if a key is there twice.
func oneEach(keys object.Keys) error {
	ids := make(map[string]bool)
	for _, k := range keys {
		if ids[k.ID()] {
			return fmt.Errorf("key %s is to sign twice: name it once", k.ID())
		}
		ids[k.ID()] = true
	}
	return nil
}

// signCommand has the signing done by a command, so that the keys need not be on
// this machine.
type signCommand struct {
	ctx     context.Context // of the whole program: Sign is given none
	command string
	timeout time.Duration
	stderr  io.Writer
	keys    object.Keys // all that it must sign with

	text []byte // what it signed last
	sigs []note.Signature
}

// commandSigner is a signCommand as one of its keys.
type commandSigner struct {
	*signCommand
	key object.Key
}

func (s commandSigner) Name() string    { return s.key.Name() }
func (s commandSigner) KeyHash() uint32 { return s.key.KeyHash() }

// Sign returns the signature of the text by the key. The command is run once for
// a text, however many keys it has.
func (s commandSigner) Sign(text []byte) ([]byte, error) {
	if !bytes.Equal(s.text, text) {
		out, err := s.run(text)
		if err != nil {
			return nil, fmt.Errorf("have %q sign: %w", s.command, err)
		}
		sigs, err := s.check(text, out)
		if err != nil {
			return nil, fmt.Errorf("have %q sign: %w", s.command, err)
		}
		s.text, s.sigs = bytes.Clone(text), sigs
	}
	i := slices.IndexFunc(s.sigs, func(g note.Signature) bool { return g.Name == s.key.Name() && g.Hash == s.key.KeyHash() })
	sig, err := base64.StdEncoding.DecodeString(s.sigs[i].Base64)
	if err != nil {
		return nil, fmt.Errorf("signature by %s: %w", s.key.ID(), err)
	}
	return sig[4:], nil // behind the key's hash
}

// run gives the text to the command and returns what it prints.
func (s *signCommand) run(text []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	out := &limited{most: object.MaxHead}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", s.command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), out, s.stderr
	cmd.WaitDelay = time.Second // for what it started and left behind
	err := cmd.Run()
	switch {
	case s.ctx.Err() != nil:
		return nil, s.ctx.Err()
	case ctx.Err() != nil:
		return nil, fmt.Errorf("it took more than %v; see -sign-timeout", s.timeout)
	case out.over:
		return nil, fmt.Errorf("it printed more than %d bytes, which is no signature", out.most)
	case err != nil:
		return nil, err
	}
	return out.b.Bytes(), nil
}

// limited keeps what is written to it, up to a number of bytes.
type limited struct {
	b    bytes.Buffer
	most int
	over bool
}

var errOver = errors.New("too much output")

func (l *limited) Write(p []byte) (int, error) {
	if l.b.Len()+len(p) > l.most {
		l.over = true
		return 0, errOver
	}
	return l.b.Write(p)
}

// check holds what the command printed, a signed note or the signatures of one,
// against the public keys. All of them must have signed the text.
func (s *signCommand) check(text, out []byte) ([]note.Signature, error) {
	const want = "it must print the signed note, or the lines of it that are the signatures, and nothing else"
	lines, whole := bytes.CutPrefix(out, append(bytes.Clone(text), '\n'))
	if !whole && !bytes.HasPrefix(bytes.TrimSpace(out), []byte("— ")) {
		if bytes.Contains(out, []byte("\n\n— ")) {
			return nil, errors.New("it signed another text than the one it was given")
		}
		return nil, fmt.Errorf("it printed %.60q: %s", out, want)
	}
	signed := slices.Concat(text, []byte("\n"), bytes.TrimSpace(lines), []byte("\n"))
	verifiers := make([]note.Verifier, len(s.keys))
	for i, k := range s.keys {
		verifiers[i] = k
	}
	n, err := note.Open(signed, note.VerifierList(verifiers...))
	if wrong, ok := errors.AsType[*note.InvalidSignatureError](err); ok {
		return nil, fmt.Errorf("what it printed is not a signature of the text by %s+%08x", wrong.Name, wrong.Hash)
	}
	if none, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		n, err = none.Note, nil
	}
	if err != nil || n.Text != string(text) {
		return nil, fmt.Errorf("it printed %.60q: %s", lines, want)
	}
	for _, k := range s.keys {
		if !slices.ContainsFunc(n.Sigs, func(g note.Signature) bool { return g.Name == k.Name() && g.Hash == k.KeyHash() }) {
			return nil, fmt.Errorf("it did not sign with %s: is -public the key that it signs with?", k.ID())
		}
	}
	return n.Sigs, nil
}

// signHead is the other end of -sign-with. It signs heads and nothing else.
func signHead(_ context.Context, c *call, args []string) int {
	fs := c.flags()
	var files []string
	fs.Func("key", "`file` with the private key; twice, for two signatures", func(file string) error {
		files = append(files, file)
		return nil
	})
	if _, code, ok := c.parse(fs, args); !ok {
		return code
	}
	if len(files) == 0 {
		return c.fail(errors.New("-key is needed"))
	}
	signers, _, err := readSigners(files)
	if err != nil {
		return c.fail(err)
	}
	text, err := io.ReadAll(io.LimitReader(os.Stdin, object.MaxHead+1))
	if err != nil {
		return c.fail(fmt.Errorf("read what is to be signed: %w", err))
	}
	h, err := object.OpenHead(text, nil)
	if err != nil {
		return c.fail(fmt.Errorf("only the text of a head is signed, and this is none: %w", err))
	}
	if h.Text() != string(text) {
		return c.fail(errors.New("only the text of a head is signed, and there is more: signatures are not to be there yet"))
	}
	signed, err := h.Sign(signers...)
	if err != nil {
		return c.fail(err)
	}
	if _, err := c.stdout.Write(signed); err != nil {
		return c.fail(fmt.Errorf("print the signed head: %w", err))
	}
	return exitOK
}
