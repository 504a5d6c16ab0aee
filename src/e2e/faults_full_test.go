//go:build faults

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/redistest"
)

// smallDisk is an ext4 of so many MiB in a file, mounted at a new directory; a tmpfs
// where there are no loop devices.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	dir := shortDir(t)
	at, image := filepath.Join(dir, "disk"), filepath.Join(dir, "image")
	if err := errors.Join(os.Mkdir(at, 0o755), os.WriteFile(image, nil, 0o600), os.Truncate(image, int64(mib)<<20)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	run(t, time.Minute, "/usr/sbin/mke2fs", "-q", "-t", "ext4", "-m", "0", image)
	if out, err := try(t, time.Minute, exec.Command("mount", "-o", "loop", image, at)); err != nil {
		t.Logf("a tmpfs instead of a loop device: %s", out)
		if err := unix.Mount("none", at, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0700", mib)); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

// bind shows a new directory of a disk at another place, too.
func bind(t *testing.T, disk, name, at string) {
	t.Helper()
	from := filepath.Join(disk, name)
	if err := errors.Join(os.Mkdir(from, 0o755), os.MkdirAll(at, 0o755), unix.Mount(from, at, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
}

// fillDisk takes all room of a disk, until it is called what it returns.
func fillDisk(t *testing.T, disk string) (free func()) {
	t.Helper()
	filler := filepath.Join(disk, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("the disk does not become full: %v", err)
		}
	}
	return func() {
		t.Helper()
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
}

// complaints counts the warnings and errors in a log.
func complaints(log string) int {
	return strings.Count(log, "level=WARN") + strings.Count(log, "level=ERROR")
}

// TestFaultsFullDisk has a disk become full on which everything lies: a client's
// cache, its log and what is written in its debug mount, the data of a cache server,
// and a store that is published to.
func TestFaultsFullDisk(t *testing.T) {
	t.Parallel()
	chances(t)
	tree, contents := noisyTree(t, 120, func(i int) int { return 100_000 + 1000*i })
	write(t, tree, map[string]node{"etc/app.conf": {mode: 0o644, data: []byte("port = 1\n")}})
	store := newStore(t, "e2e|app(1)", tree)
	redis := redistest.Start(t, debugPasswd)

	disk := smallDisk(t, 96)
	cache := newGridCache(t)
	bind(t, disk, "data", cache.data())
	cache.ledis = "max_size = \"1GiB\"\nmin_free = \"0\""
	cache.start()
	c := newClient(t, store.url())
	if err := errors.Join(os.Mkdir(filepath.Join(disk, "cache"), 0o700), os.Symlink(filepath.Join(disk, "cache"), c.cacheDir()),
		os.WriteFile(filepath.Join(disk, "log"), nil, 0o644), os.Symlink(filepath.Join(disk, "log"), filepath.Join(c.dir, "log"))); err != nil {
		t.Fatal(err)
	}
	c.main = `io_timeout = "20s"`
	c.disk = fmt.Sprintf("max_size = \"16MiB\"\nmin_free = \"0\"\n[[cache.grid]]\nurl = %q\n", cache.url)
	mount := c.debugMount(redis, "e2e|app(1)", confOrPython)
	plain := c.mount("e2e|app(1)", "prefetch = 0")
	c.start()
	published := filepath.Join(disk, "store")
	publish(t, published, "e2e|app(1)", filepath.Join(tree, "d0"))
	check := newChecker(t, contents, 30*time.Second)
	names := check.names

	allRight := func(when string, names []string) {
		t.Helper()
		check.names = names
		if n := check.whole(plain); n > 0 {
			t.Errorf("%s: %d reads failed", when, n)
		}
	}
	var told, tolds []int
	refused := 0
	for round := range 2 * *faultsRounds {
		free := fillDisk(t, disk)
		before := complaints(cache.log())
		allRight("on a full disk", names)
		check.begin(plain)
		check.goOn(200)
		if s := c.status().Cache; s.Bypassed == "" && round == 0 { // later it has something to evict
			t.Error("status does not tell that nothing is kept")
		}

		// What was not published leaves no trace.
		cmd := exec.Command(ays, "publish", "-store", published, "-id", "e2e|app(1)", tree)
		if out, err := try(t, time.Minute, cmd); err == nil {
			t.Log("the caches made room for what was published")
		} else if exitCode(err) != 2 || !strings.Contains(out, "no space left") {
			t.Errorf("publish to a full disk: %v: %s", err, out)
		} else {
			refused++
			if round == 0 {
				t.Logf("publish says: %s", out)
			}
		}
		run(t, time.Minute, ays, "verify", "-store", published)
		if out := run(t, time.Minute, ays, "log", "-store", published, "-id", "e2e|app(1)"); strings.Count(out, "\n") > 6*(round+2) {
			t.Errorf("the log of the store: %s", out)
		}

		// What can't be written is not there.
		conf := filepath.Join(mount, "etc/app.conf")
		was := mustRead(t, conf)
		// Not even with all that the client's cache has.
		if err := os.WriteFile(filepath.Join(mount, "etc/new.conf"), noise(40<<20, 1), 0o644); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("write what there is no room for: %v, want ENOSPC", err)
		}
		if got := sent(t, redis, "etc/new.conf"); len(got) == 40<<20 {
			t.Errorf("redis has %d bytes of what could not be written", len(got))
		}
		wantContent(t, 10*time.Second, conf, was)
		told = append(told, complaints(cache.log())-before)
		free()
		check.goOn(100)
		if n := check.halt(); n > 0 {
			t.Errorf("%d reads failed, with the store within reach", n)
		}

		// With room again all goes on.
		eventually(t, time.Minute, "the client's cache keeps blobs again", func() bool {
			allRight("with room again", names)
			return c.status().Cache.Bypassed == "" && c.status().Cache.Blobs > 20
		})
		eventually(t, time.Minute, "the cache server keeps blobs again", func() bool {
			allRight("with room again", names)
			return cache.metric("ays_cache_domain_blobs") > 20
		})
		text := fmt.Appendf(nil, "port = %d\n", round)
		eventually(t, time.Minute, "what is written is kept again", func() bool { return os.WriteFile(conf, text, 0o644) == nil })
		if got := sent(t, redis, "etc/app.conf"); got != string(text) {
			t.Errorf("redis has %q", got)
		}
		publish(t, published, "e2e|app(1)", filepath.Join(tree, fmt.Sprint("d", round%4+1)))
		run(t, time.Minute, ays, "verify", "-store", published)
		tolds = append(tolds, complaints(c.log()))
	}
	if refused == 0 {
		t.Error("the disk was never full for a publish")
	}
	if !strings.Contains(c.log(), "keeps blobs again") {
		t.Error("the log on that disk does not go on")
	}
	for _, n := range told {
		if n > 6 {
			t.Errorf("the cache server's log has %v warnings, each time the disk was full:\n%s", told, lastLines(cache.log(), 12))
			break
		}
	}
	t.Logf("promise: full disk %d times under %d reads, all right; publish refused %d times, head and blobs as they were; warnings of the cache server each time: %v, of the client so far: %v",
		len(told), check.reads.Load(), refused, told, tolds)
	c.stop()
	cache.stop()
}
