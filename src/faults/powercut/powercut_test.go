package powercut

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func format(t *testing.T) *Image {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("this mounts: run it as root")
	}
	image, err := Format(context.Background(), t.TempDir(), 32<<20)
	must(t, err)
	return image
}

// mounted calls f with the mounted image, and returns the moment before it was
// unmounted.
func mounted(t *testing.T, image *Image, f func(dir string, d *Disk)) *Moment {
	t.Helper()
	d, err := Mount(t.TempDir(), image, "")
	must(t, err)
	defer func() { must(t, d.Close()) }()
	f(d.Path(), d)
	return d.Now()
}

func writeFile(t *testing.T, name string, content []byte, sync bool) {
	t.Helper()
	f, err := os.Create(name)
	must(t, err)
	_, err = f.Write(content)
	must(t, err)
	if sync {
		must(t, f.Sync())
	}
	must(t, f.Close())
}

// TestCut: what was synced is there after every cut, what was not is there now and
// then, whole or not.
func TestCut(t *testing.T) {
	image := format(t)
	r := rand.New(rand.NewPCG(1, 2))
	synced, loose := bytes.Repeat([]byte("synced "), 10_000), bytes.Repeat([]byte("loose "), 50_000)
	m := mounted(t, image, func(dir string, _ *Disk) {
		writeFile(t, dir+"/synced", synced, true)
		writeFile(t, dir+"/loose", loose, false)
		// The names of both are in the journal, and the bytes of one.
		writeFile(t, dir+"/other", nil, true)
	})
	if m.Loose() != 0 {
		t.Errorf("%d writes are loose after a sync", m.Loose())
	}
	whole := 0
	for range 10 {
		mounted(t, m.Cut(r), func(dir string, _ *Disk) {
			if b, err := os.ReadFile(dir + "/synced"); err != nil || !bytes.Equal(b, synced) {
				t.Errorf("what was synced: %d bytes, %v", len(b), err)
			}
			if b, err := os.ReadFile(dir + "/loose"); err == nil && bytes.Equal(b, loose) {
				whole++
			}
		})
	}
	if whole > 0 {
		t.Errorf("what nobody synced was there %d times", whole)
	}
}

// TestMoments cuts the power at each write of a file that is replaced, in many
// ways. Done by the rules it is there, old or new; without a sync it isn't always.
func TestMoments(t *testing.T) {
	image := format(t)
	r := rand.New(rand.NewPCG(3, 4))
	version := func(n int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%07d\n", n), 5000) }
	for _, sync := range []bool{true, false} {
		type point struct {
			*Moment
			done int
		}
		var points []point
		mounted(t, image, func(dir string, d *Disk) {
			writeFile(t, dir+"/file", version(0), true)
			root, err := os.Open(dir)
			must(t, err)
			defer root.Close()
			must(t, root.Sync())
			done := 0
			d.Watch(func(now func() *Moment) { points = append(points, point{now(), done}) })
			defer d.Watch(nil)
			for n := 1; n <= 5; n++ {
				writeFile(t, dir+"/new", version(n), sync)
				// Another file's sync has the journal told of the name alone.
				writeFile(t, dir+"/other", nil, true)
				if !sync {
					must(t, os.Remove(dir+"/file")) // or ext4 would know what is meant
				}
				must(t, os.Rename(dir+"/new", dir+"/file"))
				must(t, root.Sync())
				d.file.mu.Lock()
				done = n
				d.file.mu.Unlock()
			}
		})
		if len(points) < 20 {
			t.Errorf("only %d writes were seen", len(points))
		}
		wrong := 0
		for range 60 {
			p := points[r.IntN(len(points))]
			mounted(t, p.Cut(r), func(dir string, _ *Disk) {
				b, err := os.ReadFile(dir + "/file")
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%v", err)
				}
				if !bytes.Equal(b, version(p.done)) && !bytes.Equal(b, version(p.done+1)) {
					wrong++
				}
			})
		}
		t.Logf("with a sync %v: of %d cuts at %d writes %d were wrong", sync, 60, len(points), wrong)
		if sync != (wrong == 0) {
			t.Errorf("with a sync %v, %d of 60 cuts left something else than the old or the new file", sync, wrong)
		}
	}
}

// TestCloseInUse: a disk that somebody uses can't be closed for good.
func TestCloseInUse(t *testing.T) {
	d, err := Mount(t.TempDir(), format(t), "")
	must(t, err)
	d.patience = 100 * time.Millisecond
	f, err := os.Create(filepath.Join(d.Path(), "file"))
	must(t, err)
	if err := d.Close(); err == nil {
		t.Error("closed with a file open")
	}
	must(t, f.Close())
}
