package disk

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/tier"
)

func benchCache(b *testing.B, n, size int) (*Cache, []tier.Ref) {
	b.Helper()
	c := open(b, Options{Path: b.TempDir(), MaxSize: 8 << 30, Queue: 64 << 20})
	refs := make([]tier.Ref, n)
	for i := range refs {
		refs[i] = put(c, uint64(i), size)
	}
	flush(b, c)
	return c, refs
}

func BenchmarkGet(b *testing.B) {
	for _, size := range []int{500, 4000, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c, refs := benchCache(b, 200, size)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				blob, err := c.Get(refs[i%len(refs)])
				if err != nil {
					b.Fatal(err)
				}
				blob.Release()
			}
		})
	}
}

// BenchmarkGetWrite also writes the bytes somewhere, as a reply does.
func BenchmarkGetWrite(b *testing.B) {
	for _, size := range []int{128 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c, refs := benchCache(b, 200, size)
			out, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
			if err != nil {
				b.Fatal(err)
			}
			defer out.Close()
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				blob, err := c.Get(refs[i%len(refs)])
				if err != nil {
					b.Fatal(err)
				}
				if _, err := out.Write(blob.Data); err != nil {
					b.Fatal(err)
				}
				blob.Release()
			}
		})
	}
}

func BenchmarkMiss(b *testing.B) {
	c, _ := benchCache(b, 200, 4000)
	ref, _ := blob(1<<40, 10)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Get(ref); err == nil {
			b.Fatal("found")
		}
	}
}

func BenchmarkRange(b *testing.B) {
	for _, n := range []int64{4 << 10, 32 << 10, 128 << 10} {
		for _, cold := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d/cold=%v", n, cold), func(b *testing.B) {
				c, refs := benchCache(b, 200, 1<<20)
				r := rand.New(rand.NewPCG(1, 2))
				if cold {
					evictPages(b, c)
				}
				b.ReportAllocs()
				b.SetBytes(n)
				for i := 0; b.Loop(); i++ {
					if cold && i%1000 == 999 {
						b.StopTimer()
						evictPages(b, c)
						b.StartTimer()
					}
					blob, err := c.Range(refs[r.IntN(len(refs))], r.Int64N(1<<20-n), n)
					if err != nil {
						b.Fatal(err)
					}
					blob.Release()
				}
			})
		}
	}
}

// evictPages has the kernel forget the pages of all segments.
func evictPages(b testing.TB, c *Cache) {
	b.Helper()
	for _, s := range c.segments() {
		c.detach(s) // what is mapped stays in memory
		for deadline := time.Now().Add(time.Second); s != c.active && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			c.openMu.Lock()
			n := s.handles
			c.openMu.Unlock()
			if n == 0 {
				break
			}
		}
		f, err := os.Open(s.path)
		if err != nil {
			b.Fatal(err)
		}
		_ = f.Sync()
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

func BenchmarkPut(b *testing.B) {
	for _, size := range []int{1000, 4000, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c := open(b, Options{Path: b.TempDir(), MaxSize: 2 << 30})
			data := make([]byte, size)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			var i uint64
			for b.Loop() {
				i++
				var d [8]byte
				binary.LittleEndian.PutUint64(d[:], i)
				c.Put(context.Background(), tier.Ref{Domain: "default", Digest: digest.Of(d[:])}, data)
			}
			flush(b, c)
			if s := c.Stats(); s.Dropped > 0 {
				b.Errorf("%+v", s)
			}
		})
	}
}

// BenchmarkOpen opens a cache of 100,000 blobs, after a clean shutdown and after
// another.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	c := open(b, Options{Path: dir, MaxSize: 8 << 30})
	data := make([]byte, 4000)
	const n = 100_000
	for i := range n {
		var d [8]byte
		binary.LittleEndian.PutUint64(d[:], uint64(i))
		c.Put(context.Background(), tier.Ref{Domain: "default", Digest: digest.Of(d[:])}, data)
	}
	flush(b, c)
	if s := c.Stats(); s.Blobs != n {
		b.Fatalf("%+v", s)
	}
	shut(b, c)
	for _, kind := range []string{"clean", "unclean", "unclean and cold"} {
		b.Run(kind, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				if kind != "clean" {
					_ = os.Remove(dir + "/" + cleanFile)
				}
				if kind == "unclean and cold" {
					for _, path := range segmentFiles(b, dir) {
						f, err := os.Open(path)
						if err != nil {
							b.Fatal(err)
						}
						_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
						f.Close()
					}
				}
				b.StartTimer()
				c, err := Open(Options{Path: dir, MaxSize: 8 << 30})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if got := c.Stats().Blobs; got != n {
					b.Fatalf("%d blobs", got)
				}
				shut(b, c)
				b.StartTimer()
			}
		})
	}
}
