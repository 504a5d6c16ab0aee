package publish

import (
	"bytes"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/aysfs/aysfs/src/digest"
)

// Many times more than fits into memory comes out sorted, each once, by way of
// more files than are merged at a time.
func TestSorter(t *testing.T) {
	dir := t.TempDir()
	s := newSorter(dir)
	s.max = 16
	defer s.close()
	r := rand.New(rand.NewPCG(1, 2))
	want := map[digest.Digest]bool{}
	for range 5000 {
		d := digest.Of([]byte{byte(r.Uint32()), byte(r.Uint32() % 32)})
		want[d] = true
		if err := s.add(d); err != nil {
			t.Fatal(err)
		}
		if len(s.mem) > 16 || len(s.runs) > maxRuns {
			t.Fatalf("%d in memory, %d files", len(s.mem), len(s.runs))
		}
	}
	var got []digest.Digest
	sorted := s.sorted()
	for {
		d, ok, err := sorted.next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		got = append(got, d)
	}
	if len(got) != len(want) || !slices.IsSortedFunc(got, func(a, b digest.Digest) int { return bytes.Compare(a[:], b[:]) }) {
		t.Errorf("%d digests, want %d sorted", len(got), len(want))
	}
	for _, d := range got {
		if !want[d] {
			t.Errorf("%v was never added", d)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("files with names: %v (%v)", left, err)
	}
}

func TestSorterOfNothing(t *testing.T) {
	s := newSorter(t.TempDir())
	defer s.close()
	if _, ok, err := s.sorted().next(); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
}
