package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/metrics"
)

// Server answers on the socket.
type Server struct {
	http *http.Server
	path string
	done chan struct{}
}

// Listen is Serve for a client, with what status and explain return.
func Listen(path string, status func() Status, explain Explainer, log *slog.Logger) (*Server, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(status())
	})
	mux.HandleFunc("GET /explain", func(w http.ResponseWriter, r *http.Request) {
		e, err := explain(r.Context(), r.URL.Query().Get("path"))
		if err != nil {
			http.Error(w, err.Error(), explainCode(err))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(e)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := status().healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", metrics.ContentType)
		w.Write(status().metrics())
	})
	return Serve(path, mux, log)
}

// Serve opens the socket at path, which only its owner may use, and answers
// there. A socket that a dead process left is replaced; one that somebody answers
// on is an error.
func Serve(path string, h http.Handler, log *slog.Logger) (*Server, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the control socket: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("control socket %s: another process answers there; stop it, or set [main] control to another path", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace the control socket: %w", err)
	}
	l, err := listenPrivately(path)
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	s := &Server{
		http: &http.Server{
			Handler: h, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), // it tells of each try
		},
		path: path, done: make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(&telling{Listener: l, log: log}); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the control socket failed", "op", "control", "err", err)
		}
	}()
	return s, nil
}

// telling tells once a while that nobody can be answered for want of descriptors.
type telling struct {
	net.Listener
	log  *slog.Logger
	said time.Time
}

// Accept returns the next connection.
func (l *telling) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if (errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)) && time.Since(l.said) > time.Minute {
		l.said = time.Now()
		l.log.Warn("nobody can be answered on the control socket for want of descriptors: raise the limit of open files (ulimit -Hn, LimitNOFILE)",
			"op", "control", "err", err)
	}
	return c, err // net/http tries again what may pass
}

// listenPrivately makes the socket under another name first, so that there is
// no moment in which others may open it.
func listenPrivately(path string) (net.Listener, error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".sock")
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	temp := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(temp, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	if err := os.Rename(temp, path); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close ends the server and removes the socket.
func (s *Server) Close() {
	s.http.Close()
	<-s.done
	os.Remove(s.path)
}

// maxReply bounds what Fetch reads, in bytes.
const maxReply = 16 << 20

// Fetch asks the client that answers at path for its status.
func Fetch(ctx context.Context, path string) (*Status, error) {
	b, err := get(ctx, path, "/status")
	if err != nil {
		return nil, err
	}
	var s Status
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("read the answer on %s: %w", path, err)
	}
	return &s, nil
}

// Healthy asks the daemon that answers at path whether it does what it is there for.
// If not, the error says what is wrong.
func Healthy(ctx context.Context, path string) error {
	_, err := get(ctx, path, "/healthz")
	return err
}

func get(ctx context.Context, path, what string) ([]byte, error) {
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://aysfs"+what, nil)
	if err != nil {
		return nil, err
	}
	resp, err := t.RoundTrip(req)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("no control socket at %s: is aysfs running?", path)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("control socket %s: only root may ask", path)
	case err != nil:
		return nil, fmt.Errorf("ask on %s: %w", path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return nil, fmt.Errorf("read the answer on %s: %w", path, err)
	}
	if resp.StatusCode == http.StatusNotFound && strings.HasPrefix(what, "/explain?") {
		return nil, fmt.Errorf("%w: %.2000s", ErrNotShown, bytes.TrimPrefix(bytes.TrimSpace(b), []byte(ErrNotShown.Error()+": ")))
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask on %s for %s: %s: %.2000s", path, what, resp.Status, bytes.TrimSpace(b))
	}
	return b, nil
}
