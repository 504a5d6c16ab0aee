package disk

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/tier"
)

func TestProfilesAreKept(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Path: dir})
	if _, err := c.Profile("t"); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("no profile: %v", err)
	}
	want := bytes.Repeat([]byte("p"), 10_000)
	for _, b := range [][]byte{[]byte("old"), want} {
		if err := c.PutProfile("t", b); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.PutProfile("t", make([]byte, maxProfile+1)); err == nil {
		t.Error("a profile without bounds was taken")
	}
	crash(t, c)
	c = open(t, Options{Path: dir})
	if b, err := c.Profile("t"); err != nil || !bytes.Equal(b, want) {
		t.Errorf("after a crash: %d bytes, %v", len(b), err)
	}
	if _, err := c.Profile("other"); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("another tree's: %v", err)
	}
	if n := c.Stats().Disk; n < 10_000 {
		t.Errorf("%d bytes on disk", n)
	}

	// What somebody made of one is not read without bounds.
	path := c.profiles.file("t")
	if err := os.WriteFile(path, make([]byte, maxProfile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Profile("t"); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("a large one: %v", err)
	}
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Profile("t"); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("a directory: %v", err)
	}
	if err := c.PutProfile("t", want); err == nil {
		t.Error("put over a directory")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestProfilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Path: dir, MaxSize: 64 << 20})
	put := func(i, size int) {
		t.Helper()
		key := fmt.Sprint(i)
		if err := c.PutProfile(key, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(i-2000) * time.Minute) // file times are coarse
		if err := os.Chtimes(c.profiles.file(key), at, at); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 * maxProfiles {
		put(i, 100)
	}
	files, err := filepath.Glob(filepath.Join(dir, "profile-*"))
	if err != nil || len(files) != maxProfiles {
		t.Errorf("%d files, %v", len(files), err)
	}
	for i := range 20 {
		put(1000+i, 200<<10)
	}
	if n := c.profiles.size(); n > 64<<20/profilesShare {
		t.Errorf("%d bytes", n)
	}
	if _, err := c.Profile("1019"); err != nil {
		t.Errorf("the last one: %v", err)
	}
	if _, err := c.Profile("5"); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("an old one: %v", err)
	}
}
