package disk

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/tier"
)

// flip changes one byte of blob n where it lies in a segment's file.
func flip(t *testing.T, dir string, n uint64, size int) {
	t.Helper()
	_, want := blob(n, size)
	for _, path := range segmentFiles(t, dir) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(b, want); at >= 0 {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte{b[at+size/2] ^ 1}, int64(at+size/2)); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("blob %d is in no segment", n)
}

func TestFlippedByte(t *testing.T) {
	for _, tc := range []struct {
		name  string
		close func(testing.TB, *Cache)
	}{{"unclean", crash}, {"changed after a clean shutdown", shut}} {
		t.Run(tc.name, func(t *testing.T) {
			for _, size := range []int{500, 5_000, 300_000} {
				dir := t.TempDir()
				c := open(t, Options{Path: dir})
				for i := range uint64(5) {
					put(c, i, size)
				}
				flush(t, c)
				tc.close(t, c)
				flip(t, dir, 3, size)
				var log logged
				c = open(t, Options{Path: dir, Log: log.logger()})
				ref, _ := blob(3, size)
				if _, err := c.Range(ref, 0, 10); !errors.Is(err, tier.ErrAbsent) {
					t.Errorf("%d bytes: Range over a flipped byte: %v", size, err)
				}
				for i := range uint64(5) {
					if has(t, c, i, size) != (i != 3) {
						t.Errorf("%d bytes: blob %d", size, i)
					}
				}
				if s := c.Stats(); s.Corrupt != 1 || log.count("corrupt blob") != 1 {
					t.Errorf("%+v\n%s", s, &log)
				}
				put(c, 3, size)
				flush(t, c)
				if !has(t, c, 3, size) {
					t.Error("the blob can't be put again")
				}
			}
		})
	}
}

// TestStampTellsChange has a change that leaves size and mtime as they were.
func TestStampTellsChange(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Path: dir})
	put(c, 1, 5000)
	flush(t, c)
	shut(t, c)
	path := segmentFiles(t, dir)[0]
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond)
	flip(t, dir, 1, 5000)
	if err := os.Chtimes(path, time.Time{}, fi.ModTime()); err != nil {
		t.Fatal(err)
	}
	c = open(t, Options{Path: dir})
	if has(t, c, 1, 5000) || c.Stats().Corrupt != 1 {
		t.Errorf("%+v", c.Stats())
	}
}

// two fills two segments, sealed and with 20 blobs each, and returns the file
// of the first.
func two(t *testing.T, c *Cache) string {
	t.Helper()
	for s := range uint64(2) {
		for i := range uint64(20) {
			put(c, s*20+i, 100_000)
		}
		flush(t, c)
		c.call(func() { c.seal(true) })
	}
	files := segmentFiles(t, c.opt.Path)
	if len(files) != 2 {
		t.Fatalf("%d segments", len(files))
	}
	return files[0]
}

// second checks that the second segment is well, and that the cache still takes
// blobs.
func second(t *testing.T, c *Cache) {
	t.Helper()
	for i := uint64(20); i < 40; i++ {
		if !has(t, c, i, 100_000) {
			t.Errorf("blob %d went with another segment", i)
		}
	}
	put(c, 777, 100_000)
	flush(t, c)
	if !has(t, c, 777, 100_000) {
		t.Error("nothing is kept any more")
	}
}

func TestTruncatedUnderAMap(t *testing.T) {
	for _, size := range []int64{0, 5000, 1_000_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			var log logged
			c := open(t, Options{Path: t.TempDir(), Log: log.logger()})
			path := two(t, c)
			ref, _ := blob(0, 100_000)
			held, err := c.Get(ref)
			if err != nil {
				t.Fatal(err)
			}
			h := c.segments()[0].handle.Load()
			inMap := uintptr(unsafe.Pointer(&held.Data[0]))-h.addr < uintptr(h.mapped)
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
			absent := 0
			for i := range uint64(20) {
				if !has(t, c, i, 100_000) {
					absent++
				}
			}
			if absent == 0 {
				t.Error("nothing is missing")
			}
			// What a reader holds goes the kernel's way, which has errors for it.
			if null, err := os.OpenFile(filepath.Join(t.TempDir(), "out"), os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
				if _, err := null.Write(held.Data); size == 0 && inMap && !errors.Is(err, unix.EFAULT) {
					t.Errorf("write out of a map that was cut short: %v", err)
				}
				null.Close()
			}
			second(t, c)
			held.Release()
			if s := c.Stats(); s.Condemned != 1 || log.count("level=WARN") != 1 {
				t.Errorf("%+v\n%s", s, &log)
			}
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the damaged segment is still there: %v", err)
			}
		})
	}
}

// TestTruncatedActive cuts the file that is being written to.
func TestTruncatedActive(t *testing.T) {
	var log logged
	c := open(t, Options{Path: t.TempDir(), Log: log.logger()})
	for i := range uint64(20) {
		put(c, i, 50_000)
	}
	flush(t, c)
	if err := os.Truncate(segmentFiles(t, c.opt.Path)[0], 0); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(20) {
		put(c, 100+i, 50_000)
		flush(t, c)
	}
	for i := range uint64(20) {
		has(t, c, i, 50_000)
	}
	c.recovered()
	for i := range uint64(20) {
		put(c, 200+i, 50_000)
	}
	flush(t, c)
	for i := range uint64(20) {
		if !has(t, c, 200+i, 50_000) {
			t.Fatalf("nothing is kept any more: %+v\n%s", c.Stats(), &log)
		}
	}
}

func TestGarbage(t *testing.T) {
	t.Run("opened", func(t *testing.T) {
		dir := t.TempDir()
		c := open(t, Options{Path: dir})
		path := two(t, c)
		crash(t, c)
		shut(t, c)
		names := []string{path}
		for i, b := range []string{"", "x", strings.Repeat("garbage ", 10_000)} {
			name := filepath.Join(dir, segmentName(uint32(100+i)))
			names = append(names, name)
			if err := os.WriteFile(name, []byte(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		scramble(t, path, 2)
		var log logged
		c = open(t, Options{Path: dir, Log: log.logger()})
		second(t, c)
		if s := c.Stats(); s.Condemned != 4 || log.count("level=WARN") != 4 {
			t.Errorf("%+v\n%s", s, &log)
		}
		for _, name := range names {
			if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", name, err)
			}
		}
	})
	t.Run("live", func(t *testing.T) {
		c := open(t, Options{Path: t.TempDir()})
		path := two(t, c)
		scramble(t, path, 2)
		for i := range uint64(20) {
			if has(t, c, i, 100_000) {
				t.Error("served out of garbage")
			}
		}
		second(t, c)
		if s := c.Stats(); s.Condemned != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// scramble overwrites every page but the first few.
func scramble(t *testing.T, path string, from int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := from * pageSize; i < len(b); i++ {
		b[i] = byte(i * 7)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
}

// TestRandomDamage overwrites random bytes, again and again: no wrong byte may
// come out, and nothing may crash.
func TestRandomDamage(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 12 {
		dir := t.TempDir()
		c := open(t, Options{Path: dir})
		for i := range uint64(300) {
			put(c, i, []int{300, 3000, 30_000}[i%3])
		}
		flush(t, c)
		crash(t, c)
		shut(t, c)
		path := segmentFiles(t, dir)[0]
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		fi, _ := f.Stat()
		for range 1 << round {
			if _, err := f.WriteAt([]byte{byte(r.Int())}, r.Int64N(fi.Size())); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
		c = open(t, Options{Path: dir})
		for i := range uint64(300) {
			has(t, c, i, []int{300, 3000, 30_000}[i%3])
		}
		put(c, 1000, 1000)
		flush(t, c)
		if !has(t, c, 1000, 1000) {
			t.Error("nothing is kept any more")
		}
		c.call(func() { c.evictOne() })
		shut(t, c)
	}
}

func TestDamagedMarker(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{
		"flipped":  func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"short":    func(b []byte) []byte { return b[:len(b)-40] },
		"empty":    func(b []byte) []byte { return nil },
		"longer":   func(b []byte) []byte { return append(b, 0) },
		"no magic": func(b []byte) []byte { return b[5:] },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := open(t, Options{Path: dir})
			for i := range uint64(10) {
				put(c, i, 5000)
			}
			shut(t, c)
			path := filepath.Join(dir, cleanFile)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			c = open(t, Options{Path: dir})
			for i := range uint64(10) {
				if !has(t, c, i, 5000) {
					t.Errorf("blob %d is gone", i)
				}
			}
			if s := c.Stats(); s.Verified != 10 {
				t.Errorf("a damaged marker was trusted: %+v", s)
			}
		})
	}
}

const (
	childDir = "AYSFS_TEST_CACHE"
	// childMax has room for all that TestKill's children write: what is evicted
	// could not be told from what was lost.
	childMax = 512 << 20
)

// TestMain is also the process that TestKill kills: it writes blobs from the
// number that it is given on, for ever, and says how far it has come.
func TestMain(m *testing.M) {
	dir := os.Getenv(childDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	c, err := Open(Options{Path: dir, MaxSize: childMax})
	if err != nil {
		fmt.Println("child:", err)
		os.Exit(1)
	}
	var from uint64
	fmt.Sscan(os.Getenv(childDir+"_FROM"), &from)
	for i := from; ; i++ {
		put(c, i, childSize(i))
		fmt.Println("put", i)
		if ref, b := blob(i/2, childSize(i/2)); i%37 == 0 {
			if got, err := c.Get(ref); err == nil {
				if !bytes.Equal(got.Data, b) {
					fmt.Println("child: wrong bytes")
				}
				got.Release()
			}
		}
	}
}

func childSize(i uint64) int { return 1000 + int(i%50)*1000 }

// progress collects what the child says, and tells when it has put enough to
// be killed.
type progress struct {
	text   bytes.Buffer
	enough chan struct{}
	lines  int
}

func (p *progress) Write(b []byte) (int, error) {
	before := p.lines
	p.lines += bytes.Count(b, []byte("\n"))
	if before < 1000 && p.lines >= 1000 {
		close(p.enough)
	}
	return p.text.Write(b)
}

func TestKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var from uint64
	r := rand.New(rand.NewPCG(5, uint64(time.Now().UnixNano())))
	for round := range 3 {
		out := &progress{enough: make(chan struct{})}
		child := exec.Command(os.Args[0], "-test.run=^$")
		child.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprintf("%s_FROM=%d", childDir, from))
		child.Stdout = out
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-out.enough:
		case <-time.After(20 * time.Second):
			t.Error("the child is too slow")
		}
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait()
		if strings.Contains(out.text.String(), "child:") {
			t.Fatal(out.text.String())
		}
		puts := uint64(strings.Count(out.text.String(), "put "))
		c := open(t, Options{Path: dir, MaxSize: childMax})
		kept := 0
		for i := from; i < from+puts; i++ {
			if has(t, c, i, childSize(i)) {
				kept++
			}
		}
		s := c.Stats()
		if s.Condemned != 0 || s.Corrupt != 0 {
			t.Errorf("round %d: %+v", round, s)
		}
		// All but what was queued or in a batch.
		if lost := int(puts) - kept; puts < 10 || lost > 1500 {
			t.Errorf("round %d: %d of %d blobs were kept: %+v", round, kept, puts, s)
		}
		t.Logf("round %d: %d of %d blobs kept, %d verified", round, kept, puts, s.Verified)
		if round%2 == 0 {
			shut(t, c)
		} else {
			crash(t, c)
			shut(t, c)
		}
		from += puts + 10
		if now := taken(t, dir); now > childMax {
			t.Errorf("%d bytes on disk", now)
		}
	}
}
