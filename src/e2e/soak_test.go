package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/control"
)

// TestSoak reads a tree in many ways at once, with aysfs built with the race
// detector, a cache that is too small, and a store that fails now and then. No
// wrong byte may be read, and in the end all must be as at the start.
func TestSoak(t *testing.T) {
	const long = 8 * time.Second
	store := mediumStore(t)
	c, mount := appClient(t, store.url(), "prefetch = 2")
	c.program = aysfsRace
	c.main = "io_timeout = \"5s\"\nxattr = true"
	c.disk = `max_size = "16MiB"`
	c.start()
	idle := c.status()

	contents := map[string][]byte{}
	var names []string
	filepath.WalkDir(store.tree, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			name := strings.TrimPrefix(path, store.tree+"/")
			names = append(names, name)
			contents[name], err = os.ReadFile(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		return nil
	})

	var asked atomic.Int64
	store.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		switch asked.Add(1) % 40 {
		case 5:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 15:
			w.Write(noise(1000, 1))
		case 25:
			w.Header().Set("Content-Length", "100000")
			w.Write(make([]byte, 1000))
			panic(http.ErrAbortHandler)
		case 35:
			time.Sleep(50 * time.Millisecond)
			return false
		default:
			return false
		}
		return true
	})

	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	var wg sync.WaitGroup
	var reads atomic.Int64
	for name, f := range map[string]func(r *rand.Rand) error{
		"whole files": func(r *rand.Rand) error {
			name := names[r.IntN(len(names))]
			return check(os.ReadFile(filepath.Join(mount, name)))(contents[name])
		},
		"in order": func(r *rand.Rand) error {
			for _, name := range names[:20] {
				if err := check(os.ReadFile(filepath.Join(mount, name)))(contents[name]); err != nil {
					return err
				}
			}
			return nil
		},
		"here and there": func(r *rand.Rand) error {
			name := names[r.IntN(len(names))]
			f, err := os.Open(filepath.Join(mount, name))
			if err != nil {
				return err
			}
			defer f.Close()
			off := r.IntN(len(contents[name]))
			buf := make([]byte, min(r.IntN(1<<20), len(contents[name])-off))
			_, err = f.ReadAt(buf, int64(off))
			// What the kernel has of it goes, so that it asks again.
			unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
			return check(buf, err)(contents[name][off : off+len(buf)])
		},
		"past the page cache": func(r *rand.Rand) error {
			name := names[r.IntN(len(names))]
			return check(readDirect(filepath.Join(mount, name)))(contents[name][:min(512<<10, len(contents[name]))])
		},
		"lists": func(r *rand.Rand) error {
			n := 0
			err := filepath.WalkDir(mount, func(path string, e fs.DirEntry, err error) error {
				if err == nil && e.Type().IsRegular() {
					n++
					_, err = os.Lstat(path)
				}
				return err
			})
			if err == nil && n != len(names) {
				err = errors.New("a listing lacks names")
			}
			return err
		},
		"attributes": func(r *rand.Rand) error {
			_, err := unix.Getxattr(filepath.Join(mount, names[r.IntN(len(names))]), "user.aysfs.tier", make([]byte, 100))
			return err
		},
		"readers that are killed": func(r *rand.Rand) error {
			cat := exec.Command("cat", filepath.Join(mount, names[r.IntN(len(names))]))
			cat.Stdout = io.Discard
			if err := spawn(cat); err != nil {
				return err
			}
			time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond)
			cat.Process.Signal([]os.Signal{os.Interrupt, os.Kill}[r.IntN(2)])
			cat.Wait()
			return nil
		},
		"status": func(r *rand.Rand) error {
			_, err := control.Fetch(ctx, c.socket())
			if ctx.Err() != nil {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
			return err
		},
		"inodes that are forgotten": func(r *rand.Rand) error {
			time.Sleep(500 * time.Millisecond)
			return os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0)
		},
	} {
		for i := range 2 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(i), uint64(len(name))))
				for ctx.Err() == nil {
					// The store may well fail twice in a row: an error is an
					// answer here, wrong bytes are not.
					if err := f(r); err != nil && !errors.Is(err, syscall.EIO) {
						t.Errorf("%s: %v", name, err)
						return
					}
					reads.Add(1)
				}
			})
		}
	}
	within(t, long+30*time.Second, "all readers end", wg.Wait)
	t.Logf("%d rounds, %d requests", reads.Load(), asked.Load())

	store.setFault(nil)
	sameTree(t, store.tree, mount)
	mustWrite(t, "/proc/sys/vm/drop_caches", []byte("3"), 0)
	store.down() // with it go idle connections, which are kept for the next fetch
	var s *control.Status
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		s = c.status()
		back := s.Mounts[0].Inodes <= 20 && s.Memory.Routines <= idle.Memory.Routines+20 && len(s.Stores[0].Tier.Fetching) == 0
		if back {
			break
		}
		if time.Now().After(end) {
			t.Errorf("not given back: the kernel holds %d inodes; %d goroutines, were %d; being fetched: %v",
				s.Mounts[0].Inodes, s.Memory.Routines, idle.Memory.Routines, s.Stores[0].Tier.Fetching)
			break
		}
	}
	if s.Cache.Disk > 16<<20 {
		t.Errorf("the cache takes %d bytes of at most 16 MiB", s.Cache.Disk)
	}
	c.stop()
	if log := c.log(); strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic") {
		t.Errorf("the log has a race or a panic:\n%s", log)
	}
}

// check compares what was read, unless reading failed.
func check(got []byte, err error) func(want []byte) error {
	return func(want []byte) error {
		if err == nil && !bytes.Equal(got, want) {
			return errors.New("wrong bytes")
		}
		return err
	}
}
