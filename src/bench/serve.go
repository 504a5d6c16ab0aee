package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
)

// served is how a server answered clients on this machine that ask for hot blobs,
// each over one connection and one after the other.
type served struct {
	Work    string  `json:"work"`
	Server  string  `json:"server"`
	Clients int     `json:"clients"`
	Run     int     `json:"run"`
	Rate    float64 `json:"requests_per_second"`
	Bytes   float64 `json:"bytes_per_second"` // of blobs
	P50     float64 `json:"p50_seconds"`
	P99     float64 `json:"p99_seconds"`
	CPU     float64 `json:"cpu_seconds"` // of all its processes, for one request
	Memory  int64   `json:"rss_kib"`     // of all its processes, after it
}

// serveWork is a work of servers: blobs of one size. They don't compress, so that
// both servers send the same bytes.
type serveWork struct {
	name string
	size int
}

var serveWorks = []serveWork{{"serve256", 256}, {"serve4k", 4 << 10}, {"serve256k", 256 << 10}}

const (
	hotBlobs   = 64 // of each size
	serveWarm  = 300 * time.Millisecond
	serveTime  = time.Second
	serveQuick = time.Second / 2
)

var serveClients = []int{1, 8, 64}

// addresses of the servers, beside those of the link.
const (
	plainAddr = "127.0.0.1:8081"
	cacheAddr = "127.0.0.1:8082"
)

func serveNames() (names []string) {
	for _, w := range serveWorks {
		names = append(names, w.name)
	}
	return names
}

// measureServe has ays_cache and an nginx that serves the same store from disk
// answer the same requests.
func (b *bencher) measureServe(ctx context.Context, run int) error {
	var chosen []serveWork
	for _, w := range serveWorks {
		if b.o.works == nil || slices.Contains(b.o.works, w.name) {
			chosen = append(chosen, w)
		}
	}
	if len(chosen) == 0 {
		return nil
	}
	for _, name := range []string{"ays", "ays_cache"} {
		if why := missing(filepath.Join(b.site.bin, name)); why != "" {
			return fmt.Errorf("%w: %s", errAbsent, why)
		}
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	servers, requests, err := b.startServers(ctx, chosen)
	for _, s := range servers {
		defer s.stop()
	}
	if err != nil {
		return err
	}
	for _, w := range chosen {
		for _, clients := range serveClients {
			for _, s := range servers {
				out, err := b.serve(ctx, s, w, clients, requests[w.name])
				if err != nil {
					return fmt.Errorf("%s: %s with %d clients: %w", w.name, s.name, clients, err)
				}
				out.Run = run + 1
				b.say("%-9s %-9s %2d clients run %d  %8.0f/s  %7.1f MB/s  p50 %s  p99 %s  %s of processor time each  %d MiB", w.name, s.name, clients, out.Run,
					out.Rate, out.Bytes/1e6, seconds(out.P50), seconds(out.P99), micros(out.CPU), out.Memory>>10)
				b.res.Served = append(b.res.Served, *out)
			}
		}
	}
	return nil
}

// hotServer is one that is measured.
type hotServer struct {
	*process
	name, addr string
}

// startServers publishes the blobs and serves them. The requests are by work; what
// a server is asked for is hot from then on.
func (b *bencher) startServers(ctx context.Context, chosen []serveWork) (servers []hotServer, requests map[string][][]byte, err error) {
	dir := b.site.path("serve")
	if err := os.RemoveAll(dir); err != nil { // of a run before
		return nil, nil, err
	}
	source, store := filepath.Join(dir, "source"), filepath.Join(dir, "store")
	if err := os.MkdirAll(source, 0o755); err != nil {
		return nil, nil, err
	}
	requests = make(map[string][][]byte)
	for _, w := range chosen {
		for i := range hotBlobs {
			blob := noise(w.name+strconv.Itoa(i), w.size)
			if err := os.WriteFile(filepath.Join(source, fmt.Sprintf("%s-%d", w.name, i)), blob, 0o644); err != nil {
				return nil, nil, err
			}
			requests[w.name] = append(requests[w.name], fmt.Appendf(nil, "GET /default/%s HTTP/1.1\r\nHost: bench\r\n\r\n", digest.Of(blob)))
		}
	}
	if err := b.site.publish(ctx, store, source, "bench|serve(1)"); err != nil {
		return nil, nil, err
	}
	start := func(name, addr string, cmd *exec.Cmd) error {
		p, err := startProcess(dir, cmd)
		if err != nil {
			return err
		}
		servers = append(servers, hotServer{p, name, addr})
		return p.listens(ctx, addr)
	}
	nginx, err := findNginx()
	if err != nil {
		return nil, nil, err
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(strings.NewReplacer("DIR", dir, "ROOT", store, "ADDR", plainAddr).Replace(hotNginxConf)), 0o644); err != nil {
		return nil, nil, err
	}
	if err := start("nginx", plainAddr, exec.Command(nginx, "-c", conf, "-e", filepath.Join(dir, "error.log"))); err != nil {
		return servers, nil, err
	}
	conf = filepath.Join(dir, "ays_cache.toml")
	text := fmt.Sprintf("[main]\ndata = %q\ncontrol = %q\n[http]\nlisten = %q\n[[ledis]]\nmax_size = \"1GiB\"\nmin_free = \"1%%\"\n",
		filepath.Join(dir, "data"), filepath.Join(dir, "control"), cacheAddr)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return servers, nil, err
	}
	if err := start("ays_cache", cacheAddr, exec.Command(filepath.Join(b.site.bin, "ays_cache"), "-config", conf)); err != nil {
		return servers, nil, err
	}
	announce := fmt.Sprintf(`{"url": "http://%s"}`, plainAddr)
	if _, err := once(cacheAddr, fmt.Appendf(nil, "POST /ays/stor/bench HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(announce), announce)); err != nil {
		return servers, nil, fmt.Errorf("tell ays_cache of the store: %w", err)
	}
	for _, s := range servers {
		for _, w := range chosen {
			for _, r := range requests[w.name] {
				if n, err := once(s.addr, r); err != nil || n != int64(w.size) {
					return servers, nil, fmt.Errorf("%s gave %d of %d bytes: %w", s.name, n, w.size, err)
				}
			}
		}
	}
	return servers, requests, nil
}

// hotNginxConf serves files from disk as nginx does it best, by its book.
const hotNginxConf = `daemon off;
worker_processes auto;
user root;
pid DIR/hot.pid;
error_log DIR/error.log;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;
	sendfile on;
	tcp_nopush on;
	keepalive_requests 100000000;
	root ROOT;
	server { listen ADDR; }
}
`

// serve asks a server for one time span.
func (b *bencher) serve(ctx context.Context, s hotServer, w serveWork, clients int, requests [][]byte) (*served, error) {
	span := serveTime
	if b.o.quick {
		span = serveQuick
	}
	begin := time.Now().Add(serveWarm)
	end := begin.Add(span)
	took := make([][]time.Duration, clients)
	answers := make([]int, clients)
	errs := make([]error, clients)
	before, err := s.cpuTime()
	if err != nil {
		return nil, err
	}
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			took[i], answers[i], errs[i] = hammer(ctx, s.addr, requests, i, int64(w.size), begin, end)
		})
	}
	all.Wait()
	after, err := s.cpuTime()
	if err != nil {
		return nil, err
	}
	answered := 0
	for _, n := range answers {
		answered += n
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	each := slices.Concat(took...)
	if len(each) == 0 {
		return nil, errors.New("it answered nothing")
	}
	slices.Sort(each)
	rate := float64(len(each)) / span.Seconds()
	return &served{
		Work: w.name, Server: s.name, Clients: clients, Rate: rate, Bytes: rate * float64(w.size),
		P50: each[len(each)/2].Seconds(), P99: each[len(each)*99/100].Seconds(),
		CPU: (after - before).Seconds() / float64(answered), Memory: s.resident(),
	}, nil
}

// hammer is one client. It tells how many answers came, and how long those took
// that came between begin and end.
func hammer(ctx context.Context, addr string, requests [][]byte, next int, size int64, begin, end time.Time) (took []time.Duration, answers int, err error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, 0, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := c.SetDeadline(end.Add(30 * time.Second)); err != nil {
		return nil, 0, err
	}
	r := bufio.NewReaderSize(c, 64<<10)
	for {
		asked := time.Now()
		if !asked.Before(end) {
			return took, answers, nil
		}
		if _, err := c.Write(requests[next%len(requests)]); err != nil {
			return nil, 0, err
		}
		next++
		n, err := readAnswer(r)
		if err != nil {
			return nil, 0, err
		}
		if n != size {
			return nil, 0, fmt.Errorf("%d of %d bytes came", n, size)
		}
		answers++
		if now := time.Now(); now.After(begin) && now.Before(end) {
			took = append(took, now.Sub(asked))
		}
	}
}

// once sends one request over a connection of its own, and returns how many bytes
// came.
func once(addr string, request []byte) (int64, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := c.Write(request); err != nil {
		return 0, err
	}
	return readAnswer(bufio.NewReader(c))
}

// readAnswer reads an answer of HTTP/1.1 that tells its length, which it returns.
// It is here because net/http's client would take more time than the servers.
func readAnswer(r *bufio.Reader) (length int64, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 2")) {
		return 0, fmt.Errorf("answer %q", bytes.TrimSpace(line))
	}
	length = -1
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return 0, err
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			break
		}
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64); err != nil {
				return 0, err
			}
		}
	}
	if length < 0 {
		return 0, errors.New("an answer of no stated length")
	}
	if _, err := r.Discard(int(length)); err != nil {
		return 0, err
	}
	return length, nil
}

// pids are those of the process and its children.
func (p *process) pids() []int {
	all := []int{p.cmd.Process.Pid}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", all[0], all[0]))
	for _, s := range strings.Fields(string(children)) {
		if pid, err := strconv.Atoi(s); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// cpuTime is what the process and its children have used, to the nanosecond, by
// their clocks: see clock_getcpuclockid(3).
func (p *process) cpuTime() (used time.Duration, err error) {
	for _, pid := range p.pids() {
		var t unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
			return 0, fmt.Errorf("read the processor time of %s: %w", p.name, err)
		}
		used += time.Duration(t.Nano())
	}
	return used, nil
}

// resident is what the process and its children have in memory, in KiB; files
// that they map are in it.
func (p *process) resident() (kib int64) {
	for _, pid := range p.pids() {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // it has ended
		}
		u := parseStatus(status)
		kib += u.RssAnon + u.RssFile
	}
	return kib
}

// loopbackUp has the namespace's own addresses answer.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("bring the loopback up: %w", err)
	}
	return nil
}

// noise is size bytes that don't compress, always the same for a seed.
func noise(seed string, size int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		d := digest.Of([]byte(seed + strconv.Itoa(i)))
		b.Write(d[:])
	}
	return b.Bytes()[:size]
}

// micros is a time that is short at any rate.
func micros(s float64) string { return fmt.Sprintf("%.1f µs", s*1e6) }

// serving has a row for each server, work and number of clients.
func (r *results) serving() [][]string {
	rows := [][]string{{"work", "clients", "server", "requests/s", "", "MB/s", "p50", "p99", "processor each", "MiB"}}
	for _, w := range serveWorks {
		for _, clients := range serveClients {
			of := func(server string, get func(served) float64) float64 {
				var values []float64
				for _, s := range r.Served {
					if s.Work == w.name && s.Clients == clients && s.Server == server {
						values = append(values, get(s))
					}
				}
				return median(values)
			}
			rate := func(s served) float64 { return s.Rate }
			for _, server := range []string{"nginx", "ays_cache"} {
				n := of(server, rate)
				if n == 0 {
					continue
				}
				rows = append(rows, []string{
					w.name, fmt.Sprint(clients), server, fmt.Sprintf("%.0f", n), ratio(n, of("nginx", rate)),
					fmt.Sprintf("%.1f", of(server, func(s served) float64 { return s.Bytes })/1e6),
					seconds(of(server, func(s served) float64 { return s.P50 })), seconds(of(server, func(s served) float64 { return s.P99 })),
					micros(of(server, func(s served) float64 { return s.CPU })),
					fmt.Sprintf("%.0f", of(server, func(s served) float64 { return float64(s.Memory) })/1024),
				})
			}
		}
	}
	return rows
}
