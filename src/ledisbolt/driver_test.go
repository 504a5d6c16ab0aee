package ledisbolt

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ledisdb/ledisdb/config"
	"github.com/ledisdb/ledisdb/store/driver"
	_ "github.com/ledisdb/ledisdb/store/goleveldb"
)

// small makes segments roll and pages end within a short test.
func small() Options {
	return Options{SegmentSize: 1 << 20, Buffer: 128 << 10, SyncEvery: 100 * time.Millisecond}
}

func openStore(t testing.TB, dir string, opt Options) *Store {
	t.Helper()
	s, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// drivers are ours, and those that it is compared with.
func drivers() map[string]func(testing.TB) driver.IDB {
	known := func(name string) func(testing.TB) driver.IDB {
		return func(t testing.TB) driver.IDB {
			cfg := config.NewConfigDefault()
			cfg.DBName = name
			d, err := driver.GetStore(cfg)
			if err != nil {
				t.Fatal(err)
			}
			x, err := d.Open(t.TempDir(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { x.Close() })
			return x
		}
	}
	return map[string]func(testing.TB) driver.IDB{
		"bolt":      func(t testing.TB) driver.IDB { return db{openStore(t, t.TempDir(), small())} },
		"goleveldb": known("goleveldb"),
		"memory":    known("memory"),
	}
}

func TestDriver(t *testing.T) {
	cases := map[string]func(*testing.T, driver.IDB){
		"get, put, delete": testSimple,
		"batch":            testBatch,
		"batch data":       testBatchData,
		"iterator":         testIterator,
		"snapshot":         testSnapshot,
		"values":           testValues,
		"held iterator":    testHeldIterator,
		"concurrency":      testConcurrency,
	}
	for name, open := range drivers() {
		for what, test := range cases {
			t.Run(name+"/"+what, func(t *testing.T) { test(t, open(t)) })
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t testing.TB, x interface{ Get([]byte) ([]byte, error) }, key string, value []byte) {
	t.Helper()
	got, err := x.Get([]byte(key))
	must(t, err)
	if (got == nil) != (value == nil) || !bytes.Equal(got, value) {
		t.Fatalf("%q is %.40q (nil: %v), want %.40q (nil: %v)", key, got, got == nil, value, value == nil)
	}
}

func testSimple(t *testing.T, x driver.IDB) {
	for _, key := range []string{"key", string(blobPrefix("d")) + "field"} {
		want(t, x, key, nil)
		must(t, x.Put([]byte(key), []byte("hello")))
		want(t, x, key, []byte("hello"))
		must(t, x.SyncPut([]byte(key), []byte("world")))
		want(t, x, key, []byte("world"))
		must(t, x.Delete([]byte(key)))
		want(t, x, key, nil)
		must(t, x.SyncDelete([]byte(key)))
		must(t, x.Put([]byte(key), nil))
		want(t, x, key, []byte{})
		must(t, x.SyncPut([]byte("other"), nil))
		want(t, x, key, []byte{})
		must(t, x.SyncDelete([]byte(key)))
		want(t, x, key, nil)
	}
	must(t, x.Compact())
	want(t, x, "other", []byte{})
}

func testBatch(t *testing.T, x driver.IDB) {
	b := x.NewWriteBatch()
	key, value := []byte("k1"), []byte("v1")
	b.Put(key, value)
	key[1], value[1] = '9', '9' // the batch has its own copy
	b.Put([]byte("k2"), []byte("v2"))
	b.Delete([]byte("k2"))
	b.Put([]byte("k3"), nil)
	want(t, x, "k1", nil)
	must(t, b.Commit())
	want(t, x, "k1", []byte("v1"))
	want(t, x, "k9", nil)
	want(t, x, "k2", nil)
	want(t, x, "k3", []byte{})
	must(t, b.Rollback())
	b.Delete([]byte("k1"))
	must(t, b.Rollback())
	must(t, b.Commit())
	want(t, x, "k1", []byte("v1"))
	b.Delete([]byte("k1"))
	must(t, b.SyncCommit())
	want(t, x, "k1", nil)
	b.Close()
}

func testBatchData(t *testing.T, x driver.IDB) {
	b, other := x.NewWriteBatch(), drivers()["memory"](t).NewWriteBatch()
	for _, b := range []driver.IWriteBatch{b, other} {
		b.Put([]byte("a"), []byte("1"))
		b.Put([]byte("b"), nil)
		b.Delete([]byte("c"))
	}
	if !bytes.Equal(b.Data(), other.Data()) {
		t.Fatalf("data %q, want %q", b.Data(), other.Data())
	}
}

// walkAll returns the keys that an iterator goes over.
func walkAll(it driver.IIterator, step func()) (keys []string) {
	for ; it.Valid(); step() {
		keys = append(keys, string(it.Key()))
	}
	return keys
}

func testIterator(t *testing.T, x driver.IDB) {
	var keys []string
	p := string(blobPrefix("d"))
	for i := range 40 {
		keys = append(keys, fmt.Sprintf("key %03d", i), fmt.Sprintf("%sfield %03d", p, i), fmt.Sprintf("\x00\x02\x00\x01a:%03d", i))
	}
	slices.Sort(keys)
	for i, k := range keys {
		must(t, x.Put([]byte(k), []byte("value "+k)))
		if i == len(keys)/2 {
			must(t, x.SyncPut([]byte(k), []byte("value "+k)))
		}
	}
	it := x.NewIterator()
	defer it.Close()
	if it.Valid() {
		t.Fatal("valid before it was moved")
	}
	backward := slices.Clone(keys)
	slices.Reverse(backward)
	noSize := func(keys []string) []string {
		return slices.DeleteFunc(keys, func(k string) bool { _, ok := splitSize([]byte(k)); return ok })
	}
	it.First()
	if got := noSize(walkAll(it, it.Next)); !slices.Equal(got, keys) {
		t.Fatalf("forward: %q", got)
	}
	it.Last()
	if got := noSize(walkAll(it, it.Prev)); !slices.Equal(got, backward) {
		t.Fatalf("backward: %q", got)
	}
	for i, k := range keys {
		it.Seek([]byte(k))
		if !it.Valid() || string(it.Key()) != k || string(it.Value()) != "value "+k {
			t.Fatalf("seek %q: %v, %q", k, it.Valid(), it.Key())
		}
		it.Seek([]byte(k + "\x00"))
		if i+1 < len(keys) {
			if _, size := splitSize(it.Key()); !size && string(it.Key()) != keys[i+1] {
				t.Fatalf("seek behind %q: %q", k, it.Key())
			}
		} else if it.Valid() {
			t.Fatalf("seek behind the last: %q", it.Key())
		}
	}
	it.Seek([]byte(keys[50]))
	it.Next()
	it.Next()
	it.Prev()
	if string(it.Key()) != keys[51] {
		t.Fatalf("to and fro: %q, want %q", it.Key(), keys[51])
	}
	it.Seek([]byte("zzz"))
	if it.Valid() {
		t.Fatalf("behind the end: %q", it.Key())
	}
	it.Seek(nil)
	if string(it.Key()) != keys[0] {
		t.Fatalf("seek nil: %q", it.Key())
	}
}

func testSnapshot(t *testing.T, x driver.IDB) {
	key := string(blobPrefix("d")) + "x"
	must(t, x.Put([]byte("a"), []byte("1")))
	must(t, x.Put([]byte(key), []byte("1")))
	snap, err := x.NewSnapshot()
	must(t, err)
	must(t, x.Put([]byte("a"), []byte("2")))
	must(t, x.Put([]byte("b"), []byte("2")))
	must(t, x.SyncDelete([]byte(key)))
	want(t, snap, "a", []byte("1"))
	want(t, snap, key, []byte("1"))
	it := snap.NewIterator()
	it.Seek([]byte("a"))
	if keys := walkAll(it, it.Next); !slices.Equal(keys, []string{"a"}) {
		t.Fatalf("snapshot has %q", keys)
	}
	it.Seek([]byte("a"))
	if string(it.Value()) != "1" {
		t.Fatalf("snapshot has %q", it.Value())
	}
	it.Seek([]byte(key))
	if string(it.Key()) != key || string(it.Value()) != "1" {
		t.Fatalf("snapshot has %q: %q", it.Key(), it.Value())
	}
	it.Close()
	snap.Close()
	want(t, x, "a", []byte("2"))
	want(t, x, key, nil)
}

func testValues(t *testing.T, x driver.IDB) {
	sizes := []int{0, 1, 1000, 1024, 1025, largeValue - 1, largeValue, largeValue + 1, 100_000}
	for _, prefix := range []string{"v", string(blobPrefix("d")) + "v"} {
		for round := range 2 {
			for i, n := range sizes {
				v := bytes.Repeat([]byte{byte(n + round)}, sizes[(i+round)%len(sizes)])
				must(t, x.Put(fmt.Appendf(nil, "%s%d", prefix, i), v))
			}
			for _, synced := range []bool{false, true} {
				if synced {
					must(t, x.SyncPut([]byte("s"), nil))
				}
				for i, n := range sizes {
					want(t, x, fmt.Sprintf("%s%d", prefix, i), append([]byte{}, bytes.Repeat([]byte{byte(n + round)}, sizes[(i+round)%len(sizes)])...))
				}
			}
		}
	}
}

// testHeldIterator writes while an iterator is open, as HDEL, the TTL checker
// and flushing do.
func testHeldIterator(t *testing.T, x driver.IDB) {
	for i := range 3000 {
		must(t, x.Put(fmt.Appendf(nil, "key %05d", i), []byte("value")))
	}
	it := x.NewIterator()
	b := x.NewWriteBatch()
	n := 0
	for it.First(); it.Valid(); it.Next() {
		b.Delete(it.Key())
		if n++; n%100 == 0 {
			must(t, b.SyncCommit())
			must(t, b.Rollback())
		}
	}
	it.Close()
	must(t, b.Commit())
	if n != 3000 {
		t.Fatalf("went over %d keys", n)
	}
	it = x.NewIterator()
	defer it.Close()
	if it.First(); it.Valid() {
		t.Fatalf("%q was not deleted", it.Key())
	}
}

func testConcurrency(t *testing.T, x driver.IDB) {
	value := func(i, round int) []byte { return bytes.Repeat([]byte{byte(i), byte(round)}, 10*i+1) }
	key := func(i int) []byte {
		if i%2 == 0 {
			return fmt.Appendf(nil, "%s%d", blobPrefix("d"), i)
		}
		return fmt.Appendf(nil, "k%d", i)
	}
	const keys = 300
	for i := range keys {
		must(t, x.Put(key(i), value(i, 0)))
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for r := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(r)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				i := rnd.IntN(keys)
				v, err := x.Get(key(i))
				if err != nil || len(v) != 20*i+2 || !bytes.Equal(v, value(i, int(v[1]))) {
					t.Errorf("%q: %d bytes, %v", key(i), len(v), err)
					return
				}
				if i%50 == 0 {
					it := x.NewIterator()
					it.Seek(blobPrefix("d"))
					for n := 0; n < keys/2; n++ {
						if !it.Valid() || !bytes.HasPrefix(it.Key(), blobPrefix("d")) {
							t.Errorf("iterator has %d keys, then %q", n, it.Key())
							return
						}
						it.Next()
					}
					it.Close()
				}
			}
		})
	}
	for round := 1; round < 3; round++ {
		for i := range keys {
			must(t, x.Put(key(i), value(i, round)))
		}
		must(t, x.SyncPut([]byte("s"), nil))
	}
	close(stop)
	wg.Wait()
}

// TestRandom does the same on ours and on a map, with small pages and segments,
// and compares.
func TestRandom(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 1))
			dir := t.TempDir()
			opt := small()
			opt.Buffer = 32 << 10
			s, err := Open(dir, opt)
			must(t, err)
			defer func() { s.Close() }()
			model := make(map[string]string)
			key := func() string {
				n := rnd.IntN(400)
				switch rnd.IntN(3) {
				case 0:
					return fmt.Sprintf("%s%03d", blobPrefix("a"), n)
				case 1:
					return fmt.Sprintf("%s%03d", blobPrefix("bb"), n)
				}
				return fmt.Sprintf("%c%03d", "\x00ky"[rnd.IntN(3)], n)
			}
			for range 1500 {
				switch k := key(); rnd.IntN(12) {
				case 0, 1, 2, 3, 4:
					v := strings.Repeat(string(rune('a'+rnd.IntN(26))), rnd.IntN(40)*rnd.IntN(40)*rnd.IntN(8))
					must(t, db{s}.Put([]byte(k), []byte(v)))
					model[k] = v
				case 5, 6, 7:
					must(t, db{s}.Delete([]byte(k)))
					delete(model, k)
				case 8, 9:
					v, ok := model[k]
					got, err := s.get([]byte(k))
					if err != nil || (got != nil) != ok || string(got) != v {
						t.Fatalf("%q is %.20q, want %.20q, %v", k, got, v, err)
					}
				case 10:
					switch rnd.IntN(20) {
					case 0:
						must(t, s.Sync())
					case 1:
						must(t, s.Close())
						s, err = Open(dir, opt)
						must(t, err)
						if d := s.Damage(); len(d) > 0 {
							t.Fatal(d)
						}
					case 2:
						must(t, s.Compact())
					}
				case 11:
					compare(t, s, model, k, rnd.IntN(2) == 0)
				}
			}
			for _, u := range s.Usage() {
				n := 0
				for k := range model {
					if strings.HasPrefix(k, string(blobPrefix(u.Domain))) {
						n++
					}
				}
				if n != u.Blobs {
					t.Errorf("%d blobs in %s, want %d", u.Blobs, u.Domain, n)
				}
			}
		})
	}
}

// compare goes over what is at start and behind it.
func compare(t *testing.T, s *Store, model map[string]string, start string, back bool) {
	t.Helper()
	keys := slices.Sorted(maps.Keys(model))
	at, found := slices.BinarySearch(keys, start)
	it := &iterator{s: s}
	it.Seek([]byte(start))
	step := it.Next
	if back {
		if step = it.Prev; it.Valid() && string(it.Key()) != start {
			it.Prev()
		} else if !it.Valid() {
			it.Last()
		}
		if found {
			at++
		}
		keys = keys[:at]
		slices.Reverse(keys)
	} else {
		keys = keys[at:]
	}
	for ; it.Valid(); step() {
		if _, size := splitSize(it.Key()); size {
			continue
		}
		k := string(it.Key())
		if len(keys) == 0 || k != keys[0] || string(it.Value()) != model[k] {
			t.Fatalf("at %.60q, want %.60q", k, keys)
		}
		keys = keys[1:]
	}
	if len(keys) > 0 {
		t.Fatalf("missing %.60q", keys)
	}
}
