package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAttributesTellWhereAFileIsFrom(t *testing.T) {
	t.Parallel()
	tree, names := smallTree(t)
	write(t, tree, map[string]node{"empty": {mode: 0o644}, "dir/link": {mode: os.ModeSymlink, target: "x"}})
	store := newStore(t, "e2e|app(1)", tree)
	c, mount := appClient(t, store.url())
	c.main = "xattr = true"
	c.start()
	file := filepath.Join(mount, names[0])
	get := func(file, name string) string {
		buf := make([]byte, 300)
		n, err := unix.Lgetxattr(file, name, buf)
		if err != nil {
			return err.Error()
		}
		return string(buf[:n])
	}
	for name, want := range map[string]string{
		"user.aysfs.digest": fmt.Sprintf("%x", sha256.Sum256(content(100_000))),
		"user.aysfs.tree":   "e2e|app(1)",
		"user.aysfs.serial": "1",
		"user.aysfs.tier":   "not fetched",
		"user.nothing":      syscall.ENODATA.Error(),
	} {
		if got := get(file, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	wantContent(t, 5*time.Second, file, content(100_000))
	if got := get(file, "user.aysfs.tier"); got != "store s" {
		t.Errorf("tier of a file that was read: %q, want the store", got)
	}
	if got, want := get(filepath.Join(mount, "empty"), "user.aysfs.tier"), syscall.ENODATA.Error(); got != want {
		t.Errorf("tier of an empty file: %q, want %q", got, want)
	}
	buf := make([]byte, 300)
	n, err := unix.Listxattr(file, buf)
	list := strings.Split(strings.TrimSuffix(string(buf[:max(n, 0)]), "\x00"), "\x00")
	slices.Sort(list)
	if want := []string{"user.aysfs.digest", "user.aysfs.serial", "user.aysfs.tier", "user.aysfs.tree"}; err != nil || !slices.Equal(list, want) {
		t.Errorf("list: %q, %v, want %q", list, err, want)
	}
	if _, err := unix.Getxattr(file, "user.aysfs.digest", make([]byte, 10)); !errors.Is(err, syscall.ERANGE) {
		t.Errorf("into 10 bytes: %v, want ERANGE", err)
	}
	c.settled()
	c.stop()
	c.start()
	if got := get(file, "user.aysfs.tier"); got != "disk" {
		t.Errorf("tier of a file that was read before: %q, want the disk cache", got)
	}
	c.stop()
}

func TestNoAttributesByDefault(t *testing.T) {
	t.Parallel()
	store, names := smallStore(t)
	c, mount := startClient(t, store.url())
	file := filepath.Join(mount, names[0])
	if _, err := unix.Getxattr(file, "user.aysfs.digest", nil); !errors.Is(err, syscall.ENOTSUP) {
		t.Errorf("get: %v, want ENOTSUP", err)
	}
	if n, err := unix.Listxattr(file, nil); n > 0 || err != nil && !errors.Is(err, syscall.ENOTSUP) {
		t.Errorf("list: %d bytes, %v, want none", n, err)
	}
	c.stop()
}
