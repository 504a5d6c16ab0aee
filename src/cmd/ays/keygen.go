package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"
)

func makeKey(_ context.Context, c *call, args []string) int {
	rest, code, ok := c.parse(c.flags(), args)
	if !ok {
		return code
	}
	// The name may be a path: the key itself is called by its last part.
	path := filepath.Clean(rest[0])
	name, private, public := filepath.Base(path), path+".key", path+".pub"
	for _, file := range []string{private, public} {
		if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
			return c.fail(fmt.Errorf("%s is there already (or can't be looked at); it stays as it is", file))
		}
	}
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return c.fail(fmt.Errorf("make key: %w", err))
	}
	// A name that notes don't take shows only when the key is read.
	if _, err := note.NewVerifier(vkey); err != nil {
		return c.fail(fmt.Errorf("key name %q: no spaces and no '+': %w", name, err))
	}
	if err := writeNew(private, skey, 0o600); err != nil {
		return c.fail(err)
	}
	if err := writeNew(public, vkey, 0o644); err != nil {
		return c.fail(err)
	}
	fmt.Fprintf(c.stdout, `%s  private: keep it where trees are published, for "ays publish -key"
%s  public: goes into the configuration of whoever mounts the store, to [[ays.stor]]:

    key = %q
`, private, public, vkey)
	return exitOK
}

// writeNew writes a line to a file that must not be there yet.
func writeNew(file, line string, mode os.FileMode) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, line)
	return errors.Join(err, f.Sync(), f.Close())
}
