package tiertest

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Origin is a web server that holds bytes under paths, and goes wrong as it is
// told: on a real socket, as servers and networks do.
type Origin struct {
	*httptest.Server

	mu       sync.Mutex
	files    map[string][]byte // GUARDED_BY(mu)
	fault    Fault             // GUARDED_BY(mu)
	requests []*http.Request   // GUARDED_BY(mu)
	gone     int               // GUARDED_BY(mu); requests whose client left before the end
	released chan struct{}     // closed when what hangs shall end
	listener net.Listener
}

// NewOrigin starts a server: with TLS and HTTP/2 if h2, else with plain
// HTTP/1.1. It ends with the test.
func NewOrigin(t testing.TB, h2 bool) *Origin {
	t.Helper()
	o := &Origin{files: make(map[string][]byte), released: make(chan struct{})}
	o.Server = httptest.NewUnstartedServer(o)
	o.Server.Config.ErrorLog = nil
	o.listener = o.Server.Listener
	if h2 {
		o.EnableHTTP2 = true
		o.StartTLS()
	} else {
		o.Start()
	}
	t.Cleanup(func() {
		close(o.released)
		o.CloseClientConnections()
		o.Close()
	})
	return o
}

// Put has the server answer with b for path, which is escaped and begins with a
// slash.
func (o *Origin) Put(path string, b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.files[path] = b
}

// Fault has every request go wrong from now on.
func (o *Origin) Fault(f Fault) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fault = f
	if f == Unreachable {
		// A closed port refuses connections; those that are open are reset.
		_ = o.listener.Close()
		o.CloseClientConnections()
	}
}

// Requests returns the requests so far.
func (o *Origin) Requests() []*http.Request {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]*http.Request(nil), o.requests...)
}

// Gone is how many clients left before their answer was complete.
func (o *Origin) Gone() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.gone
}

// ServeHTTP answers, or goes wrong.
func (o *Origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.requests = append(o.requests, r)
	b, ok := o.files[r.URL.EscapedPath()]
	fault := o.fault
	o.mu.Unlock()
	if fault == Silent {
		o.hang(r)
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	var from int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && from < len(b) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
		b = b[from:]
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	if w.Header().Get("Content-Range") != "" {
		w.WriteHeader(http.StatusPartialContent)
	}
	switch fault {
	case Flipped:
		b = append([]byte(nil), b...)
		b[len(b)/2] ^= 1
		_, _ = w.Write(b)
	case Truncated:
		_, _ = w.Write(b[:len(b)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // cuts the connection, or the HTTP/2 stream
	case Stalled:
		_, _ = w.Write(b[:len(b)/2])
		_ = http.NewResponseController(w).Flush()
		o.hang(r)
		panic(http.ErrAbortHandler)
	case Slow:
		for piece := range pieces(b, 16) {
			_, _ = w.Write(piece)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	default:
		_, _ = w.Write(b)
	}
}

// hang waits for the client to leave, or for the test to end.
func (o *Origin) hang(r *http.Request) {
	select {
	case <-r.Context().Done():
		o.mu.Lock()
		o.gone++
		o.mu.Unlock()
	case <-o.released:
	}
}

func pieces(b []byte, n int) func(yield func([]byte) bool) {
	size := max(len(b)/n, 1)
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			k := min(size, len(b))
			if !yield(b[:k]) {
				return
			}
			b = b[k:]
		}
	}
}

// Path is where a store has the blob, below root, such as "/files" or "".
func Path(root, domain, digest string) string {
	return strings.TrimRight(root, "/") + "/" + domain + "/" + digest
}
