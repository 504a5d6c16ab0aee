package ledisbolt

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A child that is to be killed writes to the store in this directory.
const (
	crashDir  = "LEDISBOLT_CRASH_DIR"
	crashFrom = "LEDISBOLT_CRASH_FROM"
)

// crashValue follows from n alone.
func crashValue(n int) []byte {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
	size := int(sum[0])*int(sum[1]) + 1
	return bytes.Repeat(sum[:], size/len(sum)+1)[:size]
}

func crashKey(n int) []byte {
	if n%3 == 0 {
		return fmt.Appendf(nil, "key %d", n)
	}
	return fmt.Appendf(blobPrefix("d"), "%d", n)
}

// crashGone tells whether key n is deleted once all below upTo is done: every
// tenth step deletes what was written five steps before.
func crashGone(n, upTo int) bool { return n%10 == 4 && n+5 < upTo }

func crashChild(dir string) {
	from, _ := strconv.Atoi(os.Getenv(crashFrom))
	opt := small()
	opt.SaveEvery = 30 * time.Millisecond
	s, err := Open(dir, opt)
	if err == nil {
		err = errors.Join(s.Damage()...)
	}
	for n := from; err == nil; n++ {
		if n%10 == 9 {
			err = db{s}.Delete(crashKey(n - 5))
		} else {
			err = db{s}.Put(crashKey(n), crashValue(n))
		}
		if err == nil {
			err = db{s}.Put(fmt.Appendf(blobPrefix("e"), "%d", n%500), crashValue(n%500))
		}
		if n%13 == 0 && err == nil {
			if err = s.Sync(); err == nil {
				fmt.Println(n + 1)
			}
		}
		if n%70 == 0 && err == nil {
			_, err = s.Evict(context.Background(), "e", 2<<20, time.Time{})
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestKilled kills a process that writes, and looks at what is left.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("writes for some seconds")
	}
	dir := t.TempDir()
	acked := 0
	for round := range 10 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashDir+"="+dir, crashFrom+"="+strconv.Itoa(acked))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		lines := make(chan int)
		go func() {
			defer close(lines)
			for sc := bufio.NewScanner(out); sc.Scan(); {
				n, _ := strconv.Atoi(sc.Text())
				lines <- n
			}
		}()
		// Some are killed as they start, others a while after their first sync.
		end := time.After(10 * time.Second)
		if round%5 == 4 {
			end = time.After(time.Duration(rand.IntN(100)) * time.Millisecond)
		}
		first := true
	read:
		for {
			select {
			case n, ok := <-lines:
				if !ok {
					break read
				}
				if acked = max(acked, n); first && end != nil {
					first = false
					end = time.After(time.Duration(rand.IntN(300)) * time.Millisecond)
				}
			case <-end:
				must(t, cmd.Process.Kill())
				end = nil
			}
		}
		_ = cmd.Wait()
		if stderr.Len() > 0 {
			t.Fatalf("round %d: %s", round, stderr.String())
		}

		s, err := Open(dir, small())
		must(t, err)
		if d := s.Damage(); len(d) > 0 {
			t.Fatalf("round %d: %v", round, d)
		}
		for n := range acked {
			if n%10 == 9 {
				continue
			}
			v, err := s.get(crashKey(n))
			must(t, err)
			switch {
			case crashGone(n, acked):
				if v != nil {
					t.Fatalf("round %d: %d came back after it was deleted", round, n)
				}
			case !bytes.Equal(v, crashValue(n)) && !(v == nil && n%10 == 4):
				t.Fatalf("round %d: %d of %d is %d bytes", round, n, acked, len(v))
			}
		}
		countAll(t, s, "d", "e")
		must(t, s.Close())
	}
	if acked < 100 {
		t.Fatalf("only %d steps were acknowledged", acked)
	}
	t.Logf("%d steps", acked)
}

// countAll reads all blobs of domains, and compares their number with the one
// that ledis gets.
func countAll(t *testing.T, s *Store, domains ...string) {
	t.Helper()
	for _, d := range domains {
		it := &iterator{s: s}
		n := 0
		prefix := blobPrefix(d)
		for it.Seek(prefix); it.Valid() && bytes.HasPrefix(it.Key(), prefix); it.Next() {
			i, err := strconv.Atoi(strings.TrimPrefix(string(it.Key()), string(prefix)))
			must(t, err)
			if v := it.Value(); !bytes.Equal(v, crashValue(i)) {
				t.Fatalf("%s %d is %d bytes, and not as written", d, i, len(v))
			}
			n++
		}
		size, err := s.get(sizeKey(d))
		must(t, err)
		if !bytes.Equal(size, sizeValue(n)) {
			t.Fatalf("%s has %d blobs, ledis is told %v", d, n, size)
		}
	}
}

// fill writes blobs 0 to n-1 to a domain.
func fill(t testing.TB, s *Store, domain string, n int) {
	t.Helper()
	for i := range n {
		must(t, db{s}.Put(fmt.Appendf(blobPrefix(domain), "%d", i), crashValue(i)))
	}
	must(t, s.Sync())
}

func TestDamagedSegment(t *testing.T) {
	damages := map[string]func([]byte) []byte{
		"empty":            func(b []byte) []byte { return nil },
		"cut":              func(b []byte) []byte { return b[:len(b)/2] },
		"cut within metas": func(b []byte) []byte { return b[:5000] },
		"garbage":          func(b []byte) []byte { return bytes.Repeat([]byte("garbage"), len(b)/7) },
		"zeros":            func(b []byte) []byte { return make([]byte, len(b)) },
		"zeros behind the metas": func(b []byte) []byte {
			clear(b[2*pageSize:])
			return b
		},
		"flipped bits": func(b []byte) []byte {
			for i := 3 * pageSize; i < len(b); i += 1009 {
				b[i] ^= 0x10
			}
			return b
		},
		"stale pages": func(b []byte) []byte {
			for i := 4 * pageSize; i+2*pageSize < len(b); i += 7 * pageSize {
				copy(b[i:i+pageSize], b[i+pageSize:])
			}
			return b
		},
	}
	for what, damage := range damages {
		for _, how := range []string{"closed", "open"} {
			t.Run(what+", "+how, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				s, err := Open(dir, small())
				must(t, err)
				const n = 120
				fill(t, s, "d", n)
				must(t, db{s}.SyncPut([]byte("k"), []byte("v")))
				path := s.domains["d"].segments()[0].path
				if how == "open" {
					// Then bolt, and the index, know nothing of it.
					for _, g := range s.domains["d"].segments() {
						g.retire(false)
					}
				} else {
					must(t, s.Close())
				}
				b, err := os.ReadFile(path)
				must(t, err)
				must(t, os.WriteFile(path, damage(b), 0o600))
				if how == "closed" {
					s, err = Open(dir, small())
					must(t, err)
				}
				for round := range 2 {
					left := 0
					for i := range n {
						v, err := s.get(fmt.Appendf(blobPrefix("d"), "%d", i))
						if err != nil || v != nil && !bytes.Equal(v, crashValue(i)) {
							t.Fatalf("%d: %d bytes served, %v", i, len(v), err)
						}
						w, ok, err := s.Blob("d", strconv.Itoa(i))
						if err != nil || ok && !bytes.Equal(w.Data, crashValue(i)) {
							t.Fatalf("%d: %d bytes viewed, %v", i, len(w.Data), err)
						}
						w.Release()
						if v != nil {
							left++
						}
					}
					if round == 0 && (left == 0 || left == n) || round == 1 && left < n/2 {
						t.Fatalf("round %d: %d of %d blobs are left", round, left, n)
					}
					want(t, db{s}, "k", []byte("v"))
					if round == 0 {
						fill(t, s, "d", n/2)
					}
				}
				fill(t, s, "d", n)
				countAll(t, s, "d")
				must(t, s.Close())
			})
		}
	}
}

func TestDamagedMain(t *testing.T) {
	for what, damage := range map[string]func([]byte) []byte{
		"cut":     func(b []byte) []byte { return b[:6*pageSize] },
		"garbage": func(b []byte) []byte { return bytes.Repeat([]byte("garbage"), len(b)/7) },
		"one value": func(b []byte) []byte {
			return bytes.Replace(b, []byte("value 77 value"), []byte("value 78 value"), 1)
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			s, err := Open(dir, small())
			must(t, err)
			for i := range 200 {
				must(t, db{s}.Put(fmt.Appendf(nil, "k%d", i), bytes.Repeat(fmt.Appendf(nil, "value %d ", i), 20)))
			}
			fill(t, s, "d", 10)
			must(t, s.Close())
			b, err := os.ReadFile(s.mainPath())
			must(t, err)
			must(t, os.WriteFile(s.mainPath(), damage(b), 0o600))
			must(t, os.Remove(s.cleanPath()))
			s = openStore(t, dir, small())
			if d := s.Damage(); len(d) != 1 || !errors.Is(d[0], ErrDamaged) {
				t.Fatalf("damage: %v", d)
			}
			left := 0
			for i := range 200 {
				v, err := s.get(fmt.Appendf(nil, "k%d", i))
				must(t, err)
				if v != nil {
					left++
				}
			}
			if want := map[string]int{"one value": 199}[what]; left != want {
				t.Fatalf("%d keys are left, want %d", left, want)
			}
			countAll(t, s, "d")
			must(t, db{s}.SyncPut([]byte("k"), []byte("v")))
		})
	}
}

// TestMainDamagedWhileOpen changes main.bolt in place, under an open store: no
// wrong value is given out, and what is written from then on is there.
func TestMainDamagedWhileOpen(t *testing.T) {
	const n = 2000
	key := func(i int) []byte { return fmt.Appendf(nil, "k%04d", i) }
	value := func(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "value %04d ", i), 20) }
	for what, damage := range map[string]func([]byte){
		"one value": func(b []byte) {
			copy(b[bytes.Index(b, []byte("value 0077 value")):], "value 0078 value")
		},
		"values": func(b []byte) {
			for i := range n {
				if at := bytes.Index(b, value(i)); at >= 0 && i%3 == 0 {
					b[at+50] ^= 1
				}
			}
		},
		"flipped bits": func(b []byte) {
			for i := 2 * pageSize; i < len(b); i += 997 {
				b[i] ^= 0x10
			}
		},
		"zeros behind the metas": func(b []byte) { clear(b[2*pageSize:]) },
		"garbage": func(b []byte) {
			for i := range b {
				b[i] = byte(i * 7)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s, err := Open(dir, small())
			must(t, err)
			for i := range n {
				must(t, db{s}.Put(key(i), value(i)))
			}
			must(t, s.Sync())
			b, err := os.ReadFile(s.mainPath())
			must(t, err)
			damage(b)
			f, err := os.OpenFile(s.mainPath(), os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt(b, 0)
			must(t, errors.Join(err, f.Close()))

			read := func() (left int) {
				t.Helper()
				for i := range n {
					v, err := s.get(key(i))
					if err != nil || v != nil && !bytes.Equal(v, value(i)) {
						t.Fatalf("key %d: %d bytes, %v", i, len(v), err)
					}
					if v != nil {
						left++
					}
				}
				it := db{s}.NewIterator()
				defer it.Close()
				for it.First(); it.Valid(); it.Next() {
					var i int
					if _, err := fmt.Sscanf(string(it.Key()), "k%04d", &i); err == nil && len(it.Value()) > 0 && !bytes.Equal(it.Value(), value(i)) {
						t.Fatalf("the iterator has another value for %q", it.Key())
					}
				}
				return left
			}
			if left := read(); left == n || what == "one value" && left != n-1 {
				t.Errorf("%d of %d keys are left", left, n)
			}
			// All can be written again, and stays. A write that comes while the file
			// is moved aside may be lost with it, as one before a crash is.
			for tries := 0; ; tries++ {
				for i := range n {
					must(t, db{s}.Put(key(i), value(i)))
				}
				if err = s.Sync(); err == nil && read() == n {
					break
				}
				if tries == 20 {
					t.Fatalf("%d of %d keys after they were written again: %v", read(), n, err)
				}
				time.Sleep(50 * time.Millisecond)
			}
			must(t, s.Close())
			s = openStore(t, dir, small())
			if left := read(); left != n {
				t.Errorf("%d of %d keys after a restart", left, n)
			}
		})
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	openStore(t, dir, small())
	start := time.Now()
	if _, err := Open(dir, small()); !errors.Is(err, ErrInUse) {
		t.Fatalf("opened twice: %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
}
