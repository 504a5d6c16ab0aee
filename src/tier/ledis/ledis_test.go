package ledis_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mediocregopher/radix/v4"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/ledis"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

func refused(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func comes(t *testing.T, l *ledis.Tier, ref tier.Ref, want []byte) {
	t.Helper()
	eventually(t, "a blob that was filled is there", func() bool {
		b, err := l.Get(t.Context(), ref)
		return err == nil && bytes.Equal(b, want)
	})
}

// ask is one command of another client.
func ask(t *testing.T, addr string, rcv any, cmd string, args ...string) {
	t.Helper()
	c, err := radix.Dial(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Do(t.Context(), radix.Cmd(rcv, cmd, args...)); err != nil {
		t.Fatal(err)
	}
}

func TestFills(t *testing.T) {
	for name, start := range map[string]func(*testing.T) string{
		"redis":     func(t *testing.T) string { addr, _ := redisServer(t); return addr },
		"ays_cache": func(t *testing.T) string { addr, _ := aysCache(t); return addr },
	} {
		t.Run(name, func(t *testing.T) {
			tiertest.NoLeaks(t)
			addr := start(t)
			var said log
			l := open(t, ledis.Config{Addr: addr, Expiration: 48 * time.Hour, Queue: 32 << 20, Log: said.logger()})
			blobs := [][]byte{{}, tiertest.Random(1, object.MaxBlob)}
			for i := range 100 {
				blobs = append(blobs, tiertest.Random(uint64(i+2), 1000*i))
			}
			for _, b := range blobs {
				if err := l.Fill(tiertest.RefOf(b), b); err != nil {
					t.Fatal(err)
				}
			}
			for _, b := range blobs {
				comes(t, l, tiertest.RefOf(b), b)
			}
			if n := said.count("level=WARN"); n != 0 {
				t.Errorf("it warned %d times: %s", n, said.b.String())
			}
		})
	}
}

// TestFillsWhenItEnds: what waits is written when the tier is closed.
func TestFillsWhenItEnds(t *testing.T) {
	addr, _ := redisServer(t)
	l := ledis.New(ledis.Config{Addr: addr})
	b := tiertest.Random(1, 1000)
	if err := l.Fill(tiertest.RefOf(b), b); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	comes(t, open(t, ledis.Config{Addr: addr}), tiertest.RefOf(b), b)
	if err := l.Fill(tiertest.RefOf(b), b); err == nil {
		t.Error("a closed tier took a blob")
	}
}

// TestFillsNeverWait: behind a database that takes nothing the queue is full some
// time, and says so.
func TestFillsNeverWait(t *testing.T) {
	addr, p := redisServer(t)
	l := ledis.New(ledis.Config{Addr: addr, Queue: 1 << 20, Timeout: time.Minute})
	b := tiertest.Random(1, 100<<10)
	if err := l.Fill(tiertest.RefOf(b), b); err != nil {
		t.Fatal(err)
	}
	comes(t, l, tiertest.RefOf(b), b)
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	taken := 0
	for i := range 1000 {
		if l.Fill(tiertest.RefOf(fmt.Append(nil, i)), b) == nil {
			taken++
		}
	}
	if taken == 0 || taken > 10 {
		t.Errorf("it took %d blobs of 100 KiB for a queue of 1 MiB", taken)
	}
	if err := p.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestExpiration: a hash that is used lives on; an ays_cache goes by its own.
func TestExpiration(t *testing.T) {
	b := tiertest.Random(1, 1000)
	ref := tiertest.RefOf(b)
	ttl := func(addr string) (n int) {
		ask(t, addr, &n, "TTL", "files:default")
		return n
	}
	redis, _ := redisServer(t)
	l := open(t, ledis.Config{Addr: redis, Expiration: time.Hour})
	if err := l.Fill(ref, b); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the hash expires", func() bool { n := ttl(redis); return n > 3000 && n <= 3600 })

	ask(t, redis, nil, "EXPIRE", "files:default", "1000")
	other := open(t, ledis.Config{Addr: redis, Expiration: 2 * time.Hour})
	comes(t, other, ref, b)
	eventually(t, "a read prolongs it", func() bool { n := ttl(redis); return n > 3600 && n <= 7200 })

	never := open(t, ledis.Config{Addr: redis})
	ask(t, redis, nil, "PERSIST", "files:default")
	if err := never.Fill(ref, b); err != nil {
		t.Fatal(err)
	}
	comes(t, never, ref, b)
	if n := ttl(redis); n != -1 {
		t.Errorf("with no expiration it expires in %d s", n)
	}

	cache, _ := aysCache(t)
	l = open(t, ledis.Config{Addr: cache, Expiration: time.Hour})
	if err := l.Fill(ref, b); err != nil {
		t.Fatal(err)
	}
	comes(t, l, ref, b)
	if n := ttl(cache); n != -1 {
		t.Errorf("a domain of an ays_cache expires in %d s", n)
	}
}

func TestHeads(t *testing.T) {
	cache, _ := aysCache(t)
	redis, _ := redisServer(t)
	for _, addr := range []string{cache, redis} {
		l := open(t, ledis.Config{Addr: addr})
		tree := object.TreeName{ID: "a|b(1)", Platform: "linux64"}
		const one, two = "https://one/files", "https://two/files"
		if _, err := l.Head(t.Context(), one, tree); !errors.Is(err, tier.ErrAbsent) {
			t.Errorf("nothing yet: %v", err)
		}
		for _, note := range []string{"first", "second"} {
			for _, store := range []string{one, two} {
				if err := l.PutHead(store, tree, []byte(note+" of "+store)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, store := range []string{one, two} {
			eventually(t, "the last head is there", func() bool {
				b, err := l.Head(t.Context(), store, tree)
				return err == nil && string(b) == "second of "+store
			})
		}
		tree.Platform = ""
		if _, err := l.Head(t.Context(), one, tree); !errors.Is(err, tier.ErrAbsent) {
			t.Errorf("of another platform: %v", err)
		}
	}
}

// TestComesAndGoes: a database that isn't there is left alone, found when it
// comes, and found again after it has been away. Each is said once.
func TestComesAndGoes(t *testing.T) {
	tiertest.NoLeaks(t)
	addr := refused(t)
	var said log
	l := open(t, ledis.Config{Addr: addr, Log: said.logger()})
	b := tiertest.Random(1, 1000)
	ref := tiertest.RefOf(b)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := l.Get(t.Context(), ref); !errors.Is(err, tier.ErrUnavailable) || errors.Is(err, tier.ErrAbsent) {
				t.Errorf("get: %v", err)
			}
		})
	}
	all.Wait()
	if err := l.Fill(ref, b); err == nil {
		t.Error("it took a blob for a database that isn't there")
	}
	for round := range 2 {
		p := redisAt(t, addr)
		eventually(t, "it is used", func() bool {
			_, err := l.Get(t.Context(), ref)
			return errors.Is(err, tier.ErrAbsent)
		})
		if err := l.Fill(ref, b); err != nil {
			t.Error(err)
		}
		comes(t, l, ref, b)
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is missed", func() bool {
			_, err := l.Get(t.Context(), ref)
			return errors.Is(err, tier.ErrUnavailable)
		})
		if w, i := said.count("level=WARN"), said.count("level=INFO"); w != round+2 || i != round+1 {
			t.Errorf("%d warnings and %d times back after %d rounds", w, i, round+1)
		}
	}
}

// TestFrozen: of those who ask a database that says nothing some wait as long as
// a call may, the others not at all.
func TestFrozen(t *testing.T) {
	addr, p := redisServer(t)
	l := open(t, ledis.Config{Addr: addr, Timeout: 300 * time.Millisecond})
	b := tiertest.Random(1, 1000)
	ref := tiertest.RefOf(b)
	if err := l.Fill(ref, b); err != nil {
		t.Fatal(err)
	}
	comes(t, l, ref, b)
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is left alone", func() bool {
		_, err := l.Get(t.Context(), ref)
		return errors.Is(err, tier.ErrUnavailable)
	})
	began := time.Now()
	for range 10_000 {
		if _, err := l.Get(t.Context(), ref); !errors.Is(err, tier.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("10,000 Gets took %v: each one waited", d)
	}
	if err := p.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	comes(t, l, ref, b)
}

// TestFullDatabase: one that takes no more is still asked.
func TestFullDatabase(t *testing.T) {
	addr, _ := redisServer(t)
	var said log
	l := open(t, ledis.Config{Addr: addr, Log: said.logger()})
	b := tiertest.Random(1, 1000)
	ref := tiertest.RefOf(b)
	if err := l.Fill(ref, b); err != nil {
		t.Fatal(err)
	}
	comes(t, l, ref, b)
	ask(t, addr, nil, "CONFIG", "SET", "maxmemory", "1")
	if err := l.Fill(tiertest.RefOf([]byte("another")), b); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no more is sent", func() bool { return l.Fill(ref, b) != nil })
	if got, err := l.Get(t.Context(), ref); err != nil || !bytes.Equal(got, b) {
		t.Errorf("get: %v", err)
	}
	if n := said.count("level=WARN"); n != 1 {
		t.Errorf("%d warnings, want one: %s", n, said.b.String())
	}
}

func TestPasswd(t *testing.T) {
	addr, _ := redisServer(t, "--requirepass", "secret")
	b := tiertest.Random(1, 1000)
	ref := tiertest.RefOf(b)
	l := open(t, ledis.Config{Addr: addr, Passwd: "secret"})
	if err := l.Fill(ref, b); err != nil {
		t.Fatal(err)
	}
	comes(t, l, ref, b)
	for _, wrong := range []string{"", "wrong"} {
		l := open(t, ledis.Config{Addr: addr, Passwd: wrong})
		if _, err := l.Get(t.Context(), ref); !errors.Is(err, tier.ErrDenied) {
			t.Errorf("passwd %q: %v", wrong, err)
		}
	}
}

// TestCallerLeaves: that is nothing against the database.
func TestCallerLeaves(t *testing.T) {
	addr, p := redisServer(t)
	l := open(t, ledis.Config{Addr: addr, Timeout: time.Minute})
	b := tiertest.Random(1, 1000)
	ref := tiertest.RefOf(b)
	if err := l.Fill(ref, b); err != nil {
		t.Fatal(err)
	}
	comes(t, l, ref, b)
	comes(t, l, ref, b) // by now the write has been answered, too: nothing is on its way
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Get(ctx, ref); !errors.Is(err, tier.ErrUnavailable) {
		t.Errorf("get: %v", err)
	}
	if err := p.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got, err := l.Get(t.Context(), ref); err != nil || !bytes.Equal(got, b) {
		t.Errorf("it was left alone: %v", err)
	}
}
