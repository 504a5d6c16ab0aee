package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// TestNoCorruptByteIsServed changes each byte of ten blobs in the store in turn.
// Each blob is the content of many files: one that could just not be read is
// not asked for at once, so each change is looked at through another file.
func TestNoCorruptByteIsServed(t *testing.T) {
	t.Parallel()
	const copies = 220
	blobs, tree := map[string][]byte{}, map[string]node{}
	for i := range 5 {
		blobs[fmt.Sprintf("plain%d", i)] = noise(20+i*37, byte(i))
		blobs[fmt.Sprintf("packed%d", i)] = bytes.Repeat(noise(25+i, byte(i)), 20)
	}
	for name, data := range blobs {
		for i := range copies {
			tree[fmt.Sprintf("%s/%03d", name, i)] = node{mode: 0o644, data: data}
		}
	}
	dir := shortDir(t)
	write(t, dir, tree)
	store := newStore(t, "e2e|app(1)", dir)
	c, mount := appClient(t, store.url())
	c.main = `io_timeout = "5s"`
	c.disk = `max_size = "0"`
	c.start()
	for name, data := range blobs {
		digest := fmt.Sprintf("%x", sha256.Sum256(data))
		blob := filepath.Join(store.dir, "default", digest)
		good := mustRead(t, blob)
		if packed := strings.HasPrefix(name, "packed"); packed == bytes.Equal(good, data) {
			t.Fatalf("%s: this blob is not in the form that the test is about", name)
		}
		// From the last on: who reads on in order is read ahead for.
		tested := 0
		for i := len(good) - 1; i >= 0; i-- {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << (i % 8)
			if unpacksTo(bad, data) {
				continue // the format has bits that mean nothing
			}
			tested++
			mustWrite(t, blob, bad, 0o644)
			if b, err := readFile(t, 6*time.Second, filepath.Join(mount, name, fmt.Sprintf("%03d", i+2))); !errors.Is(err, syscall.EIO) {
				t.Fatalf("%s with byte %d changed: got %d bytes and %v, want EIO", name, i, len(b), err)
			}
		}
		if tested < len(good)*9/10 {
			t.Errorf("%s: only %d of %d bytes could be tested", name, tested, len(good))
		}
		mustWrite(t, blob, good[:len(good)/2], 0o644)
		wantError(t, 6*time.Second, filepath.Join(mount, name, "001"), syscall.EIO)
		eventually(t, 20*time.Second, "a warning names the store and "+digest, func() bool { // there is one a second
			os.ReadFile(filepath.Join(mount, name, "001"))
			return logsCorrupt(c.log(), digest)
		})
		mustWrite(t, blob, good, 0o644)
		wantContent(t, 5*time.Second, filepath.Join(mount, name, "000"), data)
	}
	if s := c.status().Stores[0].Tier.Sources[0]; s.Corrupt < 100 {
		t.Errorf("status counts %d corrupt answers", s.Corrupt)
	}
	c.stop()
}

func unpacksTo(stored, plain []byte) bool {
	r, err := zstd.NewReader(nil)
	if err != nil {
		panic(err)
	}
	defer r.Close()
	got, err := r.DecodeAll(stored, nil)
	return err == nil && bytes.Equal(got, plain)
}

func logsCorrupt(log, digest string) bool {
	for line := range strings.Lines(log) {
		if strings.Contains(line, "level=WARN") && strings.Contains(line, "corrupt") &&
			strings.Contains(line, `tier="store s"`) && strings.Contains(line, "digest="+digest) {
			return true
		}
	}
	return false
}

// TestCorruptMetadata: a catalog that is not what the head says is not shown.
func TestCorruptMetadata(t *testing.T) {
	t.Parallel()
	store, _ := smallStore(t)
	blobs, err := filepath.Glob(filepath.Join(store.dir, "default", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if st, err := os.Stat(b); err == nil && st.Mode().IsRegular() && st.Size() < 50_000 { // no file of the tree
			mustWrite(t, b, []byte("something else"), 0o644)
		}
	}
	c, mount := appClient(t, store.url())
	c.main = `io_timeout = "2s"`
	c.begin()
	eventually(t, 20*time.Second, "the corrupt catalog is told of", func() bool {
		os.ReadDir(mount) // which asks for it where the mount came up without
		return strings.Contains(c.log(), "corrupt")
	})
	if names, err := os.ReadDir(mount); len(names) != 0 {
		t.Errorf("shows %v, %v", names, err)
	}
}

// TestOneBadChunkSparesTheOthers: what is wrong in one place of a large file
// must not show in another.
func TestOneBadChunkSparesTheOthers(t *testing.T) {
	t.Parallel()
	const size = 6 << 20
	data := noise(size, 7)
	dir := shortDir(t)
	write(t, dir, map[string]node{"large": {mode: 0o644, data: data}})
	store := newStore(t, "e2e|app(1)", dir)
	// The chunk that has the byte in the middle.
	at := -1
	blobs, err := filepath.Glob(filepath.Join(store.dir, "default", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range blobs {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // a directory
		}
		if i := bytes.Index(data, b); i <= size/2 && i+len(b) > size/2 {
			at = i
			mustWrite(t, file, append(b[1:], b[0]), 0o644)
		}
	}
	if at < 0 {
		t.Fatal("no blob in the store has this part of the file")
	}
	c, mount := startClient(t, store.url())
	f, err := os.OpenFile(filepath.Join(mount, "large"), os.O_RDONLY|syscall.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(buf)
	for range 3 {
		if _, err := f.ReadAt(buf, size/2); !errors.Is(err, syscall.EIO) {
			t.Errorf("the bad chunk: %v, want EIO", err)
		}
		for _, off := range []int64{0, size / 4, size - 4096} {
			if _, err := f.ReadAt(buf, off); err != nil || !bytes.Equal(buf, data[off:off+4096]) {
				t.Errorf("a good chunk, at %d: %v, or other content", off, err)
			}
		}
	}
	// Before the bad chunk all is well for who reads in order, too.
	in := openFile(t, filepath.Join(mount, "large"))
	got, err := io.ReadAll(in)
	if !errors.Is(err, syscall.EIO) || len(got) < at&^4095 || !bytes.Equal(got, data[:len(got)]) {
		t.Errorf("read %d right bytes, then %v; want the %d before the bad chunk, then EIO", len(got), err, at)
	}
	f.Close()
	c.stop()
}
