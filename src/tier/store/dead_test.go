package store_test

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// deadRelay passes connections on to a server, and can let those that there are fall
// silent, as a network that changed does: nobody is told that they are dead.
type deadRelay struct {
	net.Listener
	to string

	mu     sync.Mutex
	silent chan struct{} // closed when those of now fall silent
	all    []net.Conn
}

func newDeadRelay(t *testing.T, to string) *deadRelay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &deadRelay{Listener: l, to: to, silent: make(chan struct{})}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			r.mu.Lock()
			silent := r.silent
			r.all = append(r.all, c, s)
			r.mu.Unlock()
			running.Go(func() { passOn(c, s, silent) })
			running.Go(func() { passOn(s, c, silent) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.mu.Lock()
		for _, c := range r.all {
			c.Close()
		}
		r.mu.Unlock()
		running.Wait()
	})
	return r
}

// passOn copies until either end closes; what arrives once it is silent goes nowhere.
func passOn(to io.Writer, from io.Reader, silent <-chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		select {
		case <-silent:
			continue
		default:
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (r *deadRelay) fallSilent() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.silent)
	r.silent = make(chan struct{})
}

// TestDeadConnections: connections that died while they idled cost one request
// its header's time, not one request each.
func TestDeadConnections(t *testing.T) {
	o := tiertest.NewOrigin(t, false)
	plain := tiertest.Random(1, 10_000)
	ref := tiertest.RefOf(plain)
	o.Put(tiertest.Path("", ref.Domain, ref.Digest.String()), plain)
	u, err := url.Parse(o.URL)
	if err != nil {
		t.Fatal(err)
	}
	r := newDeadRelay(t, u.Host)
	s := open(t, store.Config{URL: mustURL(t, "http://"+r.Addr().String()), Timeout: 9 * time.Second})
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			if _, err := s.Get(t.Context(), ref); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	r.fallSilent()
	if _, err := s.Get(t.Context(), ref); err == nil {
		t.Fatal("a silent connection has answered: this test is of no use")
	}
	if _, err := s.Get(t.Context(), ref); err != nil {
		t.Errorf("after the first that failed: %v", err)
	}
}

// TestDeadConnectionsOfAPipeline: where they died while they idled, a read finds out soon
// that nothing comes on the first, and tries no other.
func TestDeadConnectionsOfAPipeline(t *testing.T) {
	for name, cache := range map[string]bool{"store": false, "cache": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serveBlobs(t, 120, 20_000, nil)
			u, err := url.Parse(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			// A server that gets no processor for a while is a slow one, whose answers are
			// waited for.
			soon := false
			for try := 0; try < 3 && !soon; try++ {
				r := newDeadRelay(t, u.Host)
				src := open(t, store.Config{URL: mustURL(t, "http://"+r.Addr().String()), Timeout: time.Minute, Pipeline: true, Batches: cache})
				get := func(ref tier.Ref) {
					if _, err := src.Get(t.Context(), ref); err != nil {
						t.Error(err)
					}
				}
				var all sync.WaitGroup
				for _, ref := range s.refs[:100] { // over several connections, in both ways
					ref.Here = ref.Digest[0]%4 == 0
					all.Go(func() { get(ref) })
				}
				all.Wait()
				for _, ref := range s.refs[100:110] {
					get(ref)
				}
				r.fallSilent()
				began := time.Now()
				for _, ref := range s.refs[110:] {
					get(ref)
				}
				soon = time.Since(began) < 9*time.Second // less than the header of an answer may take
			}
			if !soon {
				t.Error("connections that seem to be dead are waited for")
			}
		})
	}
}
