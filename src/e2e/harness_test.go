package e2e

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"
)

// shortDir is t.TempDir with a short name, as sockets need it, that anybody may
// look into.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sameTree tells by two programs of others what differs between two trees:
// names and contents, then all that rsync knows of.
func sameTree(t *testing.T, want, got string) {
	t.Helper()
	run(t, time.Minute, "diff", "-r", "--no-dereference", want, got)
	if out := run(t, time.Minute, "rsync", "-nac", "--delete", "-i", want+"/", got+"/"); out != "" {
		t.Errorf("rsync would change:\n%s", lastLines(out, 20))
	}
}

// readFile is os.ReadFile, which must return within d.
func readFile(t *testing.T, d time.Duration, file string) (b []byte, err error) {
	t.Helper()
	within(t, d, "read "+file, func() { b, err = os.ReadFile(file) })
	return b, err
}

// wantContent reads a file, which must be as it should within d.
func wantContent(t *testing.T, d time.Duration, file string, want []byte) {
	t.Helper()
	if got, err := readFile(t, d, file); err != nil {
		t.Error(err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("%s: other content than was published", file)
	}
}

// wantError reads a file, which must fail with want within d.
func wantError(t *testing.T, d time.Duration, file string, want syscall.Errno) {
	t.Helper()
	if b, err := readFile(t, d, file); !errors.Is(err, want) {
		t.Errorf("read %s: got %d bytes and error %v, want %v", file, len(b), err, want)
	}
}

// hasContent tells whether a file can be read and is as it should.
func hasContent(file string, want []byte) bool {
	got, err := os.ReadFile(file)
	return err == nil && bytes.Equal(got, want)
}

// comesToHave waits until a file is as it should, for at most d.
func comesToHave(t *testing.T, d time.Duration, what, file string, want []byte) {
	t.Helper()
	eventually(t, d, what, func() bool { return hasContent(file, want) })
}

// openFile opens a file to read, until the test ends.
func openFile(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// mustWrite writes a file anew, as os.WriteFile does.
func mustWrite(t *testing.T, name string, b []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, b, mode); err != nil {
		t.Fatal(err)
	}
}

// replace puts another file in the place of one, at once.
func replace(t *testing.T, name string, b []byte, mode os.FileMode) {
	t.Helper()
	mustWrite(t, name+".new", b, mode)
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}
