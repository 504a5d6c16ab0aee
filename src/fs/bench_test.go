package fs

import (
	"fmt"
	"testing"

	"github.com/jacobsa/fuse/fuseops"
)

// BenchmarkWarm answers out of memory what programs ask for most, with no kernel
// in between.
func BenchmarkWarm(b *testing.B) {
	d := dir{}
	for i := range 1000 {
		d[fmt.Sprintf("some-file-name-%04d", i)] = fmt.Sprint("content ", i)
	}
	m := newMemory()
	f, err := New(Config{Path: "/nowhere", Log: m.log(b)}, m.view(b, d), m)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Abandon()
	if _, err := f.now.Load().view.Listing(b.Context(), "", f.now.Load().view.Root().Digest); err != nil {
		b.Fatal(err)
	}
	s := &server{fs: f}
	b.Run("lookup", func(b *testing.B) {
		b.ReportAllocs()
		op := &fuseops.LookUpInodeOp{Parent: rootID, Name: "some-file-name-0500"}
		for b.Loop() {
			r := request{op: op}
			if err := s.answer(noWait, &r); err != nil {
				b.Fatal(err)
			}
			r.turn.end()
		}
	})
	b.Run("read", func(b *testing.B) {
		look := &fuseops.LookUpInodeOp{Parent: rootID, Name: "some-file-name-0500"}
		r := request{op: look}
		if err := s.answer(noWait, &r); err != nil {
			b.Fatal(err)
		}
		r.turn.end()
		op := &fuseops.ReadFileOp{Inode: look.Entry.Child, Size: 4096}
		b.ReportAllocs()
		for b.Loop() {
			r := request{op: op}
			if err := s.answer(b.Context(), &r); err != nil {
				b.Fatal(err)
			}
			op.Callback()
		}
	})
}
