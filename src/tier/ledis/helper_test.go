package ledis_test

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/cachedb"
	"github.com/aysfs/aysfs/src/ledisbolt"
	"github.com/aysfs/aysfs/src/resp"
	"github.com/aysfs/aysfs/src/tier/ledis"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

func TestMain(m *testing.M) {
	ledisbolt.Register()
	os.Exit(m.Run())
}

// redisServer is a redis of its own, on a free port.
func redisServer(t *testing.T, args ...string) (addr string, p *os.Process) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = ln.Addr().String()
	ln.Close()
	return addr, redisAt(t, addr, args...)
}

func redisAt(t *testing.T, addr string, args ...string) *os.Process {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("redis-server", append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir()}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	eventually(t, "redis answers", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return cmd.Process
}

// aysCache is what an ays_cache serves on its ledis port.
func aysCache(t *testing.T) (addr string, db *cachedb.Embedded) {
	t.Helper()
	db, err := cachedb.Open(cachedb.Options{Dir: t.TempDir(), Store: ledisbolt.Options{SegmentSize: 4 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	s := resp.New(resp.Config{DB: db.Ledis(), Field: db.Field, Drop: db.Drop, Private: cachedb.Private, EmptyField: cachedb.LedisHeadField})
	ln, err := resp.Listen("", 0)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		_ = s.Serve(ln)
		close(served)
	}()
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	return ln.Addr().String(), db
}

// open is a tier that is closed with the test.
func open(t *testing.T, cfg ledis.Config) *ledis.Tier {
	t.Helper()
	l := ledis.New(cfg)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// log is what a tier says.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *log) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.b.Bytes(), []byte(what))
}

func (l *log) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// relay stands between a tier and its database, and lets answers go wrong.
type relay struct {
	net.Listener
	to string

	mu    sync.Mutex
	cond  *sync.Cond
	fault tiertest.Fault        // GUARDED_BY(mu)
	conns map[net.Conn]struct{} // GUARDED_BY(mu)
	over  bool                  // GUARDED_BY(mu)
	all   sync.WaitGroup
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Listener: l, to: to, conns: make(map[net.Conn]struct{})}
	r.cond = sync.NewCond(&r.mu)
	r.all.Go(r.serve)
	t.Cleanup(func() {
		r.set(tiertest.Unreachable)
		r.all.Wait()
	})
	return r
}

func (r *relay) addr() string { return r.Addr().String() }

func (r *relay) serve() {
	for {
		near, err := r.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", r.to)
		if err != nil {
			near.Close()
			continue
		}
		if !r.add(near, far) {
			near.Close()
			far.Close()
			return
		}
		r.all.Go(func() {
			_, _ = io.Copy(far, near)
			far.Close()
		})
		r.all.Go(func() {
			r.answers(near, far)
			near.Close()
			far.Close()
		})
	}
}

func (r *relay) add(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		r.conns[c] = struct{}{}
	}
	return !r.over
}

// set has all answers go wrong from now on.
func (r *relay) set(f tiertest.Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = f
	if f == tiertest.Unreachable {
		r.over = true
		r.Close()
		for c := range r.conns {
			c.Close()
		}
	}
	r.cond.Broadcast()
}

// answers hands on what the database says.
func (r *relay) answers(near, far net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := far.Read(buf)
		if err != nil {
			return
		}
		b := buf[:n]
		r.mu.Lock()
		fault := r.fault
		r.mu.Unlock()
		switch {
		case fault == tiertest.Stalled && n > 100: // a blob
			if _, err := near.Write(b[:n/2]); err != nil {
				return
			}
			b = b[n/2:]
		case fault == tiertest.Slow && n > 100:
			for len(b) > n/4 {
				if _, err := near.Write(b[:n/8]); err != nil {
					return
				}
				b = b[n/8:]
				time.Sleep(5 * time.Millisecond)
			}
		}
		r.mu.Lock()
		for r.fault == tiertest.Silent || r.fault == tiertest.Stalled && n > 100 {
			r.cond.Wait()
		}
		r.mu.Unlock()
		if _, err := near.Write(b); err != nil {
			return
		}
	}
}
