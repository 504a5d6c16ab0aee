package fs

import (
	"fmt"
	"testing"

	"github.com/jacobsa/fuse/fuseops"

	"github.com/aysfs/aysfs/src/tier"
)

// still has all in memory, and counts nothing.
type still struct{ *memory }

func (s still) Ready(ref tier.Ref, off, n int64) (tier.Blob, tier.Nearness) {
	return tier.NewBlob(s.blobs[ref.Digest][off:off+n], nil), tier.InMemory
}

func (still) Prefetch(tier.Ref) bool { return true }

// warm is a file system that needs nothing but its memory, with no kernel in front of
// it. It returns what programs ask for most, each with what asks for it; anything
// that is asked is made anew by every call.
func warm(t testing.TB) (*FS, map[string]func() func()) {
	d := dir{"large": noise(3_456_789)}
	for i := range 1000 {
		d[fmt.Sprintf("some-file-name-%04d", i)] = fmt.Sprint("content ", i)
	}
	m := still{newMemory()}
	f, err := New(Config{Path: "/nowhere", Log: m.log(t)}, m.view(t, d), m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Abandon)
	if _, err := f.now.Load().view.Listing(t.Context(), "", f.now.Load().view.Root().Digest); err != nil {
		t.Fatal(err)
	}
	s := &server{fs: f}
	answer := func(op any) {
		r := request{op: op}
		if err := s.answer(noWait, &r); err != nil {
			t.Errorf("%T: %v", op, err)
		}
		r.turn.end()
	}
	look := func(name string) *fuseops.LookUpInodeOp {
		return &fuseops.LookUpInodeOp{Parent: rootID, Name: name}
	}
	small, large := look("some-file-name-0500"), look("large")
	answer(small)
	answer(large)
	r, _ := f.table.get(uint64(large.Entry.Child))
	if _, err := f.now.Load().chunks(t.Context(), r.digest, r.size); err != nil {
		t.Fatal(err)
	}
	return f, map[string]func() func(){
		"lookup": func() func() {
			op := look("some-file-name-0500")
			return func() { answer(op) }
		},
		"readdirplus": func() func() {
			op := &fuseops.ReadDirPlusOp{ReadDirOp: fuseops.ReadDirOp{Inode: rootID, Dst: make([]byte, 32<<10)}}
			return func() {
				op.BytesRead = 0
				answer(op)
			}
		},
		"read": func() func() {
			op := &fuseops.ReadFileOp{Inode: small.Entry.Child, Size: 4096}
			return func() {
				answer(op)
				op.Callback()
			}
		},
		"read of chunks": func() func() {
			op := &fuseops.ReadFileOp{Inode: large.Entry.Child, Size: 1 << 20, Offset: 1 << 20}
			return func() {
				answer(op)
				op.Callback()
			}
		},
	}
}

func TestWarmAnswersDoNotAllocate(t *testing.T) {
	f, all := warm(t)
	for _, recorded := range []bool{false, true} {
		if recorded {
			t.Cleanup(f.Record(func(Need) {}))
		}
		for name, ask := range all {
			if n := testing.AllocsPerRun(1000, ask()); n > 0 {
				t.Errorf("%s, recorded %v: %v allocations", name, recorded, n)
			}
		}
	}
}

// BenchmarkWarm answers out of memory; with -cpu 1,2,4 it shows how far several
// threads get.
func BenchmarkWarm(b *testing.B) {
	_, all := warm(b)
	for name, ask := range all {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for do := ask(); pb.Next(); {
					do()
				}
			})
		})
	}
}
