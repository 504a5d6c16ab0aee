package tree

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

const mib = 1 << 20

// step is what somebody does at an intake, and who has been admitted then.
type step struct {
	from     string // somebody comes, from that source; empty: nobody does
	bytes    int64
	behind   bool  // nobody waits for it
	leaves   int   // who releases, or gives up; 0: nobody
	limit    int64 // not 0: the lines' new length
	admitted []int // by the number in which they came, from 1
}

func TestIntake(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"as many as a line has room for", []step{
			{from: "a", bytes: 4 * mib, admitted: []int{1}},
			{from: "a", bytes: 4 * mib, admitted: []int{1, 2}},
			{from: "a", bytes: 1, admitted: []int{1, 2}},
			{leaves: 2, admitted: []int{1, 3}},
		}},
		{"first in, first out", []step{
			{from: "a", bytes: 7 * mib, admitted: []int{1}},
			{from: "a", bytes: 6 * mib, admitted: []int{1}},
			{from: "a", bytes: 1 * mib, admitted: []int{1}}, // it would fit
			{leaves: 1, admitted: []int{2, 3}},
		}},
		{"a source that hangs holds up no other", []step{
			{from: "a", bytes: 8 * mib, admitted: []int{1}},
			{from: "a", bytes: 8 * mib, admitted: []int{1}},
			{from: "b", bytes: 8 * mib, admitted: []int{1, 3}},
			{from: "b", bytes: 1, admitted: []int{1, 3}},
			{leaves: 3, admitted: []int{1, 4}},
		}},
		{"what is large goes one at a time, beside what is small", []step{
			{from: "a", bytes: 256 * mib, admitted: []int{1}},
			{from: "b", bytes: 9 * mib, admitted: []int{1}},
			{from: "a", bytes: 8 * mib, admitted: []int{1, 3}},
			{from: "b", bytes: 8 * mib, admitted: []int{1, 3, 4}},
			{from: "c", bytes: 1 << 60, admitted: []int{1, 3, 4}},
			{leaves: 1, admitted: []int{2, 3, 4}},
			{leaves: 2, admitted: []int{3, 4, 5}},
		}},
		{"what nobody waits for stands behind", []step{
			{from: "a", bytes: 8 * mib, admitted: []int{1}},
			{from: "a", bytes: 8 * mib, behind: true, admitted: []int{1}},
			{from: "a", bytes: 7 * mib, behind: true, admitted: []int{1}},
			{from: "a", bytes: 5 * mib, admitted: []int{1}},
			{from: "a", bytes: 4 * mib, admitted: []int{1}},
			{leaves: 1, admitted: []int{4}},
			{leaves: 4, admitted: []int{5}},
			{leaves: 5, admitted: []int{2}},
			{leaves: 2, admitted: []int{3}},
		}},
		{"who gives up makes room for who comes behind", []step{
			{from: "a", bytes: 5 * mib, admitted: []int{1}},
			{from: "a", bytes: 5 * mib, admitted: []int{1}},
			{from: "a", bytes: 2 * mib, admitted: []int{1}},
			{leaves: 2, admitted: []int{1, 3}},
			{leaves: 1, admitted: []int{3}},
			{leaves: 3, admitted: nil},
			{from: "a", bytes: 8 * mib, admitted: []int{4}},
		}},
		{"longer and shorter lines", []step{
			{from: "a", bytes: 6 * mib, admitted: []int{1}},
			{from: "a", bytes: 6 * mib, admitted: []int{1}},
			{limit: 16 * mib, admitted: []int{1, 2}},
			{limit: 1, admitted: []int{1, 2}}, // 4 MiB: the least
			{from: "a", bytes: 4 * mib, admitted: []int{1, 2}},
			{from: "a", bytes: 5 * mib, admitted: []int{1, 2, 4}}, // large now
			{leaves: 1, admitted: []int{2, 4}},
			{leaves: 2, admitted: []int{3, 4}},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var in intake
			in.limit(8 * mib)
			sources := make(map[string]Blobs)
			type guest struct {
				in    atomic.Bool
				leave context.CancelFunc
				gone  chan struct{}
			}
			guests := []*guest{nil}
			waiting := func() (n int) {
				in.mu.Lock()
				defer in.mu.Unlock()
				for _, l := range in.lines {
					n += len(l.waiting)
				}
				return n
			}
			for i, s := range c.steps {
				switch {
				case s.from != "":
					if sources[s.from] == nil {
						sources[s.from] = &blobs{}
					}
					g := &guest{gone: make(chan struct{})}
					ctx, cancel := context.WithCancel(t.Context())
					g.leave = cancel
					guests = append(guests, g)
					before := waiting()
					go func() {
						defer close(g.gone)
						wait := ctx
						if s.behind {
							wait = tier.InBackground(ctx)
						}
						p, err := in.admit(wait, sources[s.from], s.bytes)
						if err != nil {
							if !errors.Is(err, context.Canceled) || errors.Is(err, tier.ErrUnavailable) {
								t.Errorf("step %d: %v", i, err)
							}
							return
						}
						g.in.Store(true)
						<-ctx.Done()
						in.release(p)
						g.in.Store(false)
					}()
					for end := time.Now().Add(10 * time.Second); !g.in.Load() && waiting() == before; time.Sleep(time.Millisecond) {
						if time.Now().After(end) {
							t.Fatalf("step %d: neither admitted nor waiting", i)
						}
					}
				case s.limit != 0:
					in.limit(s.limit)
				default:
					guests[s.leaves].leave()
					<-guests[s.leaves].gone
				}
				now := func() (ids []int) {
					for id, g := range guests {
						if g != nil && g.in.Load() {
							ids = append(ids, id)
						}
					}
					return ids
				}
				for end := time.Now().Add(10 * time.Second); fmt.Sprint(now()) != fmt.Sprint(s.admitted); time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("step %d: admitted are %v, want %v", i, now(), s.admitted)
					}
				}
			}
			for _, g := range guests[1:] {
				g.leave()
				<-g.gone
			}
			if len(in.lines) != 0 {
				t.Errorf("left: %v", in.lines)
			}
		})
	}
}

// Whatever comes and goes, no line has more than it may, and all come through.
func TestIntakeUnderLoad(t *testing.T) {
	var in intake
	in.limit(8 * mib)
	sources := []Blobs{&blobs{}, &blobs{}, &blobs{}}
	var small [3]atomic.Int64
	var large, through, gaveUp atomic.Int64
	var all sync.WaitGroup
	for n := range 64 {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(n)))
			for range 200 {
				from, bytes := rnd.IntN(3), 1+rnd.Int64N(10*mib)
				ctx, cancel := context.WithCancel(t.Context())
				if rnd.IntN(4) == 0 {
					time.AfterFunc(time.Duration(rnd.IntN(200))*time.Microsecond, cancel)
				}
				p, err := in.admit(ctx, sources[from], bytes)
				if err != nil {
					gaveUp.Add(1)
					cancel()
					continue
				}
				of := &small[from]
				most := int64(8 * mib)
				if bytes > most {
					of, most = &large, bytes
				}
				if now := of.Add(bytes); now > most {
					t.Errorf("%d bytes where %d may be", now, most)
				}
				runtime.Gosched() // so that others come, and wait
				of.Add(-bytes)
				in.release(p)
				through.Add(1)
				cancel()
			}
		})
	}
	all.Wait()
	if len(in.lines) != 0 || through.Load() == 0 || gaveUp.Load() == 0 {
		t.Errorf("%d came through, %d gave up, left: %v", through.Load(), gaveUp.Load(), in.lines)
	}
}

// held is a source that gives nothing until it is told to.
type held struct {
	*blobs
	asked chan digest.Digest
	open  chan struct{}
}

func (h *held) Copy(ctx context.Context, ref tier.Ref) ([]byte, error) {
	h.asked <- ref.Digest
	select {
	case <-h.open:
		return h.blobs.Copy(ctx, ref)
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", tier.ErrUnavailable, ctx.Err())
	}
}

// What waits for memory is out of time when its caller is, and no store waits for another.
func TestWaitingForMemoryEnds(t *testing.T) {
	b, h := published(t, 8, 1)
	h.MaxSize = 3 * mib // two at a time
	cache := NewCache(16 * mib)
	stuck := &held{blobs: b, asked: make(chan digest.Digest, 16), open: make(chan struct{})}
	tr := New(h, stuck, cache)
	index, err := object.ParseIndex(b.by[h.Index])
	if err != nil {
		t.Fatal(err)
	}
	listing := func(i int) (d digest.Digest) {
		if err := object.ParseCatalog(b.by[index.Catalogs()[i+1]], func(_, raw []byte) error {
			d = digest.Of(raw)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return d
	}
	life, end := context.WithCancel(t.Context())
	var hanging sync.WaitGroup
	get := func(ctx context.Context, of *Tree, i int) error {
		_, err := of.Listing(ctx, fmt.Sprintf("d%04d", i), listing(i))
		return err
	}
	close(stuck.open) // for the index
	if _, err := tr.Index(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-stuck.asked
	stuck.open = make(chan struct{})
	for i := range 2 {
		hanging.Go(func() {
			if err := get(life, tr, i); err == nil {
				t.Error("the source gave something")
			}
		})
		<-stuck.asked
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	if err := get(ctx, tr, 2); !errors.Is(err, tier.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("out of time: %v", err)
	}
	cancel()
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := get(ctx, tr, 3); !errors.Is(err, context.Canceled) || errors.Is(err, tier.ErrUnavailable) {
		t.Errorf("given up: %v", err)
	}
	if len(stuck.asked) != 0 {
		t.Error("the source was asked for more than there is room for")
	}
	if err := get(t.Context(), New(h, b, cache), 0); err != nil {
		t.Errorf("another store waits: %v", err)
	}
	end()
	hanging.Wait()
	close(stuck.open)
	if err := get(t.Context(), tr, 5); err != nil {
		t.Errorf("once there is room: %v", err)
	}
	if cache.coming != 0 || len(cache.intake.lines) != 0 || len(cache.loads) != 0 {
		t.Errorf("left: %d bytes, %v, %v", cache.coming, cache.intake.lines, cache.loads)
	}
}

// However many want a catalog, it is fetched and decoded once; when who fetches it gives
// up, somebody else does.
func TestOneLoadServesAll(t *testing.T) {
	b, h := published(t, 10, 100)
	src := &held{blobs: b, asked: make(chan digest.Digest, 16), open: make(chan struct{})}
	tr := New(h, src, NewCache(1*mib))
	first, leave := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := tr.Listing(first, "", h.Root); err == nil {
			t.Error("who gave up got something")
		}
	})
	<-src.asked
	for range 50 {
		all.Go(func() {
			if _, err := tr.Listing(t.Context(), "", h.Root); err != nil {
				t.Error(err)
			}
		})
	}
	leave()
	<-src.asked // by another
	close(src.open)
	all.Wait()
	if n := b.gets[h.Catalog]; n != 1 || len(src.asked) != 0 {
		t.Errorf("got %d times, and asked for %d times more", n, len(src.asked))
	}
}

// In a cache with room for nothing a listing is had all the same, whoever else wants
// another one at the time.
func TestListingsOutlastTheirEviction(t *testing.T) {
	b, h := published(t, 40, 1)
	tr := New(h, b, NewCache(1))
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for i := range 200 {
				v, err := NewView(t.Context(), tr, fmt.Sprintf("d%04d", (7*i+n)%40), nil)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := v.Listing(t.Context(), "", v.Root().Digest); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// Files that share a chunk list but not a size do not share what is made of it.
func TestChunkListOfAnotherSize(t *testing.T) {
	b, h := published(t, 1, 1)
	raw := object.EncodeChunkList(&object.ChunkList{Size: 2 * mib, Chunks: []object.Chunk{{Size: mib, Digest: h.Root}, {Size: mib, Digest: h.Root}}})
	d := b.put(raw)
	tr := New(h, b, NewCache(1*mib))
	for range 2 {
		if _, err := tr.Chunks(t.Context(), d, 3*mib); !errors.Is(err, object.ErrFormat) {
			t.Errorf("of a file of another size: %v", err)
		}
		if tr.CachedChunks(d, 3*mib) != nil {
			t.Error("kept for a file of another size")
		}
		if c, err := tr.Chunks(t.Context(), d, 2*mib); err != nil || c.Size != 2*mib {
			t.Errorf("%v, %v", c, err)
		}
	}
	if b.gets[d] != 2 {
		t.Errorf("got %d times", b.gets[d])
	}
}

// What nobody waited for goes before who comes later, once somebody waits for it.
func TestWhatIsWantedNoLongerStandsBehind(t *testing.T) {
	c := NewCache(16 * mib)
	key := func(name string) loadKey {
		return loadKey{ref: tier.Ref{Domain: "d", Digest: digest.Of([]byte(name))}}
	}
	order, open := make(chan string, 8), make(chan struct{})
	var all sync.WaitGroup
	get := func(ctx context.Context, name string) {
		all.Go(func() {
			_, err := c.once(ctx, key(name), 8*mib, func(context.Context) (*unit, error) { // all that there is
				order <- name
				<-open
				return &unit{size: 1, digest: key(name).ref.Digest}, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	until := func(what string, ok func(waiting []*waiter) bool) {
		t.Helper()
		for began := time.Now(); ; time.Sleep(time.Millisecond) {
			c.intake.mu.Lock()
			yes := ok(c.intake.lines[nil].waiting)
			c.intake.mu.Unlock()
			if yes {
				return
			}
			if time.Since(began) > 20*time.Second {
				t.Fatalf("%s: not so", what)
			}
		}
	}
	count := func(n int) func([]*waiter) bool {
		return func(w []*waiter) bool { return len(w) == n }
	}
	get(t.Context(), "first")
	if n := <-order; n != "first" {
		t.Fatal(n)
	}
	get(tier.InBackground(t.Context()), "behind")
	until("one waits", count(1))
	get(tier.InBackground(t.Context()), "for nobody")
	until("two wait", count(2))
	get(t.Context(), "second")
	until("three wait", count(3))
	get(t.Context(), "behind") // with who waits already
	until("nobody is behind that somebody waits for", func(w []*waiter) bool { return !w[1].background })
	get(t.Context(), "third")
	until("four wait", count(4))
	close(open)
	for _, want := range []string{"second", "behind", "third", "for nobody"} {
		if got := <-order; got != want {
			t.Errorf("%s comes where %s should", got, want)
		}
	}
	all.Wait()
	if c.coming != 0 || len(c.intake.lines) != 0 || len(c.loads) != 0 {
		t.Errorf("left: %d bytes, %v, %v", c.coming, c.intake.lines, c.loads)
	}
}

// unhurried gives nothing until somebody waits for it.
type unhurried struct{ *blobs }

func (u unhurried) Copy(ctx context.Context, ref tier.Ref) ([]byte, error) {
	if tier.Background(ctx) {
		select {
		case <-tier.Wanted(ctx):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return u.blobs.Copy(ctx, ref)
}

// A source is told when somebody comes to wait for what is on its way for nobody.
func TestWhatIsOnItsWayIsWanted(t *testing.T) {
	b, h := published(t, 1, 2)
	tr := New(h, unhurried{b}, NewCache(16*mib))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var all sync.WaitGroup
	get := func(ctx context.Context) {
		all.Go(func() {
			if _, err := tr.Listing(ctx, "", h.Root); err != nil {
				t.Error(err)
			}
		})
	}
	for range 2 {
		get(tier.InBackground(ctx))
	}
	for loading := false; !loading; time.Sleep(time.Millisecond) {
		tr.cache.mu.RLock()
		loading = len(tr.cache.loads) == 1
		tr.cache.mu.RUnlock()
	}
	get(ctx)
	all.Wait()
	if n := b.gets[h.Catalog]; n != 1 {
		t.Errorf("the catalog was got %d times", n)
	}
}
