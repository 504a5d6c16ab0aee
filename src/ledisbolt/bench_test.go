package ledisbolt

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
)

// BenchmarkLedis measures commands of the embedded ledis: writes as they are
// acknowledged, with what it takes to have all of them on disk in the end, and
// reads of what is in memory.
func BenchmarkLedis(b *testing.B) {
	for _, size := range []int{1 << 10, 128 << 10, 512 << 10} {
		value := make([]byte, size)
		for i := range value {
			value[i] = byte(rand.Uint32())
		}
		field := func(i int) []byte { return []byte(digest.Of(fmt.Append(nil, i)).String()) }
		key := []byte("files:d")
		open := func(b *testing.B, n int) (*Store, func(f []byte) ([]byte, error), func(f []byte)) {
			s, err := Open(b.TempDir(), Options{})
			must(b, err)
			l, err := Register().OpenLedis(s)
			must(b, err)
			b.Cleanup(l.Close)
			d, err := l.Select(0)
			must(b, err)
			set := func(f []byte) {
				_, err := d.HSet(key, f, value)
				must(b, err)
			}
			for i := range n {
				set(field(i))
			}
			must(b, s.Sync())
			return s, func(f []byte) ([]byte, error) { return d.HGet(key, f) }, set
		}
		b.Run(fmt.Sprintf("hset/%dKiB", size>>10), func(b *testing.B) {
			s, _, set := open(b, 0)
			b.SetBytes(int64(size))
			b.ResetTimer()
			for i := range b.N {
				set(field(i))
			}
			must(b, s.Sync())
		})
		b.Run(fmt.Sprintf("hset synced/%dKiB", size>>10), func(b *testing.B) {
			s, _, set := open(b, 0)
			b.SetBytes(int64(size))
			b.ResetTimer()
			for i := range b.N {
				set(field(i))
				must(b, s.Sync())
			}
		})
		const n = 200
		b.Run(fmt.Sprintf("hget/%dKiB", size>>10), func(b *testing.B) {
			_, get, _ := open(b, n)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				v, err := get(field(i % n))
				if len(v) != size {
					b.Fatal(len(v), err)
				}
			}
		})
		b.Run(fmt.Sprintf("blob/%dKiB", size>>10), func(b *testing.B) {
			s, _, _ := open(b, n)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				v, ok, err := s.Blob("d", string(field(i%n)))
				if !ok || len(v.Data) != size {
					b.Fatal(ok, err)
				}
				v.Release()
			}
		})
	}
}

// BenchmarkCold reads blobs that are not in memory.
func BenchmarkCold(b *testing.B) {
	const size, n = 512 << 10, 100
	value := make([]byte, size)
	for i := range value {
		value[i] = byte(rand.Uint32())
	}
	s := openStore(b, b.TempDir(), Options{})
	for i := range n {
		must(b, db{s}.Put(fmt.Appendf(blobPrefix("d"), "%d", i), value))
	}
	must(b, s.Sync())
	b.SetBytes(size)
	for i := range b.N {
		if i%n == 0 {
			b.StopTimer()
			for _, g := range s.domains["d"].segments() {
				g.retire(false)
				f, err := os.Open(g.path)
				must(b, err)
				must(b, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
				must(b, f.Close())
			}
			b.StartTimer()
		}
		v, ok, err := s.Blob("d", fmt.Sprint(i%n))
		if !ok || len(v.Data) != size {
			b.Fatal(ok, err)
		}
		v.Release()
	}
}
