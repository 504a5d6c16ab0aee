package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"html/template"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
)

// Options are what a server is made of.
type Options struct {
	Config  *config.Server
	ID      string // for people
	Version string
	Data    Data // stays the caller's to close, after the server
	Disk    Disk // nil where the data is on another machine
	Log     *slog.Logger
}

// Server answers the cache's routes. It is an http.Handler.
type Server struct {
	opts     Options
	log      *slog.Logger
	since    time.Time
	instance string // in headers; another one after each start

	instanceValue []string
	vault         *vault
	codec         *object.Codec
	kept          *kept
	limit         int64 // plain bytes of one object

	pools  pools
	checks chan struct{} // credentials being checked

	checking sync.Mutex // see Check

	intake     *publish.Intake
	stores     stores
	marks      marks
	announced  announced
	profiles   profiles
	current    atomic.Pointer[current]
	events     *events
	configRead configRead
	open       openTrees
	mistakes   mistakes
	counters
	behind   behind
	template *template.Template // of the page

	life context.Context // of what goes on behind requests
	end  context.CancelFunc
	work workers
}

// current is what a reload may change.
type current struct {
	gate     *gate
	allow    []config.Pattern
	stall    time.Duration
	maxBody  int64
	maxBatch int
}

// Shares of [main] memory, in percent.
const (
	fetchShare    = 20 // fetches under way from the config's stores, and as much from others
	askingShare   = 10 // of these, what is asked for; as much
	takenShare    = 10 // blobs that are being put
	metadataShare = 10 // decoded metadata of each of the config's stores
	indexShare    = 5  // indexes of trees
	toldPart      = 4  // other stores have this part of it for metadata
)

const checksAtOnce = 4

// pools is the memory for fetches under way. Stores that anybody may tell of have
// one of their own, so that a bad one there is in nobody's way but theirs, and so
// have objects that take much of it.
type pools struct {
	configured, told, large pool
	taken                   pool  // for what is published here
	metadata                int64 // bytes
}

type pool struct {
	bytes  int64
	memory *semaphore.Weighted
	asking *semaphore.Weighted // until it is known how large a blob is; may be nil
}

func newPools(memory, largest int64) pools {
	of := func(bytes int64) pool { return pool{bytes: bytes, memory: semaphore.NewWeighted(bytes)} }
	share := func(percent int64) pool { return of(max(memory*percent/100, 4*object.MaxBlob)) }
	fetches := func() pool {
		p := share(fetchShare)
		p.asking = share(askingShare).memory
		return p
	}
	return pools{
		configured: fetches(), told: fetches(), large: of(2*largest + object.MaxBlob),
		taken: share(takenShare), metadata: memory * metadataShare / 100,
	}
}

// New makes a server of what the data remembers. It asks no store for anything.
func New(ctx context.Context, opts Options) (*Server, error) {
	s := &Server{
		opts: opts, log: opts.Log, since: time.Now(), instance: rand.Text()[:16], events: &events{},
		limit: opts.Config.HTTP.MaxObject,
	}
	s.configRead.loaded = s.since
	s.instanceValue = []string{s.instance}
	s.life, s.end = context.WithCancel(context.Background())
	s.behind = behind{under: make(map[behindKey]bool), slots: make(chan struct{}, behindAtOnce)}
	s.pools = newPools(opts.Config.Main.Memory, s.limit)
	s.open.limit = opts.Config.Main.Memory * indexShare / 100
	s.checks = make(chan struct{}, checksAtOnce)
	s.counters.start(s.since)
	s.apply(opts.Config)
	var err error
	if s.vault, err = openVault(opts.Config.Main.Data); err != nil {
		return nil, err
	}
	if s.template, err = parsePage(); err != nil {
		return nil, fmt.Errorf("read the page: %w", err)
	}
	if s.codec, err = object.NewCodec(max(2, runtime.NumCPU())); err != nil {
		return nil, err
	}
	s.kept = newKept(opts.Data, s.codec, s.limit, s.log)
	s.announced.data, s.announced.log = opts.Data, s.log
	if err := s.announced.load(ctx); err != nil {
		return nil, err
	}
	s.profiles.server, s.profiles.reading = s, semaphore.NewWeighted(maxReading)
	if err := s.profiles.load(ctx); err != nil {
		return nil, err
	}
	if err := s.loadMarks(ctx); err != nil {
		return nil, err
	}
	if err := s.kept.holdings.load(ctx); err != nil {
		return nil, err
	}
	if s.intake, err = publish.OpenIntake(publish.IntakeOptions{
		Dir: s.publishedDir(), MaxSize: opts.Config.Ledis.MaxSize, MinFree: opts.Config.Ledis.MinFree.Of,
		Limit: s.limit, Log: s.log,
	}); err != nil {
		return nil, err
	}
	if err := s.loadStores(ctx); err != nil {
		return nil, fmt.Errorf("read the stores: %w", err)
	}
	s.work.Go(func() { s.sweep(s.life) })
	return s, nil
}

func (s *Server) apply(cfg *config.Server) {
	s.current.Store(&current{
		gate: newGate(cfg.HTTP.Users), allow: cfg.Stor.Allow, stall: cfg.HTTP.StallTimeout,
		maxBody: cfg.HTTP.MaxBody, maxBatch: cfg.HTTP.MaxBatch,
	})
}

// Reload takes users, stores, [stor] allow and the limits of bodies from a new
// config. Requests under way go on.
func (s *Server) Reload(cfg *config.Server) error {
	if err := s.reloadStores(cfg); err != nil {
		return fmt.Errorf("reload the stores: %w", err)
	}
	s.apply(cfg)
	return nil
}

// Close ends all that goes on behind requests. There must be none any more.
func (s *Server) Close() {
	s.end()
	for _, st := range s.stores.now.Load().ordered {
		st.close()
	}
	s.work.Close()
	if err := s.intake.Close(); err != nil {
		s.log.Error("close what was published to the cache", "op", "stop", "err", err)
	}
}

// workers is goroutines that can be waited for, with none added afterwards.
type workers struct {
	mu     sync.Mutex
	closed bool // GUARDED_BY(mu)
	all    sync.WaitGroup
}

// Go runs do, unless the end has come.
func (w *workers) Go(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.all.Go(do)
	}
}

// Close waits for all of them.
func (w *workers) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.all.Wait()
}
