package fs

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
)

// library is a tree of small files that are on no machine yet: n in each of a few
// directories, and junk of another kind beside them.
func library(m *memory, n, size int) (d dir, all map[string]bool) {
	d, all = dir{}, make(map[string]bool)
	for _, name := range []string{"a", "b", "c"} {
		sub := dir{}
		for i := range n {
			file := fmt.Sprintf("module%04d.pyc", i)
			text := strings.Repeat(fmt.Sprintf("%s of %s ", file, name), size/20)
			sub[file], sub[fmt.Sprintf("module%04d.opt-1.pyc", i)] = text, "junk "+text
			all[filepath.Join(name, file)] = true
		}
		d[name] = sub
	}
	return d, all
}

// fetched takes all content away from this machine, has read read, and tells how many
// files were waited for, how many bytes came, and how many of these nobody read.
func (m *memory) fetched(t *testing.T, mnt string, read func() []string) (waited int, came, unread int64) {
	t.Helper()
	wanted := make(map[digest.Digest]int64)
	m.mu.Lock()
	m.ahead, m.got, m.slow = nil, nil, 4*time.Millisecond
	for d := range m.blobs {
		if m.files[d] {
			m.far[d] = true
		}
	}
	m.mu.Unlock()
	for _, path := range read() {
		b, err := os.ReadFile(filepath.Join(mnt, path))
		if err != nil {
			t.Fatal(err)
		}
		wanted[digest.Of(b)] = int64(len(b))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range append(m.ahead, m.got...) {
		n := int64(len(m.blobs[d]))
		came += n
		if wanted[d] == 0 {
			unread += n
		}
	}
	return len(m.got), came, unread
}

// Who picks modules out of a directory in no order waits for few of them, and what is
// of another kind doesn't come.
func TestModulesArePicked(t *testing.T) {
	m := newMemory()
	d, all := library(m, 150, 20_000)
	_, mnt := m.mount(t, d, nil)
	waited, came, unread := m.fetched(t, mnt, func() []string {
		var pick []string
		for path := range all { // in no order
			if strings.HasSuffix(path, "0.pyc") || len(pick) < 100 {
				pick = append(pick, path)
			}
		}
		return pick
	})
	t.Logf("%d waited for, %d bytes came, %d unread", waited, came, unread)
	if waited > 95 { // of some 135, which they are is up to chance
		t.Errorf("%d files were waited for", waited)
	}
	if len(all)*20_000 < int(unread) {
		t.Errorf("%d bytes of another kind came", unread)
	}
}

// Who reads at random out of very many is left alone.
func TestReadersOfManyAreLeftAlone(t *testing.T) {
	m := newMemory()
	d, _ := library(m, 5000, 4_000)
	_, mnt := m.mount(t, d, nil)
	r := rand.New(rand.NewPCG(1, 2))
	_, came, unread := m.fetched(t, mnt, func() []string {
		var pick []string
		for range 400 {
			pick = append(pick, fmt.Sprintf("%c/module%04d.pyc", 'a'+rune(r.IntN(3)), r.IntN(5000)))
		}
		return pick
	})
	t.Logf("%d bytes came, %d unread", came, unread)
	// All of them are 60 MB. There is a bound for each directory.
	if unread > 3<<20 {
		t.Errorf("%d bytes came that nobody read", unread)
	}
}

// Walkers of any tool wait for few files, in whatever of the two orders they go, and
// what comes beyond what they read is bounded.
func TestWalkersAreFollowed(t *testing.T) {
	orders := map[string]func(mnt string) []string{
		"all, depth first": func(mnt string) (paths []string) {
			_ = filepath.WalkDir(mnt, func(path string, e fs.DirEntry, err error) error {
				if err == nil && e.Type().IsRegular() {
					rel, _ := filepath.Rel(mnt, path)
					paths = append(paths, rel)
				}
				return nil
			})
			return paths
		},
		"every other, as a compiler reads its kind": func(mnt string) (paths []string) {
			for _, d := range []string{"a", "b", "c"} {
				for i := range 300 {
					paths = append(paths, fmt.Sprintf("%s/module%04d.pyc", d, i))
				}
			}
			return paths
		},
	}
	for name, order := range orders {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			d, _ := library(m, 300, 4_000)
			_, mnt := m.mount(t, d, nil)
			var read int64
			waited, _, unread := m.fetched(t, mnt, func() []string {
				paths := order(mnt)
				read = int64(len(paths)) * 4000
				return paths
			})
			t.Logf("%d waited for, %d bytes unread of %d read", waited, unread, read)
			if waited > 60 {
				t.Errorf("%d files were waited for", waited)
			}
			if unread > 2*read {
				t.Errorf("%d bytes came that nobody read", unread)
			}
		})
	}
}

// Who stops has little brought that isn't read: no more than was read, and a little.
func TestWalkersWhoStop(t *testing.T) {
	m := newMemory()
	d, _ := library(m, 3000, 4_000)
	_, mnt := m.mount(t, d, nil)
	_, _, unread := m.fetched(t, mnt, func() (paths []string) {
		for i := range 20 {
			paths = append(paths, fmt.Sprintf("a/module%04d.pyc", i))
		}
		return paths
	})
	if unread > 2<<20 {
		t.Errorf("%d bytes came after 80,000 were read", unread)
	}
}
