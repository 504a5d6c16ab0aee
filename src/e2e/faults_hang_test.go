//go:build faults

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/bench/link"
	"github.com/aysfs/aysfs/src/control"
	"github.com/aysfs/aysfs/src/faults"
	"github.com/aysfs/aysfs/src/redistest"
)

// stuck is a client whose root was listed and one of whose files was read before
// something came to stand still.
type stuck struct {
	*client
	*calls
	t      *testing.T
	store  *webStore
	front  *faults.Server // of the store
	mount  string
	names  []string // of files that nobody has read
	broken func()   // has it stand still
	reads  reads    // what becomes of reads then
}

// reads is what becomes of reads while something stands still.
type reads int

const (
	wait reads = iota // until io_timeout
	fail              // maybe sooner, and maybe they don't
	goOn              // something else can answer
)

// few files, and the first of them is read while all is well.
func newStuck(t *testing.T, config func(*stuck)) *stuck {
	t.Helper()
	s := &stuck{calls: newCalls(t, netTimeout), t: t}
	tree, nodes := shortDir(t), map[string]node{}
	for i := range 60 {
		name := fmt.Sprintf("f%02d", i)
		nodes[name], s.names = node{mode: 0o644, data: noise(20_000+i*20_000, byte(i))}, append(s.names, name)
	}
	write(t, tree, nodes)
	s.store = newStore(t, "e2e|app(1)", tree)
	s.front = faultServer(t, s.store.addr, 1)
	s.client = newClient(t, "http://"+s.front.Addr())
	s.client.main = fmt.Sprintf("io_timeout = %q", netTimeout)
	s.broken = func() { s.front.Set(1, faults.Silent) }
	s.mount = ""
	config(s)
	if s.mount == "" {
		s.mount = s.client.mount("e2e|app(1)", "prefetch = 0")
	}
	s.start()
	run(t, 20*time.Second, "ls", "-l", s.mount)
	s.readAll(s.names[:1])
	s.names = s.names[1:]
	if n := s.failed.Load(); n > 0 {
		t.Fatalf("%d calls failed before anything was wrong", n)
	}
	s.broken()
	return s
}

// readAll reads files at the same time, by some of the ways there are.
func (s *stuck) readAll(names []string) {
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() { s.read(s.mount, name, s.content(name), i%2 == 0) })
	}
	all.Wait()
}

func (s *stuck) content(name string) [][]byte {
	var i int
	fmt.Sscanf(name, "f%d", &i)
	return [][]byte{noise(20_000+i*20_000, byte(i))}
}

// soon has a program end well, and quickly.
func (s *stuck) soon(name string, args ...string) {
	s.t.Helper()
	began, late := time.Now(), s.late.Load()
	if out, err := try(s.t, 20*time.Second, exec.Command(name, args...)); err != nil {
		s.t.Errorf("%s %q: %v: %s", name, args, err, out)
	}
	// Programs take time to start where the machine is busy, which this test can't see.
	if took, most := time.Since(began), 2*time.Second+2*time.Duration(s.late.Load()-late); took > most {
		s.t.Errorf("%s %q: took %v, at most %v", name, args, took, most)
	}
}

// goes ends a program by a signal while it waits in a read, and tells how long
// that took.
func (s *stuck) goes(name string, sig syscall.Signal) {
	s.t.Helper()
	cat := startProcess(s.t, exec.Command("cat", filepath.Join(s.mount, name)))
	if cat.endsWithin(300 * time.Millisecond) {
		if s.reads == wait {
			s.t.Errorf("cat does not wait: %v", cat.err)
		}
		return
	}
	late := s.late.Load()
	cat.Process.Signal(sig)
	if most := time.Second + time.Duration(s.late.Load()-late); !cat.endsWithin(most) {
		s.t.Errorf("cat is still there %v after %v", most, sig)
	}
}

// all does everything that must work whatever stands still.
func (s *stuck) all() {
	s.t.Helper()
	n := 0
	some := func(k int) []string { n += k; return s.names[n-k : n] }
	var reading sync.WaitGroup
	reading.Go(func() { s.readAll(some(12)) })
	s.soon("df", s.mount)
	s.soon("ls", s.mount)
	s.soon("stat", s.mount)
	s.soon(ays, "status", "-json", "-socket", s.socket())
	if s.reads == wait {
		eventually(s.t, 2*time.Second, "something is being fetched", func() bool { return len(s.status().Stores[0].Tier.Fetching) > 0 })
	}
	reading.Wait()
	for i, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM} {
		s.goes(s.names[40+i], sig)
	}
	if s.reads == goOn {
		file := s.names[50]
		want := filepath.Join(shortDir(s.t), "want")
		mustWrite(s.t, want, s.content(file)[0], 0o644)
		if out, err := try(s.t, 30*time.Second, child(s.t, "read under signals", filepath.Join(s.mount, file), want)); err != nil {
			s.t.Errorf("under signals: %v: %s", err, out)
		}
	}
	s.client.main = strings.Replace(s.client.main, "io_timeout", "memory = \"32MiB\"\nio_timeout", 1)
	began := time.Now()
	s.reload(s.config(), func(now *control.Status) bool { return now.Memory.Limit == 32<<20 })
	reloaded := time.Since(began)
	reading.Go(func() { s.readAll(some(6)) })
	time.Sleep(100 * time.Millisecond)
	began = time.Now()
	// What a reader gets while the mount goes is not the matter here.
	s.limit = time.Hour
	s.leaving.Store(true)
	s.stop()
	stopped := time.Since(began)
	reading.Wait()
	s.t.Logf("reload %v, stop %v", reloaded, stopped)
}

// TestFaultsHangs has one thing after the other stand still. What needs none of it
// works at once, reads end in time, and who waits can be ended.
func TestFaultsHangs(t *testing.T) {
	grid := func(s *stuck, kind faults.Kind) *faults.Server {
		cache := startGridCache(s.t)
		front := faultServer(s.t, cache.addr, 2)
		s.disk += gridTable("http://" + front.Addr())
		return front
	}
	tmpfs := func(s *stuck, size string) {
		dir := shortDir(s.t)
		if err := unix.Mount("none", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		if err := os.Symlink(dir, s.cacheDir()); err != nil {
			s.t.Fatal(err)
		}
	}
	states := map[string]func(*stuck){
		"store silent":    func(*stuck) {},
		"store drips":     func(s *stuck) { s.broken = func() { s.front.Set(1, faults.Drip, faults.LowSpeed, faults.Loris) } },
		"store refuses":   func(s *stuck) { s.broken = func() { s.front.Close() }; s.reads = fail },
		"store late":      func(s *stuck) { s.broken = func() { s.front.Set(1, faults.Late) }; s.reads = fail },
		"store redirects": func(s *stuck) { s.broken = func() { s.front.Set(1, faults.Redirect) }; s.reads = fail },
		"store hints": func(s *stuck) {
			s.broken = func() { s.front.Set(1, faults.Hints, faults.Endless, faults.Stall) }
			s.reads = fail
		},
		"cache silent": func(s *stuck) {
			front := grid(s, faults.Silent)
			s.broken, s.reads = func() { front.Set(1, faults.Silent) }, goOn
		},
		"cache drips": func(s *stuck) {
			front := grid(s, faults.Silent)
			s.broken, s.reads = func() { front.Set(1, faults.Drip, faults.LowSpeed) }, goOn
		},
		"cache and store silent": func(s *stuck) {
			front := grid(s, faults.Silent)
			s.broken = func() { front.Set(1, faults.Silent); s.front.Set(1, faults.Silent) }
		},
		"local cache and store silent": func(s *stuck) {
			local := startLocalCache(s.t)
			s.disk += local.config()
			s.broken = func() { local.proc.Process.Signal(syscall.SIGSTOP); s.front.Set(1, faults.Silent) }
			s.t.Cleanup(func() { local.proc.Process.Signal(syscall.SIGCONT) })
		},
		"disk full": func(s *stuck) {
			tmpfs(s, "24m")
			s.reads = goOn
			s.broken = func() {
				if err := os.WriteFile(filepath.Join(s.cacheDir(), "filler"), make([]byte, 32<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
					s.t.Errorf("the disk does not become full: %v", err)
				}
			}
		},
		"disk read-only": func(s *stuck) {
			tmpfs(s, "100m")
			s.reads = goOn
			s.broken = func() {
				// As the kernel does where a disk fails: no matter who writes.
				if err := unix.Mount("none", s.cacheDir()+"/.", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil && !errors.Is(err, unix.EBUSY) {
					s.t.Error(err)
				}
			}
		},
		"redis silent": func(s *stuck) {
			r := redistest.Start(s.t, debugPasswd)
			s.mount = s.debugMount(r, "e2e|app(1)", `none/.*`)
			s.broken, s.reads = func() { r.Freeze() }, goOn
			s.t.Cleanup(r.Thaw)
		},
		"redis and store silent": func(s *stuck) {
			r := redistest.Start(s.t, debugPasswd)
			s.mount = s.debugMount(r, "e2e|app(1)", `none/.*`)
			s.broken = func() { r.Freeze(); s.front.Set(1, faults.Silent) }
			s.t.Cleanup(r.Thaw)
		},
	}
	var mu sync.Mutex
	var slowest, calls int64
	var all sync.WaitGroup
	for name, config := range states {
		all.Go(func() {
			t.Run(name, func(t *testing.T) {
				s := newStuck(t, config)
				s.all()
				mu.Lock()
				defer mu.Unlock()
				slowest, calls = max(slowest, s.slowest.Load()), calls+s.right.Load()+s.failed.Load()
			})
		})
	}
	all.Wait()
	t.Logf("promise: %d things that stand still: df, ls, stat, ays status, reload and stop work, who reads can be killed; %d calls, slowest %.1f s of %.1f s allowed",
		len(states), calls, time.Duration(slowest).Seconds(), (netTimeout + time.Second).Seconds())
}

// TestFaultsManyWait has more threads wait for a silent store than a mount serves at
// once. All end in time, what is in memory is answered at once, and who is killed
// goes at once.
func TestFaultsManyWait(t *testing.T) {
	tree, nodes, want := shortDir(t), map[string]node{}, versions{}
	const threads = 600
	for i := range threads {
		name, data := fmt.Sprintf("f%03d", i), noise(9000, byte(i))
		nodes[name], want[name] = node{mode: 0o644, data: data}, [][]byte{data}
	}
	write(t, tree, nodes)
	store := newStore(t, "e2e|app(1)", tree)
	front := faultServer(t, store.addr, 1)
	c, mount := appClient(t, "http://"+front.Addr(), "prefetch = 0")
	c.main = fmt.Sprintf("io_timeout = %q", netTimeout)
	c.start()
	run(t, 20*time.Second, "ls", "-l", mount)
	calls := newCalls(t, netTimeout)
	calls.read(mount, "f000", want["f000"], false)
	front.Set(1, faults.Silent)
	for _, direct := range []bool{true, false} {
		var all sync.WaitGroup
		for name := range want {
			if name != "f000" {
				all.Go(func() { calls.read(mount, name, want[name], direct) })
			}
		}
		eventually(t, 10*time.Second, "many wait", func() bool { return len(c.status().Stores[0].Tier.Fetching) > 50 })
		for range 3 {
			cat := startProcess(t, exec.Command("cat", filepath.Join(mount, "f001")))
			cat.endsWithin(100 * time.Millisecond)
			began, late := time.Now(), calls.late.Load()
			cat.Process.Kill()
			if most := time.Second + time.Duration(calls.late.Load()-late); !cat.endsWithin(most+5*time.Second) || time.Since(began) > most {
				t.Errorf("direct=%v: a killed reader went after %v", direct, time.Since(began))
			}
			within(t, 5*time.Second, "df", func() { unix.Statfs(mount, &unix.Statfs_t{}) })
		}
		within(t, time.Minute, "all end", all.Wait)
		time.Sleep(time.Second) // what failed a moment ago may be asked for again
	}
	front.Set(0)
	eventually(t, 20*time.Second, "all is read again", func() bool {
		for name := range want {
			if !calls.read(mount, name, want[name], true) {
				return false
			}
		}
		return true
	})
	t.Logf("promise: %d threads wait at once: %v", threads, calls)
	c.stop()
}

// TestFaultsNames has the name server fail, in each of the ways that it can.
func TestFaultsNames(t *testing.T) {
	t.Parallel()
	const addr = "127.0.0.77"
	resolver, err := faults.NewResolver(addr + ":53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(resolver.Close)
	store, names := smallStore(t)
	_, port, _ := strings.Cut(store.addr, ":")
	c, at := appClient(t, "http://store.example.:"+port, "prefetch = 0")
	c.main = fmt.Sprintf("io_timeout = %q", netTimeout)
	// It has files of its own, where it is said who resolves names.
	c.namespace = link.NewThread()
	t.Cleanup(c.namespace.End)
	conf := filepath.Join(c.dir, "resolv.conf")
	mustWrite(t, conf, []byte("nameserver "+addr+"\n"), 0o644)
	if err := c.namespace.Do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		return unix.Mount(conf, "/etc/resolv.conf", "", unix.MS_BIND, "")
	}); err != nil {
		t.Fatal(err)
	}
	c.start()
	// Its mounts are there for who goes by way of its root.
	mount := func() string { return fmt.Sprintf("/proc/%d/root%s", c.proc.Process.Pid, at) }
	calls := newCalls(t, netTimeout)
	content := func(i int) [][]byte { return [][]byte{content(100_000 + i)} }
	if !calls.read(mount(), names[0], content(0), false) {
		t.Fatal("can't be read while all is well")
	}
	if resolver.Asked() == 0 {
		t.Fatal("nobody asked the name server")
	}
	for i, mode := range []int{faults.SaysNothing, faults.NoSuchName, faults.ServerFails} {
		resolver.Set(mode)
		store.down() // connections that are there need no name
		store.up()
		if calls.read(mount(), names[i+1], content(i+1), true) {
			t.Errorf("mode %d: it was read", mode)
		}
		within(t, 2*time.Second, "df", func() { unix.Statfs(mount(), &unix.Statfs_t{}) })
		calls.read(mount(), names[0], content(0), true)
		c.stop()
		c.start() // with what it has cached
		if !calls.read(mount(), names[0], content(0), true) {
			t.Errorf("mode %d: what is cached was not read", mode)
		}
		began := time.Now()
		resolver.Set(faults.Resolves)
		eventually(t, 20*time.Second, "it is read again", func() bool { return calls.read(mount(), names[i+1], content(i+1), true) })
		t.Logf("mode %d: back after %v", mode, time.Since(began))
	}
	t.Logf("promise: no names: %v", calls)
	c.stop()
}
