package tier

import "testing"

func TestClassOf(t *testing.T) {
	last := 0
	for n := 1; n <= 2<<maxShared; n++ {
		class, size := classOf(n)
		switch {
		case n < 1<<minShared, n > 7<<(maxShared-2):
			if class >= 0 {
				t.Fatalf("%d bytes: class %d", n, class)
			}
		case class < last || class > last+1 && last > 0 || class/4 > maxShared || size < n || size > n+n/4+1:
			t.Fatalf("%d bytes: class %d of %d bytes after class %d", n, class, size, last)
		default:
			last = class
		}
	}
	if class, _ := classOf(64<<10 + 16); class < 0 {
		t.Error("a blob of 64 KiB is not shared")
	}
}

// A buffer goes to another blob when all loans have been returned, each once, however
// often they are.
func TestShared(t *testing.T) {
	var m memory
	s, first := m.take(5000)
	b := Lent(s.whole[:5000], s, first)
	again, ok := b.Again()
	if !ok {
		t.Fatal("not lent again")
	}
	for range 3 {
		b.Release()
	}
	if len(s.loans) != 1 {
		t.Fatalf("%d loans", len(s.loans))
	}
	if third, ok := again.Again(); !ok {
		t.Error("not lent while there is a loan")
	} else {
		third.Release()
	}
	again.Release()
	if _, ok := again.Again(); ok {
		t.Error("lent after all loans were returned")
	}
	loan, ok := s.lend(true) // to another blob
	if !ok {
		t.Fatal("not lent to another blob")
	}
	b.Release()
	again.Release()
	if len(s.loans) != 1 || s.loans[0] != loan {
		t.Errorf("who had it before took away the loan of who has it now: %v", s.loans)
	}
}
