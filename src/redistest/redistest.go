package redistest

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// limit is how long anything may take before the test fails.
const limit = 30 * time.Second

// Server is a running redis. Its methods are for the test's goroutine.
type Server struct {
	Addr   string // host:port
	Passwd string

	t     testing.TB
	args  []string
	cmd   *exec.Cmd     // nil while it is killed
	ended chan struct{} // closed once it is
}

// Start starts a redis with further arguments of redis-server's, such as
// AppendOnly; with a passwd, if it isn't empty. It ends with the test.
func Start(t testing.TB, passwd string, args ...string) *Server {
	t.Helper()
	s := &Server{Passwd: passwd, t: t}
	dir := t.TempDir()
	t.Cleanup(s.Kill)
	for end := time.Now().Add(limit); ; {
		port := freePort(t)
		s.Addr = net.JoinHostPort("127.0.0.1", port)
		s.args = append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", dir, "--loglevel", "warning"}, args...)
		if passwd != "" {
			s.args = append(s.args, "--requirepass", passwd)
		}
		err := s.run()
		if err == nil {
			return s
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// AppendOnly are the arguments of a redis that loses nothing that it has
// acknowledged.
var AppendOnly = []string{"--appendonly", "yes", "--appendfsync", "always"}

// freePort finds a port below those that the kernel gives to outgoing
// connections, so that a server can come back to it.
func freePort(t testing.TB) string {
	for range 1000 {
		port := strconv.Itoa(20_000 + rand.IntN(10_000))
		if ln, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return ""
}

// run starts the server and waits until it answers.
func (s *Server) run() error {
	var out bytes.Buffer
	cmd := exec.Command("redis-server", s.args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin")
	cmd.Stdout, cmd.Stderr = &out, &out
	// A test that panics has no cleanup: then the kernel does it, when the
	// thread that started the server ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	for end := time.Now().Add(limit); ; {
		if s.answers() {
			s.cmd, s.ended = cmd, ended
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("redis-server %q: %v: %s", s.args, cmd.ProcessState, out.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			_ = cmd.Process.Kill()
			<-ended
			return fmt.Errorf("redis-server %q never answered: %s", s.args, out.String())
		}
	}
}

// answers tells whether a redis is ready there: it has read its files then.
func (s *Server) answers() bool {
	c, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	say, want := "PING\r\n", "+PONG\r\n"
	if s.Passwd != "" {
		say, want = "AUTH "+strconv.Quote(s.Passwd)+"\r\n"+say, "+OK\r\n"+want
	}
	if _, err := io.WriteString(c, say); err != nil {
		return false
	}
	b := make([]byte, len(want))
	_, err = io.ReadFull(c, b)
	return err == nil && string(b) == want
}

// Kill ends it by SIGKILL.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	select {
	case <-s.ended:
	case <-time.After(limit):
		s.t.Errorf("redis-server %d does not die", s.cmd.Process.Pid)
	}
	s.cmd = nil
}

// Restart starts it again on the same port, with what its files have.
func (s *Server) Restart() {
	s.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		err := s.run()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			s.t.Fatal(err)
		}
	}
}

// PID is its process while it runs.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Freeze stops it in its tracks: connections are made, nothing is answered.
func (s *Server) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw lets it go on.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// CLI runs redis-cli and returns what it says, without the last line's end.
func (s *Server) CLI(args ...string) string {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.Addr)
	cmd := exec.Command("redis-cli", append([]string{"-p", port}, args...)...)
	if s.Passwd != "" {
		cmd.Env = append(os.Environ(), "REDISCLI_AUTH="+s.Passwd)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("redis-cli %q: %v: %s", args, err, out)
	}
	return strings.TrimSuffix(string(out), "\n")
}
