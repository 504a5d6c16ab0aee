package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/tier"
)

// blob returns size bytes that follow from n, and their ref.
func blob(n uint64, size int) (tier.Ref, []byte) {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], n)
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(b)
	return tier.Ref{Domain: "default", Digest: digest.Of(b)}, b
}

// logged collects what is logged, to count warnings.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), what)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// open opens a cache, and at the end of the test closes it and checks that
// nothing is left open.
func open(t testing.TB, opt Options) *Cache {
	t.Helper()
	if opt.MaxSize == 0 {
		opt.MaxSize = 64 << 20
	}
	c, err := Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, c) })
	return c
}

func shut(t testing.TB, c *Cache) {
	t.Helper()
	if err := c.Close(context.Background()); err != nil {
		t.Errorf("Close: %v", err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		c.openMu.Lock()
		open, mapped, lingering := c.open, c.mapped, c.lingering
		c.openMu.Unlock()
		if open == 0 && mapped == 0 && lingering == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left open: %d handles, %d bytes mapped, %d lingering", open, mapped, lingering)
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// crash lets a cache go as a killed process would: with nothing written out or
// marked. Its files stay as they are.
func crash(t testing.TB, c *Cache) {
	t.Helper()
	c.call(func() { c.trouble.forever(errors.New("crashed")) })
	if err := c.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(c.opt.Path, cleanFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// flush waits until all that was put is on disk, or dropped.
func flush(t testing.TB, c *Cache) {
	t.Helper()
	c.call(c.writeQueue)
	if n := c.Stats().Pending; n > 0 {
		t.Fatalf("%d bytes stay in the queue", n)
	}
}

func put(c *Cache, n uint64, size int) tier.Ref {
	ref, b := blob(n, size)
	c.Put(context.Background(), ref, b)
	return ref
}

// has gets blob n and fails the test if it is there with other bytes.
func has(t testing.TB, c *Cache, n uint64, size int) bool {
	t.Helper()
	ref, want := blob(n, size)
	b, err := c.Get(ref)
	if err != nil {
		if !errors.Is(err, tier.ErrAbsent) {
			t.Fatalf("Get: %v", err)
		}
		return false
	}
	defer b.Release()
	if !bytes.Equal(b.Data, want) {
		t.Fatalf("blob %d of %d bytes: wrong bytes", n, size)
	}
	return true
}

// taken is what the files under dir take: by size and by blocks, the larger.
func taken(t testing.TB, dir string) int64 {
	t.Helper()
	var size, blocks int64
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || fi.IsDir() {
			return err
		}
		size += fi.Size()
		blocks += statOf(fi).Blocks * 512
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return max(size, blocks)
}

func segmentFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "seg-*.bolt"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}
